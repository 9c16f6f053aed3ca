//! Where instances accept mutual TLS: leases held by open Watch streams.
//!
//! An endpoint appears when its instance's stream opens, with the address that control sees. It disappears
//! at once when the instance or identity is revoked or lapses, and `GRACE` after its stream ended
//! otherwise: a proxy that reconnects, or a control that restarts, takes no endpoint away from anyone. What other
//! replicas hold is theirs to take out; a stream of our own counts for more than what is heard of another.
//! Endpoints are not part of the revision log: they change without anyone's decision.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{SelectAll, StreamExt};
use parking_lot::Mutex;
use signet_proto::handshake::Revocations;
use signet_proto::policy::{Pattern, Subtree};
use signet_proto::spiffe::{InstanceId, SpiffeId};
use signet_proto::v1;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::store::model::Lease;

/// How long an endpoint outlives its stream.
const GRACE: Duration = Duration::from_secs(30);
/// How long an endpoint known from before a restart waits for its stream: proxies back off while control is
/// away.
const START_GRACE: Duration = Duration::from_secs(90);

type Endpoint = Arc<[v1::Endpoint]>;

/// All endpoints.
#[derive(Debug, Default)]
pub struct Endpoints {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    identities: HashMap<SpiffeId, BTreeMap<InstanceId, Entry>>,
    services: HashMap<SpiffeId, watch::Sender<Endpoint>>,
    /// Told of every change, for those who follow a subtree.
    any: watch::Sender<()>,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    held: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// By the open stream of this number.
    Stream(u64),
    /// By none: until then.
    Until(Instant),
    /// By a stream of another replica.
    Elsewhere,
}

/// The endpoints of a stream's upstreams, as they change.
#[derive(Debug)]
pub struct ServiceStream {
    receivers: Vec<(SpiffeId, watch::Receiver<Endpoint>)>,
    changes: SelectAll<Pin<Box<WatchStream<Endpoint>>>>,
    subtrees: Vec<Subtree>,
    any: watch::Receiver<()>,
    table: Arc<Mutex<Table>>,
}

impl Endpoints {
    /// What was known before the restart; each of our own waits for its stream. With each, whether it is another
    /// replica's.
    #[must_use]
    pub fn restore(leases: Vec<(Lease, bool)>, now: Instant) -> Self {
        let endpoints = Self::default();
        let mut table = endpoints.table.lock();
        for (lease, elsewhere) in leases {
            table.insert(Entry {
                lease,
                held: if elsewhere { Held::Elsewhere } else { Held::Until(now + START_GRACE) },
            });
        }
        drop(table);
        endpoints
    }

    /// A stream opened.
    pub fn hold(&self, stream: u64, lease: &Lease) {
        let mut table = self.table.lock();
        let before = table.insert(Entry { lease: lease.clone(), held: Held::Stream(stream) });
        if before.is_none_or(|before| before.lease != *lease) {
            table.publish(&lease.spiffe_id);
        }
    }

    /// A stream ended, unless a newer one holds the lease already.
    pub fn release(&self, stream: u64, lease: &Lease, now: Instant) {
        let mut table = self.table.lock();
        let instances = table.identities.get_mut(&lease.spiffe_id);
        if let Some(entry) = instances.and_then(|instances| instances.get_mut(&lease.instance))
            && entry.held == Held::Stream(stream)
        {
            entry.held = Held::Until(now + GRACE);
        }
    }

    /// Takes out the endpoints of one instance at once, though its stream may stay open.
    pub fn remove(&self, instance: InstanceId) {
        self.table.lock().remove(|entry| entry.lease.instance == instance);
    }

    /// Takes out what nobody has held for too long. Returns whose, to be forgotten in the store too.
    pub fn sweep(&self, now: Instant) -> Vec<InstanceId> {
        let mut table = self.table.lock();
        let gone = table.remove(|entry| matches!(entry.held, Held::Until(until) if until <= now));
        table.services.retain(|_, sender| sender.receiver_count() > 0);
        gone
    }

    /// What another replica holds for an instance now, or no longer does.
    pub fn put_elsewhere(&self, instance: InstanceId, lease: Option<Lease>) {
        let mut table = self.table.lock();
        match lease {
            None => {
                table.remove(|entry| entry.lease.instance == instance && entry.held == Held::Elsewhere);
            }
            Some(lease) => table.put_elsewhere(&lease),
        }
    }

    /// All that other replicas hold.
    pub fn replace_elsewhere(&self, leases: &[Lease]) {
        let mut table = self.table.lock();
        let there: HashSet<_> = leases.iter().map(|lease| lease.instance).collect();
        table.remove(|entry| entry.held == Held::Elsewhere && !there.contains(&entry.lease.instance));
        for lease in leases {
            table.put_elsewhere(lease);
        }
    }

    /// Takes out what is revoked. Returns whose.
    pub fn drop_revoked(&self, revocations: &Revocations) -> Vec<InstanceId> {
        self.table.lock().remove(|entry| {
            revocations.matching(&entry.lease.spiffe_id, Some(&entry.lease.instance), []).is_some()
        })
    }

    /// Follows the endpoints of these identities and subtrees.
    #[must_use]
    pub fn subscribe(&self, upstreams: &[Pattern]) -> ServiceStream {
        let mut table = self.table.lock();
        let subtrees = upstreams.iter().filter_map(|upstream| match upstream {
            Pattern::Subtree(subtree) => Some(subtree.clone()),
            Pattern::Exact(_) => None,
        });
        let exact = upstreams.iter().filter_map(|upstream| match upstream {
            Pattern::Exact(id) => Some(id),
            Pattern::Subtree(_) => None,
        });
        let receivers: Vec<_> = exact
            .map(|id| {
                let current = table.endpoints_of(id);
                let sender = table.services.entry(id.clone()).or_insert_with(|| watch::channel(current).0);
                (id.clone(), sender.subscribe())
            })
            .collect();
        let changes = receivers
            .iter()
            .map(|(_, receiver)| Box::pin(WatchStream::from_changes(receiver.clone())))
            .collect();
        let (subtrees, any) = (subtrees.collect(), table.any.subscribe());
        ServiceStream { receivers, changes, subtrees, any, table: Arc::clone(&self.table) }
    }
}

impl ServiceStream {
    /// The endpoints now, as they are sent: each identity once, in order.
    #[must_use]
    pub fn current(&mut self) -> Vec<v1::Service> {
        let mut services: BTreeMap<SpiffeId, Vec<v1::Endpoint>> =
            self.receivers.iter().map(|(id, receiver)| (id.clone(), receiver.borrow().to_vec())).collect();
        if !self.subtrees.is_empty() {
            self.any.mark_unchanged();
            let table = self.table.lock();
            let below = |id: &SpiffeId| self.subtrees.iter().any(|subtree| subtree.contains(id));
            for id in table.identities.keys().filter(|id| below(id)) {
                services.entry(id.clone()).or_insert_with(|| table.endpoints_of(id).to_vec());
            }
        }
        services
            .into_iter()
            .map(|(id, endpoints)| v1::Service { spiffe_id: id.to_string(), endpoints })
            .collect()
    }

    /// Waits for a change; for ever if there is nothing to follow. Who follows a subtree may be woken for
    /// others, too.
    pub async fn changed(&mut self) {
        let exact = async {
            if self.changes.next().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        let any = async {
            if self.subtrees.is_empty() || self.any.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = exact => {}
            () = any => {}
        }
    }
}

impl Table {
    fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let instances = self.identities.entry(entry.lease.spiffe_id.clone()).or_default();
        instances.insert(entry.lease.instance, entry)
    }

    fn put_elsewhere(&mut self, lease: &Lease) {
        let known =
            self.identities.get(&lease.spiffe_id).and_then(|instances| instances.get(&lease.instance));
        if known.is_some_and(|entry| matches!(entry.held, Held::Stream(_))) {
            return;
        }
        let before = self.insert(Entry { lease: lease.clone(), held: Held::Elsewhere });
        if before.is_none_or(|before| before.lease != *lease) {
            self.publish(&lease.spiffe_id);
        }
    }

    /// By instance, then port: equal endpoints are equal messages.
    fn endpoints_of(&self, id: &SpiffeId) -> Endpoint {
        let leases = self.identities.get(id).into_iter().flat_map(BTreeMap::values).map(|entry| &entry.lease);
        leases
            .flat_map(|lease| {
                lease.listeners.iter().map(|listener| v1::Endpoint {
                    address: lease.address.to_string(),
                    port: u32::from(listener.port),
                    instance: lease.instance.to_string(),
                    app_port: u32::from(listener.app_port),
                })
            })
            .collect()
    }

    fn publish(&self, id: &SpiffeId) {
        self.any.send_replace(());
        if let Some(sender) = self.services.get(id) {
            let endpoints = self.endpoints_of(id);
            sender.send_if_modified(|current| {
                let changed = *current != endpoints;
                *current = endpoints;
                changed
            });
        }
    }

    fn remove(&mut self, gone: impl Fn(&Entry) -> bool) -> Vec<InstanceId> {
        let mut removed = Vec::new();
        let mut changed = Vec::new();
        for (id, instances) in &mut self.identities {
            let before = removed.len();
            removed.extend(instances.extract_if(.., |_, entry| gone(entry)).map(|(instance, _)| instance));
            if removed.len() > before {
                changed.push(id.clone());
            }
        }
        changed.iter().for_each(|id| self.publish(id));
        self.identities.retain(|_, instances| !instances.is_empty());
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::model::Listener;

    fn id() -> SpiffeId {
        "spiffe://mesh.local/payments".parse().unwrap()
    }

    fn lease(port: u16) -> Lease {
        Lease {
            instance: InstanceId::random().unwrap(),
            spiffe_id: id(),
            address: "10.0.0.7".parse().unwrap(),
            listeners: vec![Listener { port, app_port: 8080 }],
        }
    }

    fn upstream() -> [Pattern; 1] {
        [Pattern::Exact(id())]
    }

    fn ports(stream: &mut ServiceStream) -> Vec<u32> {
        let services = stream.current();
        let mut ports: Vec<_> = services[0].endpoints.iter().map(|endpoint| endpoint.port).collect();
        ports.sort_unstable();
        ports
    }

    #[tokio::test]
    async fn endpoint_comes_with_its_stream_and_stays_for_a_grace() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let mut stream = endpoints.subscribe(&upstream());
        assert!(ports(&mut stream).is_empty());
        let lease = lease(15443);
        endpoints.hold(1, &lease);
        stream.changed().await;
        assert_eq!(ports(&mut stream), [15443]);
        endpoints.release(1, &lease, now);
        assert!(endpoints.sweep(now + GRACE - Duration::from_secs(1)).is_empty());
        assert_eq!(endpoints.sweep(now + GRACE), [lease.instance]);
        stream.changed().await;
        assert!(ports(&mut stream).is_empty());
    }

    #[test]
    fn reconnected_stream_keeps_its_endpoint_without_a_gap() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let lease = lease(1);
        endpoints.hold(1, &lease);
        endpoints.hold(2, &lease);
        endpoints.release(1, &lease, now);
        assert!(endpoints.sweep(now + GRACE * 10).is_empty(), "the newer stream holds it");
    }

    #[test]
    fn restart_keeps_endpoints_until_proxies_had_time_to_come_back() {
        let now = Instant::now();
        let (one, other) = (lease(1), lease(2));
        let endpoints = Endpoints::restore(vec![(one.clone(), false), (other.clone(), false)], now);
        let mut stream = endpoints.subscribe(&upstream());
        assert_eq!(ports(&mut stream), [1, 2]);
        endpoints.hold(7, &one);
        assert_eq!(endpoints.sweep(now + START_GRACE), [other.instance]);
        assert_eq!(ports(&mut stream), [1]);
    }

    #[test]
    fn endpoint_of_another_replica_is_its_own_to_take_out() {
        let (endpoints, now) = (Endpoints::default(), Instant::now());
        let mut stream = endpoints.subscribe(&upstream());
        let (here, there) = (lease(1), lease(2));
        endpoints.hold(7, &here);
        endpoints.put_elsewhere(there.instance, Some(there.clone()));
        assert_eq!(ports(&mut stream), [1, 2]);
        assert!(endpoints.sweep(now + START_GRACE * 10).is_empty());
        endpoints.put_elsewhere(here.instance, Some(lease(3)));
        endpoints.put_elsewhere(here.instance, None);
        assert_eq!(ports(&mut stream), [1, 2, 3], "our own stream counts for more");
        endpoints.replace_elsewhere(&[]);
        assert_eq!(ports(&mut stream), [1]);
        endpoints.put_elsewhere(there.instance, Some(there.clone()));
        endpoints.hold(8, &there);
        endpoints.release(8, &there, now);
        assert_eq!(endpoints.sweep(now + GRACE), [there.instance], "it came here, and went");
    }

    #[test]
    fn revoked_instance_loses_its_endpoint_at_once_and_alone() {
        let endpoints = Endpoints::default();
        let (one, other) = (lease(1), lease(2));
        endpoints.hold(1, &one);
        endpoints.hold(2, &other);
        let mut stream = endpoints.subscribe(&upstream());
        let revoked = Revocations::try_from(v1::Revocations {
            instances: vec![v1::RevokedInstance { instance: one.instance.to_string(), lapsed: false }],
            ..v1::Revocations::default()
        })
        .unwrap();
        assert_eq!(endpoints.drop_revoked(&revoked), [one.instance]);
        assert_eq!(ports(&mut stream), [2]);
    }

    #[tokio::test]
    async fn subtree_brings_those_below_as_they_come_and_go() {
        let endpoints = Endpoints::default();
        let follow = |pattern: &str| endpoints.subscribe(&[pattern.parse().unwrap()]);
        let (mut all, mut none) = (follow("spiffe://mesh.local/*"), follow("spiffe://mesh.local/other/*"));
        assert!(all.current().is_empty());
        let lease = lease(15443);
        endpoints.hold(1, &lease);
        all.changed().await;
        assert_eq!(ports(&mut all), [15443]);
        assert!(none.current().is_empty());
        endpoints.remove(lease.instance);
        all.changed().await;
        assert!(all.current().is_empty());
    }
}
