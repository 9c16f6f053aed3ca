//! What this proxy sees, for control's inventory: who calls our app, how much, what was denied and by what; whom our
//! app could not reach; with which certificates peers prove themselves.
//!
//! ```text
//!  access record, live meters, handshakes --> Edge, Certificates (atomics; bounded tables)
//!                                                  | every 30 s, or soon if something is new
//!                                                  v
//!                       Reporter: increments since the last answered report --> control
//! ```
//!
//! The called end counts what it let in and what it denied; the calling end counts only what it could not reach, of
//! which the other knows nothing. So nothing is counted twice, and no rule has to be applied afterwards.
//!
//! Invariant: what control has counted, plus what is still to be reported, is what happened; a report whose answer
//! was lost is repeated as it was. Only the end of the process, and a full table, lose counts; the latter says so.

mod certificates;
mod edge;
pub mod report;
mod reporter;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use signet_proto::clock;
use signet_proto::handshake::PeerIdentity;
use signet_proto::spiffe::SpiffeId;
use tokio::sync::Notify;

use crate::telemetry::metrics;

use certificates::Certificates;
pub use certificates::Seen;
pub use edge::{Edge, Ongoing};

/// Edges that are kept; what comes beyond is counted as not counted.
const MOST_EDGES: usize = 4096;
/// The same of addresses that no identity is known for: they do not keep peers out.
const MOST_ADDRESSES: usize = 1024;
/// What was silent for so long, and is reported, makes room.
const SILENT: Duration = Duration::from_secs(600);

/// Which edge: the other end is always this proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The peer calls our app at this port.
    Caller(SpiffeId, u16),
    /// Our app calls the peer; the port of its app, 0 if not known.
    Callee(SpiffeId, u16),
    /// Somebody without identity calls our app at this port.
    Plaintext(IpAddr, u16),
    /// Our app calls a destination that is no peer.
    Stranger(SocketAddr),
}

impl Key {
    fn is_identity(&self) -> bool {
        matches!(self, Self::Caller(..) | Self::Callee(..))
    }
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Sightings {
    edges: Mutex<HashMap<Key, Arc<Edge>>>,
    addresses: Mutex<HashMap<Key, Arc<Edge>>>,
    certificates: Certificates,
    overflow: AtomicU64,
    /// Something that control has not heard of at all.
    news: Arc<Notify>,
}

impl Sightings {
    /// The edge of a peer that calls our app; `None` if there is no room for another.
    #[must_use]
    pub fn caller(&self, peer: &SpiffeId, port: u16) -> Option<Arc<Edge>> {
        self.edge(Key::Caller(peer.clone(), port))
    }

    /// The edge of somebody without identity who calls our app; `None` if there is no room for another.
    #[must_use]
    pub fn plaintext(&self, from: IpAddr, port: u16) -> Option<Arc<Edge>> {
        self.edge(Key::Plaintext(from, port))
    }

    /// The edge of a destination that is no peer; `None` if there is no room for another.
    #[must_use]
    pub fn stranger(&self, destination: SocketAddr) -> Option<Arc<Edge>> {
        self.edge(Key::Stranger(destination))
    }

    /// Our app wanted a peer that could not be reached.
    pub fn unreached(&self, peer: &SpiffeId, port: u16, reason: &'static str) {
        if let Some(edge) = self.edge(Key::Callee(peer.clone(), port)) {
            edge.unreached(reason, clock::now());
        }
    }

    /// A peer proved itself.
    #[must_use]
    pub fn certificate(&self, peer: &PeerIdentity) -> Option<Arc<Seen>> {
        let leaf = peer.handles.first()?;
        let (seen, new) = self.certificates.seen(leaf, clock::now())?;
        if new {
            self.news.notify_one();
        }
        Some(seen)
    }

    fn edge(&self, key: Key) -> Option<Arc<Edge>> {
        let (edges, most) = match key.is_identity() {
            true => (&self.edges, MOST_EDGES),
            false => (&self.addresses, MOST_ADDRESSES),
        };
        let mut edges = edges.lock();
        let room = edges.len() < most;
        match edges.entry(key) {
            Entry::Occupied(known) => Some(Arc::clone(known.get())),
            Entry::Vacant(place) if room => {
                let edge = Arc::new(Edge::new(Arc::clone(&self.news)));
                Some(Arc::clone(place.insert(edge)))
            }
            Entry::Vacant(_) => {
                drop(edges);
                self.overflow.fetch_add(1, Ordering::Relaxed);
                metrics::sighting_overflowed();
                None
            }
        }
    }

    fn edges(&self) -> Vec<(Key, Arc<Edge>)> {
        let of = |edges: &Mutex<HashMap<Key, Arc<Edge>>>| -> Vec<_> {
            edges.lock().iter().map(|(key, edge)| (key.clone(), Arc::clone(edge))).collect()
        };
        let mut all = of(&self.edges);
        all.extend(of(&self.addresses));
        all
    }

    /// Makes room: what nobody uses, was silent for long and is reported.
    fn forget(&self, now: SystemTime) {
        let silent_since = now.checked_sub(SILENT).unwrap_or(SystemTime::UNIX_EPOCH);
        for edges in [&self.edges, &self.addresses] {
            edges.lock().retain(|_, edge| Arc::strong_count(edge) > 1 || !edge.is_over(silent_since));
        }
        self.certificates.forget(silent_since);
    }
}
