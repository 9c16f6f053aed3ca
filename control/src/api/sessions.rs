//! Open connections of verified identities: so many for each instance, and found again when it is revoked: by
//! identity, instance, certificate and key, without a look at the others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use signet_proto::handshake::PeerIdentity;
use signet_proto::spiffe::{InstanceId, SpiffeId};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::publish::Added;

/// A proxy needs a few, an operator's script perhaps some dozens at the same time.
const EACH: usize = 64;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Open>,
    identities: HashMap<SpiffeId, HashMap<Option<InstanceId>, Vec<u64>>>,
    instances: HashMap<InstanceId, Vec<u64>>,
    /// By each certificate and key of the chain. Who shares a mark by accident is judged like everybody.
    marks: HashMap<u64, Vec<u64>>,
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
    number: u64,
    cut: CancellationToken,
}

impl Sessions {
    /// A place for a connection of `identity`, unless its instance has all of its own already.
    pub(super) fn enter(self: &Arc<Self>, identity: &Arc<PeerIdentity>) -> Option<Session> {
        let mut table = self.table.lock();
        table.next += 1;
        let number = table.next;
        let of_identity = table.identities.entry(identity.id.clone()).or_default();
        let places = of_identity.entry(identity.instance).or_default();
        if places.len() >= EACH {
            return None;
        }
        places.push(number);
        if let Some(instance) = identity.instance {
            table.instances.entry(instance).or_default().push(number);
        }
        for mark in marks(identity) {
            table.marks.entry(mark).or_default().push(number);
        }
        let cut = CancellationToken::new();
        table.open.insert(number, Open { identity: Arc::clone(identity), cut: cut.clone() });
        Some(Session { sessions: Arc::clone(self), number, cut })
    }

    /// Those that something of `added` may mean.
    pub(super) fn touched_by(&self, added: &Added) -> Vec<Open> {
        let table = self.table.lock();
        let identities = added.identities.iter().filter_map(|id| table.identities.get(id));
        let identities = identities.flat_map(HashMap::values);
        let instances = added.instances.iter().filter_map(|instance| table.instances.get(instance));
        let certificates = added.certificates.iter().map(|(issuer, serial)| certificate_mark(issuer, serial));
        let keys = added.keys.iter().map(key_mark);
        let marked = certificates.chain(keys).filter_map(|mark| table.marks.get(&mark));
        let mut numbers: Vec<_> = identities.chain(instances).chain(marked).flatten().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().filter_map(|number| table.open.get(number)).cloned().collect()
    }
}

impl Table {
    fn leave(&mut self, number: u64) {
        let Some(Open { identity, .. }) = self.open.remove(&number) else { return };
        if let Some(of_identity) = self.identities.get_mut(&identity.id) {
            take(of_identity, &identity.instance, number);
            if of_identity.is_empty() {
                self.identities.remove(&identity.id);
            }
        }
        if let Some(instance) = identity.instance {
            take(&mut self.instances, &instance, number);
        }
        marks(&identity).for_each(|mark| take(&mut self.marks, &mark, number));
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
        self.sessions.table.lock().leave(self.number);
    }
}

fn take<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<u64>>, key: &K, number: u64) {
    if let Some(numbers) = index.get_mut(key) {
        // In the order of numbers: they only grow.
        if let Ok(at) = numbers.binary_search(&number) {
            numbers.remove(at);
        }
        if numbers.is_empty() {
            index.remove(key);
        }
    }
}

fn marks(identity: &PeerIdentity) -> impl Iterator<Item = u64> {
    identity.handles.iter().flat_map(|handle| {
        [certificate_mark(&handle.issuer_sha256, &handle.serial), key_mark(&handle.spki_sha256)]
    })
}

/// Serials are random.
fn certificate_mark(issuer: &[u8; 32], serial: &[u8]) -> u64 {
    let serial =
        serial.iter().rev().zip(0..8).fold(0, |mark, (byte, at)| mark | u64::from(*byte) << (8 * at));
    key_mark(issuer) ^ serial
}

fn key_mark(digest: &[u8; 32]) -> u64 {
    digest.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use signet_proto::handshake::WorkloadKey;

    use super::*;
    use crate::ca::{Authority, LeafRequest, Lives, SealPlace};
    use crate::store::Store;

    async fn identities(names: &[&str]) -> Vec<Arc<PeerIdentity>> {
        let directory = tempfile::tempdir().unwrap();
        let domain: signet_proto::spiffe::TrustDomain = "mesh.local".parse().unwrap();
        let store = Store::open(directory.path(), &domain).unwrap();
        let (seal, day) = (SealPlace::File(directory.path().join("seal.key")), Duration::from_secs(86_400));
        let authority =
            Authority::open(store, domain.clone(), &seal, Lives::with_intermediate(30 * day)).await.unwrap();
        let identity = |name: &&str| {
            let id = SpiffeId::new(&domain, &format!("/{name}")).unwrap();
            let key = crate::issue::tests_csr(&WorkloadKey::generate().unwrap(), &id);
            let instance = Some(InstanceId::random().unwrap());
            let leaf =
                authority.sign(&LeafRequest { id: &id, instance, key: &key, dns: &[], ttl: day }).unwrap();
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
        let table = sessions.table.lock();
        assert!(table.open.is_empty() && table.identities.is_empty() && table.instances.is_empty());
        assert!(table.marks.is_empty());
    }

    #[tokio::test]
    async fn connections_of_the_revoked_are_found_by_all_that_can_be_revoked_and_cut() {
        let sessions = Arc::new(Sessions::default());
        let identities = identities(&["orders", "payments"]).await;
        let open: Vec<_> = identities.iter().map(|identity| sessions.enter(identity).unwrap()).collect();
        let (leaf, issuer) = (&identities[0].handles[0], &identities[0].handles[1]);
        let nothing = Added::default;
        for (added, touched) in [
            (Added { identities: vec![identities[0].id.clone()], ..nothing() }, 1),
            (Added { instances: identities[0].instance.into_iter().collect(), ..nothing() }, 1),
            (Added { keys: vec![leaf.spki_sha256], ..nothing() }, 1),
            (Added { certificates: vec![(leaf.issuer_sha256, leaf.serial.clone())], ..nothing() }, 1),
            (Added { certificates: vec![(leaf.issuer_sha256, vec![1])], ..nothing() }, 0),
            (nothing(), 0),
        ] {
            let found = sessions.touched_by(&added);
            assert_eq!(found.len(), touched, "{added:?}");
            assert!(found.iter().all(|open| open.identity.id == identities[0].id));
        }
        let issued = Added { keys: vec![issuer.spki_sha256], ..nothing() };
        assert_eq!(sessions.touched_by(&issued).len(), 2, "all that it signed");
        sessions.touched_by(&Added { keys: vec![leaf.spki_sha256], ..nothing() })[0].cut.cancel();
        open[0].cut().await;
        assert!(!open[1].cut.is_cancelled());
    }
}
