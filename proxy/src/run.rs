//! A running proxy: its parts wired together, from the first listener to the last drained connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use signet_proto::locality::Locality;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin, Health};
use crate::admission::Admission;
use crate::backoff::unit_random;
use crate::balance::Groups;
use crate::balance::names::Names;
use crate::capture::limits::Limits;
use crate::capture::own::Own;
use crate::capture::{Callers, Intake, Listener};
use crate::config::{self, App, AppSocket, Config, Destination, Entrance, Sealing, Source};
use crate::connections::Connections;
use crate::control::Addresses;
use crate::crl::{self, CrlFiles};
use crate::forward::opaque::Idle;
use crate::identity::files::Files;
use crate::identity::{Lender, Tokens, control as joined, files, socket};
use crate::inbound::{self, Inbound};
use crate::living::endings::{Ending, Endings};
use crate::living::{drain, notify, thrift};
use crate::mesh::sealed::{Expected, Keeper};
use crate::mesh::{Mesh, expire_rights, watch};
use crate::outbound::{self, Attachments, Destinations, Outbound};
use crate::sightings::Sightings;
use crate::sightings::report::Reports;
use crate::telemetry::log::Filter;
use crate::telemetry::metrics;
use crate::telemetry::observers::Observers;
use crate::telemetry::traces::{self, Tracer};
use crate::upgrade::{Doors, Successors, start_on_signal};
use crate::workload_api::WorkloadApi;

/// After one side has finished, how long the other may be silent.
const HALF_CLOSED: Duration = Duration::from_secs(300);
/// How long control has to take our goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long control has to say what changed since it was sealed.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// How long background tasks have to wind down.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// What every connection needs.
#[derive(Debug)]
pub struct Shared {
    /// What is known.
    pub mesh: Arc<Mesh>,
    /// What is open.
    pub connections: Arc<Connections>,
    /// Who looks on.
    pub observers: Arc<Observers>,
    /// What was seen, for control.
    pub sightings: Arc<Sightings>,
    /// Tasks that must end before the process does.
    pub tasks: TaskTracker,
    /// Cancelled when the proxy is on its way out, and says so: whoever hears of it should call elsewhere.
    pub leaving: CancellationToken,
    /// Cancelled when what is idle is closed, and nothing is kept for later any more.
    pub drain: CancellationToken,
    /// How long nothing may move.
    pub idle: Idle,
    /// How old a connection may become before it takes no more requests.
    pub max_age: Option<Duration>,
    /// What is never a destination.
    pub own: Own,
    /// How many connections one caller may have.
    pub limits: Limits,
    /// What our apps are given at once, and of whom.
    pub admission: Admission,
    /// Everybody whom we call.
    pub groups: Groups,
    /// What requests to some of them get.
    pub attachments: Attachments,
    /// How peers that are named by DNS are found.
    pub names: Names,
    /// Where we run.
    pub locality: Option<Locality>,
}

/// Runs until something ends it, then drains.
///
/// # Errors
/// When a listener cannot be bound, or the identity is refused at the start.
pub async fn run(config: Config, recorder: PrometheusHandle, log: Arc<Filter>) -> anyhow::Result<()> {
    let living = config.living;
    let quit = CancellationToken::new();
    let mut endings = Endings::listen(living.exit_with, quit.clone())?;
    let mut doors = Doors::find(living.upgrade_socket.as_deref()).await?;
    let connections = Arc::new(Connections::default());
    let keeper = keeper(living.sealing, &config.source);
    let mesh = Arc::new(Mesh::new(Arc::clone(&connections)).kept_by(keeper.clone()));
    let [leaving, accepting, drain, stop, goodbye, asked] = std::array::from_fn(|_| CancellationToken::new());
    let sightings = Arc::<Sightings>::default();
    let reports = Arc::new(Reports::new(Arc::clone(&sightings))?);
    // Before a ticket is spent for nothing.
    let crls = match config.crls {
        Some(files) => {
            let read = crl::read(&files).await.context("crl-file")?;
            Some((files, read))
        }
        None => None,
    };
    let (source, mesh_is_controlled) = (config.source.name(), config.source.joining().is_some());
    let intake = Intake::new(config.max_connections, accepting.clone());
    let outward = intake.beside(config.max_connections);

    let health = Health { mesh: Arc::clone(&mesh), metrics: recorder, leaving: leaving.clone() };
    let health_entrance = Entrance::Tcp(config.metrics_listen);
    let health_listener = doors.open(&health_entrance, Callers::Loopback).await.context("metrics-listen")?;
    announce("metrics", &health_listener);
    let health_port = health_listener.port();
    let duties = TaskTracker::new();
    // Those for us are answered by one process only.
    let (ours, answering) = (doors.ours(), stop.child_token());
    duties.spawn(after(ours.clone(), admin::serve_health(health_listener, health, answering.clone())));
    duties.spawn(expire_rights(Arc::clone(&mesh), stop.clone()));
    duties.spawn(thrift::give_back(Arc::clone(&connections), stop.clone()));
    if let Some(keeper) = keeper {
        // The file, too, is one process's.
        duties.spawn(after(ours.clone(), keeper.run(answering.clone())));
    }

    // Bound before joining, so that control can be told the real ports and a taken port spends no ticket.
    let inbound = open(&mut doors, config.inbound, Callers::All, |listener| &listener.listen)
        .await
        .context("inbound")?;
    let outbound = open(&mut doors, config.outbound, Callers::Loopback, |listener| &listener.listen)
        .await
        .context("outbound")?;
    let admin_listener = match &config.admin_listen {
        Some(entrance) => Some(
            doors
                .open(entrance, Callers::Loopback)
                .await
                .context("admin-listen (another address, or `none`)")?,
        ),
        None => None,
    };
    let app_listener = match &config.workload_api {
        Some(socket) => Some(
            doors
                .open(&Entrance::Unix(socket.path.clone()), Callers::Admitted)
                .await
                .context("workload-api-listen")?,
        ),
        None => None,
    };
    let tracer = config.traces.map(|(collector, ratio)| {
        let (tracer, finished) = Tracer::new(ratio);
        duties.spawn(traces::export(collector, finished, Arc::clone(&mesh), stop.clone()));
        tracer
    });
    let for_us = [health_port, admin_listener.as_ref().and_then(Listener::port)].into_iter().flatten();
    let control = Arc::new(Addresses::new(addresses(&config.source)));
    let shared = Arc::new(Shared {
        mesh: Arc::clone(&mesh),
        connections: Arc::clone(&connections),
        observers: Observers::new(tracer),
        sightings,
        tasks: intake.tasks().clone(),
        leaving: leaving.clone(),
        drain,
        idle: Idle { open: config.idle_timeout, half_closed: HALF_CLOSED.min(config.idle_timeout) },
        max_age: config.max_connection_age,
        own: own(&inbound, &outbound, for_us, &config.source),
        limits: Limits::new(config.max_connections, config.max_connections_per_identity),
        admission: Admission::default(),
        groups: Groups::default(),
        attachments: Attachments::new(config.attached, &Tokens::new(Arc::clone(&control), Arc::clone(&mesh))),
        names: Names::new(config.dns_servers),
        locality: config.locality,
    });

    let workload_api = config.workload_api.map(|socket| {
        let AppSocket { callers, ttl_seconds, .. } = socket;
        let lender = Lender { control: Arc::clone(&control), mesh: Arc::clone(&mesh), ttl_seconds };
        Arc::new(WorkloadApi::new(&lender, callers, answering.child_token()))
    });
    if let Some(listener) = admin_listener {
        announce("admin", &listener);
        let admin = Admin {
            shared: Arc::clone(&shared),
            config: config.effective,
            source,
            workload_api: workload_api.clone(),
            log,
            profiles: living.profiles,
            quit: living.allow_quit.then_some(quit),
        };
        duties.spawn(after(ours.clone(), admin::serve(listener, admin, answering.clone())));
    }
    let path = living.upgrade_socket.as_ref();
    let successors = Successors {
        listener: doors.for_successors(path).await.context("upgrade-socket")?,
        shares: doors.shares(),
        mesh: Arc::clone(&mesh),
        control: mesh_is_controlled.then(|| Arc::clone(&control)),
    };
    duties.spawn(start_on_signal(path.is_some(), leaving.clone()).context("SIGUSR2")?);

    let work = async {
        match config.source {
            Source::Files(files) => watch_files(files, &mesh, &duties, &stop).await?,
            Source::Socket(socket, files) => {
                watch_files(files, &mesh, &duties, &stop).await?;
                duties.spawn(socket::follow(socket, Arc::clone(&mesh), stop.clone()));
            }
            Source::Control(joining) => {
                match doors.predecessor() {
                    Some(running) => joined::take_over(&joining, running, &control, &mesh).await?,
                    None if restored(&mesh) => {}
                    None => joined::join(&joining, &control, &mesh).await?,
                }
                let listeners = inbound.iter().filter_map(|(listener, settings)| match settings.forward {
                    App::At(app) => listener.port().map(|port| (port, app.port())),
                    App::Original => None,
                });
                let named = outbound.iter().filter_map(|(_, settings)| match &settings.destination {
                    Destination::Peer(peer, _) => Some(peer),
                    Destination::Original | Destination::Connect => None,
                });
                let named = named.chain(config.routes.iter().map(|route| &route.peer)).cloned();
                let subscription = watch::Subscription {
                    control: Arc::clone(&control),
                    listeners: listeners.collect(),
                    upstreams: named.collect(),
                    everybody: outbound
                        .iter()
                        .any(|(_, settings)| !matches!(settings.destination, Destination::Peer(..))),
                    asked: asked.clone(),
                    locality: shared.locality.clone(),
                };
                // A renewal would take the goodbye back, and the drain is shorter than what is left of an SVID.
                duties.spawn(joined::renew(joining, control, Arc::clone(&mesh), leaving.clone()));
                let follow = watch::follow(
                    subscription,
                    Arc::clone(&mesh),
                    connections,
                    Arc::clone(&reports),
                    leaving.clone(),
                    goodbye.clone(),
                    stop.clone(),
                );
                duties.spawn(follow);
                if mesh.sealed_at().is_some() {
                    // What was revoked meanwhile is better known before anybody is let in.
                    let _ = tokio::time::timeout(FIRST_WORD, asked.cancelled()).await;
                }
            }
        }
        if let Some((files, read)) = crls {
            watch_crls(files, read, &mesh, &duties, &stop).await?;
        }
        ready(&mesh).await;
        doors.take_over().await;
        if let (Some(listener), Some(api)) = (app_listener, workload_api) {
            announce("workload-api", &listener);
            duties.spawn(api.serve(listener));
        }
        notify::ready();
        for (listener, settings) in inbound {
            announce("inbound", &listener);
            if settings.forward == App::Original && !listener.take_foreign() {
                tracing::warn!(
                    "without CAP_NET_ADMIN or CAP_NET_RAW the proxy takes what is captured by redirect, not by tproxy"
                );
            }
            let settings = Arc::new(Inbound::from(settings));
            let (intake, shared) = (intake.clone(), Arc::clone(&shared));
            duties.spawn(async move {
                let serve = |socket, remote| {
                    Box::pin(inbound::serve(Arc::clone(&shared), Arc::clone(&settings), socket, remote))
                };
                intake.accept(listener, "inbound", serve).await;
            });
        }
        let destinations = Arc::new(Destinations::new(config.routes, config.unknown_destinations));
        for (listener, settings) in outbound {
            announce("outbound", &listener);
            let (listen, port) = (listener.to_string(), listener.port());
            let settings =
                Outbound::new(Arc::clone(&shared), Arc::clone(&destinations), settings, listen, port);
            let (intake, settings) = (outward.clone(), Arc::new(settings));
            duties.spawn(async move {
                let serve = |socket, remote| Box::pin(outbound::serve(Arc::clone(&settings), socket, remote));
                intake.accept(listener, "outbound", serve).await;
            });
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let (ending, successor) = tokio::select! {
        failed = work => return failed,
        ending = endings.first() => (ending, None),
        ready = after(ours, successors.ready()) => (Ending::Upgrade, Some(ready)),
    };

    let hurry = CancellationToken::new();
    endings.listen_on(ending, hurry.clone());
    match successor {
        Some(successor) => {
            answering.cancel();
            successor.relieved().await;
        }
        None => notify::stopping(),
    }
    drain::leave(&shared, &accepting, ending, living.patience, &hurry).await;
    if mesh_is_controlled {
        let said = tokio::time::timeout(GOODBYE, goodbye.cancelled()).await;
        if said.is_ok() {
            let _ = tokio::time::timeout(GOODBYE, reports.flushed()).await;
        }
    }
    stop.cancel();
    duties.close();
    if tokio::time::timeout(WIND_DOWN, duties.wait()).await.is_err() {
        tracing::warn!(left = duties.len(), "background tasks did not end");
    }
    Ok(())
}

async fn open<L>(
    doors: &mut Doors,
    listeners: Vec<L>,
    callers: Callers,
    entrance: impl Fn(&L) -> &Entrance,
) -> std::io::Result<Vec<(Listener, L)>> {
    let mut bound = Vec::new();
    for listener in listeners {
        bound.push((doors.open(entrance(&listener), callers).await?, listener));
    }
    Ok(bound)
}

async fn after<T>(begin: CancellationToken, then: impl Future<Output = T>) -> T {
    begin.cancelled().await;
    then.await
}

fn keeper(sealing: Option<Sealing>, source: &Source) -> Option<Arc<Keeper>> {
    let (Some(Sealing { path, key }), Some(joining)) = (sealing, source.joining()) else { return None };
    let expected = Expected {
        trust_domain: joining.trust_domain.clone(),
        pins: joining.pins.clone(),
        spiffe_id: joining.spiffe_id.clone(),
    };
    Some(Arc::new(Keeper::new(path, key, expected)))
}

/// Starts with the sealed copy, if there is one that can be used.
fn restored(mesh: &Mesh) -> bool {
    let Some(keeper) = mesh.keeper() else { return false };
    let found = match keeper.restore() {
        Ok(None) => return false,
        Ok(Some(restored)) => {
            tracing::warn!(id = %restored.svid.id(), age = ?restored.age(), "starting with the sealed copy");
            watch::restore(mesh, restored).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    found
        .inspect_err(|error| {
            metrics::state_refused();
            tracing::error!(error, "the sealed copy is not used");
        })
        .is_ok()
}

fn announce(direction: &str, listener: &Listener) {
    tracing::info!(direction, address = %listener, "listening");
}

/// What is never a destination.
fn own(
    inbound: &[(Listener, config::Inbound)],
    outbound: &[(Listener, config::Outbound)],
    for_us: impl Iterator<Item = u16>,
    source: &Source,
) -> Own {
    let captured = |settings: &config::Inbound| settings.forward == App::Original;
    let ports = |wanted: bool| {
        let listeners = inbound.iter().filter(move |(_, settings)| captured(settings) == wanted);
        listeners.filter_map(|(listener, _)| listener.port())
    };
    let others = ports(true).chain(outbound.iter().filter_map(|(listener, _)| listener.port())).chain(for_us);
    Own::new(ports(false).collect(), others.collect(), addresses(source))
}

/// Where control is, if it is anywhere.
fn addresses(source: &Source) -> Vec<String> {
    source.joining().map(|joining| joining.control.clone()).unwrap_or_default()
}

/// Takes the files as they are now, and then as they become.
async fn watch_files(
    files: Files,
    mesh: &Arc<Mesh>,
    duties: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let taken = files::load(&files, mesh).await?;
    let following = files::follow(files, taken, Arc::clone(mesh), stop.clone());
    duties.spawn(async {
        if let Err(error) = following.await {
            tracing::error!(%error, "files are no longer watched");
        }
    });
    Ok(())
}

/// Takes the revocation lists that were read, and then what becomes of them.
async fn watch_crls(
    files: CrlFiles,
    read: crl::Read,
    mesh: &Arc<Mesh>,
    duties: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let taken = crl::load(&files, read, mesh).await.context("crl-file")?;
    let following = crl::follow(files, taken, Arc::clone(mesh), stop.clone());
    duties.spawn(async {
        if let Err(error) = following.await {
            tracing::error!(%error, "revocation lists are no longer watched");
        }
    });
    duties.spawn(crl::tell_ends(Arc::clone(mesh), stop.clone()));
    Ok(())
}

/// Ends when there is a snapshot: identity, bundle and policy.
async fn ready(mesh: &Mesh) {
    let mut generations = mesh.generations();
    if generations.wait_for(|generation| *generation > 0).await.is_ok() {
        tracing::info!("ready: identity and policy in hand");
    }
}

impl Shared {
    /// When one connection that begins now is old: not all that came together go together.
    pub(crate) fn end_of_one(&self) -> Option<Instant> {
        self.max_age.map(|age| Instant::now() + age.mul_f64(0.9 + unit_random() / 5.0))
    }
}

#[cfg(test)]
impl Shared {
    /// Of a proxy that knows nothing yet.
    pub(crate) fn for_a_test() -> Arc<Self> {
        let connections = Arc::new(Connections::default());
        Arc::new(Self {
            mesh: Arc::new(Mesh::new(Arc::clone(&connections))),
            connections,
            observers: Arc::default(),
            sightings: Arc::default(),
            tasks: TaskTracker::new(),
            leaving: CancellationToken::new(),
            drain: CancellationToken::new(),
            idle: Idle { open: HALF_CLOSED, half_closed: HALF_CLOSED },
            max_age: None,
            own: Own::default(),
            limits: Limits::new(1, 1),
            admission: Admission::default(),
            groups: Groups::default(),
            attachments: Attachments::default(),
            names: Names::default(),
            locality: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Remote, Socket};
    use tokio::net::TcpStream;

    /// A future is as large as its largest moment, for the whole life of the connection (ztunnel 985).
    #[tokio::test]
    async fn the_story_of_a_connection_is_small() {
        let shared = Shared::for_a_test();
        let listener =
            Listener::bind(&Entrance::Tcp(([127, 0, 0, 1], 0).into()), Callers::All).await.unwrap();
        let address = format!("127.0.0.1:{}", listener.port().unwrap());
        let socket = || async { Socket::Tcp(TcpStream::connect(&address).await.unwrap()) };
        let remote = Remote::Ip(address.parse().unwrap());
        let settings: config::Inbound = format!("1={address}").parse().unwrap();
        let inbound = inbound::serve(Arc::clone(&shared), Arc::new(settings.into()), socket().await, remote);
        let settings = format!("{address}=spiffe://td/peer").parse().unwrap();
        let destinations = Arc::new(Destinations::new(Vec::new(), None));
        let outbound = Outbound::new(shared, destinations, settings, address.clone(), None);
        let outbound = outbound::serve(Arc::new(outbound), socket().await, remote);
        let (inbound, outbound) = (size_of_val(&inbound), size_of_val(&outbound));
        assert!(inbound <= 8 * 1024 && outbound <= 8 * 1024, "inbound {inbound}, outbound {outbound} bytes");
    }
}
