//! Where connections come from, and where they were going: explicit listeners ([`listener`]), what nftables
//! turned to us ([`original`]; [`rules`] installs that), HTTP CONNECT ([`connect`]), load balancers that speak
//! the PROXY protocol ([`proxy_protocol`]). The loop below is the one place that accepts.

pub mod connect;
pub mod limits;
pub mod listener;
pub mod original;
pub mod own;
pub mod proxy_protocol;
pub mod rules;
pub mod socket;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::listener::{Callers, Listener};
pub use self::socket::{Remote, Socket, prepare, prepare_towards, reset_unless};
use crate::backoff::Backoff;
use crate::telemetry::metrics;

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

    /// Accepts until told to stop and serves every connection in a task of its own; those beyond the bound wait
    /// with the kernel, so that none is lost when somebody else accepts from now on. An accept that fails
    /// never ends the loop: running out of descriptors is waited out (RUSTSEC-2024-0376, ztunnel 1585).
    pub async fn accept<S, F>(&self, listener: Listener, purpose: &'static str, serve: S)
    where
        S: Fn(Socket, Remote) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let next = async {
                let slot = Arc::clone(&self.slots).acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = next => next,
            };
            let Ok(slot) = slot else { return };
            match accepted {
                Ok((stream, remote)) => {
                    backoff.reset();
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

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
