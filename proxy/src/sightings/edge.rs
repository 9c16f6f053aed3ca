//! One peer at one port: counters that connections and requests add to, and what of them was reported.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use signet_proto::policy::Verdict;
use tokio::sync::Notify;

use super::Seen;
use crate::connections::Numbered;
use crate::telemetry::{Meters, Protocol};

/// Causes that are told apart; further ones count as one.
pub(super) const MOST_CAUSES: usize = 8;
const OTHER: &str = "other";

/// What happened between two identities at one port.
#[derive(Debug)]
pub struct Edge {
    connections: AtomicU64,
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    protocol: AtomicU8,
    /// Milliseconds since the epoch.
    first_at: AtomicU64,
    last_at: AtomicU64,
    causes: Mutex<HashMap<Cause, Caused>>,
    live: Mutex<Live>,
    /// What control has counted.
    reported: Mutex<Counts>,
    news: Arc<Notify>,
}

/// Why something was denied, or could not be reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Cause {
    pub(super) policy: Option<Arc<str>>,
    pub(super) rule: Option<Arc<str>>,
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Caused {
    pub(super) count: u64,
    pub(super) last_at: u64,
}

/// Connections that are open now.
#[derive(Debug, Default)]
struct Live {
    next: u64,
    open: Numbered<Carried>,
}

#[derive(Debug)]
struct Carried {
    meters: Arc<Meters>,
    /// What of them is in the edge's counters already.
    counted: (u64, u64),
    certificate: Option<Arc<Seen>>,
}

/// Counters, or the difference of two states of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) causes: HashMap<Cause, Caused>,
}

/// What an edge has to report.
#[derive(Debug, Clone)]
pub(super) struct Increment {
    pub(super) counts: Counts,
    pub(super) protocol: u8,
    pub(super) first_at: u64,
    pub(super) last_at: u64,
}

/// An open connection whose bytes are counted while it lasts, and whose certificate is in use.
#[derive(Debug)]
pub struct Ongoing {
    edge: Arc<Edge>,
    number: u64,
}

impl Edge {
    pub(super) fn new(news: Arc<Notify>) -> Self {
        Self {
            connections: AtomicU64::default(),
            requests: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            protocol: AtomicU8::default(),
            first_at: AtomicU64::default(),
            last_at: AtomicU64::default(),
            causes: Mutex::default(),
            live: Mutex::default(),
            reported: Mutex::default(),
            news,
        }
    }

    /// A connection was let in.
    pub fn connected(&self, protocol: Protocol) {
        self.protocol.store(number(protocol), Ordering::Relaxed);
        let first = self.connections.fetch_add(1, Ordering::Relaxed) == 0;
        self.touch(signet_proto::clock::now());
        if first {
            self.news.notify_one();
        }
    }

    /// Its bytes count from now on.
    #[must_use]
    pub fn carries(self: &Arc<Self>, meters: Arc<Meters>, certificate: Option<Arc<Seen>>) -> Ongoing {
        let mut live = self.live.lock();
        let number = live.next;
        live.next += 1;
        live.open.insert(number, Carried { meters, counted: (0, 0), certificate });
        Ongoing { edge: Arc::clone(self), number }
    }

    /// A request was let in.
    pub fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.touch(signet_proto::clock::now());
    }

    /// A connection or request was denied.
    pub fn denied(&self, verdict: Option<&Verdict>, reason: &'static str) {
        let cause = Cause {
            policy: verdict.and_then(|verdict| verdict.policy.clone()),
            rule: verdict.and_then(|verdict| verdict.rule.clone()),
            reason,
        };
        self.caused(cause, signet_proto::clock::now());
    }

    pub(super) fn unreached(&self, reason: &'static str, at: SystemTime) {
        self.caused(Cause { policy: None, rule: None, reason }, at);
    }

    pub(super) fn caused(&self, cause: Cause, at: SystemTime) {
        let at = self.touch(at);
        let mut causes = self.causes.lock();
        let known = causes.contains_key(&cause);
        let cause = match known || causes.len() < MOST_CAUSES - 1 {
            true => cause,
            false => Cause { policy: None, rule: None, reason: OTHER },
        };
        let caused = causes.entry(cause).or_default();
        caused.count += 1;
        caused.last_at = caused.last_at.max(at);
        drop(causes);
        if !known {
            self.news.notify_one();
        }
    }

    fn touch(&self, at: SystemTime) -> u64 {
        let at = millis(at);
        let _ = self.first_at.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
        self.last_at.fetch_max(at, Ordering::Relaxed);
        at
    }

    /// What happened since the last answered report, if anything did. What is open is counted up to now.
    pub(super) fn increment(&self, now: SystemTime) -> Option<Increment> {
        self.count_live(now);
        let counts = self.counts().since(&self.reported.lock());
        (counts != Counts::default()).then(|| Increment {
            counts,
            protocol: self.protocol.load(Ordering::Relaxed),
            first_at: self.first_at.load(Ordering::Relaxed),
            last_at: self.last_at.load(Ordering::Relaxed),
        })
    }

    /// Control has counted it.
    pub(super) fn answered(&self, counts: &Counts) {
        self.reported.lock().add(counts);
    }

    /// Nothing is open or to be reported, and it was silent since.
    pub(super) fn is_over(&self, silent_since: SystemTime) -> bool {
        self.last_at.load(Ordering::Relaxed) < millis(silent_since)
            && self.live.lock().open.is_empty()
            && self.counts() == *self.reported.lock()
    }

    fn counts(&self) -> Counts {
        Counts {
            connections: self.connections.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            causes: self.causes.lock().clone(),
        }
    }

    fn count_live(&self, now: SystemTime) {
        let mut live = self.live.lock();
        let mut moved = false;
        for carried in live.open.values_mut() {
            moved |= self.count(carried);
            if let Some(certificate) = &carried.certificate {
                certificate.touch(now);
            }
        }
        drop(live);
        if moved {
            self.touch(now);
        }
    }

    fn count(&self, carried: &mut Carried) -> bool {
        let now =
            (carried.meters.to_app.load(Ordering::Relaxed), carried.meters.to_peer.load(Ordering::Relaxed));
        let before = std::mem::replace(&mut carried.counted, now);
        self.bytes_in.fetch_add(now.0.saturating_sub(before.0), Ordering::Relaxed);
        self.bytes_out.fetch_add(now.1.saturating_sub(before.1), Ordering::Relaxed);
        now != before
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let ended = self.edge.live.lock().open.remove(&self.number);
        if let Some(mut carried) = ended {
            let now = signet_proto::clock::now();
            self.edge.count(&mut carried);
            self.edge.touch(now);
            if let Some(certificate) = carried.certificate {
                certificate.touch(now);
            }
        }
    }
}

impl Counts {
    fn since(&self, before: &Self) -> Self {
        let causes = self.causes.iter().filter_map(|(cause, caused)| {
            let counted = before.causes.get(cause).map_or(0, |before| before.count);
            let count = caused.count.saturating_sub(counted);
            (count > 0).then(|| (cause.clone(), Caused { count, last_at: caused.last_at }))
        });
        Self {
            connections: self.connections.saturating_sub(before.connections),
            requests: self.requests.saturating_sub(before.requests),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            causes: causes.collect(),
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.connections += more.connections;
        self.requests += more.requests;
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
        for (cause, caused) in &more.causes {
            let counted = self.causes.entry(cause.clone()).or_default();
            counted.count += caused.count;
            counted.last_at = caused.last_at;
        }
    }
}

/// As in the message; 0 while nothing is known.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Unknown | Protocol::Plaintext => 0,
        Protocol::Opaque => 1,
        Protocol::Http1 => 2,
        Protocol::Http2 => 3,
    }
}

pub(super) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
