//! How many connections one caller may have: of one address before it has proved who it is, and of one
//! identity afterwards. Without, one of them could take every slot (invariant 8).

use std::net::IpAddr;

use signet_proto::shares::{Host, Share, Shares};
use signet_proto::spiffe::SpiffeId;

/// Connections of one address that are not past their handshake. Many callers may share one address.
const UNPROVEN_PER_ADDRESS: usize = 512;

/// The bounds per caller.
#[derive(Debug)]
pub struct Limits {
    strangers: Shares<()>,
    most_strangers: usize,
    addresses: Shares<Host>,
    identities: Shares<SpiffeId>,
    per_identity: usize,
    plaintext: Shares<()>,
}

/// A connection that is not past its handshake.
#[derive(Debug)]
pub struct Unproven {
    _stranger: Share<()>,
    _address: Share<Host>,
}

impl Limits {
    /// At most so many connections in all and of one identity. Half of them may be before their handshake's end.
    #[must_use]
    pub fn new(most: usize, per_identity: usize) -> Self {
        Self {
            strangers: Shares::default(),
            most_strangers: most.div_ceil(2),
            addresses: Shares::default(),
            identities: Shares::default(),
            per_identity,
            plaintext: Shares::default(),
        }
    }

    /// A place for a connection from `address` until it has proved who it is.
    #[must_use]
    pub fn unproven(&self, address: IpAddr) -> Option<Unproven> {
        let stranger = self.strangers.take((), self.most_strangers)?;
        let address = self.addresses.take(address.into(), UNPROVEN_PER_ADDRESS)?;
        Some(Unproven { _stranger: stranger, _address: address })
    }

    /// A place for a connection of `id`.
    #[must_use]
    pub fn identity(&self, id: &SpiffeId) -> Option<Share<SpiffeId>> {
        self.identities.take(id.clone(), self.per_identity)
    }

    /// A place for a connection without identity: all of those have together what one identity has.
    #[must_use]
    pub fn plaintext(&self) -> Option<Share<()>> {
        self.plaintext.take((), self.per_identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
