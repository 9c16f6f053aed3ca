//! Other trust domains: registering, looking at, fetching, forgetting.

use std::path::Path;

use serde_json::{Value, json};
use signet_proto::v1::{
    CreateFederationRequest, DeleteFederationRequest, Federation, ListFederationsRequest, MutationResponse,
    RefreshFederationRequest,
};

use super::applied::{self, Expect};
use crate::cli::args::{FederationVerb, NewFederation, Wait};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::files;
use crate::cli::output::{self, Output, cell};
use crate::time;

pub(in crate::cli) async fn run(
    verb: FederationVerb,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    match verb {
        FederationVerb::Create(new) => create(new, session, output).await,
        FederationVerb::List => list(&all(session).await?, output),
        FederationVerb::Show { trust_domain } => {
            let name = trust_domain.0.as_str();
            let found = all(session).await?.into_iter().find(|one| one.trust_domain == name);
            let found =
                found.ok_or_else(|| CliError::not_found(format!("federation `{name}` does not exist")))?;
            output.print(&object(&found), || output::facts(&facts(&found)))
        }
        FederationVerb::Refresh { trust_domain, bundle, wait } => {
            let bundle = text(bundle.as_deref())?;
            let request = RefreshFederationRequest { trust_domain: trust_domain.0.to_string(), bundle };
            let refreshed = client.refresh_federation(request).await?.into_inner();
            report(refreshed, wait, Expect::Connected, session, output).await
        }
        FederationVerb::Delete { trust_domain, wait } => {
            let request = DeleteFederationRequest { trust_domain: trust_domain.0.to_string() };
            let deleted = client.delete_federation(request).await?.into_inner();
            report(deleted, wait, Expect::Everyone, session, output).await
        }
    }
}

/// Registers, then fetches: what is registered stays so if nothing comes yet, and is asked again by itself.
async fn create(new: NewFederation, session: &Session, output: Output) -> Result<(), CliError> {
    let NewFederation { trust_domain, url, endpoint_id, ca_file, bundle, wait } = new;
    let trust_domain = trust_domain.0.to_string();
    let request = CreateFederationRequest {
        trust_domain: trust_domain.clone(),
        url,
        endpoint_spiffe_id: endpoint_id.map(|id| id.to_string()).unwrap_or_default(),
        web_authorities: text(ca_file.as_deref())?,
        bundle: text(bundle.as_deref())?,
    };
    let mut client = session.admin().await?;
    let mut created = client.create_federation(request).await?.into_inner();
    let request = RefreshFederationRequest { trust_domain, bundle: String::new() };
    let refreshed = match client.refresh_federation(request).await {
        Ok(refreshed) => refreshed.into_inner(),
        Err(status) => {
            output::tell(&created.effects);
            return Err(CliError::failed(format!("it is registered, but {}", status.message()))
                .with_hint("it is tried again by itself; `signet federation show` says how it stands"));
        }
    };
    created.revision = refreshed.revision;
    created.committed_at = refreshed.committed_at;
    created.effects.extend(refreshed.effects);
    report(created, wait, Expect::Connected, session, output).await
}

async fn report(
    mutation: MutationResponse,
    wait: Wait,
    expect: Expect,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    applied::report(mutation.into(), Some(wait), expect, &mut session.admin().await?, output).await
}

async fn all(session: &Session) -> Result<Vec<Federation>, CliError> {
    Ok(session.admin().await?.list_federations(ListFederationsRequest {}).await?.into_inner().federations)
}

fn text(path: Option<&Path>) -> Result<String, CliError> {
    path.map_or(Ok(String::new()), |path| Ok(files::read(path)?.yaml))
}

fn list(all: &[Federation], output: Output) -> Result<(), CliError> {
    let json: Value = all.iter().map(object).collect();
    output.print(&json, || {
        let now = time::now();
        let when = |at: &Option<prost_types::Timestamp>| match at {
            Some(at) => output::relative(time::from_proto(Some(at)), now),
            None => "never".to_owned(),
        };
        let rows = all.iter().map(|one| {
            vec![
                cell(&one.trust_domain),
                cell(&one.profile),
                cell(&one.state),
                cell(one.bundle.as_ref().map_or(0, |bundle| bundle.sequence).to_string()),
                cell(when(&one.fetched_at)),
                cell(when(&one.expires_at)),
                cell(&one.error),
            ]
        });
        output::table(&["trust domain", "profile", "bundle", "sequence", "fetched", "ends", "error"], rows)
    })
}

fn facts(one: &Federation) -> Vec<(&'static str, String)> {
    let now = time::now();
    let at = |at: &Option<prost_types::Timestamp>| match at {
        Some(at) => output::relative(time::from_proto(Some(at)), now),
        None => "never".to_owned(),
    };
    let mut facts = vec![
        ("trust domain", one.trust_domain.clone()),
        ("url", one.url.clone()),
        ("profile", one.profile.clone()),
        ("endpoint", one.endpoint_spiffe_id.clone()),
        ("bundle", one.state.clone()),
        ("sequence", one.bundle.as_ref().map_or(0, |bundle| bundle.sequence).to_string()),
        ("ends", at(&one.expires_at)),
        ("fetched", at(&one.fetched_at)),
        ("fetched next", at(&one.due_at)),
        ("failures", one.failures.to_string()),
        ("error", one.error.clone()),
        ("created", format!("{}, by {}", at(&one.created_at), one.created_by)),
    ];
    facts.extend(roots(one).into_iter().map(|root| ("root", root)));
    facts.retain(|(_, value)| !value.is_empty());
    facts
}

/// SHA-256 of each.
fn roots(one: &Federation) -> Vec<String> {
    let authorities = one.bundle.iter().flat_map(|bundle| &bundle.x509_authorities);
    authorities.map(|der| crate::hex::encode(&crate::sha256(der))).collect()
}

fn object(one: &Federation) -> Value {
    json!({
        "trust_domain": one.trust_domain,
        "url": one.url,
        "profile": one.profile,
        "endpoint_id": (!one.endpoint_spiffe_id.is_empty()).then_some(&one.endpoint_spiffe_id),
        "bundle": one.state,
        "sequence": one.bundle.as_ref().map(|bundle| bundle.sequence),
        "roots": roots(one),
        "expires_at": output::instant(one.expires_at.as_ref()),
        "fetched_at": output::instant(one.fetched_at.as_ref()),
        "due_at": output::instant(one.due_at.as_ref()),
        "failures": one.failures,
        "error": (!one.error.is_empty()).then_some(&one.error),
        "created_at": output::instant(one.created_at.as_ref()),
        "created_by": one.created_by,
    })
}
