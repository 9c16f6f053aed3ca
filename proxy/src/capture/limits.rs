//! How many connections one caller may have: of one address before it has proved who it is, and of one
//! identity afterwards. Without, one of them could take every slot (invariant 8).

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;

/// Connections of one address that are not past their handshake. Many callers may share one address.
const UNPROVEN_PER_ADDRESS: usize = 512;

/// The bounds per caller.
#[derive(Debug)]
pub struct Limits {
    /// Before the handshake, by address.
    pub unproven: Tally<IpAddr>,
    /// After it, by identity.
    pub identities: Tally<SpiffeId>,
}

impl Limits {
    /// At most so many connections of one identity.
    #[must_use]
    pub fn new(per_identity: usize) -> Self {
        Self { unproven: Tally::new(UNPROVEN_PER_ADDRESS), identities: Tally::new(per_identity) }
    }
}

/// Counts by key, up to a bound for each. Holds no more keys than there are places taken.
#[derive(Debug, Clone)]
pub struct Tally<K> {
    counts: Arc<Mutex<HashMap<K, usize>>>,
    most: usize,
}

/// A place that is counted until it is dropped.
#[derive(Debug)]
pub struct Place<K: Hash + Eq> {
    key: K,
    counts: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Hash + Eq + Clone> Tally<K> {
    fn new(most: usize) -> Self {
        Self { counts: Arc::default(), most }
    }

    /// The bound for each key.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// A place for `key`, if it has not too many already.
    #[must_use]
    pub fn enter(&self, key: K) -> Option<Place<K>> {
        let mut counts = self.counts.lock();
        let count = counts.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { key, counts: Arc::clone(&self.counts) })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_bound_and_leaves_nothing_behind() {
        let tally = Tally::new(2);
        let places = [tally.enter("a"), tally.enter("a")];
        assert!(places.iter().all(Option::is_some));
        assert!(tally.enter("a").is_none());
        let other = tally.enter("b");
        assert!(other.is_some());
        drop(places);
        assert!(tally.enter("a").is_some());
        drop(other);
        assert!(tally.counts.lock().is_empty());
    }
}
