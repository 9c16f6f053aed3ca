//! The stream from control: bundles, policy, revocations and endpoints, pushed as they change. Every message
//! is in force, down to the last closed connection, before it is acknowledged.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::handshake::{ALPN_H2, Revocations, client_config};
use signet_proto::policy::PolicySet;
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use signet_proto::v1;
use signet_proto::v1::mesh_client::MeshClient;
use signet_proto::v1::report_client::ReportClient;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{Endpoint, Inputs, Mesh, Services};
use crate::backoff::Backoff;
use crate::connections::{Applied, Connections};
use crate::control::{Addresses, CALL_DEADLINE, ControlError, Place, channel, control_id, pause_after_loss};
use crate::sightings::report::Reports;
use crate::telemetry::metrics;

const REPORT_EVERY: Duration = Duration::from_secs(30);
/// How long a connection that was told to close may take before that is worth a line.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
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
}

impl Subscription {
    fn wanted(&self, mesh: &Mesh) -> Vec<String> {
        let everybody = mesh
            .credentials()
            .filter(|_| self.everybody)
            .map(|(svid, _)| format!("spiffe://{}/*", svid.id().trust_domain()));
        self.upstreams.iter().map(ToString::to_string).chain(everybody).collect()
    }
}

/// Follows control until `stop`; while it cannot be reached, what is known stays in force (invariant 11). Says
/// goodbye when `drain` begins and cancels `said` then.
pub async fn follow(
    subscription: Subscription,
    mesh: Arc<Mesh>,
    connections: Arc<Connections>,
    reports: Arc<Reports>,
    drain: CancellationToken,
    said: CancellationToken,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let mut worked = false;
        let followed = async {
            let (place, channel) = open(&subscription, &mesh).await?;
            let ended = tokio::select! {
                ended = stream(&subscription, channel.clone(), &mesh, &connections, &mut worked) => ended,
                () = reports.send(channel.clone()) => Ok(()),
                () = leave(channel, &drain, &said) => Ok(()),
            };
            if ended.as_ref().err().is_none_or(ControlError::blames_the_replica) {
                subscription.control.failed(place);
            }
            ended
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = followed => ended,
        };
        metrics::control_connected(false);
        if drain.is_cancelled() {
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
            Ok(()) => tracing::info!(?delay, "control ended the stream, will open it again"),
            Err(error) => tracing::warn!(%error, ?delay, "no stream from control, will try again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

async fn open(subscription: &Subscription, mesh: &Mesh) -> Result<(Place, Channel), ControlError> {
    let unusable = |error: &dyn std::error::Error| ControlError::Unusable(error.to_string());
    let (svid, trust) =
        mesh.credentials().ok_or_else(|| ControlError::Unusable("no SVID to show to control yet".into()))?;
    let control = control_id(svid.id().trust_domain()).map_err(|error| unusable(&error))?;
    let tls = client_config(Some(&svid), trust, control, &[ALPN_H2]).map_err(|error| unusable(&error))?;
    channel(&subscription.control, &tls).await
}

async fn stream(
    subscription: &Subscription,
    channel: Channel,
    mesh: &Mesh,
    connections: &Connections,
    worked: &mut bool,
) -> Result<(), ControlError> {
    let request = v1::WatchRequest {
        listeners: subscription
            .listeners
            .iter()
            .map(|(port, app)| v1::Listener { port: u32::from(*port), app_port: u32::from(*app) })
            .collect(),
        upstreams: subscription.wanted(mesh),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let mut client = MeshClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
    let mut messages = client.watch(request).await?.into_inner();
    metrics::control_connected(true);

    let pending = Pending::default();
    let receive = async {
        loop {
            let Some(message) = messages.message().await? else { return Ok(()) };
            let (revision, arrived) = (message.revision, Instant::now());
            let applied = apply(mesh, message)?;
            *worked = true;
            pending.add(InForce { revision, arrived, applied });
        }
    };
    tokio::select! {
        ended = receive => ended,
        () = report_changes(ReportClient::new(channel), &pending, connections) => Ok(()),
    }
}

/// Says goodbye when the drain begins, and never ends: the stream goes on bringing changes until the process
/// ends.
async fn leave(channel: Channel, drain: &CancellationToken, said: &CancellationToken) {
    drain.cancelled().await;
    let mut request = tonic::Request::new(v1::LeaveRequest {});
    request.set_timeout(CALL_DEADLINE);
    if let Err(status) = MeshClient::new(channel).leave(request).await {
        tracing::warn!(error = %ControlError::from(status), "control did not hear that this proxy leaves");
    }
    said.cancel();
    std::future::pending::<()>().await;
}

/// A change that was applied, with the connections it told to close.
struct InForce {
    revision: u64,
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
async fn report_changes(mut client: ReportClient<Channel>, changes: &Pending, connections: &Connections) {
    let mut newest = 0;
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = tokio::time::sleep(REPORT_EVERY) => {
                InForce { revision: newest, arrived: Instant::now(), applied: Applied::default() }
            }
        };
        let InForce { revision, arrived, applied } = change;
        while let left @ 1.. = applied.settled(CLOSE_DEADLINE).await {
            tracing::warn!(revision, left, "connections that lost their right are not closed yet");
        }
        newest = revision;
        tracing::debug!(revision, closed = ?applied.closed, took = ?arrived.elapsed(), "change in force");
        let mut request = tonic::Request::new(report(revision, &applied, arrived.elapsed(), connections));
        request.set_timeout(CALL_DEADLINE);
        if let Err(status) = client.report(request).await {
            tracing::warn!(revision, error = %ControlError::from(status), "control did not take the report");
        }
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
    }
}

/// Brings one message into force. A message of which a part cannot be read is refused whole; only for the
/// policy there is a safe reading of what cannot be read, and that is to deny (invariant 1).
fn apply(mesh: &Mesh, message: v1::WatchResponse) -> Result<Applied, ControlError> {
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
    let services = message.services.as_ref().map(endpoints);
    if bundles.is_none() && revocations.is_none() && policy.is_none() {
        if let Some(services) = services {
            mesh.relocate(services, message.revision);
        }
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
        if let Some(services) = services {
            inputs.services = Arc::new(services.after(&inputs.services));
        }
    };
    mesh.update(change).map_err(|error| unusable("TLS", &error))
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

fn endpoints(services: &v1::Services) -> Services {
    services
        .services
        .iter()
        .filter_map(|service| {
            let id: SpiffeId = service.spiffe_id.parse().ok()?;
            let endpoints = service.endpoints.iter().filter_map(|endpoint| {
                let address: IpAddr = endpoint.address.parse().ok()?;
                let port = u16::try_from(endpoint.port).ok()?;
                let app_port = u16::try_from(endpoint.app_port).ok()?;
                Some(Endpoint { address: SocketAddr::new(address, port), app_port })
            });
            Some((id, endpoints.collect()))
        })
        .collect()
}
