//! Open connections of verified identities: so many for each instance, and found again when it is revoked.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use signet_proto::handshake::PeerIdentity;
use signet_proto::spiffe::{InstanceId, SpiffeId};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A proxy needs a few, an operator's script perhaps some dozens at the same time.
const EACH: usize = 64;

type Key = (SpiffeId, Option<InstanceId>);

/// The table.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<Key, HashMap<u64, Open>>,
}

/// One connection, as whoever ends it sees it.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) identity: Arc<PeerIdentity>,
    pub(super) cut: CancellationToken,
}

/// A place in the table, given back on drop.
pub(super) struct Session {
    sessions: Arc<Sessions>,
    key: Key,
    number: u64,
    cut: CancellationToken,
}

impl Sessions {
    /// A place for a connection of `identity`, unless its instance has all of its own already.
    pub(super) fn enter(self: &Arc<Self>, identity: &Arc<PeerIdentity>) -> Option<Session> {
        let key = (identity.id.clone(), identity.instance);
        let mut table = self.table.lock();
        table.next += 1;
        let number = table.next;
        let open = table.open.entry(key.clone()).or_default();
        if open.len() >= EACH {
            return None;
        }
        let cut = CancellationToken::new();
        open.insert(number, Open { identity: Arc::clone(identity), cut: cut.clone() });
        Some(Session { sessions: Arc::clone(self), key, number, cut })
    }

    /// Those whose identity is one of `unwelcome`.
    pub(super) fn of(&self, unwelcome: impl Fn(&PeerIdentity) -> bool) -> Vec<Open> {
        let table = self.table.lock();
        let open = table.open.values().flat_map(HashMap::values);
        open.filter(|open| unwelcome(&open.identity)).cloned().collect()
    }
}

impl Session {
    /// Resolves when the connection must end.
    pub(super) fn cut(&self) -> WaitForCancellationFutureOwned {
        self.cut.clone().cancelled_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut table = self.sessions.table.lock();
        if let Some(open) = table.open.get_mut(&self.key) {
            open.remove(&self.number);
            if open.is_empty() {
                table.open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signet_proto::handshake::WorkloadKey;

    use super::*;
    use crate::ca::{Authority, LeafRequest};
    use crate::store::Store;

    async fn identities(names: &[&str]) -> Vec<Arc<PeerIdentity>> {
        let directory = tempfile::tempdir().unwrap();
        let domain: signet_proto::spiffe::TrustDomain = "mesh.local".parse().unwrap();
        let store = Store::open(directory.path(), &domain).unwrap();
        let (seal, day) = (directory.path().join("seal.key"), Duration::from_secs(86_400));
        let authority = Authority::open(store, domain.clone(), &seal, 30 * day).await.unwrap();
        let identity = |name: &&str| {
            let id = SpiffeId::new(&domain, &format!("/{name}")).unwrap();
            let key = crate::issue::tests_csr(&WorkloadKey::generate().unwrap(), &id);
            let instance = Some(InstanceId::random().unwrap());
            let leaf = authority.sign(&LeafRequest { id: &id, instance, key: &key, ttl: day }).unwrap();
            Arc::new(PeerIdentity::from_verified(Some(&leaf.chain)).unwrap())
        };
        names.iter().map(identity).collect()
    }

    #[tokio::test]
    async fn instance_gets_its_places_and_others_theirs() {
        let sessions = Arc::new(Sessions::default());
        let identities = identities(&["orders", "orders"]).await;
        let taken: Vec<_> = (0..EACH).map(|_| sessions.enter(&identities[0]).unwrap()).collect();
        assert!(sessions.enter(&identities[0]).is_none());
        let other = sessions.enter(&identities[1]).expect("another instance of the same identity");
        drop((taken, other));
        assert!(sessions.table.lock().open.is_empty());
    }

    #[tokio::test]
    async fn connections_of_the_unwelcome_are_found_and_cut() {
        let sessions = Arc::new(Sessions::default());
        let identities = identities(&["orders", "payments"]).await;
        let open: Vec<_> = identities.iter().map(|identity| sessions.enter(identity).unwrap()).collect();
        let found = sessions.of(|identity| identity.id.path() == "/orders");
        assert_eq!(found.len(), 1);
        found[0].cut.cancel();
        open[0].cut().await;
        assert!(!open[1].cut.is_cancelled());
    }
}
