//! The certificates that peers proved themselves with, and when they were last in use. Control is told when one is
//! first seen, and then every few minutes: to know it to the second is worth no message.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use signet_proto::spiffe::CertificateHandle;

use super::edge::millis;

const MOST: usize = 8192;
/// How old control's knowledge of a use may be, in milliseconds.
const GRAIN: u64 = 300_000;

/// The issuer's name and serial of a certificate: what revocation knows it by.
pub(super) type Name = ([u8; 32], Vec<u8>);

/// One of them, in use.
#[derive(Debug, Default)]
pub struct Seen {
    last_at: AtomicU64,
    reported_at: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Certificates(Mutex<HashMap<Name, Arc<Seen>>>);

impl Certificates {
    /// Notes a use. Also tells whether it was seen for the first time; `None` if there is no room.
    pub(super) fn seen(&self, leaf: &CertificateHandle, at: SystemTime) -> Option<(Arc<Seen>, bool)> {
        let mut all = self.0.lock();
        let room = all.len() < MOST;
        let (seen, new) = match all.entry((leaf.issuer_sha256, leaf.serial.clone())) {
            Entry::Occupied(known) => (Arc::clone(known.get()), false),
            Entry::Vacant(place) if room => (Arc::clone(place.insert(Arc::default())), true),
            Entry::Vacant(_) => return None,
        };
        seen.touch(at);
        Some((seen, new))
    }

    /// At most `limit` of those whose use control does not know well enough.
    pub(super) fn unreported(&self, limit: usize) -> Vec<(Name, Arc<Seen>, u64)> {
        let all = self.0.lock();
        let unreported = all.iter().filter_map(|(name, seen)| {
            let last_at = seen.last_at.load(Ordering::Relaxed);
            seen.is_unreported(last_at).then(|| (name.clone(), Arc::clone(seen), last_at))
        });
        unreported.take(limit).collect()
    }

    pub(super) fn forget(&self, unused_since: SystemTime) {
        self.0.lock().retain(|_, seen| {
            let last_at = seen.last_at.load(Ordering::Relaxed);
            Arc::strong_count(seen) > 1 || seen.is_unreported(last_at) || last_at >= millis(unused_since)
        });
    }
}

impl Seen {
    /// It is in use.
    pub(super) fn touch(&self, at: SystemTime) {
        self.last_at.fetch_max(millis(at), Ordering::Relaxed);
    }

    /// Control knows.
    pub(super) fn answered(&self, at: u64) {
        self.reported_at.fetch_max(at, Ordering::Relaxed);
    }

    fn is_unreported(&self, last_at: u64) -> bool {
        let reported_at = self.reported_at.load(Ordering::Relaxed);
        reported_at == 0 || last_at.saturating_sub(reported_at) >= GRAIN
    }
}
