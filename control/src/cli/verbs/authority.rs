//! The mesh at a glance, and its trust bundle.

use serde_json::{Value, json};
use signet_proto::spiffe::TrustBundle;
use signet_proto::v1::{Authority, GetBundleRequest, StatusRequest, StatusResponse};

use crate::cli::args::BundleFormat;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::time;

pub(in crate::cli) async fn status(session: &Session, output: Output) -> Result<(), CliError> {
    let status = ask(session).await?;
    let json = json!({
        "trust_domain": status.trust_domain,
        "version": status.version,
        "replica": status.replica,
        "revision": status.revision,
        "workloads": status.workloads,
        "live_svids": status.live_svids,
        "connected_proxies": status.connected_proxies,
        "root": status.root.as_ref().map(object),
        "intermediate": status.intermediate.as_ref().map(object),
        "started_at": output::instant(status.started_at.as_ref()),
        "pending_requests": status.pending_requests,
        "frozen": status.frozen,
        "warnings": status.warnings,
    });
    output.print(&json, || {
        let now = time::now();
        let ends = |authority: &Option<Authority>| {
            let at = authority.as_ref().and_then(|authority| authority.not_after.as_ref());
            format!("ends {}", output::relative(time::from_proto(at), now))
        };
        let mut facts = vec![
            ("trust domain", status.trust_domain.clone()),
            ("version", status.version.clone()),
            ("up since", time::rfc3339(time::from_proto(status.started_at.as_ref()))),
            ("revision", status.revision.to_string()),
            ("workloads", status.workloads.to_string()),
            ("live SVIDs", status.live_svids.to_string()),
            ("connected proxies", status.connected_proxies.to_string()),
            ("root", ends(&status.root)),
            ("intermediate", ends(&status.intermediate)),
            ("waiting for approval", status.pending_requests.to_string()),
        ];
        if !status.replica.is_empty() {
            facts.insert(2, ("replica", status.replica.clone()));
        }
        facts.extend(status.frozen.iter().map(|frozen| ("frozen", frozen.clone())));
        facts.extend(status.warnings.iter().map(|warning| ("warning", warning.clone())));
        output::facts(&facts)
    })
}

pub(in crate::cli) async fn bundle(format: BundleFormat, session: &Session) -> Result<(), CliError> {
    let message = session.admin().await?.get_bundle(GetBundleRequest {}).await?.into_inner();
    let bundle = TrustBundle::try_from(&message)
        .map_err(|error| CliError::failed(format!("control's bundle is not usable: {error}")))?;
    match format {
        BundleFormat::Pem => output::print(&bundle.to_pem()),
        BundleFormat::Jwks => output::print(&format!("{}\n", bundle.to_jwks().trim_end())),
    }
}

async fn ask(session: &Session) -> Result<StatusResponse, CliError> {
    Ok(session.admin().await?.status(StatusRequest {}).await?.into_inner())
}

pub(super) fn authorities_table(authorities: &[(String, Option<Authority>)]) -> String {
    let now = time::now();
    let rows = authorities.iter().filter_map(|(kind, authority)| {
        let authority = authority.as_ref()?;
        Some(vec![
            cell(kind),
            cell(&authority.subject),
            cell(output::relative(time::from_proto(authority.not_after.as_ref()), now)),
            cell(&authority.sha256),
        ])
    });
    output::table(&["authority", "subject", "ends", "sha256"], rows)
}

pub(super) fn object(authority: &Authority) -> Value {
    json!({
        "subject": authority.subject,
        "serial": authority.serial,
        "sha256": authority.sha256,
        "not_before": output::instant(authority.not_before.as_ref()),
        "expires_at": output::instant(authority.not_after.as_ref()),
    })
}
