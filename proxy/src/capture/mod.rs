//! Where connections come from. Explicit TCP listeners for now; the loop below is the one place that accepts.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::telemetry::metrics;

/// A bound on what one proxy holds at once in each direction (invariant 8), so that strangers at the door do
/// not keep our app from calling out.
pub const MAX_CONNECTIONS: usize = 10_000;

/// Shared by the listeners of one direction: the bound, the tasks, and the signal to stop accepting.
#[derive(Debug, Clone)]
pub struct Intake {
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Intake {
    /// An intake for at most `most` connections at once, until `stop`.
    #[must_use]
    pub fn new(most: usize, stop: CancellationToken) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), tasks: TaskTracker::new(), stop }
    }

    /// Another one with a bound of its own and the same tasks and signal.
    #[must_use]
    pub fn beside(&self, most: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), ..self.clone() }
    }

    /// The tasks of accepted connections.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Accepts until told to stop and serves every connection in a task of its own. An accept that fails
    /// never ends the loop: running out of descriptors is waited out (RUSTSEC-2024-0376, ztunnel 1585).
    pub async fn accept<S, F>(&self, listener: TcpListener, purpose: &'static str, serve: S)
    where
        S: Fn(TcpStream, SocketAddr) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let slot = tokio::select! {
                () = self.stop.cancelled() => return,
                slot = Arc::clone(&self.slots).acquire_owned() => slot,
            };
            let Ok(slot) = slot else { return };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => {
                    backoff.reset();
                    prepare(&stream);
                    let story = serve(stream, remote);
                    self.tasks.spawn(async move {
                        story.await;
                        drop(slot);
                    });
                }
                Err(error) if concerns_one_connection(&error) => metrics::accept_error("connection"),
                Err(error) => {
                    metrics::accept_error("listener");
                    let delay = backoff.next_delay();
                    tracing::warn!(%error, ?delay, purpose, "cannot accept, will try again");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}

/// Binds a listener, with the address in the error.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Small writes go out at once, and a peer that vanished without a word is noticed.
pub fn prepare(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let nodelay = stream.set_nodelay(true);
    let keepalive = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    if let Err(error) = nodelay.and(keepalive) {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// Lets the drop of an app's socket send a reset rather than an end, unless all went well: an app that reads
/// to the end must not take what was cut off for the whole.
pub fn reset_unless(well: bool, stream: &TcpStream) {
    if !well && let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection");
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
