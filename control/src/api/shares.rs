//! How many connections one address may have at a door while it has proven nothing: at the HTTP doors, as long as they last.

use std::net::IpAddr;

use signet_proto::shares::{self, Host};

/// Behind a gateway many may join at once.
const EACH: usize = 64;
/// On one machine a whole mesh may.
const LOOPBACK: usize = 512;

/// One place, given back on drop.
pub(super) type Share = shares::Share<Host>;

/// Places by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(shares::Shares<Host>);

impl Shares {
    /// A place for `address`, unless it has all of its own already.
    pub(super) fn take(&self, address: IpAddr) -> Option<Share> {
        let most = if address.to_canonical().is_loopback() { LOOPBACK } else { EACH };
        self.0.take(address.into(), most)
    }
}
