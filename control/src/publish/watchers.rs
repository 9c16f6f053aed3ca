//! Who is connected, what each was sent, and what each says is in force.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::SystemTime;

use parking_lot::Mutex;
use signet_proto::spiffe::{InstanceId, SpiffeId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::model::{Lease, Standing};
use crate::telemetry::metrics;

/// Deliveries remembered per stream: more than a proxy is behind in any sane moment.
const REMEMBERED: usize = 16;

/// A Watch stream that opens.
#[derive(Debug, Clone)]
pub struct NewWatcher {
    /// Version of the proxy.
    pub version: String,
    /// Where it is, as control sees it, and listens.
    pub lease: Lease,
}

/// A connected instance, for the inventory.
#[derive(Debug, Clone)]
pub struct WatcherInfo {
    /// Its address.
    pub address: String,
    /// Version of the proxy.
    pub version: String,
}

/// How far one proxy is with one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whose.
    pub id: SpiffeId,
    /// Which instance.
    pub instance: InstanceId,
    /// When its acknowledgement came, if it did.
    pub acknowledged_at: Option<SystemTime>,
    /// Connections it closed because of it.
    pub closed: u64,
}

/// How far all connected proxies are with one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Those that were sent something because of it, or may be yet.
    pub concerned: Vec<Applied>,
    /// Every connected proxy has it in force, or was not concerned.
    pub complete: bool,
}

/// The table of open Watch streams.
#[derive(Debug, Default)]
pub struct Watchers {
    table: Mutex<Table>,
    progressed: Notify,
    touched: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    streams: HashMap<InstanceId, Watcher>,
    /// Of whom more is known than was written down.
    unwritten: HashSet<InstanceId>,
}

#[derive(Debug)]
struct Watcher {
    stream: u64,
    new: NewWatcher,
    opened_at: SystemTime,
    /// Whether that was written down.
    opening_written: bool,
    /// It said goodbye.
    departed: bool,
    seen_at: SystemTime,
    ended: CancellationToken,
    /// The newest revision that the stream's view was brought to, whether or not there was anything to send.
    evaluated: u64,
    deliveries: VecDeque<Delivery>,
    /// The newest revision that it said to have in force, when, and how many connections it cut for it.
    in_force: (u64, SystemTime, u64),
}

#[derive(Debug)]
struct Delivery {
    /// It contains what is new after this revision ...
    after: u64,
    /// ... up to this one.
    revision: u64,
    acknowledged_at: Option<SystemTime>,
    closed: u64,
}

impl Watchers {
    /// Enters a stream. An older stream of the same instance is superseded: the proxy reconnected before
    /// its old connection was noticed to be dead. Returns the stream's number and its end.
    pub fn open(&self, new: &NewWatcher, at: SystemTime) -> (u64, CancellationToken) {
        let ended = CancellationToken::new();
        let mut table = self.table.lock();
        table.next += 1;
        let stream = table.next;
        let watcher = Watcher {
            stream,
            ended: ended.clone(),
            evaluated: 0,
            deliveries: VecDeque::new(),
            new: new.clone(),
            opened_at: at,
            opening_written: false,
            departed: false,
            seen_at: at,
            in_force: (0, at, 0),
        };
        let instance = new.lease.instance;
        table.unwritten.insert(instance);
        self.touched.notify_one();
        if let Some(old) = table.streams.insert(instance, watcher) {
            old.ended.cancel();
        }
        metrics::streams(table.streams.len());
        (stream, ended)
    }

    /// Removes a stream, unless it was superseded.
    pub fn close(&self, instance: &InstanceId, stream: u64) {
        let mut table = self.table.lock();
        if table.streams.get(instance).is_some_and(|watcher| watcher.stream == stream) {
            table.streams.remove(instance);
            table.unwritten.insert(*instance);
            self.touched.notify_one();
        }
        metrics::streams(table.streams.len());
        drop(table);
        self.progressed.notify_waiters();
    }

    /// The stream's view was brought to `revision`; `sent` tells whether a message went out for it.
    pub fn evaluated(&self, instance: &InstanceId, stream: u64, revision: u64, sent: bool) {
        let mut table = self.table.lock();
        let Some(watcher) = table.streams.get_mut(instance).filter(|watcher| watcher.stream == stream) else {
            return;
        };
        if sent && revision > watcher.evaluated {
            if watcher.deliveries.len() == REMEMBERED {
                watcher.forget_one();
            }
            watcher.deliveries.push_back(Delivery {
                after: watcher.evaluated,
                revision,
                acknowledged_at: None,
                closed: 0,
            });
        }
        watcher.evaluated = revision.max(watcher.evaluated);
        drop(table);
        self.progressed.notify_waiters();
    }

    /// An instance reports that `revision`, and with it everything before, is in force.
    pub fn acknowledged(&self, instance: &InstanceId, revision: u64, closed: u64, at: SystemTime) {
        let mut table = self.table.lock();
        let Table { streams, unwritten, .. } = &mut *table;
        let Some(watcher) = streams.get_mut(instance) else { return };
        unwritten.insert(*instance);
        self.touched.notify_one();
        watcher.seen_at = at;
        if revision > watcher.in_force.0 {
            watcher.in_force = (revision, at, closed);
        }
        for delivery in watcher.deliveries.iter_mut().filter(|delivery| delivery.revision <= revision) {
            delivery.acknowledged_at.get_or_insert(at);
            if delivery.revision == revision {
                delivery.closed = delivery.closed.max(closed);
            }
        }
        drop(table);
        self.progressed.notify_waiters();
    }

    /// How far everyone connected is with `revision`.
    #[must_use]
    pub fn progress(&self, revision: u64) -> Progress {
        let table = self.table.lock();
        let mut progress = Progress { concerned: Vec::new(), complete: true };
        for watcher in table.streams.values() {
            let applied = watcher.concerning(revision);
            // Not looked at yet: it may concern it.
            let applied = applied.or_else(|| (watcher.evaluated < revision).then(|| watcher.pending()));
            progress.complete &= applied.as_ref().is_none_or(|applied| applied.acknowledged_at.is_some());
            progress.concerned.extend(applied);
        }
        progress.concerned.sort_by(|a, b| (&a.id, a.instance).cmp(&(&b.id, b.instance)));
        progress
    }

    /// Waits until something in the table may have changed.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.progressed.notified()
    }

    /// Waits until there is something to write down.
    pub async fn touched(&self) {
        self.touched.notified().await;
    }

    /// At most `limit` of those of whom more is known than was written down: how their stream stands, or that it
    /// ended.
    #[must_use]
    pub fn take_unwritten(&self, limit: usize) -> Vec<(InstanceId, Option<Standing>)> {
        let mut table = self.table.lock();
        let taken: Vec<_> = table.unwritten.iter().copied().take(limit).collect();
        for instance in &taken {
            table.unwritten.remove(instance);
        }
        taken
            .into_iter()
            .map(|instance| (instance, table.streams.get_mut(&instance).map(Watcher::take_standing)))
            .collect()
    }

    /// They could not be written down, opened or not: another time.
    pub fn give_back(&self, standings: Vec<(InstanceId, bool)>) {
        let mut table = self.table.lock();
        let Table { streams, unwritten, .. } = &mut *table;
        for (instance, opened) in standings {
            unwritten.insert(instance);
            if let Some(watcher) = streams.get_mut(&instance).filter(|_| opened) {
                watcher.opening_written = watcher.departed;
            }
        }
        self.touched.notify_one();
    }

    /// Everything has to be written down anew.
    pub fn write_all(&self) {
        let mut table = self.table.lock();
        let Table { streams, unwritten, .. } = &mut *table;
        for (instance, watcher) in streams {
            watcher.opening_written = watcher.departed;
            unwritten.insert(*instance);
        }
        self.touched.notify_one();
    }

    /// An instance said goodbye: its stream may stay open, but is not written down as one that opened.
    pub fn departed(&self, instance: &InstanceId) {
        if let Some(watcher) = self.table.lock().streams.get_mut(instance) {
            watcher.departed = true;
            watcher.opening_written = true;
        }
    }

    /// Who is connected.
    #[must_use]
    pub fn connected(&self) -> HashMap<InstanceId, WatcherInfo> {
        let table = self.table.lock();
        table
            .streams
            .iter()
            .map(|(instance, watcher)| {
                let NewWatcher { lease, version } = &watcher.new;
                (*instance, WatcherInfo { address: lease.address.to_string(), version: version.clone() })
            })
            .collect()
    }

    /// How many are connected.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.lock().streams.len()
    }
}

impl Watcher {
    /// What was not acknowledged is not forgotten: it counts as part of the delivery after it, and is in force
    /// when that is.
    fn forget_one(&mut self) {
        let Some(oldest) = self.deliveries.pop_front() else { return };
        if oldest.acknowledged_at.is_none()
            && let Some(next) = self.deliveries.front_mut()
        {
            next.after = oldest.after;
        }
    }

    fn pending(&self) -> Applied {
        let Lease { instance, spiffe_id, .. } = &self.new.lease;
        Applied { id: spiffe_id.clone(), instance: *instance, acknowledged_at: None, closed: 0 }
    }

    fn take_standing(&mut self) -> Standing {
        let (mut in_force, in_force_at, closed) = self.in_force;
        // What there was nothing to say about is in force, too.
        if self.deliveries.iter().all(|delivery| delivery.acknowledged_at.is_some()) {
            in_force = in_force.max(self.evaluated);
        }
        Standing {
            opened: !std::mem::replace(&mut self.opening_written, true),
            lease: self.new.lease.clone(),
            version: self.new.version.clone(),
            opened_at: self.opened_at,
            seen_at: self.seen_at,
            in_force,
            in_force_at,
            closed,
        }
    }

    fn concerning(&self, revision: u64) -> Option<Applied> {
        let delivery = self
            .deliveries
            .iter()
            .find(|delivery| delivery.after < revision && revision <= delivery.revision)?;
        Some(Applied { acknowledged_at: delivery.acknowledged_at, closed: delivery.closed, ..self.pending() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn watcher(name: &str) -> NewWatcher {
        let lease = Lease {
            spiffe_id: format!("spiffe://mesh.local/{name}").parse().unwrap(),
            instance: InstanceId::random().unwrap(),
            address: "10.0.0.1".parse().unwrap(),
            listeners: vec![],
        };
        NewWatcher { version: "1".into(), lease }
    }

    fn at() -> SystemTime {
        time::from_millis(1_000)
    }

    #[test]
    fn a_revision_is_applied_when_all_concerned_acknowledged_it() {
        let watchers = Watchers::default();
        let (one, other) = (watcher("a"), watcher("b"));
        let (first, _) = watchers.open(&one, at());
        let (second, _) = watchers.open(&other, at());
        for (new, stream) in [(&one, first), (&other, second)] {
            watchers.evaluated(&new.lease.instance, stream, 5, true);
            watchers.acknowledged(&new.lease.instance, 5, 0, at());
        }
        assert!(!watchers.progress(6).complete, "nobody has looked at revision 6");
        watchers.evaluated(&one.lease.instance, first, 6, true);
        watchers.evaluated(&other.lease.instance, second, 6, false);
        let progress = watchers.progress(6);
        assert!(!progress.complete);
        assert_eq!(progress.concerned.len(), 1, "only the one that was sent something");
        watchers.acknowledged(&one.lease.instance, 6, 3, at());
        let progress = watchers.progress(6);
        assert!(progress.complete);
        assert_eq!(progress.concerned[0].closed, 3);
        assert_eq!(progress.concerned[0].acknowledged_at, Some(at()));
    }

    #[test]
    fn one_message_for_several_revisions_counts_for_each() {
        let watchers = Watchers::default();
        let new = watcher("a");
        let (stream, _) = watchers.open(&new, at());
        watchers.evaluated(&new.lease.instance, stream, 3, true);
        watchers.evaluated(&new.lease.instance, stream, 7, true);
        assert!(!watchers.progress(5).complete);
        watchers.acknowledged(&new.lease.instance, 7, 0, at());
        assert!(watchers.progress(5).complete);
        assert_eq!(watchers.progress(5).concerned.len(), 1);
    }

    #[test]
    fn reconnected_instance_supersedes_its_old_stream() {
        let watchers = Watchers::default();
        let new = watcher("a");
        let (old, ended) = watchers.open(&new, at());
        let (stream, _) = watchers.open(&new, at());
        assert!(ended.is_cancelled());
        watchers.close(&new.lease.instance, old);
        assert_eq!(watchers.count(), 1);
        watchers.close(&new.lease.instance, stream);
        assert_eq!(watchers.count(), 0);
    }

    #[test]
    fn nobody_connected_means_nobody_to_wait_for() {
        assert_eq!(Watchers::default().progress(9), Progress { concerned: vec![], complete: true });
    }

    #[test]
    fn memory_per_stream_is_bounded() {
        let watchers = Watchers::default();
        let new = watcher("a");
        let (stream, _) = watchers.open(&new, at());
        for revision in 1..100 {
            watchers.evaluated(&new.lease.instance, stream, revision, true);
        }
        assert_eq!(watchers.table.lock().streams[&new.lease.instance].deliveries.len(), REMEMBERED);
        for revision in [1, 40, 99] {
            let progress = watchers.progress(revision);
            assert!(!progress.complete, "{revision} was never acknowledged");
            assert_eq!(progress.concerned.len(), 1);
        }
        watchers.acknowledged(&new.lease.instance, 99, 0, at());
        assert!(watchers.progress(1).complete);
    }
}
