//! Connections to a peer proxy that wait for their next stream (`signet/1`): a new connection of our app then
//! costs no handshake. Each waits in a task that closes it when its peer loses its right, when we drain, or
//! when nobody wanted it for a while.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::handshake::Svid;
use tokio_util::sync::CancellationToken;

use crate::connections::{Carried, Registration};
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
    /// Its stream, for those who look at the connection.
    pub carried: Option<Carried>,
}

/// The connections to one endpoint that wait. They close when the endpoint is called no more.
#[derive(Default)]
pub struct Tunnels {
    waiting: Mutex<Vec<Arc<Waiting>>>,
    retired: CancellationToken,
}

struct Waiting {
    tunnel: Mutex<Option<Tunnel>>,
    taken: CancellationToken,
}

impl Tunnels {
    /// One that may carry another stream now.
    pub fn take(&self, shared: &Shared) -> Option<Tunnel> {
        let svid = Arc::clone(&shared.mesh.current()?.svid);
        loop {
            let waiting = self.waiting.lock().pop()?;
            waiting.taken.cancel();
            if let Some(mut tunnel) = waiting.tunnel.lock().take()
                && Arc::ptr_eq(&tunnel.svid, &svid)
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
        tunnel.carried = None;
        if let Some(link) = tunnel.registration.link() {
            link.waits();
        }
        let closing = tunnel.registration.closing();
        let waiting = Arc::new(Waiting { tunnel: Mutex::new(Some(tunnel)), taken: CancellationToken::new() });
        let mut all = self.waiting.lock();
        all.retain(|waiting| waiting.tunnel.lock().is_some());
        if all.len() >= MOST_WAITING {
            return;
        }
        all.push(Arc::clone(&waiting));
        drop(all);
        let (drain, retired) = (shared.drain.clone(), self.retired.clone());
        shared.tasks.spawn(async move {
            tokio::select! {
                () = waiting.taken.cancelled() => return,
                () = closing => {}
                () = drain.cancelled() => {}
                () = retired.cancelled() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
            let unwanted = waiting.tunnel.lock().take();
            if let Some(tunnel) = unwanted {
                tunnel.stream.close().await;
            }
        });
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.retired.cancel();
    }
}
