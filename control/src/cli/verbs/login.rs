//! An operator's own SVID, by join ticket, as any workload gets its: key made here, control believed by the
//! root that the ticket pins.

use std::io::Read;

use serde_json::json;
use signet_proto::handshake::{ALPN_H2, WorkloadKey, pinned_client_config};
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use signet_proto::ticket::JoinTicket;
use signet_proto::v1::attest_request::Proof;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::{AttestRequest, AttestResponse, JoinTokenProof};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::cli::args::Login;
use crate::cli::connect;
use crate::cli::credentials::{self, Credentials};
use crate::cli::error::CliError;
use crate::cli::generations;
use crate::cli::output::{self, Output};
use crate::registry::CONTROL_PATH;
use crate::time;

pub(in crate::cli) async fn run(login: Login, output: Output) -> Result<(), CliError> {
    let ticket = read(login.ticket)?;
    let secret = ticket.secret.as_ref().ok_or_else(|| {
        CliError::usage(
            "this is an introduction, which proves nothing: to log in takes a join ticket of `signet token create`",
        )
    })?;
    let directory = credentials::directory(login.dir)?;
    let key = WorkloadKey::generate().map_err(|error| CliError::failed(error.to_string()))?;
    let csr = key.csr(None).map_err(|error| CliError::failed(error.to_string()))?;
    let (address, channel) = reach(&ticket).await?;
    let request = AttestRequest {
        proof: Some(Proof::JoinToken(JoinTokenProof { secret: secret.to_vec() })),
        csr,
        version: credentials::version(),
        ..AttestRequest::default()
    };
    let answer = IdentityClient::new(channel).attest(request).await?.into_inner();
    let bundle = bundle(&answer, &ticket)?;
    let chain = answer.svid.map(|svid| svid.chain).unwrap_or_default();
    let credentials = Credentials::check(&chain, &key, &bundle)?;
    let _lock = generations::lock(&directory).await?;
    credentials::write(&directory, &chain, &key, &bundle)?;
    let profile = credentials.svid().profile();
    let json = json!({
        "spiffe_id": profile.id.as_str(),
        "instance": profile.instance.map(|instance| instance.to_string()),
        "expires_at": time::rfc3339_millis(profile.not_after),
        "control": address,
        "directory": directory.display().to_string(),
    });
    output.print(&json, || {
        format!(
            "you are {}, your SVID ends {} (renewed when you use it)\nwritten to {}\n\
             next: SIGNET_CONTROL={address} signet status\n",
            profile.id,
            output::relative(profile.not_after, time::now()),
            directory.display()
        )
    })
}

fn read(argument: String) -> Result<JoinTicket, CliError> {
    let mut text = Zeroizing::new(argument);
    if text.as_str() == "-" {
        text.clear();
        std::io::stdin().take(8192).read_to_string(&mut text)?;
    }
    text.parse().map_err(|error: signet_proto::ticket::TicketError| CliError::usage(error.to_string()))
}

/// The first of the ticket's addresses that answers as control.
async fn reach(ticket: &JoinTicket) -> Result<(String, Channel), CliError> {
    let control = SpiffeId::new(&ticket.trust_domain, CONTROL_PATH)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let config = pinned_client_config(ticket.pins(), control, &[ALPN_H2])
        .map_err(|error| CliError::failed(error.to_string()))?;
    let mut last = CliError::usage("the ticket names no address");
    for address in &ticket.control {
        match connect::tls(address, config.clone()).await {
            Ok(channel) => return Ok((address.clone(), channel)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The bundle that came, if the pinned root is in it.
fn bundle(answer: &AttestResponse, ticket: &JoinTicket) -> Result<TrustBundle, CliError> {
    let bundle = answer
        .bundles
        .iter()
        .find(|bundle| bundle.trust_domain == ticket.trust_domain.as_str())
        .ok_or_else(|| CliError::failed("control sent no bundle of its own trust domain"))?;
    let bundle = TrustBundle::try_from(bundle)
        .map_err(|error| CliError::failed(format!("control's bundle is not usable: {error}")))?;
    if ticket.pins().are_in(&bundle) {
        Ok(bundle)
    } else {
        Err(CliError::not_permitted("control's bundle does not hold the root that the ticket pins"))
    }
}
