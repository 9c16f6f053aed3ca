//! Who is at the other end of many connections is kept once: its certificates are most of what an idle one holds.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use signet_proto::handshake::PeerIdentity;

/// Below that nobody is looked for who has gone.
const FEW: usize = 64;

/// The peers of all connections, by the hash of their leaf. Those who have gone make room when their number has doubled.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    peers: HashMap<[u8; 32], Weak<PeerIdentity>>,
    swept: usize,
}

impl Peers {
    /// This peer, or as it was verified before with the same certificates.
    pub(super) fn once(&self, peer: PeerIdentity) -> Arc<PeerIdentity> {
        let mut known = self.0.lock();
        let same = known.peers.get(&peer.leaf_sha256).and_then(Weak::upgrade);
        if let Some(same) = same.filter(|same| same.chain().eq(peer.chain())) {
            return same;
        }
        if known.peers.len() >= known.swept.max(FEW) {
            known.peers.retain(|_, peer| peer.strong_count() > 0);
            known.swept = known.peers.len() * 2;
        }
        let peer = Arc::new(peer);
        known.peers.insert(peer.leaf_sha256, Arc::downgrade(&peer));
        peer
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use jiff::SignedDuration;
    use rcgen::KeyPair;
    use signet_proto::spiffe::InstanceId;

    use super::*;
    use crate::testing::{DOMAIN, TestAuthority};

    #[test]
    fn a_peer_is_kept_once_and_not_for_ever() {
        let (authority, peers) = (TestAuthority::new(), Peers::default());
        let id = format!("spiffe://{DOMAIN}/caller");
        let leaf = || {
            let (key, instance) = (KeyPair::generate().unwrap(), InstanceId::random().unwrap());
            authority.leaf(&key, &id, instance, SignedDuration::from_hours(1))
        };
        let (one, other) = (leaf(), leaf());
        let peer = |chain: &[_]| PeerIdentity::from_verified(Some(chain)).unwrap();
        let first = peers.once(peer(from_ref(&one)));
        assert!(Arc::ptr_eq(&first, &peers.once(peer(from_ref(&one)))));
        assert!(
            !Arc::ptr_eq(&first, &peers.once(peer(&[one.clone(), authority.root.clone()]))),
            "another chain"
        );
        assert!(!Arc::ptr_eq(&first, &peers.once(peer(&[other]))), "another leaf");
        for _ in 0..FEW * 2 {
            let _ = peers.once(peer(&[leaf()]));
        }
        assert!(peers.0.lock().peers.len() <= FEW + 1);
    }
}
