//! Who holds an identity, and taking it away.

use serde_json::{Value, json};
use signet_proto::v1::revoke_request::What;
use signet_proto::v1::{IssuedIdentity, ListIdentitiesRequest, RevokeRequest};

use super::applied;
use crate::cli::args::{IdentitiesQuery, RevokeWhat};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell, standing};
use crate::time;

pub(in crate::cli) async fn list(
    query: IdentitiesQuery,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let IdentitiesQuery { id, all } = query;
    let request = ListIdentitiesRequest { spiffe_id: id.unwrap_or_default(), all };
    let identities = session.admin().await?.list_identities(request).await?.into_inner().identities;
    let json: Value = identities.iter().map(object).collect();
    output.print(&json, || {
        let now = time::now();
        let rows = identities.iter().map(|identity| {
            vec![
                cell(&identity.spiffe_id),
                cell(&identity.owner),
                standing(&identity.status),
                cell(output::relative(time::from_proto(identity.not_after.as_ref()), now)),
                cell(identity.renewals.to_string()),
                standing(if identity.connected { "yes" } else { "no" }),
                cell(&identity.address),
                cell(&identity.instance),
                cell(&identity.serial),
            ]
        });
        let header = [
            "spiffe id",
            "owner",
            "status",
            "expires",
            "renewals",
            "connected",
            "address",
            "instance",
            "serial",
        ];
        output::table(&header, rows)
    })
}

pub(in crate::cli) async fn revoke(
    what: RevokeWhat,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let RevokeWhat { id, instance, serial, reason, wait } = what;
    let what = id.map(What::SpiffeId).or(instance.map(What::Instance)).or(serial.map(What::Serial));
    let mut client = session.admin().await?;
    let mutation = client.revoke(RevokeRequest { what, reason }).await?.into_inner();
    applied::report(mutation.into(), Some(wait), &mut client, output).await
}

fn object(identity: &IssuedIdentity) -> Value {
    json!({
        "spiffe_id": identity.spiffe_id,
        "owner": identity.owner,
        "purpose": identity.purpose,
        "instance": identity.instance,
        "serial": identity.serial,
        "status": identity.status,
        "not_before": output::instant(identity.not_before.as_ref()),
        "expires_at": output::instant(identity.not_after.as_ref()),
        "attested_at": output::instant(identity.attested_at.as_ref()),
        "renewals": identity.renewals,
        "connected": identity.connected,
        "address": identity.address,
        "version": identity.version,
    })
}
