//! Who is connected, what each was sent, and what each says is in force.
//!
//! A change of the state is entered in the book with whom it concerns; only those are woken, and each of them owes an
//! acknowledgement. How far all are with a change is a number in the book, not a look at everybody. What counts is
//! positions in a stream, given by us: a revision that somebody names proves nothing, as revisions can go back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use signet_proto::digest::StateDigest;
use signet_proto::policy::{Pattern, Schema};
use signet_proto::spiffe::{InstanceId, SpiffeId};
use tokio::sync::Notify;

use super::bell::{Bell, Ended};
use super::book::{Book, Entry};
use super::by_identity::ByIdentity;
use super::callers::Callers;
use super::policies::Concerned;
use crate::policy::OlderReader;
use crate::store::model::{Lease, Standing};
use crate::telemetry::metrics;

/// Changes remembered per stream: more than a proxy is behind in any sane moment.
const REMEMBERED: usize = 16;
/// Who does not have what it was sent gets it again, but not without end.
const HEAL_EVERY: Duration = Duration::from_secs(20);

/// A Watch stream that opens.
#[derive(Debug, Clone)]
pub struct NewWatcher {
    /// Version of the proxy.
    pub version: String,
    /// The policy documents that it reads.
    pub schema: Schema,
    /// Where it is, as control sees it, and listens.
    pub lease: Lease,
    /// Whom it calls.
    pub upstreams: Vec<Pattern>,
    /// Grows with each stream of the instance, at whatever replica: the greatest is the newest.
    pub claim: u64,
}

/// A stream in the table.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its number.
    pub stream: u64,
    /// What wakes it.
    pub bell: Arc<Bell>,
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

/// What a proxy reports.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledgement {
    /// The newest message in force.
    pub position: u64,
    /// Connections cut for it.
    pub closed: u64,
    /// When it came.
    pub at: SystemTime,
    /// Of all that was in force then.
    pub state: Option<StateDigest>,
}

/// A proxy does not have what it was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The sections that differ.
    pub sections: Vec<&'static str>,
    /// Not told before of this stream.
    pub first: bool,
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
    by_identity: ByIdentity<InstanceId>,
    callers: Callers,
    book: Book,
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
    bell: Arc<Bell>,
    /// What it has to acknowledge, and has lately, the oldest first.
    entries: VecDeque<Entry>,
    /// Messages sent, and what it has when the last one is in force.
    sent: u32,
    state: Option<StateDigest>,
    healed_at: Option<Instant>,
    /// The newest revision that it has in force, when it said so, and how many connections it cut for it.
    in_force: (u64, SystemTime, u64),
}

impl Watchers {
    /// Enters a stream. An older stream of the same instance is superseded: the proxy reconnected before
    /// its old connection was noticed to be dead.
    pub fn open(&self, new: &NewWatcher, at: SystemTime) -> Opened {
        let bell = Arc::new(Bell::default());
        let mut table = self.table.lock();
        table.next += 1;
        let stream = table.next;
        let watcher = Watcher {
            stream,
            bell: Arc::clone(&bell),
            entries: VecDeque::from([table.book.owe_all()]),
            new: new.clone(),
            opened_at: at,
            opening_written: false,
            departed: false,
            seen_at: at,
            sent: 0,
            state: None,
            healed_at: None,
            in_force: (0, at, 0),
        };
        let Lease { instance, spiffe_id, .. } = &new.lease;
        table.unwritten.insert(*instance);
        self.touched.notify_one();
        if let Some(old) = table.streams.insert(*instance, watcher) {
            table.forget(&old);
            old.bell.end(Ended::Superseded);
        }
        table.by_identity.insert(spiffe_id, *instance);
        table.callers.insert(&new.upstreams, *instance);
        metrics::streams(table.streams.len());
        Opened { stream, bell }
    }

    /// Removes a stream, unless it was superseded.
    pub fn close(&self, instance: &InstanceId, stream: u64) {
        let mut table = self.table.lock();
        if table.streams.get(instance).is_some_and(|watcher| watcher.stream == stream)
            && let Some(watcher) = table.streams.remove(instance)
        {
            table.forget(&watcher);
            table.unwritten.insert(*instance);
            self.touched.notify_one();
        }
        metrics::streams(table.streams.len());
        drop(table);
        self.progressed.notify_waiters();
    }

    /// The state as it was loaded; nothing is known of revisions before it.
    pub fn begin(&self, revision: u64) {
        self.table.lock().book.begin(revision);
    }

    /// Everything up to `revision` changed nothing that a proxy sees.
    pub fn passed(&self, revision: u64) {
        self.table.lock().book.pass(revision);
        self.progressed.notify_waiters();
    }

    /// Enters a change from after revision `after` up to `revision`, puts it in force by `replace`, and wakes those
    /// that it concerns. Whoever opens a stream meanwhile either owes it or sees it.
    pub fn publish(&self, after: u64, revision: u64, concerned: &Concerned, replace: impl FnOnce()) {
        let mut table = self.table.lock();
        let Table { streams, by_identity, callers, book, .. } = &mut *table;
        let generation = book.enter(after, revision, concerned.clone());
        replace();
        for instance in whom(by_identity, callers, concerned) {
            let Some(watcher) = streams.get_mut(instance) else { continue };
            let entry = Entry::of(generation, book);
            watcher.owe(entry, book);
            watcher.bell.state();
        }
        drop(table);
        self.progressed.notify_waiters();
    }

    /// The state is of another history: what was acknowledged of the one before says nothing about it.
    pub fn start_over(&self, revision: u64, replace: impl FnOnce()) {
        let mut table = self.table.lock();
        let Table { streams, book, unwritten, .. } = &mut *table;
        book.start_over(revision);
        replace();
        for (instance, watcher) in streams {
            watcher.entries = VecDeque::from([book.owe_all()]);
            watcher.in_force = (0, watcher.seen_at, 0);
            watcher.opening_written = watcher.departed;
            unwritten.insert(*instance);
            watcher.bell.state();
        }
        self.touched.notify_one();
        drop(table);
        self.progressed.notify_waiters();
    }

    /// A message goes out that brings the stream up to the state `generation`, after which the proxy has `state`.
    /// Returns its position.
    pub fn sent(&self, instance: &InstanceId, stream: u64, generation: u64, state: StateDigest) -> u64 {
        let mut table = self.table.lock();
        let Some(watcher) = table.stream(instance, stream) else { return 0 };
        watcher.sent = watcher.sent.wrapping_add(1);
        watcher.state = Some(state);
        let sent = watcher.sent;
        for entry in watcher.entries.iter_mut().filter(|entry| entry.last <= generation) {
            entry.sent.get_or_insert(sent);
        }
        position(stream, sent)
    }

    /// The stream was looked at with the state `generation`, and there was nothing to send.
    pub fn unconcerned(&self, instance: &InstanceId, stream: u64, generation: u64) {
        let mut table = self.table.lock();
        let Table { streams, book, unwritten, .. } = &mut *table;
        let Some(watcher) = streams.get_mut(instance).filter(|watcher| watcher.stream == stream) else {
            return;
        };
        let mut progressed = false;
        watcher.entries.retain(|entry| {
            let over = entry.sent.is_none() && entry.last <= generation;
            if over {
                progressed |= book.settle(entry);
                unwritten.insert(*instance);
            }
            !over
        });
        if let Some(revision) = watcher.settled_revision(book) {
            watcher.in_force.0 = revision;
        }
        self.touched.notify_one();
        drop(table);
        if progressed {
            self.progressed.notify_waiters();
        }
    }

    /// An instance reports what is in force. If that is not what the newest message brought, everything is sent
    /// again.
    pub fn acknowledged(&self, instance: &InstanceId, report: Acknowledgement) -> Option<Mismatch> {
        let mut table = self.table.lock();
        let Table { streams, book, unwritten, .. } = &mut *table;
        let watcher = streams.get_mut(instance)?;
        unwritten.insert(*instance);
        self.touched.notify_one();
        watcher.seen_at = report.at;
        let number = number(watcher.stream, report.position)?;
        let mut progressed = false;
        for entry in &mut watcher.entries {
            let Some(sent) = entry.sent.filter(|sent| *sent <= number) else { continue };
            if entry.acknowledged_at.is_none() {
                entry.acknowledged_at = Some(report.at);
                progressed |= book.settle(entry);
            }
            if sent == number {
                entry.closed = entry.closed.max(report.closed);
            }
        }
        if let Some(revision) = watcher.settled_revision(book).filter(|new| *new > watcher.in_force.0) {
            watcher.in_force = (revision, report.at, report.closed);
        }
        let mismatch = watcher.compare(number, report.state);
        drop(table);
        if progressed {
            self.progressed.notify_waiters();
        }
        mismatch
    }

    /// Whether everybody whom `revision` concerns has it in force. Asked about what was published.
    #[must_use]
    pub fn is_applied(&self, revision: u64) -> bool {
        let table = self.table.lock();
        match table.book.find(revision) {
            Some(change) => change.open == 0,
            None if revision > table.book.forgotten() => true,
            // So long ago that it has to be looked up.
            None => table.streams.values().all(|watcher| watcher.in_force.0 >= revision),
        }
    }

    /// How far those are whom `revision` concerns, in the order of identities.
    #[must_use]
    pub fn progress(&self, revision: u64) -> Vec<Applied> {
        let table = self.table.lock();
        let Some(change) = table.book.find(revision) else {
            let old = revision <= table.book.forgotten();
            return if old { table.progress_of_all(revision) } else { Vec::new() };
        };
        let concerned = whom(&table.by_identity, &table.callers, &change.concerned);
        // Whoever came after it owes it too: it may not have heard of it before.
        let applied = concerned.filter_map(|instance| {
            let watcher = table.streams.get(instance)?;
            let entry = watcher.entries.iter().find(|entry| entry.covers(change.generation))?;
            let Lease { instance, spiffe_id, .. } = &watcher.new.lease;
            Some(Applied {
                id: spiffe_id.clone(),
                instance: *instance,
                acknowledged_at: entry.acknowledged_at,
                closed: entry.closed,
            })
        });
        applied.collect()
    }

    /// Waits until a change was entered, or one may be in force everywhere.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.progressed.notified()
    }

    /// Ends the stream of an instance.
    pub fn end(&self, instance: &InstanceId, why: Ended) {
        if let Some(watcher) = self.table.lock().streams.get(instance) {
            watcher.bell.end(why);
        }
    }

    /// Ends all streams.
    pub fn end_all(&self, why: Ended) {
        self.table.lock().streams.values().for_each(|watcher| watcher.bell.end(why));
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
                let NewWatcher { lease, version, .. } = &watcher.new;
                (*instance, WatcherInfo { address: lease.address.to_string(), version: version.clone() })
            })
            .collect()
    }

    /// Who is connected and reads only an older schema of policy documents.
    #[must_use]
    pub fn older_readers(&self) -> Vec<OlderReader> {
        let table = self.table.lock();
        let older = table.streams.values().filter(|watcher| watcher.new.schema < Schema::NEWEST);
        older
            .map(|watcher| {
                let NewWatcher { lease, version, schema, .. } = &watcher.new;
                OlderReader { id: lease.spiffe_id.clone(), version: version.clone(), schema: *schema }
            })
            .collect()
    }

    /// Whether this instance is.
    #[must_use]
    pub fn is_connected(&self, instance: &InstanceId) -> bool {
        self.table.lock().streams.contains_key(instance)
    }

    /// Of one that is connected: where it is, and when anything was heard from it.
    #[must_use]
    pub fn held(&self, instance: &InstanceId) -> Option<(WatcherInfo, SystemTime)> {
        let table = self.table.lock();
        let watcher = table.streams.get(instance)?;
        let NewWatcher { lease, version, .. } = &watcher.new;
        let info = WatcherInfo { address: lease.address.to_string(), version: version.clone() };
        Some((info, watcher.seen_at))
    }

    /// How many are connected.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.lock().streams.len()
    }
}

impl Table {
    fn stream(&mut self, instance: &InstanceId, stream: u64) -> Option<&mut Watcher> {
        self.streams.get_mut(instance).filter(|watcher| watcher.stream == stream)
    }

    fn progress_of_all(&self, revision: u64) -> Vec<Applied> {
        let watchers = self.by_identity.all().filter_map(|instance| self.streams.get(instance));
        watchers
            .map(|watcher| {
                let (in_force, at, _) = watcher.in_force;
                let Lease { instance, spiffe_id, .. } = &watcher.new.lease;
                Applied {
                    id: spiffe_id.clone(),
                    instance: *instance,
                    acknowledged_at: (in_force >= revision).then_some(at),
                    closed: 0,
                }
            })
            .collect()
    }

    /// Whoever is gone is waited for by nobody.
    fn forget(&mut self, gone: &Watcher) {
        for entry in gone.entries.iter().filter(|entry| entry.acknowledged_at.is_none()) {
            self.book.settle(entry);
        }
        let Lease { instance, spiffe_id, .. } = &gone.new.lease;
        // A newer stream of it may follow others, and enters them itself.
        self.callers.remove(&gone.new.upstreams, instance);
        if !self.streams.contains_key(instance) {
            self.by_identity.remove(spiffe_id, instance);
        }
    }
}

impl Watcher {
    fn owe(&mut self, entry: Entry, book: &mut Book) {
        if self.entries.len() == REMEMBERED
            && let Some(mut oldest) = self.entries.pop_front()
            && oldest.acknowledged_at.is_none()
            && let Some(next) = self.entries.front_mut()
        {
            // What was not acknowledged is not forgotten: it counts as part of what comes after it.
            book.join(&mut oldest, next);
            *next = oldest;
        }
        self.entries.push_back(entry);
    }

    /// The newest revision up to which there is nothing left to acknowledge.
    fn settled_revision(&self, book: &Book) -> Option<u64> {
        match self.entries.iter().find(|entry| entry.acknowledged_at.is_none()) {
            None => Some(book.revision()),
            Some(open) => book.revision_before(open.first),
        }
    }

    /// Only what was said of the newest message can be compared: whatever else is on its way.
    fn compare(&mut self, number: u32, state: Option<StateDigest>) -> Option<Mismatch> {
        let (sent, found) = (self.state?, state?);
        if number != self.sent || sent == found {
            return None;
        }
        let first = self.healed_at.is_none();
        if self.healed_at.is_none_or(|at| at.elapsed() >= HEAL_EVERY) {
            self.healed_at = Some(Instant::now());
            self.bell.whole();
        }
        Some(Mismatch { sections: sent.differences(&found).collect(), first })
    }

    fn take_standing(&mut self) -> Standing {
        let (in_force, in_force_at, closed) = self.in_force;
        Standing {
            opened: !std::mem::replace(&mut self.opening_written, true),
            lease: self.new.lease.clone(),
            claim: self.new.claim,
            version: self.new.version.clone(),
            schema: self.new.schema,
            opened_at: self.opened_at,
            seen_at: self.seen_at,
            in_force,
            in_force_at,
            closed,
        }
    }
}

fn whom<'a>(
    index: &'a ByIdentity<InstanceId>,
    callers: &'a Callers,
    concerned: &'a Concerned,
) -> Box<dyn Iterator<Item = &'a InstanceId> + 'a> {
    match concerned {
        Concerned::Everyone => Box::new(index.all()),
        Concerned::Those { named, callers_of } => {
            let mut seen = HashSet::new();
            let all = named.iter().flat_map(|pattern| index.matching(pattern));
            let all = all.chain(callers_of.iter().flat_map(|id| callers.of(id)));
            Box::new(all.filter(move |instance| seen.insert(**instance)))
        }
    }
}

/// A stream's number and a message's: what comes back is only believed if it is of the same stream.
fn position(stream: u64, message: u32) -> u64 {
    stream << 32 | u64::from(message)
}

fn number(stream: u64, position: u64) -> Option<u32> {
    (position >> 32 == stream & u64::from(u32::MAX)).then_some((position & u64::from(u32::MAX)) as u32)
}

#[cfg(test)]
mod tests;
