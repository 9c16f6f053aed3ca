//! Of what everyone wants, each gets a share: so that one caller cannot take it all (invariant 8).

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// One caller, as far as addresses tell: a host with IPv6 has all of a /64 to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address, also one that is written in IPv6.
    V4(Ipv4Addr),
    /// The upper half of an address.
    V6(u64),
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// Places by caller. Holds no more callers than there are places taken.
#[derive(Debug, Clone)]
pub struct Shares<K> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// A place that is counted until it is dropped.
#[derive(Debug)]
pub struct Share<K: Hash + Eq> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self { taken: Arc::default() }
    }
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// A place for `key`, unless it has `most` already.
    #[must_use]
    pub fn take(&self, key: K, most: usize) -> Option<Share<K>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(key.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Share { key, taken: Arc::clone(&self.taken) })
    }
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gets_its_share_and_leaves_nothing_behind() {
        let shares = Shares::default();
        let taken = [shares.take("a", 2), shares.take("a", 2)];
        assert!(taken.iter().all(Option::is_some));
        assert!(shares.take("a", 2).is_none());
        let other = shares.take("b", 2);
        assert!(other.is_some());
        drop(taken);
        assert!(shares.take("a", 2).is_some());
        drop(other);
        assert!(shares.taken.lock().is_empty());
    }

    #[test]
    fn one_machine_is_one_host_by_whatever_address() {
        let host = |text: &str| Host::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
        assert_ne!(host("::ffff:10.0.0.1"), host("::ffff:10.0.0.2"));
    }
}
