//! Of what everyone wants, each gets a share: so that one address cannot take it all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Connections of one address that have proven nothing yet; behind a gateway many may join at once.
const EACH: usize = 64;
/// On one machine a whole mesh may.
const LOOPBACK: usize = 512;

/// Places by address. As large as there are places taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    address: IpAddr,
}

impl Shares {
    /// A place for `address`, unless it has all of its own already.
    pub(super) fn take(&self, address: IpAddr) -> Option<Share> {
        let address = network(address);
        let most = if address.is_loopback() { LOOPBACK } else { EACH };
        let mut all = self.taken.lock();
        let taken = all.entry(address).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Share { shares: self.clone(), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.shares.taken.lock();
        if let Some(taken) = all.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// With IPv6 one machine has a /64 to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_its_share_and_the_others_theirs() {
        let shares = Shares::default();
        let taken: Vec<_> = (0..EACH).map(|_| shares.take("10.0.0.1".parse().unwrap()).unwrap()).collect();
        assert!(shares.take("10.0.0.1".parse().unwrap()).is_none());
        assert!(shares.take("10.0.0.2".parse().unwrap()).is_some());
        drop(taken);
        assert!(shares.take("10.0.0.1".parse().unwrap()).is_some());
        assert!(shares.taken.lock().is_empty(), "nothing is remembered of who is gone");
    }

    #[test]
    fn network_of_one_machine_counts_as_one_address() {
        let shares = Shares::default();
        let _taken: Vec<_> = (0..EACH)
            .map(|host| shares.take(format!("2001:db8::{host:x}").parse().unwrap()).unwrap())
            .collect();
        assert!(shares.take("2001:db8::ffff".parse().unwrap()).is_none());
        assert!(shares.take("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
