//! The table of live connections and requests. Every change of the mesh is held against every entry, and an
//! entry that lost its right is told to close, with the reason (invariant 5).
//!
//! The rule that makes it exact: an entry is registered first and checked afterwards (invariant 4). A change
//! in between is seen either by the check, which reads the new snapshot, or by the walk over the table, which
//! finds the entry. Entries do not reference each other; a request inside an HTTP connection is its own entry.

mod link;
mod numbered;
mod peers;
mod signal;
mod subject;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use signet_proto::handshake::PeerIdentity;
use signet_proto::policy::Verdict;
use signet_proto::spiffe::SpiffeId;
use tokio::sync::Notify;

pub use self::link::{Carried, Link, Volume};
pub use self::numbered::Numbered;
use self::peers::Peers;
pub use self::signal::Signal;
use self::signal::{Place, Seldom};
pub use self::subject::{Content, Head, Peer, Subject};
use crate::mesh::Snapshot;
use crate::telemetry::{CloseReason, Direction};

/// All live connections and requests of this process.
#[derive(Debug, Default)]
pub struct Connections {
    entries: Mutex<Numbered<Arc<Entry>>>,
    next: AtomicU64,
    peers: Peers,
}

#[derive(Debug)]
struct Entry {
    subject: Mutex<Subject>,
    close: Signal,
    reason: OnceLock<CloseReason>,
    /// Given when the entry left the table: its sockets are closed.
    gone: Seldom,
    carrier: Option<Arc<Carrier>>,
    link: OnceLock<Arc<Link>>,
    /// The generation that let it in with what it carries now; 0 for none.
    settled: AtomicU64,
}

/// The connection that carries requests with entries of their own. A request that is cut ends by itself as
/// long as its bytes flow; if its reader stalls, only the end of the connection ends it.
#[derive(Debug, Default)]
pub struct Carrier {
    cut: Notify,
    leaving: Mutex<Vec<Weak<Entry>>>,
}

impl Carrier {
    /// Ends when a request that was cut has not ended within `grace`.
    pub async fn stalled(&self, grace: Duration) {
        loop {
            self.cut.notified().await;
            tokio::time::sleep(grace).await;
            let mut leaving = self.leaving.lock();
            leaving.retain(|request| request.upgrade().is_some_and(|request| !request.gone.is_given()));
            if !leaving.is_empty() {
                return;
            }
        }
    }
}

/// What a round of decisions did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Connections and requests told to close, by reason.
    pub closed: HashMap<CloseReason, u64>,
    leaving: Vec<Arc<Entry>>,
}

impl Applied {
    /// Adds what a later round did.
    pub fn join(&mut self, later: Self) {
        for (reason, count) in later.closed {
            *self.closed.entry(reason).or_default() += count;
        }
        self.leaving.extend(later.leaving);
    }

    /// Ends when all of them are closed, or at the deadline; returns how many are not.
    pub async fn settled(&self, deadline: Duration) -> usize {
        let all_gone = async {
            for entry in &self.leaving {
                entry.gone.given().await;
            }
        };
        let _ = tokio::time::timeout(deadline, all_gone).await;
        self.leaving.iter().filter(|entry| !entry.gone.is_given()).count()
    }
}

impl Entry {
    /// The first reason counts; later ones change nothing.
    fn close(self: &Arc<Self>, reason: CloseReason) -> bool {
        let first = self.reason.set(reason).is_ok();
        self.close.give();
        if let Some(carrier) = &self.carrier {
            carrier.leaving.lock().push(Arc::downgrade(self));
            carrier.cut.notify_one();
        }
        first
    }
}

impl Connections {
    /// Enters a connection or request. It stays in the table until the registration is dropped.
    #[must_use]
    pub fn register(self: &Arc<Self>, subject: Subject) -> Registration {
        self.enter(subject, None)
    }

    /// The same for a request on a connection that carries several.
    #[must_use]
    pub fn register_within(self: &Arc<Self>, carrier: &Arc<Carrier>, subject: Subject) -> Registration {
        self.enter(subject, Some(Arc::clone(carrier)))
    }

    /// A peer that was just verified, kept once for all of its connections.
    #[must_use]
    pub fn peer(&self, verified: PeerIdentity) -> Arc<PeerIdentity> {
        self.peers.once(verified)
    }

    /// How many connections and requests came so far.
    #[must_use]
    pub fn came(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, subject: Subject, carrier: Option<Arc<Carrier>>) -> Registration {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            subject: Mutex::new(subject),
            close: Signal::default(),
            reason: OnceLock::new(),
            gone: Seldom::default(),
            carrier,
            link: OnceLock::new(),
            settled: AtomicU64::new(0),
        });
        self.entries.lock().insert(id, Arc::clone(&entry));
        Registration { id, entry, table: Arc::clone(self) }
    }

    /// Holds every entry against a new snapshot and tells those that lost their right to close.
    pub fn decide_again(&self, snapshot: &Snapshot, bundles_shrank: bool) -> Applied {
        let mut applied = Applied::default();
        for entry in self.all() {
            let lost = entry.subject.lock().lost_right(snapshot, bundles_shrank);
            if let Some(reason) = lost
                && entry.close(reason)
            {
                *applied.closed.entry(reason).or_default() += 1;
                applied.leaving.push(Arc::clone(&entry));
            }
        }
        applied
    }

    /// Tells every entry to close.
    pub fn close_all(&self, reason: CloseReason) {
        for entry in self.all() {
            entry.close(reason);
        }
    }

    /// The connections to peers that are open now, in the order they were made.
    #[must_use]
    pub fn links(&self) -> Vec<Linked> {
        let entries = self.entries.lock();
        let linked = entries.iter().filter_map(|(id, entry)| {
            let link = Arc::clone(entry.link.get()?);
            let subject = entry.subject.lock();
            let (peer, port) = (subject.peer.id().cloned(), subject.port);
            Some(Linked { id: *id, link, peer, port, closing: entry.reason.get().is_some() })
        });
        let mut linked: Vec<_> = linked.collect();
        linked.sort_unstable_by_key(|linked| linked.id);
        linked
    }

    /// Closes one of them. False if it is not there.
    pub fn close_link(&self, id: u64, reason: CloseReason) -> bool {
        let entry = self.entries.lock().get(&id).filter(|entry| entry.link.get().is_some()).cloned();
        let Some(entry) = entry else { return false };
        entry.close(reason);
        true
    }

    /// How many entries there are of each kind: which way, and what they carry.
    #[must_use]
    pub fn kinds(&self) -> HashMap<(Direction, &'static str), usize> {
        let mut kinds = HashMap::new();
        for entry in self.all() {
            let subject = entry.subject.lock();
            *kinds.entry((subject.direction, subject.content.kind())).or_default() += 1;
        }
        kinds
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the entries, so that deciding does not hold up those who come and go.
    fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().values().cloned().collect()
    }
}

/// A connection to a peer, and whose it is.
#[derive(Debug)]
pub struct Linked {
    /// Its number.
    pub id: u64,
    /// The connection.
    pub link: Arc<Link>,
    /// Who is at its other end.
    pub peer: Option<SpiffeId>,
    /// The port of the peer's app, if that is known.
    pub port: Option<u16>,
    /// Whether it was told to close.
    pub closing: bool,
}

/// Closes one connection, whoever holds its registration.
#[derive(Debug)]
pub struct Closer(Arc<Entry>);

impl Closer {
    /// The first reason counts.
    pub fn close(&self, reason: CloseReason) {
        self.0.close(reason);
    }
}

/// A place in the table; gives it up when dropped.
#[derive(Debug)]
pub struct Registration {
    id: u64,
    entry: Arc<Entry>,
    table: Arc<Connections>,
}

impl Registration {
    /// Records what the connection turned out to carry. Decide after this, as after registering.
    pub fn carries(&self, content: Content) {
        let mut subject = self.entry.subject.lock();
        subject.content = content;
        self.entry.settled.store(0, Ordering::Relaxed);
    }

    /// It was let in under this snapshot, with what it carries now.
    pub fn settled(&self, snapshot: &Snapshot) {
        self.entry.settled.store(snapshot.generation, Ordering::Relaxed);
    }

    /// Whether nothing changed since: what was decided of it then is what would be decided now.
    #[must_use]
    pub fn stands(&self, snapshot: &Snapshot) -> bool {
        self.entry.settled.load(Ordering::Relaxed) == snapshot.generation
    }

    /// Whether it carries bytes, that nothing can be said between.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        matches!(self.entry.subject.lock().content, Content::Opaque)
    }

    /// What policy says of it under `snapshot`; nothing if none restricts it.
    #[must_use]
    pub fn decide(&self, snapshot: &Snapshot) -> Option<Verdict> {
        self.entry.subject.lock().decide(snapshot)
    }

    /// Why, in a sentence.
    #[must_use]
    pub fn explain(&self, snapshot: &Snapshot) -> String {
        self.entry.subject.lock().explain(snapshot)
    }

    /// Why its peer is no longer believed under `snapshot`, if it is not. `handshake` is the generation that
    /// verified it: whether it still chains to an authority is asked only if that is not the same, and what we proved
    /// ourselves with may have been given up since.
    #[must_use]
    pub fn distrusted(&self, snapshot: &Snapshot, handshake: u64) -> Option<CloseReason> {
        let subject = self.entry.subject.lock();
        // Nothing that is registered now was there when everything was told to close.
        let ours = matches!(subject.peer, Peer::Proven(_)).then_some(handshake);
        if ours.is_some_and(|handshake| handshake < snapshot.renounced) {
            return Some(CloseReason::SvidEnded);
        }
        subject.distrusted(snapshot, snapshot.generation != handshake)
    }

    /// When the certificate ends that its peer proved itself with, if it did.
    #[must_use]
    pub fn peer_not_after(&self) -> Option<SystemTime> {
        self.entry.subject.lock().peer.identity().map(|peer| peer.not_after)
    }

    /// It is a connection to a peer, which people may see.
    pub fn leads(&self, link: Link) {
        let _ = self.entry.link.set(Arc::new(link));
    }

    /// The connection to a peer that it is, if it is one.
    #[must_use]
    pub fn link(&self) -> Option<&Arc<Link>> {
        self.entry.link.get()
    }

    /// What closes it from elsewhere.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer(Arc::clone(&self.entry))
    }

    /// Ends when it was told to close.
    pub fn closing(&self) -> Closing {
        Closing { entry: Arc::clone(&self.entry), place: Place::default() }
    }

    /// Why it was told to close, if it was.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.entry.reason.get().copied()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.table.entries.lock().remove(&self.id);
        self.entry.gone.give();
    }
}

/// Ends when its connection or request was told to close.
#[derive(Debug)]
pub struct Closing {
    entry: Arc<Entry>,
    place: Place,
}

impl Future for Closing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.entry.close.poll_given(&mut this.place, cx)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.entry.close.leave(&mut self.place);
    }
}

#[cfg(test)]
mod tests;
