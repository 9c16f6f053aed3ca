//! The stream from control: bundles, policy, revocations and endpoints, pushed as they change. Every message
//! is in force, down to the last closed connection, before it is acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use signet_proto::digest::StateDigest;
use signet_proto::handshake::{ALPN_H2, Revocations, client_config};
use signet_proto::locality::Locality;
use signet_proto::policy::{PolicySet, Schema};
use signet_proto::settings::{self, Settings};
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use signet_proto::v1;
use signet_proto::v1::mesh_client::MeshClient;
use signet_proto::v1::report_client::ReportClient;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::sealed::Restored;
use super::told::Told;
use super::{Inputs, Mesh, Services, Traffic};
use crate::backoff::Backoff;
use crate::connections::{Applied, Connections};
use crate::control::{Addresses, CALL_DEADLINE, ControlError, Place, channel, control_id, pause_after_loss};
use crate::identity::RenewalOrder;
use crate::sightings::report::Reports;
use crate::telemetry::metrics;

const REPORT_EVERY: Duration = Duration::from_secs(30);
/// How long a connection that was told to close may take before that is worth a line.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// Control takes no more.
const MOST_UPSTREAMS: usize = 1024;
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// What this proxy asks control for.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Control's addresses.
    pub control: Arc<Addresses>,
    /// Ports on which we accept mutual TLS, and those of the apps behind them.
    pub listeners: Vec<(u16, u16)>,
    /// Peers whose endpoints we want to know.
    pub upstreams: Vec<SpiffeId>,
    /// Whether we want to know those of all peers of our trust domain.
    pub everybody: bool,
    /// Cancelled once control said something, or could not be asked.
    pub asked: CancellationToken,
    /// Where we run.
    pub locality: Option<Locality>,
}

impl Subscription {
    fn wanted(&self, mesh: &Mesh) -> Vec<String> {
        let everybody = mesh
            .credentials()
            .filter(|_| self.everybody)
            .map(|(svid, _)| format!("spiffe://{}/*", svid.id().trust_domain()));
        let all = self.upstreams.iter().map(ToString::to_string).chain(everybody);
        // Calls that are split lead to others than those whom the configuration names.
        let legs = mesh.traffic().legs().map(ToString::to_string).collect::<BTreeSet<_>>();
        all.chain(legs).take(MOST_UPSTREAMS).collect()
    }
}

/// Follows control until `stop`; while it cannot be reached, what is known stays in force (invariant 11). Says
/// goodbye when `leaving` begins and cancels `said` then.
pub async fn follow(
    subscription: Subscription,
    mesh: Arc<Mesh>,
    connections: Arc<Connections>,
    reports: Arc<Reports>,
    leaving: CancellationToken,
    said: CancellationToken,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let (told, mut claim) = (Mutex::new(Told::default()), 0);
    loop {
        let mut worked = false;
        claim = next_claim(claim);
        let followed = async {
            let (place, channel, issuer) = open(&subscription, &mesh).await?;
            let ended = tokio::select! {
                ended = stream(&subscription, claim, channel.clone(), &mesh, &told, &connections, &mut worked) => ended,
                () = reports.send(channel.clone()) => Ok(Ended::ByControl),
                () = leave(channel, &leaving, &said) => Ok(Ended::ByControl),
                () = left_behind(&mesh, issuer) => Ok(Ended::ToShowAnother),
            };
            let blamed = match &ended {
                Ok(ended) => *ended == Ended::ByControl,
                Err(error) => error.blames_the_replica(),
            };
            if blamed {
                subscription.control.failed(place);
            }
            ended
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = followed => ended,
        };
        metrics::control_connected(false);
        subscription.asked.cancel();
        if leaving.is_cancelled() {
            // Opening the stream again would take the goodbye back.
            return;
        }
        let delay = if worked {
            backoff.reset();
            pause_after_loss()
        } else {
            backoff.next_delay()
        };
        match ended {
            Ok(Ended::ToAskForMore | Ended::ToShowAnother) => continue,
            Ok(Ended::ByControl) => tracing::info!(?delay, "control ended the stream, will open it again"),
            Err(error) => tracing::warn!(%error, ?delay, "no stream from control, will try again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// With the name of what signed the SVID that is shown.
async fn open(subscription: &Subscription, mesh: &Mesh) -> Result<(Place, Channel, [u8; 32]), ControlError> {
    let unusable = |error: &dyn std::error::Error| ControlError::Unusable(error.to_string());
    let (svid, trust) =
        mesh.credentials().ok_or_else(|| ControlError::Unusable("no SVID to show to control yet".into()))?;
    let control = control_id(svid.id().trust_domain()).map_err(|error| unusable(&error))?;
    let tls = client_config(Some(&svid), trust, control, &[ALPN_H2]).map_err(|error| unusable(&error))?;
    let (place, channel) = channel(&subscription.control, &tls).await?;
    Ok((place, channel, svid.profile().issuer_sha256))
}

/// Waits until what signed the SVID that was shown is about to be distrusted, and we have another one: control ends all
/// that rests on the old one, and whose stream ends is called by nobody.
async fn left_behind(mesh: &Mesh, issuer: [u8; 32]) {
    let mut generations = mesh.generations();
    while !mesh.has_left(&issuer) {
        if generations.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Greater than the one before, whatever the clock did meanwhile, and than those of an earlier process.
fn next_claim(before: u64) -> u64 {
    let now = signet_proto::clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default().max(before + 1)
}

async fn stream(
    subscription: &Subscription,
    claim: u64,
    channel: Channel,
    mesh: &Mesh,
    told: &Mutex<Told>,
    connections: &Connections,
    worked: &mut bool,
) -> Result<Ended, ControlError> {
    let request = v1::WatchRequest {
        listeners: subscription
            .listeners
            .iter()
            .map(|(port, app)| v1::Listener { port: u32::from(*port), app_port: u32::from(*app) })
            .collect(),
        upstreams: subscription.wanted(mesh),
        version: env!("CARGO_PKG_VERSION").into(),
        have: told.lock().digest(&mesh.bundles()).map(|digest| digest.message()),
        claim,
        policy_schema: Schema::NEWEST.number(),
        locality: subscription.locality.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let asked: BTreeSet<String> = request.upstreams.iter().cloned().collect();
    let mut client = MeshClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
    let mut messages = client.watch(request).await?.into_inner();
    metrics::control_connected(true);

    let pending = Pending::default();
    let receive = async {
        loop {
            let Some(message) = messages.message().await? else { return Ok(Ended::ByControl) };
            let (revision, position, arrived) = (message.revision, message.position, Instant::now());
            let expected = message.state.as_ref().and_then(StateDigest::read);
            let applied = apply(mesh, told, message)?;
            *worked = true;
            mesh.heard();
            subscription.asked.cancel();
            compare(revision, expected, told.lock().digest(&mesh.bundles()));
            pending.add(InForce { revision, position, arrived, applied });
            let wanted = subscription.wanted(mesh);
            if wanted.iter().any(|upstream| !asked.contains(upstream)) {
                tracing::info!("calls are split to further peers: control is asked for their endpoints, too");
                return Ok(Ended::ToAskForMore);
            }
        }
    };
    tokio::select! {
        ended = receive => ended,
        () = report_changes(ReportClient::new(channel), &pending, mesh, told, connections) => Ok(Ended::ByControl),
    }
}

/// Says goodbye when the proxy begins to leave, and never ends: the stream goes on bringing changes until the process
/// ends.
async fn leave(channel: Channel, leaving: &CancellationToken, said: &CancellationToken) {
    leaving.cancelled().await;
    let mut request = tonic::Request::new(v1::LeaveRequest {});
    request.set_timeout(CALL_DEADLINE);
    if let Err(status) = MeshClient::new(channel).leave(request).await {
        tracing::warn!(error = %ControlError::from(status), "control did not hear that this proxy leaves");
    }
    said.cancel();
    std::future::pending::<()>().await;
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    ByControl,
    /// We need to know more peers than we asked for.
    ToAskForMore,
    /// What signed the SVID by which it was opened is about to be distrusted.
    ToShowAnother,
}

/// A change that was applied, with the connections it told to close.
struct InForce {
    revision: u64,
    /// Of the message, on its stream.
    position: u64,
    arrived: Instant,
    applied: Applied,
}

/// Changes that are not acknowledged yet, as one: what comes while an older one settles is joined to it.
#[derive(Default)]
struct Pending {
    change: Mutex<Option<InForce>>,
    news: Notify,
}

impl Pending {
    fn add(&self, change: InForce) {
        let mut pending = self.change.lock();
        match pending.as_mut() {
            Some(joined) => {
                joined.revision = change.revision;
                joined.position = change.position;
                joined.applied.join(change.applied);
            }
            None => *pending = Some(change),
        }
        self.news.notify_one();
    }

    async fn next(&self) -> InForce {
        loop {
            if let Some(change) = self.change.lock().take() {
                return change;
            }
            self.news.notified().await;
        }
    }
}

/// Acknowledges every change once the connections that it forbids are closed, and repeats the newest now and
/// then. A report that fails costs nothing but itself: the next one says more.
async fn report_changes(
    mut client: ReportClient<Channel>,
    changes: &Pending,
    mesh: &Mesh,
    told: &Mutex<Told>,
    connections: &Connections,
) {
    let (mut newest, mut newest_position) = (0, 0);
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = tokio::time::sleep(REPORT_EVERY) => {
                InForce {
                    revision: newest,
                    position: newest_position,
                    arrived: Instant::now(),
                    applied: Applied::default(),
                }
            }
        };
        let InForce { revision, position, arrived, applied } = change;
        while let left @ 1.. = applied.settled(CLOSE_DEADLINE).await {
            tracing::warn!(revision, left, "connections that lost their right are not closed yet");
        }
        (newest, newest_position) = (revision, position);
        tracing::debug!(revision, closed = ?applied.closed, took = ?arrived.elapsed(), "change in force");
        let mut report = report(revision, &applied, arrived.elapsed(), connections);
        report.position = position;
        report.state = in_force_at(position, mesh, told).map(|digest| digest.message());
        let mut request = tonic::Request::new(report);
        request.set_timeout(CALL_DEADLINE);
        if let Err(status) = client.report(request).await {
            tracing::warn!(revision, error = %ControlError::from(status), "control did not take the report");
        }
    }
}

/// What is in force after the message at `position`, if none came after it.
fn in_force_at(position: u64, mesh: &Mesh, told: &Mutex<Told>) -> Option<StateDigest> {
    let bundles = mesh.bundles();
    let told = told.lock();
    if told.position == position { told.digest(&bundles) } else { None }
}

/// Control sees it in the report, and sends everything again.
fn compare(revision: u64, expected: Option<StateDigest>, found: Option<StateDigest>) {
    let (Some(expected), Some(found)) = (expected, found) else { return };
    let mut differ = expected.differences(&found).peekable();
    if differ.peek().is_some() {
        metrics::state_mismatch();
        let sections: Vec<_> = differ.collect();
        tracing::warn!(
            revision,
            ?sections,
            "what is in force is not what control sent: it is asked for again"
        );
    }
}

fn report(revision: u64, applied: &Applied, took: Duration, connections: &Connections) -> v1::ReportRequest {
    let closed = applied
        .closed
        .iter()
        .map(|(reason, count)| v1::ClosedConnections { reason: reason.as_str().into(), count: *count });
    v1::ReportRequest {
        applied_revision: revision,
        closed: closed.collect(),
        applied_in: prost_types::Duration::try_from(took).ok(),
        open_connections: connections.len() as u64,
        ..v1::ReportRequest::default()
    }
}

/// Brings one message into force. A message of which a part cannot be read is refused whole; only for the
/// policy and the settings of the mesh there is a safe reading of what cannot be read: to deny, and to be strict
/// (invariant 1).
fn apply(mesh: &Mesh, told: &Mutex<Told>, message: v1::WatchResponse) -> Result<Applied, ControlError> {
    let services = {
        let mut told = told.lock();
        told.take(&message).then(|| told.services())
    };
    let keeper = mesh.keeper().map(|keeper| (keeper, message.clone()));
    let renewal = message.renewal.as_ref().and_then(RenewalOrder::read);
    // What could not be brought into force is not claimed: everything is sent again on the next stream.
    let applied =
        bring_into_force(mesh, services, message).inspect_err(|_| *told.lock() = Told::default())?;
    if let Some((keeper, message)) = keeper {
        keeper.learned(message, told.lock().whole());
    }
    if let Some(order) = renewal {
        mesh.order_renewal(order);
    }
    Ok(applied)
}

/// Brings into force what was sealed, as if control had just said it.
///
/// # Errors
/// When it cannot be used; then nothing of it is in force.
pub fn restore(mesh: &Mesh, restored: Restored) -> Result<(), ControlError> {
    let Restored { svid, told: message, saved_at } = restored;
    let (mut told, not_after) = (Told::default(), svid.profile().not_after);
    let services = told.take(&message).then(|| told.services());
    // Without a policy beside it, this alone is no snapshot.
    mesh.update(|inputs| inputs.svid = Some(Arc::new(svid)))
        .map_err(|error| ControlError::Unusable(error.to_string()))?;
    bring_into_force(mesh, services, message)?;
    mesh.restored(saved_at);
    metrics::svid_expiry(not_after);
    Ok(())
}

fn bring_into_force(
    mesh: &Mesh,
    services: Option<Services>,
    message: v1::WatchResponse,
) -> Result<Applied, ControlError> {
    let unusable =
        |what: &str, error: &dyn std::error::Error| ControlError::Unusable(format!("{what}: {error}"));
    let bundles = message
        .bundles
        .map(|bundles| bundles.bundles.iter().map(TrustBundle::try_from).collect::<Result<Vec<_>, _>>())
        .transpose()
        .map_err(|error| unusable("bundles", &error))?;
    let revocations = message
        .revocations
        .map(Revocations::try_from)
        .transpose()
        .map_err(|error| unusable("revocations", &error))?;
    let policy = message.policies.map(|policies| Arc::new(readable_or_deny(&policies)));
    let settings = message.mesh.map(|mesh| Arc::new(readable_or_strict(&mesh)));
    let before = mesh.traffic();
    let traffic = message
        .traffic
        .map(|traffic| Arc::new(Traffic::read(traffic.documents.iter().map(String::as_str), &before)));
    if bundles.is_none() && revocations.is_none() && policy.is_none() && settings.is_none() {
        mesh.relocate(services, traffic, message.revision);
        return Ok(Applied::default());
    }
    let change = |inputs: &mut Inputs| {
        inputs.revision = message.revision;
        if let Some(bundles) = bundles {
            inputs.bundles = bundles;
        }
        if let Some(revocations) = revocations {
            inputs.revocations = revocations;
        }
        if let Some(policy) = policy {
            inputs.policy = Some(policy);
        }
        if let Some(settings) = settings {
            inputs.settings = settings;
        }
        if let Some(traffic) = traffic {
            inputs.traffic = traffic;
        }
        if let Some(services) = services {
            inputs.services = Arc::new(services.after(&inputs.services));
        }
    };
    mesh.update(change).map_err(|error| unusable("TLS", &error))
}

fn readable_or_strict(mesh: &v1::MeshSettings) -> Settings {
    if mesh.document.is_empty() {
        return Settings::default();
    }
    settings::parse_json(&mesh.document).unwrap_or_else(|error| {
        metrics::mesh_unreadable();
        tracing::error!(
            %error,
            "control sent settings of the mesh that cannot be read: nothing is open until they are corrected"
        );
        Settings::closed()
    })
}

fn readable_or_deny(policies: &v1::Policies) -> PolicySet {
    let compiled = policies
        .documents
        .iter()
        .map(|document| signet_proto::policy::parse_json(document).map_err(|error| error.to_string()))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|documents| PolicySet::compile(documents).map_err(|error| error.to_string()));
    compiled.unwrap_or_else(|error| {
        metrics::policy_unreadable();
        tracing::error!(
            error,
            "control sent a policy that cannot be read: everything is denied until it is corrected"
        );
        PolicySet::deny_all(error)
    })
}

#[cfg(test)]
mod tests {
    use signet_proto::settings::UnknownDestinations;

    use super::*;

    #[test]
    fn settings_that_cannot_be_read_open_nothing() {
        let read = |document: &str| readable_or_strict(&v1::MeshSettings { document: document.into() });
        assert_eq!(read(""), Settings::default());
        let open = read(r#"{"kind":"Mesh","mode":"permissive"}"#);
        assert!(open.accepts_plaintext(&"spiffe://td/a".parse().unwrap(), 80, SystemTime::UNIX_EPOCH));
        for odd in
            ["{", r#"{"kind":"Mesh","mode":"permissive","later":1}"#, r#"{"kind":"Mesh","mode":"open"}"#]
        {
            let settings = read(odd);
            assert!(!settings.accepts_plaintext(
                &"spiffe://td/a".parse().unwrap(),
                80,
                SystemTime::UNIX_EPOCH
            ));
            let own = Some(UnknownDestinations::Passthrough);
            assert_eq!(settings.unknown_destinations(own), UnknownDestinations::Refuse);
        }
    }
}
