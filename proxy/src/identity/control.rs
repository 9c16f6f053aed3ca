//! SVIDs from control: join once, then renew with the SVID in hand. Who can prove itself again does so when its
//! instance is lost, as after a sleep that was longer than the SVID's life.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use signet_proto::handshake::{
    ALPN_H2, ConfigError, KeyError, Svid, SvidMismatch, Trust, VerifyError, WorkloadKey, client_config,
};
use signet_proto::spiffe::{SpiffeId, SpiffeIdError};
use signet_proto::v1;
use signet_proto::v1::identity_client::IdentityClient;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::attest::{Joining, Request, attest, succeed};
use super::orders::Urgency;
use super::patience::Patience;
use super::proof::ProofError;
use super::revoked::Revoked;
use super::schedule::{Woken, renewal_delay, sleep_on_both_clocks};
use crate::backoff::Backoff;
use crate::control::{Addresses, CALL_DEADLINE, ControlError, Place, channel, control_id};
use crate::mesh::Mesh;
use crate::telemetry::metrics;
use crate::upgrade::{Predecessor, UpgradeError};

/// An answer brings the bundles of all trust domains that are believed.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

pub(super) const SHORTEST_RETRY: Duration = Duration::from_millis(200);

/// Why an SVID was not obtained. What is in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Control could not be asked, or said no.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The running proxy, from which this one takes over, could not help.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// There is no proof to send.
    #[error(transparent)]
    Proof(#[from] ProofError),
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
    /// Whether the same request can never succeed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Control(error) => error.is_final(),
            Self::Proof(_) => true,
            Self::Upgrade(error) => !matches!(error, UpgradeError::Certificate { is_final: false, .. }),
            _ => false,
        }
    }

    /// Control does not believe the proof.
    fn is_disbelief(&self) -> bool {
        matches!(self, Self::Control(ControlError::Refused { code: Code::Unauthenticated, .. }))
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Control(error) if error.is_held())
    }

    pub(super) fn blames_the_replica(&self) -> bool {
        matches!(self, Self::Control(error) if error.blames_the_replica())
    }

    pub(super) fn because(&self) -> Option<&str> {
        match self {
            Self::Control(ControlError::Refused { because, .. }) => because.as_deref(),
            _ => None,
        }
    }
}

/// Proves who this is: tries until control answers, waits while the request is held, ends when it is refused for good.
///
/// # Errors
/// When the proof is refused, or there is none to send.
pub async fn join(joining: &Joining, control: &Addresses, mesh: &Mesh) -> Result<(), IdentityError> {
    let mut patience = Patience::new(Duration::from_millis(100), Duration::from_secs(10));
    let request = Request::new()?;
    loop {
        match attest(joining, control, &request, None, mesh).await {
            Ok(()) => return Ok(()),
            // Another token may lie in the file by then, or control know another key of its issuer.
            Err(error) if error.is_disbelief() && joining.proof.is_repeatable() => {
                tokio::time::sleep(patience.after(&error)).await;
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => tokio::time::sleep(patience.after(&error)).await,
        }
    }
}

/// Becomes a new instance of the workload whose running proxy this one takes over from: that one proves it. Where it
/// cannot, this one joins like any other.
///
/// # Errors
/// When there is no SVID to be had either way.
pub async fn take_over(
    joining: &Joining,
    predecessor: &mut Predecessor,
    control: &Addresses,
    mesh: &Mesh,
) -> Result<(), IdentityError> {
    let mut patience = Patience::new(Duration::from_millis(100), Duration::from_secs(10));
    let request = Request::new()?;
    loop {
        match succeed(joining, predecessor, &request, mesh).await {
            Ok(()) => return Ok(()),
            Err(
                error @ IdentityError::Upgrade(
                    UpgradeError::Gone(_) | UpgradeError::Certificate { is_final: true, .. },
                ),
            ) => {
                tracing::warn!(%error, "joining without the running proxy");
                return join(joining, control, mesh).await;
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => tokio::time::sleep(patience.after(&error)).await,
        }
    }
}

/// Keeps the SVID fresh until `stop`. A renewal that fails is tried again ever more slowly, while what is in
/// force goes on being used; when the instance is lost, a proof that can be repeated makes a new one.
pub async fn renew(joining: Joining, control: Arc<Addresses>, mesh: Arc<Mesh>, stop: CancellationToken) {
    let mut backoff = Backoff::new(SHORTEST_RETRY, Duration::from_secs(30));
    let (mut planned, mut urgency) = (None, Urgency::of(&mesh));
    loop {
        let Some((svid, _)) = mesh.credentials() else { return };
        let now = signet_proto::clock::now();
        let delay = planned_or(planned.take(), renewal_delay(svid.profile().not_after, now), now);
        let due = now + delay;
        mesh.renews_at(due);
        let woken = tokio::select! {
            () = stop.cancelled() => return,
            woken = sleep_on_both_clocks(delay) => woken,
            () = urgency.concern(&svid) => Woken::Due,
        };
        if woken == Woken::ClockJumped {
            planned = Some(due);
            continue;
        }
        let mut revoked = None;
        while let Err(error) = renew_once(&joining, &control, &mesh).await {
            metrics::rotation(if error.is_final() { "refused" } else { "failed" });
            let left = svid.end().duration_since(signet_proto::clock::now()).unwrap_or_default();
            revoked = Revoked::known(error.because(), &svid, &mesh, revoked);
            if joining.proof.is_repeatable() && Revoked::is_lost(revoked, error.because(), left) {
                tracing::warn!(%error, ?left, "the instance is lost: proving ourselves again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = attest_again(&joining, &control, svid.id(), &mesh) => break,
                }
            }
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

/// After the clock jumped, what was planned for a time of day is still due then: a machine that sleeps often would put
/// it off each time otherwise. Set back, the clock makes nothing later than it would be if it were planned now.
pub(super) fn planned_or(planned: Option<SystemTime>, anew: Duration, now: SystemTime) -> Duration {
    planned.map_or(anew, |due| due.duration_since(now).unwrap_or_default().min(anew))
}

/// Tries until there is a new instance of the same identity: a refusal may be about a token that is just being
/// replaced, or a workload that will be resumed.
async fn attest_again(joining: &Joining, control: &Addresses, id: &SpiffeId, mesh: &Mesh) {
    let mut patience = Patience::new(Duration::from_secs(2), Duration::from_secs(60));
    let mut request = None;
    loop {
        let attempt = async {
            let request = match &mut request {
                Some(request) => request,
                none => none.insert(Request::new()?),
            };
            attest(joining, control, request, Some(id), mesh).await
        };
        let Err(error) = attempt.await else {
            metrics::reattestation("success");
            return;
        };
        metrics::reattestation(match &error {
            error if error.is_held() => "held",
            error if error.is_final() => "refused",
            _ => "failed",
        });
        tokio::time::sleep(patience.after(&error)).await;
    }
}

/// A delay that does not step over the end of the SVID: while anything is left, at most a quarter of it passes
/// before the next try.
pub(super) fn within(delay: Duration, left: Duration) -> Duration {
    if left.is_zero() { delay } else { delay.min((left / 4).max(SHORTEST_RETRY)) }
}

pub(super) fn limited<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}

async fn renew_once(joining: &Joining, control: &Addresses, mesh: &Mesh) -> Result<(), IdentityError> {
    let no_svid = || ControlError::Unusable("no SVID to renew".into());
    let (svid, _) = mesh.credentials().ok_or_else(no_svid)?;
    let (next, key) = renewed(&svid, joining.ttl_seconds, control, mesh).await?;
    adopt(mesh, next, &key, |_| {})
}

/// The next SVID of the instance that `svid` is of, and its key.
pub(super) async fn renewed(
    svid: &Svid,
    ttl_seconds: u32,
    control: &Addresses,
    mesh: &Mesh,
) -> Result<(Svid, WorkloadKey), IdentityError> {
    let no_bundle = || ControlError::Unusable("no bundle to believe control by".into());
    let (_, trust) = mesh.credentials().ok_or_else(no_bundle)?;
    let key = WorkloadKey::generate()?;
    let request = v1::RenewRequest {
        csr: key.csr(Some(svid.id()))?,
        version: env!("CARGO_PKG_VERSION").into(),
        ttl_seconds,
    };
    let expected = control_id(svid.id().trust_domain())?;
    let tls = client_config(Some(svid), Arc::clone(&trust), expected, &[ALPN_H2])?;
    let (place, mut client) = reach(control, &tls).await?;
    let answered = client.renew(limited(request, CALL_DEADLINE)).await.map_err(ControlError::from);
    let answer = answered.inspect_err(|error| {
        if error.blames_the_replica() {
            control.failed(place);
        }
    })?;
    let answer = answer.into_inner();
    // Bundles may have changed while we waited: the new SVID has to fit the newest ones.
    let newest = mesh.credentials().map_or(trust, |(_, trust)| trust);
    let next = checked(answer.svid, &key, &newest)?;
    if next.id() != svid.id() {
        return Err(ControlError::Unusable(format!("it issued `{}` to `{}`", next.id(), svid.id())).into());
    }
    tracing::debug!(serial = hex(&next.profile().serial), "renewed the SVID");
    Ok((next, key))
}

pub(super) fn checked(
    issued: Option<v1::IssuedSvid>,
    key: &WorkloadKey,
    trust: &Trust,
) -> Result<Svid, IdentityError> {
    let issued = issued.ok_or_else(|| ControlError::Unusable("no SVID in it".into()))?;
    let chain = issued.chain.into_iter().map(Into::into).collect();
    let svid = Svid::new(chain, key.signing_key()?)?;
    svid.check(trust, signet_proto::clock::now())?;
    Ok(svid)
}

pub(super) fn adopt(
    mesh: &Mesh,
    svid: Svid,
    key: &WorkloadKey,
    also: impl FnOnce(&mut crate::mesh::Inputs),
) -> Result<(), IdentityError> {
    let svid = Arc::new(svid);
    mesh.update(|inputs| {
        inputs.svid = Some(Arc::clone(&svid));
        also(inputs);
    })?;
    if let Some(keeper) = mesh.keeper() {
        keeper.identity(key, &svid);
    }
    metrics::rotation("success");
    metrics::svid_expiry(svid.profile().not_after);
    Ok(())
}

pub(super) async fn reach(
    control: &Addresses,
    tls: &Arc<ClientConfig>,
) -> Result<(Place, IdentityClient<tonic::transport::Channel>), ControlError> {
    let connected = tokio::time::timeout(CALL_DEADLINE, channel(control, tls)).await;
    let (place, channel) = connected.map_err(|_| ControlError::Unreachable {
        address: control.all().join(", "),
        cause: format!("no answer within {} s", CALL_DEADLINE.as_secs()),
    })??;
    Ok((place, IdentityClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use signet_proto::because;

    use super::*;

    #[test]
    fn an_instance_is_lost_when_its_svid_ended_or_control_forgot_it() {
        let (hour, none) = (Duration::from_secs(3600), Duration::ZERO);
        for (because, left, lost) in [
            (None, hour, false),
            (None, none, true),
            (Some("lapsed"), hour, true),
            (Some("instance_lapsed"), hour, true),
            (Some("instance_unknown"), hour, true),
            (Some("revoked_identity"), hour, false),
            (Some("workload_not_active"), hour, false),
            (Some("revoked_identity"), none, true),
        ] {
            assert_eq!(Revoked::is_lost(None, because, left), lost, "{because:?} with {left:?} left");
        }
    }

    #[test]
    fn what_an_operator_took_out_is_told_apart_by_control_s_word() {
        let status = because::with(tonic::Status::permission_denied("no"), "revoked_instance");
        let error = IdentityError::from(ControlError::from(status));
        assert!(error.is_final() && error.because().is_some_and(because::is_revoked));
    }

    #[test]
    fn retries_never_step_over_the_end_of_the_svid() {
        let seconds = Duration::from_secs;
        assert_eq!(within(seconds(30), seconds(20)), seconds(5));
        assert_eq!(within(seconds(1), seconds(20)), seconds(1));
        assert_eq!(within(seconds(30), Duration::from_millis(10)), SHORTEST_RETRY);
        assert_eq!(within(seconds(30), Duration::ZERO), seconds(30));
    }

    #[test]
    fn a_clock_that_jumps_puts_off_no_renewal() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let seconds = Duration::from_secs;
        assert_eq!(planned_or(None, seconds(50), at(0)), seconds(50));
        assert_eq!(planned_or(Some(at(50)), seconds(40), at(20)), seconds(30), "less than half of the rest");
        assert_eq!(planned_or(Some(at(50)), seconds(10), at(80)), Duration::ZERO, "it is overdue");
        assert_eq!(planned_or(Some(at(5000)), seconds(50), at(0)), seconds(50), "the clock was set back");
    }
}
