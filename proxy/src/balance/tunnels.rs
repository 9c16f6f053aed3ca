//! Connections to a peer proxy that wait for their next stream (`signet/1`): a new connection of our app then
//! costs no handshake. One task an endpoint closes those whose peer loses its right, that nobody wanted for a while, and
//! all of them when we drain; while they come and go within that time, it sleeps.

use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::handshake::Svid;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::{Carried, Closing, Registration};
use crate::forward::tunnel::Tunneled;
use crate::outbound::Boxed;
use crate::run::Shared;

const MOST_WAITING: usize = 128;
/// Shorter than the other end waits, so that we are the one that closes.
const IDLE: Duration = Duration::from_secs(45);
const AGE: Duration = Duration::from_secs(3600);

/// A connection that carries streams, and what limits its use.
pub struct Tunnel {
    /// Its bytes.
    pub stream: Tunneled<Boxed>,
    /// The peer's place in the live table.
    pub registration: Arc<Registration>,
    /// What we proved ourselves with: after a rotation it carries nothing new.
    pub svid: Arc<Svid>,
    /// The app's port behind it.
    pub port: NonZeroU16,
    /// When it was made.
    pub made: Instant,
    /// Since when it carries nothing.
    free: Instant,
    /// Its stream, for those who look at the connection.
    pub carried: Option<Carried>,
    /// Rings where it waits. Kept while it carries, too, as it will wait again.
    cut: Closing,
}

/// The connections to one endpoint that wait. They close when the endpoint is called no more.
#[derive(Default)]
pub struct Tunnels(Arc<Pool>);

#[derive(Default)]
struct Pool {
    waiting: Mutex<Waiting>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Waiting {
    /// The last one that came is the first to go on.
    tunnels: Vec<Resting>,
    /// Somebody looks after them.
    watched: bool,
    /// The endpoint is called no more.
    retired: bool,
}

struct Resting {
    tunnel: Tunnel,
    until: Instant,
}

/// Rung when one of those that wait lost its right, or all of them are to go.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Tunnel {
    /// One that was made just now, and carries nothing yet.
    pub fn new(
        stream: Tunneled<Boxed>,
        registration: Arc<Registration>,
        svid: Arc<Svid>,
        port: NonZeroU16,
    ) -> Self {
        let cut = registration.closing();
        let now = Instant::now();
        Self { stream, registration, svid, port, made: now, free: now, carried: None, cut }
    }

    /// How long it carried nothing.
    pub fn rested(&self) -> Duration {
        self.free.elapsed()
    }

    /// Gives up its place when it is closed.
    async fn close(self) {
        let Self { stream, registration, .. } = self;
        stream.close().await;
        drop(registration);
    }
}

impl Tunnels {
    /// One that may carry another stream now.
    pub fn take(&self, shared: &Shared) -> Option<Tunnel> {
        let svid = Arc::clone(&shared.mesh.current()?.svid);
        loop {
            let Resting { mut tunnel, .. } = self.0.waiting.lock().tunnels.pop()?;
            if Arc::ptr_eq(&tunnel.svid, &svid)
                && tunnel.made.elapsed() < AGE
                && tunnel.registration.peer_not_after().is_some_and(|not_after| {
                    not_after.min(svid.profile().not_after) > signet_proto::clock::now()
                })
                && tunnel.registration.close_reason().is_none()
                && tunnel.stream.is_quiet()
            {
                return Some(tunnel);
            }
        }
    }

    /// Keeps one whose last stream ended well.
    pub fn keep(&self, shared: &Shared, mut tunnel: Tunnel) {
        let fresh = shared.mesh.current().is_some_and(|snapshot| Arc::ptr_eq(&snapshot.svid, &tunnel.svid));
        if !fresh || !tunnel.stream.is_reusable() || shared.drain.is_cancelled() {
            return;
        }
        (tunnel.carried, tunnel.free) = (None, Instant::now());
        if let Some(link) = tunnel.registration.link() {
            link.waits();
        }
        let waker = Waker::from(Arc::clone(&self.0.bell));
        // Before who looks after them looks again: what is cut in between is seen by one of the two.
        let mut waiting = self.0.waiting.lock();
        if Pin::new(&mut tunnel.cut).poll(&mut Context::from_waker(&waker)).is_ready() {
            drop(waiting);
            shared.tasks.spawn(tunnel.close());
            return;
        }
        if waiting.tunnels.len() >= MOST_WAITING {
            return;
        }
        let until = tunnel.free + IDLE;
        waiting.tunnels.push(Resting { tunnel, until });
        if !std::mem::replace(&mut waiting.watched, true) {
            let watch = Arc::clone(&self.0).watch(shared.tasks.clone(), shared.drain.clone());
            shared.tasks.spawn(watch);
        }
    }
}

impl Pool {
    /// Closes those that are not to wait any longer, until none waits.
    async fn watch(self: Arc<Self>, tasks: TaskTracker, drain: CancellationToken) {
        while let Some(next) = self.close_unwanted(&tasks, drain.is_cancelled()) {
            tokio::select! {
                () = drain.cancelled() => {}
                () = self.bell.0.notified() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    /// When the next one has waited long enough; `None` if none waits, and nobody looks after them from here on.
    fn close_unwanted(&self, tasks: &TaskTracker, drain: bool) -> Option<Instant> {
        let mut waiting = self.waiting.lock();
        let (now, all) = (Instant::now(), drain || waiting.retired);
        let unwanted = waiting.tunnels.extract_if(.., |resting| {
            all || resting.until <= now || resting.tunnel.registration.close_reason().is_some()
        });
        for Resting { tunnel, .. } in unwanted {
            tasks.spawn(tunnel.close());
        }
        let next = waiting.tunnels.iter().map(|resting| resting.until).min();
        waiting.watched = next.is_some();
        next
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.0.waiting.lock().retired = true;
        self.0.bell.0.notify_one();
    }
}
