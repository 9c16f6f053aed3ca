//! How many connections one caller may have: of one address before it has proved who it is, and of one
//! identity afterwards. Without, one of them could take every slot (invariant 8).

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;

/// Connections of one address that are not past their handshake. Many callers may share one address.
const UNPROVEN_PER_ADDRESS: usize = 512;

/// The bounds per caller.
#[derive(Debug)]
pub struct Limits {
    addresses: Tally<Network>,
    strangers: Tally<()>,
    /// After it, by identity.
    pub identities: Tally<SpiffeId>,
}

/// One caller, as far as addresses tell: a host with IPv6 has all of a /64 to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6(u64),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// A connection that is not past its handshake.
#[derive(Debug)]
pub struct Unproven {
    _stranger: Place<()>,
    _address: Place<Network>,
}

impl Limits {
    /// At most so many connections in all and of one identity. Half of them may be before their handshake's end.
    #[must_use]
    pub fn new(most: usize, per_identity: usize) -> Self {
        Self {
            addresses: Tally::new(UNPROVEN_PER_ADDRESS),
            strangers: Tally::new(most.div_ceil(2)),
            identities: Tally::new(per_identity),
        }
    }

    /// A place for a connection from `address` until it has proved who it is.
    #[must_use]
    pub fn unproven(&self, address: IpAddr) -> Option<Unproven> {
        let stranger = self.strangers.enter(())?;
        self.addresses
            .enter(address.into())
            .map(|address| Unproven { _stranger: stranger, _address: address })
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

    #[test]
    fn a_host_with_many_addresses_is_one_caller() {
        let limits = Limits::new(10_000, 1);
        let own = |host: u64| IpAddr::from(((0xfd00_u128 << 112) | u128::from(host)).to_be_bytes());
        let places: Vec<_> =
            (0..UNPROVEN_PER_ADDRESS as u64 + 10).filter_map(|host| limits.unproven(own(host))).collect();
        assert_eq!(places.len(), UNPROVEN_PER_ADDRESS);
        assert!(limits.unproven([10, 0, 0, 1].into()).is_some());
        let few = Limits::new(4, 1);
        let _two = [few.unproven([10, 0, 0, 1].into()), few.unproven([10, 0, 0, 2].into())];
        assert!(few.unproven([10, 0, 0, 3].into()).is_none(), "half of all is for those who are known");
    }
}
