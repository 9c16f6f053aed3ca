//! Stopping issuance, and letting it go on.

use serde_json::{Value, json};
use signet_proto::v1::restriction::What;
use signet_proto::v1::{FreezeRequest, Frozen, ListRestrictionsRequest, UnfreezeRequest};

use super::applied::{self, Expect};
use crate::cli::args::{FreezeVerb, FreezeWhat};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::roles::Scope;
use crate::time;

pub(in crate::cli) async fn run(what: FreezeWhat, session: &Session, output: Output) -> Result<(), CliError> {
    let FreezeWhat { verb, on, renewals, reason } = what;
    if let Some(FreezeVerb::List) = verb {
        return list(session, output).await;
    }
    let reason = reason.unwrap_or_default();
    let mut client = session.admin().await?;
    let frozen = client.freeze(FreezeRequest { scope: on.to_string(), renewals, reason }).await?;
    applied::report(frozen.into_inner().into(), None, Expect::Connected, &mut client, output).await
}

pub(in crate::cli) async fn lift(
    on: &Scope,
    reason: String,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let lifted = client.unfreeze(UnfreezeRequest { scope: on.to_string(), reason }).await?;
    applied::report(lifted.into_inner().into(), None, Expect::Connected, &mut client, output).await
}

async fn list(session: &Session, output: Output) -> Result<(), CliError> {
    let answer = session.admin().await?.list_restrictions(ListRestrictionsRequest {}).await?.into_inner();
    let frozen = || {
        answer.restrictions.iter().filter_map(|restriction| match restriction.what {
            Some(What::Frozen(Frozen { renewals })) => Some((restriction, renewals)),
            _ => None,
        })
    };
    let json: Value = frozen()
        .map(|(restriction, renewals)| {
            json!({
                "scope": restriction.scope,
                "renewals": renewals,
                "reason": restriction.reason,
                "set_by": restriction.set_by,
                "set_at": output::instant(restriction.set_at.as_ref()),
            })
        })
        .collect();
    output.print(&json, || {
        let now = time::now();
        let rows = frozen().map(|(restriction, renewals)| {
            vec![
                cell(&restriction.scope),
                cell(if renewals { "everything" } else { "new instances" }),
                cell(output::relative(time::from_proto(restriction.set_at.as_ref()), now)),
                cell(&restriction.set_by),
                cell(&restriction.reason),
            ]
        });
        output::table(&["frozen on", "what", "since", "by", "reason"], rows)
    })
}
