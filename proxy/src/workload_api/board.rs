//! Who is connected to the socket, and what each is shown: for operators, and so that no user takes all the places.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::callers::Caller;
use crate::telemetry::metrics;

/// At once, of one user. Of those whom no rule admits, all together have no more.
const OF_A_USER: usize = 64;
/// Of what its clients do, a user fills the log no faster than with a line in this time.
const COMPLAINTS: Duration = Duration::from_secs(10);
/// Of how many users is kept when they were last complained of.
const MOST_USERS: usize = 256;

/// Who is connected.
#[derive(Debug, Default)]
pub struct Board(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    complaints: BTreeMap<u32, Instant>,
    open: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    caller: Caller,
    rule: Option<String>,
    since: SystemTime,
    streams: BTreeMap<&'static str, u32>,
    updates: u64,
}

/// A place on the board, while the connection is open.
pub struct Connected {
    board: Arc<Board>,
    number: u64,
}

/// A stream of a connection, while it is open.
pub(super) struct Streaming {
    place: Arc<Connected>,
    method: &'static str,
    _permit: OwnedSemaphorePermit,
}

impl Board {
    /// A place, unless there are too many already.
    pub(super) fn enter(self: &Arc<Self>, caller: Caller, rule: Option<String>) -> Option<Connected> {
        let mut entries = self.0.lock();
        let alike = |entry: &&Entry| match rule {
            Some(_) => entry.rule.is_some() && entry.caller.uid == caller.uid,
            None => entry.rule.is_none(),
        };
        if entries.open.values().filter(alike).count() >= OF_A_USER {
            return None;
        }
        let number = entries.next;
        entries.next += 1;
        let since = signet_proto::clock::now();
        let entry = Entry { caller, rule, since, streams: BTreeMap::new(), updates: 0 };
        entries.open.insert(number, entry);
        Some(Connected { board: Arc::clone(self), number })
    }

    /// Whether the log has room for a line about this user.
    fn may_complain(&self, uid: u32, now: Instant) -> bool {
        let mut entries = self.0.lock();
        let complaints = &mut entries.complaints;
        complaints.retain(|_, at| now.saturating_duration_since(*at) < COMPLAINTS);
        let has_room = complaints.len() < MOST_USERS && !complaints.contains_key(&uid);
        if has_room {
            complaints.insert(uid, now);
        }
        has_room
    }

    /// Streams that are open to this user.
    pub(super) fn streams_of(&self, uid: u32) -> u32 {
        let entries = self.0.lock();
        let theirs = entries.open.values().filter(|entry| entry.caller.uid == uid);
        theirs.flat_map(|entry| entry.streams.values()).sum()
    }

    /// Those whom a rule admits, as JSON; `moment` writes times.
    #[must_use]
    pub fn show(&self, moment: impl Fn(SystemTime) -> Option<String>) -> Vec<Value> {
        let entries = self.0.lock();
        let admitted = entries.open.values().filter(|entry| entry.rule.is_some());
        let shown = admitted.map(|entry| {
            json!({
                "uid": entry.caller.uid,
                "gid": entry.caller.gid,
                "pid": entry.caller.pid,
                "rule": entry.rule,
                "since": moment(entry.since),
                "streams": entry.streams,
                "updates": entry.updates,
            })
        });
        shown.collect()
    }
}

impl Connected {
    /// Whether the log has room for a line about what this client does.
    pub(super) fn may_complain(&self, caller: Caller) -> bool {
        self.board.may_complain(caller.uid, Instant::now())
    }

    fn entry(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.board.0.lock().open.get_mut(&self.number) {
            change(entry);
        }
    }

    /// A stream begins, with its place among all.
    pub(super) fn streams(self: &Arc<Self>, method: &'static str, permit: OwnedSemaphorePermit) -> Streaming {
        self.entry(|entry| *entry.streams.entry(method).or_default() += 1);
        metrics::app_streams(method, 1.0);
        Streaming { place: Arc::clone(self), method, _permit: permit }
    }
}

impl Streaming {
    /// A message goes out.
    pub(super) fn updated(&self) {
        self.place.entry(|entry| entry.updates += 1);
        metrics::app_updated(self.method);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.board.0.lock().open.remove(&self.number);
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        metrics::app_streams(self.method, -1.0);
        let method = self.method;
        self.place.entry(|entry| {
            if let Some(open) = entry.streams.get_mut(method) {
                *open -= 1;
                if *open == 0 {
                    entry.streams.remove(method);
                }
            }
        });
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_by_user_and_given_back() {
        let board = Arc::<Board>::default();
        let caller = |uid| Caller { uid, gid: 0, pid: None };
        let admitted = |uid| board.enter(caller(uid), Some("uid=1".into()));
        let first: Vec<_> = (0..OF_A_USER).map(|_| admitted(1).unwrap()).collect();
        assert!(admitted(1).is_none());
        let other = admitted(2).unwrap();
        let strangers: Vec<_> =
            (0..OF_A_USER).map(|at| board.enter(caller(u32::try_from(at).unwrap()), None).unwrap()).collect();
        assert!(board.enter(caller(9), None).is_none(), "whoever they are");
        drop((first, strangers));
        assert!(admitted(1).is_some() && board.enter(caller(9), None).is_some());
        drop(other);
        assert!(board.show(|_| None).is_empty());
    }

    #[test]
    fn users_fill_the_log_slowly_and_each_by_itself() {
        let board = Board::default();
        let begin = Instant::now();
        assert!(board.may_complain(1, begin) && !board.may_complain(1, begin));
        assert!(board.may_complain(2, begin));
        let later = begin + COMPLAINTS;
        assert!(
            !board.may_complain(1, later - Duration::from_millis(1)),
            "counted from the line, not from the try"
        );
        assert!(board.may_complain(1, later) && !board.may_complain(1, later));
        let many = u32::try_from(MOST_USERS).unwrap();
        assert!((10..10 + many - 1).all(|uid| board.may_complain(uid, later)));
        assert!(!board.may_complain(7, later), "of no more users than are kept");
    }

    #[test]
    fn an_open_stream_is_shown_until_it_ends() {
        let board = Arc::<Board>::default();
        let place = board.enter(Caller { uid: 7, gid: 8, pid: Some(9) }, Some("uid=7".into()));
        let place = Arc::new(place.unwrap());
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let stream = place.streams("FetchX509SVID", permit);
        stream.updated();
        let shown = board.show(|_| None);
        assert_eq!((&shown[0]["streams"], &shown[0]["updates"]), (&json!({"FetchX509SVID": 1}), &json!(1)));
        assert_eq!((board.streams_of(7), board.streams_of(8)), (1, 0));
        drop(stream);
        assert_eq!(board.streams_of(7), 0);
        assert_eq!(board.show(|_| None)[0]["streams"], json!({}));
    }
}
