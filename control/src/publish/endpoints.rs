//! Where instances accept mutual TLS: leases held by open Watch streams.
//!
//! An endpoint appears when its instance's stream opens, with the address that control sees. It disappears
//! at once when the instance or identity is revoked or lapses, and `GRACE` after its stream ended
//! otherwise: a proxy that reconnects, or a control that restarts, takes no endpoint away from anyone. What other
//! replicas hold is theirs to take out; a stream of our own counts for more than what is heard of another.
//! Endpoints are not part of the revision log: they change without anyone's decision. Everything is found by
//! identity or instance; nothing but a start, and the loss of contact with other replicas, looks at all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::handshake::Revocations;
use signet_proto::policy::{Pattern, Subtree, ancestors};
use signet_proto::spiffe::{InstanceId, SpiffeId};
use signet_proto::v1;

use super::bell::Bell;
use super::by_identity::{Name, below};
use super::following::Following;
use super::published::Published;
use super::state::Added;
use crate::store::model::Lease;

/// How long an endpoint outlives its stream.
const GRACE: Duration = Duration::from_secs(30);
/// How long an endpoint known from before a restart waits for its stream: proxies back off while control is
/// away.
const START_GRACE: Duration = Duration::from_secs(90);

/// All endpoints.
#[derive(Debug, Default)]
pub struct Endpoints {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    services: BTreeMap<Name, Service>,
    instances: HashMap<InstanceId, SpiffeId>,
    /// Held by no stream: until when.
    waiting: BTreeSet<(Instant, InstanceId)>,
    /// Followers of subtrees, by their prefix.
    around: HashMap<Arc<str>, HashMap<u64, Arc<Bell>>>,
}

/// An identity that has instances, or followers.
#[derive(Debug)]
struct Service {
    /// By instance.
    entries: Vec<Entry>,
    published: Arc<Published>,
    followers: HashMap<u64, Arc<Bell>>,
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

impl Endpoints {
    /// What was known before the restart; each of our own waits for its stream. With each, whether it is another
    /// replica's.
    #[must_use]
    pub fn restore(leases: Vec<(Lease, bool)>, now: Instant) -> Self {
        let endpoints = Self::default();
        let mut table = endpoints.table.lock();
        for (lease, elsewhere) in leases {
            table.insert(lease, if elsewhere { Held::Elsewhere } else { Held::Until(now + START_GRACE) });
        }
        drop(table);
        endpoints
    }

    /// A stream opened.
    pub fn hold(&self, stream: u64, lease: &Lease) {
        self.table.lock().insert(lease.clone(), Held::Stream(stream));
    }

    /// A stream ended, unless a newer one holds the lease already.
    pub fn release(&self, stream: u64, instance: InstanceId, now: Instant) {
        let mut table = self.table.lock();
        if table.held(&instance) == Some(Held::Stream(stream)) {
            table.set_held(instance, Held::Until(now + GRACE));
        }
    }

    /// Takes out the endpoints of one instance at once, though its stream may stay open.
    pub fn remove(&self, instance: InstanceId) {
        self.table.lock().remove(instance);
    }

    /// Those that nobody has held for too long.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<InstanceId> {
        let table = self.table.lock();
        let due = table.waiting.iter().take_while(|(until, _)| *until <= now);
        due.map(|(_, instance)| *instance).collect()
    }

    /// Takes these out, unless somebody holds them again. Returns which, to be forgotten in the store too.
    pub fn sweep(&self, due: Vec<InstanceId>, now: Instant) -> Vec<InstanceId> {
        let mut table = self.table.lock();
        let over = |held| matches!(held, Some(Held::Until(until)) if until <= now);
        let gone: Vec<_> = due.into_iter().filter(|instance| over(table.held(instance))).collect();
        gone.iter().for_each(|instance| table.remove(*instance));
        gone
    }

    /// Whoever waits for its stream gets as much time as after a start: nobody could come.
    pub fn wait_longer(&self, now: Instant) {
        let mut table = self.table.lock();
        let waiting: Vec<_> = table.waiting.iter().map(|(_, instance)| *instance).collect();
        waiting.into_iter().for_each(|instance| table.set_held(instance, Held::Until(now + START_GRACE)));
    }

    /// What another replica holds for an instance now, or no longer does.
    pub fn put_elsewhere(&self, instance: InstanceId, lease: Option<Lease>) {
        let mut table = self.table.lock();
        match (lease, table.held(&instance)) {
            (None, Some(Held::Elsewhere)) => table.remove(instance),
            (None, _) | (Some(_), Some(Held::Stream(_))) => {}
            (Some(lease), _) => table.insert(lease, Held::Elsewhere),
        }
    }

    /// All that other replicas hold.
    pub fn replace_elsewhere(&self, leases: Vec<Lease>) {
        let mut table = self.table.lock();
        let there: HashSet<_> = leases.iter().map(|lease| lease.instance).collect();
        let entries = table.services.values().flat_map(|service| &service.entries);
        let gone: Vec<_> = entries
            .filter(|entry| entry.held == Held::Elsewhere && !there.contains(&entry.lease.instance))
            .map(|entry| entry.lease.instance)
            .collect();
        gone.into_iter().for_each(|instance| table.remove(instance));
        for lease in leases {
            if !matches!(table.held(&lease.instance), Some(Held::Stream(_))) {
                table.insert(lease, Held::Elsewhere);
            }
        }
    }

    /// Takes out what is revoked.
    pub fn drop_revoked(&self, revocations: &Revocations) {
        let mut table = self.table.lock();
        let entries = table.services.values().flat_map(|service| &service.entries);
        let gone: Vec<_> = entries
            .filter(|entry| {
                revocations.matching(&entry.lease.spiffe_id, Some(&entry.lease.instance), []).is_some()
            })
            .map(|entry| entry.lease.instance)
            .collect();
        gone.into_iter().for_each(|instance| table.remove(instance));
    }

    /// Takes out what was revoked just now. Returns whose.
    pub fn drop_added(&self, added: &Added) -> Vec<InstanceId> {
        let mut table = self.table.lock();
        let services = added.identities.iter().filter_map(|id| table.services.get(id.as_str()));
        let of_identities = services.flat_map(|service| &service.entries).map(|entry| entry.lease.instance);
        let instances = added.instances.iter().copied();
        let gone: HashSet<_> =
            of_identities.chain(instances.filter(|one| table.instances.contains_key(one))).collect();
        gone.iter().for_each(|instance| table.remove(*instance));
        gone.into_iter().collect()
    }

    /// Follows the endpoints of these identities and subtrees. Rings `bell`.
    #[must_use]
    pub fn follow(&self, stream: u64, bell: &Arc<Bell>, upstreams: &[Pattern]) -> Following {
        let mut table = self.table.lock();
        for upstream in upstreams {
            match upstream {
                Pattern::Exact(id) => {
                    table.service(id).followers.insert(stream, Arc::clone(bell));
                }
                Pattern::Subtree(subtree) => {
                    let around = table.around.entry(Arc::clone(subtree.prefix())).or_default();
                    around.insert(stream, Arc::clone(bell));
                }
            }
        }
        drop(table);
        Following::new(stream, upstreams, Arc::clone(&self.table))
    }
}

impl Table {
    /// What is known of `id`, if anything is.
    pub(super) fn published(&self, id: &SpiffeId) -> Option<&Arc<Published>> {
        self.services.get(id.as_str()).map(|service| &service.published)
    }

    /// All below.
    pub(super) fn below<'a>(&'a self, subtree: &'a Subtree) -> impl Iterator<Item = &'a Arc<Published>> {
        below(&self.services, subtree.prefix()).map(|(_, service)| &service.published)
    }

    pub(super) fn unfollow(&mut self, stream: u64, exact: &[SpiffeId], prefixes: &[Arc<str>]) {
        for id in exact {
            if let Some(service) = self.services.get_mut(id.as_str()) {
                service.followers.remove(&stream);
                if service.followers.is_empty() && service.entries.is_empty() {
                    self.services.remove(id.as_str());
                }
            }
        }
        for prefix in prefixes {
            if let Some(around) = self.around.get_mut(prefix) {
                around.remove(&stream);
                if around.is_empty() {
                    self.around.remove(prefix);
                }
            }
        }
    }

    fn service(&mut self, id: &SpiffeId) -> &mut Service {
        self.services.entry(Name(id.clone())).or_insert_with(|| Service {
            entries: Vec::new(),
            published: Arc::new(Published::new(id.clone(), Vec::new(), None)),
            followers: HashMap::new(),
        })
    }

    fn held(&self, instance: &InstanceId) -> Option<Held> {
        let service = self.services.get(self.instances.get(instance)?.as_str())?;
        service.at(instance).ok().and_then(|at| service.entries.get(at)).map(|entry| entry.held)
    }

    fn set_held(&mut self, instance: InstanceId, held: Held) {
        let Some(id) = self.instances.get(&instance) else { return };
        let Some(service) = self.services.get_mut(id.as_str()) else { return };
        let entry = service.at(&instance).ok().and_then(|at| service.entries.get_mut(at));
        let Some(entry) = entry else { return };
        if let Held::Until(until) = std::mem::replace(&mut entry.held, held) {
            self.waiting.remove(&(until, instance));
        }
        if let Held::Until(until) = held {
            self.waiting.insert((until, instance));
        }
    }

    fn insert(&mut self, lease: Lease, held: Held) {
        let (instance, id) = (lease.instance, lease.spiffe_id.clone());
        if self.instances.get(&instance).is_some_and(|known| *known != id) {
            self.remove(instance);
        }
        let service = self.service(&id);
        let before = match service.at(&instance) {
            Ok(at) => service.entries.get_mut(at).map(|entry| std::mem::replace(&mut entry.lease, lease)),
            Err(at) => {
                service.entries.insert(at, Entry { lease, held: Held::Elsewhere });
                None
            }
        };
        self.instances.insert(instance, id.clone());
        self.set_held(instance, held);
        let after = self.lease(&instance).cloned();
        if before != after {
            self.moved(&id);
        }
    }

    fn remove(&mut self, instance: InstanceId) {
        // Out of those that wait.
        self.set_held(instance, Held::Elsewhere);
        let Some(id) = self.instances.remove(&instance) else { return };
        let Some(service) = self.services.get_mut(id.as_str()) else { return };
        let Ok(at) = service.at(&instance) else { return };
        service.entries.remove(at);
        self.moved(&id);
        if self.services.get(id.as_str()).is_some_and(Service::is_nobodys) {
            self.services.remove(id.as_str());
        }
    }

    fn lease(&self, instance: &InstanceId) -> Option<&Lease> {
        let service = self.services.get(self.instances.get(instance)?.as_str())?;
        service.entries.get(service.at(instance).ok()?).map(|entry| &entry.lease)
    }

    /// Tells whoever follows `id`.
    fn moved(&mut self, id: &SpiffeId) {
        let Self { services, around, .. } = self;
        for prefix in ancestors(id) {
            if let Some(followers) = around.get(prefix) {
                followers.values().for_each(|bell| bell.service(id));
            }
        }
        if let Some(service) = services.get_mut(id.as_str()) {
            service.publish(id);
            service.followers.values().for_each(|bell| bell.service(id));
        }
    }
}

impl Service {
    fn at(&self, instance: &InstanceId) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.lease.instance.cmp(instance))
    }

    fn is_nobodys(&self) -> bool {
        self.entries.is_empty() && self.followers.is_empty()
    }

    /// By instance, then port: equal endpoints are equal messages.
    fn publish(&mut self, id: &SpiffeId) {
        let leases = self.entries.iter().map(|entry| &entry.lease);
        let endpoints = leases.flat_map(|lease| {
            lease.listeners.iter().map(|listener| v1::Endpoint {
                address: lease.address.to_string(),
                port: u32::from(listener.port),
                instance: lease.instance.to_string(),
                app_port: u32::from(listener.app_port),
                locality: lease.locality.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
        });
        let next = Published::new(id.clone(), endpoints.collect(), Some(&self.published));
        if next.digest != self.published.digest {
            self.published = Arc::new(next);
        }
    }
}

#[cfg(test)]
mod tests;
