//! SVIDs from control: join once with a ticket, then renew with the SVID in hand.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use signet_proto::handshake::{
    ALPN_H2, ConfigError, KeyError, Revocations, Svid, SvidMismatch, Trust, VerifyError, WorkloadKey,
    client_config, pinned_client_config,
};
use signet_proto::spiffe::{SpiffeIdError, TrustBundle};
use signet_proto::ticket::JoinTicket;
use signet_proto::v1;
use signet_proto::v1::identity_client::IdentityClient;
use tokio_util::sync::CancellationToken;

use super::schedule::{Woken, renewal_delay, sleep_on_both_clocks};
use crate::backoff::Backoff;
use crate::control::{CALL_DEADLINE, ControlError, channel, control_id};
use crate::mesh::Mesh;
use crate::telemetry::metrics;

const SHORTEST_RETRY: Duration = Duration::from_millis(200);

/// Why an SVID was not obtained. What is in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Control could not be asked, or said no.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The chain is no SVID for our key.
    #[error("control issued an unusable SVID: {0}")]
    Svid(#[from] SvidMismatch),
    /// Our peers would not believe it.
    #[error("control issued an SVID that does not verify: {0}")]
    Unbelievable(#[from] VerifyError),
    /// The TLS library refused our parameters.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The trust domain is too long for control's own ID.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
}

impl IdentityError {
    fn is_final(&self) -> bool {
        matches!(self, Self::Control(error) if error.is_final())
    }
}

/// Redeems the ticket: tries until control answers, ends when it refuses for good.
///
/// # Errors
/// When the ticket is refused.
pub async fn join(ticket: &JoinTicket, mesh: &Mesh) -> Result<(), IdentityError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    // One key for all tries: if only the answer of a try was lost, control knows us by it.
    let key = WorkloadKey::generate()?;
    loop {
        match attest(ticket, &key, mesh).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                let delay = backoff.next_delay();
                tracing::warn!(%error, ?delay, "cannot join yet, will try again");
                tokio::time::sleep(delay).await;
            }
        }
    }
}

async fn attest(ticket: &JoinTicket, key: &WorkloadKey, mesh: &Mesh) -> Result<(), IdentityError> {
    let request = v1::AttestRequest {
        csr: key.csr(None)?,
        version: env!("CARGO_PKG_VERSION").into(),
        proof: Some(v1::attest_request::Proof::JoinToken(v1::JoinTokenProof {
            secret: ticket.secret.to_vec(),
        })),
    };
    let tls = pinned_client_config(ticket.root_sha256, control_id(&ticket.trust_domain)?, &[ALPN_H2])?;
    let mut client = client(&ticket.control, &tls).await?;
    let answer =
        client.attest(limited(request, CALL_DEADLINE)).await.map_err(ControlError::from)?.into_inner();

    let bundles = answer
        .bundles
        .iter()
        .map(TrustBundle::try_from)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ControlError::Unusable(error.to_string()))?;
    let pinned = bundles.iter().any(|bundle| {
        *bundle.trust_domain() == ticket.trust_domain
            && bundle.fingerprints().any(|fingerprint| fingerprint == ticket.root_sha256)
    });
    if !pinned {
        return Err(ControlError::Unusable("its bundle lacks the root that the ticket pins".into()).into());
    }
    let trust = Trust::new(bundles.iter().cloned(), Revocations::default());
    let svid = checked(answer.svid, key, &trust)?;
    if *svid.id().trust_domain() != ticket.trust_domain {
        return Err(
            ControlError::Unusable(format!("it issued `{}`, of another trust domain", svid.id())).into()
        );
    }
    tracing::info!(id = %svid.id(), instance = svid.profile().instance.map(tracing::field::display),
        serial = hex(&svid.profile().serial), "joined the mesh");
    adopt(mesh, svid, |inputs| inputs.bundles = bundles)
}

/// Keeps the SVID fresh until `stop`. A renewal that fails is tried again ever more slowly, while what is in
/// force goes on being used.
pub async fn renew(addresses: Vec<String>, mesh: Arc<Mesh>, stop: CancellationToken) {
    let mut backoff = Backoff::new(SHORTEST_RETRY, Duration::from_secs(30));
    loop {
        let Some((svid, _)) = mesh.credentials() else { return };
        let not_after = svid.profile().not_after;
        let delay = renewal_delay(not_after, signet_proto::clock::now());
        let woken = tokio::select! {
            () = stop.cancelled() => return,
            woken = sleep_on_both_clocks(delay) => woken,
        };
        if woken == Woken::ClockJumped {
            continue;
        }
        while let Err(error) = renew_once(&addresses, &mesh).await {
            metrics::rotation(if error.is_final() { "refused" } else { "failed" });
            let left = not_after.duration_since(signet_proto::clock::now()).unwrap_or_default();
            let delay = within(backoff.next_delay(), left);
            if left.is_zero() {
                tracing::error!(%error, ?delay, "the SVID has ended and cannot be renewed; new connections fail. Join again with a new ticket");
            } else {
                tracing::warn!(%error, ?delay, ?left, "cannot renew the SVID yet, will try again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
        backoff.reset();
    }
}

/// A delay that does not step over the end of the SVID: while anything is left, at most a quarter of it passes
/// before the next try.
fn within(delay: Duration, left: Duration) -> Duration {
    if left.is_zero() { delay } else { delay.min((left / 4).max(SHORTEST_RETRY)) }
}

fn limited<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}

async fn renew_once(addresses: &[String], mesh: &Mesh) -> Result<(), IdentityError> {
    let no_svid = || ControlError::Unusable("no SVID to renew".into());
    let (svid, trust) = mesh.credentials().ok_or_else(no_svid)?;
    let key = WorkloadKey::generate()?;
    let request =
        v1::RenewRequest { csr: key.csr(Some(svid.id()))?, version: env!("CARGO_PKG_VERSION").into() };
    let control = control_id(svid.id().trust_domain())?;
    let tls = client_config(Some(&svid), Arc::clone(&trust), control, &[ALPN_H2])?;
    let mut client = client(addresses, &tls).await?;
    let answer =
        client.renew(limited(request, CALL_DEADLINE)).await.map_err(ControlError::from)?.into_inner();
    // Bundles may have changed while we waited: the new SVID has to fit the newest ones.
    let newest = mesh.credentials().map_or(trust, |(_, trust)| trust);
    let next = checked(answer.svid, &key, &newest)?;
    if next.id() != svid.id() {
        return Err(ControlError::Unusable(format!("it issued `{}` to `{}`", next.id(), svid.id())).into());
    }
    tracing::debug!(serial = hex(&next.profile().serial), "renewed the SVID");
    adopt(mesh, next, |_| {})
}

fn checked(issued: Option<v1::IssuedSvid>, key: &WorkloadKey, trust: &Trust) -> Result<Svid, IdentityError> {
    let issued = issued.ok_or_else(|| ControlError::Unusable("no SVID in it".into()))?;
    let chain = issued.chain.into_iter().map(Into::into).collect();
    let svid = Svid::new(chain, key.signing_key()?)?;
    svid.check(trust, signet_proto::clock::now())?;
    Ok(svid)
}

fn adopt(mesh: &Mesh, svid: Svid, also: impl FnOnce(&mut crate::mesh::Inputs)) -> Result<(), IdentityError> {
    let not_after = svid.profile().not_after;
    mesh.update(|inputs| {
        inputs.svid = Some(Arc::new(svid));
        also(inputs);
    })?;
    metrics::rotation("success");
    metrics::svid_expiry(not_after);
    Ok(())
}

async fn client(
    addresses: &[String],
    tls: &Arc<ClientConfig>,
) -> Result<IdentityClient<tonic::transport::Channel>, ControlError> {
    let connected = tokio::time::timeout(CALL_DEADLINE, channel(addresses, tls)).await;
    let channel = connected.map_err(|_| ControlError::Unreachable {
        address: addresses.join(", "),
        cause: format!("no answer within {} s", CALL_DEADLINE.as_secs()),
    })??;
    Ok(IdentityClient::new(channel))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_never_step_over_the_end_of_the_svid() {
        let seconds = Duration::from_secs;
        assert_eq!(within(seconds(30), seconds(20)), seconds(5));
        assert_eq!(within(seconds(1), seconds(20)), seconds(1));
        assert_eq!(within(seconds(30), Duration::from_millis(10)), SHORTEST_RETRY);
        assert_eq!(within(seconds(30), Duration::ZERO), seconds(30));
    }
}
