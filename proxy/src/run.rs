//! A running proxy: its parts wired together, from the first listener to the last drained connection.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Health};
use crate::capture::{Intake, MAX_CONNECTIONS, listen};
pub use crate::config::Protocol;
use crate::config::{Config, Source};
use crate::connections::Connections;
use crate::forward::opaque::Idle;
use crate::identity::{control as joined, files};
use crate::inbound::{self, Inbound};
use crate::mesh::{Mesh, expire_rules, watch};
use crate::outbound::{self, Calls, Outbound};
use crate::telemetry::CloseReason;

/// After one side has finished, how long the other may be silent.
const HALF_CLOSED: Duration = Duration::from_secs(300);
/// How long control has to take our goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long cut connections and background tasks have to wind down.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// What every connection needs.
#[derive(Debug)]
pub struct Shared {
    /// What is known.
    pub mesh: Arc<Mesh>,
    /// What is open.
    pub connections: Arc<Connections>,
    /// Tasks that must end before the process does.
    pub tasks: TaskTracker,
    /// Cancelled when the proxy is on its way out.
    pub drain: CancellationToken,
    /// How long nothing may move.
    pub idle: Idle,
}

/// Runs until `stopped` ends, then drains.
///
/// # Errors
/// When a listener cannot be bound, or the identity is refused at the start.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    stopped: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let connections = Arc::new(Connections::default());
    let upstreams: Vec<_> = config.outbound.iter().map(|listener| listener.peer.clone()).collect();
    let mesh = Arc::new(Mesh::new(Arc::clone(&connections), upstreams.clone()));
    let (drain, stop, goodbye) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let mesh_is_controlled = matches!(config.source, Source::Control(_));
    let intake = Intake::new(MAX_CONNECTIONS, drain.clone());
    let outward = intake.beside(MAX_CONNECTIONS);
    let shared = Arc::new(Shared {
        mesh: Arc::clone(&mesh),
        connections: Arc::clone(&connections),
        tasks: intake.tasks().clone(),
        drain: drain.clone(),
        idle: Idle { open: config.idle_timeout, half_closed: HALF_CLOSED.min(config.idle_timeout) },
    });

    let health = Health { mesh: Arc::clone(&mesh), metrics, drain: drain.clone() };
    let health_listener = listen(config.metrics_listen).await.context("metrics-listen")?;
    announce("metrics", &health_listener)?;
    let duties = TaskTracker::new();
    duties.spawn(admin::serve(health_listener, health, stop.clone()));
    duties.spawn(expire_rules(Arc::clone(&mesh), stop.clone()));

    // Bound before joining, so that control can be told the real ports and a taken port spends no ticket.
    let inbound = bind(&config.inbound, |listener| listener.listen.0).await.context("inbound")?;
    let outbound = bind(&config.outbound, |listener| listener.listen).await.context("outbound")?;

    let work = async {
        match config.source {
            Source::Files(files) => {
                let taken = files::load(&files, &mesh).await?;
                let following = files::follow(files, taken, Arc::clone(&mesh), stop.clone());
                duties.spawn(async {
                    if let Err(error) = following.await {
                        tracing::error!(%error, "files are no longer watched");
                    }
                });
            }
            Source::Control(ticket) => {
                joined::join(&ticket, &mesh).await?;
                let listeners = inbound.iter().map(|(listener, settings)| {
                    listener.local_addr().map(|address| (address.port(), settings.forward.port()))
                });
                let subscription = watch::Subscription {
                    control: ticket.control.clone(),
                    listeners: listeners.collect::<Result<_, _>>()?,
                    upstreams,
                };
                // A renewal would take the goodbye back, and the drain is shorter than what is left of an SVID.
                duties.spawn(joined::renew(ticket.control, Arc::clone(&mesh), drain.clone()));
                let follow = watch::follow(
                    subscription,
                    Arc::clone(&mesh),
                    connections,
                    drain.clone(),
                    goodbye.clone(),
                    stop.clone(),
                );
                duties.spawn(follow);
            }
        }
        ready(&mesh).await;
        for (listener, settings) in inbound {
            announce("inbound", &listener)?;
            let settings = Arc::new(Inbound { app: settings.forward, protocol: settings.protocol });
            let (intake, shared) = (intake.clone(), Arc::clone(&shared));
            duties.spawn(async move {
                let serve = |stream, remote| {
                    Box::pin(inbound::serve(Arc::clone(&shared), Arc::clone(&settings), stream, remote))
                };
                intake.accept(listener, "inbound", serve).await;
            });
        }
        for (listener, settings) in outbound {
            announce("outbound", &listener)?;
            let settings = Outbound {
                listen: listener.local_addr()?,
                peer: settings.peer,
                port: settings.port,
                address: settings.address,
                protocol: settings.protocol,
            };
            let (intake, calls) = (outward.clone(), Arc::new(Calls::new(&shared, settings)));
            duties.spawn(async move {
                let serve = |stream, remote| Box::pin(outbound::serve(Arc::clone(&calls), stream, remote));
                intake.accept(listener, "outbound", serve).await;
            });
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        failed = work => failed?,
        () = stopped => {}
    }

    drain.cancel();
    drained(&shared, config.drain_timeout).await;
    if mesh_is_controlled {
        let _ = tokio::time::timeout(GOODBYE, goodbye.cancelled()).await;
    }
    stop.cancel();
    duties.close();
    if tokio::time::timeout(WIND_DOWN, duties.wait()).await.is_err() {
        tracing::warn!(left = duties.len(), "background tasks did not end");
    }
    Ok(())
}

async fn bind<L: Clone>(
    listeners: &[L],
    address: impl Fn(&L) -> SocketAddr,
) -> std::io::Result<Vec<(TcpListener, L)>> {
    let mut bound = Vec::new();
    for listener in listeners {
        bound.push((listen(address(listener)).await?, listener.clone()));
    }
    Ok(bound)
}

fn announce(direction: &str, listener: &TcpListener) -> std::io::Result<()> {
    tracing::info!(direction, address = %listener.local_addr()?, "listening");
    Ok(())
}

/// Ends when there is a snapshot: identity, bundle and policy.
async fn ready(mesh: &Mesh) {
    let mut generations = mesh.generations();
    if generations.wait_for(|generation| *generation > 0).await.is_ok() {
        tracing::info!("ready: identity and policy in hand");
    }
}

/// Lets connections finish until the deadline, then cuts what is left and says how many.
async fn drained(shared: &Shared, deadline: Duration) {
    shared.tasks.close();
    tracing::info!(open = shared.connections.len(), ?deadline, "draining");
    if tokio::time::timeout(deadline, shared.tasks.wait()).await.is_ok() {
        tracing::info!("drained: every connection finished");
        return;
    }
    tracing::warn!(cut = shared.connections.len(), "drain deadline passed, cutting what is open");
    shared.connections.close_all(CloseReason::Drained);
    if tokio::time::timeout(WIND_DOWN, shared.tasks.wait()).await.is_err() {
        tracing::warn!(left = shared.tasks.len(), "connections did not wind down");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A future is as large as its largest moment, for the whole life of the connection (ztunnel 985).
    #[tokio::test]
    async fn the_story_of_a_connection_is_small() {
        let connections = Arc::new(Connections::default());
        let shared = Arc::new(Shared {
            mesh: Arc::new(Mesh::new(Arc::clone(&connections), Vec::new())),
            connections,
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            idle: Idle { open: HALF_CLOSED, half_closed: HALF_CLOSED },
        });
        let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = || tokio::net::TcpStream::connect(address);
        let settings = Inbound { app: address, protocol: Protocol::Detect };
        let inbound =
            inbound::serve(Arc::clone(&shared), Arc::new(settings), stream().await.unwrap(), address);
        let settings = Outbound {
            listen: address,
            peer: "spiffe://td/peer".parse().unwrap(),
            port: None,
            address: None,
            protocol: Protocol::Detect,
        };
        let calls = Arc::new(Calls::new(&shared, settings));
        let outbound = outbound::serve(calls, stream().await.unwrap(), address);
        let (inbound, outbound) = (size_of_val(&inbound), size_of_val(&outbound));
        assert!(inbound <= 8 * 1024 && outbound <= 8 * 1024, "inbound {inbound}, outbound {outbound} bytes");
    }
}
