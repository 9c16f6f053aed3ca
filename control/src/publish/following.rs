//! The services that one stream follows, and what of them its proxy was told.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use signet_proto::digest::{self, Digest};
use signet_proto::policy::{Pattern, Subtree};
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use super::bell::Moved;
use super::endpoints::Table;
use super::policies::{PolicySection, Reach};
use super::published::{Addresses, Published};

/// One stream's.
#[derive(Debug)]
pub struct Following {
    stream: u64,
    id: SpiffeId,
    exact: Vec<SpiffeId>,
    subtrees: Vec<Subtree>,
    /// By identity.
    told: Vec<Arc<Published>>,
    addresses: Arc<Addresses>,
    digest: Digest,
    /// Whom the proxy may call, by the documents of the section of this number.
    reach: Reach,
    policies: Option<u64>,
    table: Arc<Mutex<Table>>,
}

impl Following {
    pub(super) fn new(stream: u64, id: SpiffeId, upstreams: &[Pattern], table: Arc<Mutex<Table>>) -> Self {
        let exact = upstreams.iter().filter_map(|upstream| match upstream {
            Pattern::Exact(id) => Some(id.clone()),
            Pattern::Subtree(_) => None,
        });
        let subtrees = upstreams.iter().filter_map(|upstream| match upstream {
            Pattern::Subtree(subtree) => Some(subtree.clone()),
            Pattern::Exact(_) => None,
        });
        let addresses = Arc::<Addresses>::default();
        Self {
            stream,
            id,
            exact: exact.collect(),
            subtrees: subtrees.collect(),
            told: Vec::new(),
            digest: digest::services([], &addresses.digest),
            addresses,
            reach: Reach::default(),
            policies: None,
            table,
        }
    }

    /// Takes in what may have moved. Returns how that differs from what was told, if it does.
    pub fn refresh(&mut self, policies: &PolicySection, moved: Moved) -> Option<v1::ServiceChanges> {
        let moved = if self.reaches_further(policies) { Moved::All } else { moved };
        if moved == Moved::None {
            return None;
        }
        let table = Arc::clone(&self.table);
        let mut table = table.lock();
        let mut changes = v1::ServiceChanges::default();
        match moved {
            Moved::None => {}
            Moved::Some(ids) => {
                for id in &ids {
                    let now = table.published(id).filter(|now| self.wants(now)).cloned();
                    changes.changes.extend(self.tell(id, now));
                }
            }
            Moved::All => {
                let wanted = self.wanted(&table);
                let told: HashSet<_> = self.told.iter().map(|told| told.id.clone()).collect();
                for id in told.into_iter().filter(|id| !wanted.contains_key(id)) {
                    changes.changes.extend(self.tell(&id, None));
                }
                for (id, now) in wanted {
                    changes.changes.extend(self.tell(&id, Some(now)));
                }
            }
        }
        let addresses = self.around(&mut table);
        drop(table);
        if addresses.digest != self.addresses.digest {
            let moves = addresses.moves_from(&self.addresses);
            (changes.removed_addresses, changes.added_addresses) = (moves.removed, moves.added);
            self.addresses = addresses;
        }
        let some = self.told.iter().filter(|told| !told.endpoints.is_empty());
        let digest =
            digest::services(some.map(|told| (told.id.as_str(), &told.digest)), &self.addresses.digest);
        (std::mem::replace(&mut self.digest, digest) != digest).then_some(changes)
    }

    /// All that was taken in.
    #[must_use]
    pub fn whole(&self) -> v1::Services {
        v1::Services {
            services: self.told.iter().map(|told| told.message()).collect(),
            addresses: self.addresses.list.clone(),
        }
    }

    /// Of that.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Looks whom the proxy may call, if documents changed.
    fn reaches_further(&mut self, policies: &PolicySection) -> bool {
        if self.subtrees.is_empty() || self.policies.replace(policies.number) == Some(policies.number) {
            return false;
        }
        let reach = policies.reach(&self.id);
        std::mem::replace(&mut self.reach, reach) != self.reach
    }

    fn wants(&self, service: &Published) -> bool {
        let id = &service.id;
        if self.exact.contains(id) {
            return true;
        }
        let follows = self.subtrees.iter().any(|subtree| subtree.contains(id));
        follows && !service.endpoints.is_empty() && self.reach.contains(id)
    }

    fn wanted(&self, table: &Table) -> BTreeMap<SpiffeId, Arc<Published>> {
        let exact = self.exact.iter().filter_map(|id| table.published(id));
        let mut wanted: BTreeMap<_, _> =
            exact.map(|service| (service.id.clone(), Arc::clone(service))).collect();
        for subtree in &self.subtrees {
            let subtree = Pattern::Subtree(subtree.clone());
            for target in self.reach.patterns() {
                let narrower = match (subtree.covers(target), target.covers(&subtree)) {
                    (true, _) => target,
                    (false, true) => &subtree,
                    (false, false) => continue,
                };
                let services = table.matching(narrower).filter(|service| !service.endpoints.is_empty());
                wanted.extend(services.map(|service| (service.id.clone(), Arc::clone(service))));
            }
        }
        wanted
    }

    fn tell(&mut self, id: &SpiffeId, now: Option<Arc<Published>>) -> Option<v1::ServiceChange> {
        let at = self.told.binary_search_by(|told| told.id.cmp(id));
        match (at, now) {
            (Err(_), None) => None,
            (Ok(at), None) => {
                let before = self.told.remove(at);
                (!before.endpoints.is_empty()).then(|| before.removal())
            }
            (Err(at), Some(now)) => {
                let change = (!now.endpoints.is_empty()).then(|| now.change_from(None));
                self.told.insert(at, now);
                change
            }
            (Ok(at), Some(now)) => {
                let told = self.told.get_mut(at)?;
                let before = std::mem::replace(told, now);
                (before.digest != told.digest).then(|| told.change_from(Some(&before)))
            }
        }
    }

    fn around(&self, table: &mut Table) -> Arc<Addresses> {
        match &*self.subtrees {
            [] => Arc::clone(&self.addresses),
            [subtree] => table.addresses(subtree.prefix()),
            subtrees => {
                let mut list = Vec::new();
                for subtree in subtrees {
                    list.extend(table.addresses(subtree.prefix()).list.iter().cloned());
                }
                list.sort_unstable();
                list.dedup();
                Arc::new(Addresses::of(list))
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let prefixes: Vec<_> = self.subtrees.iter().map(|subtree| Arc::clone(subtree.prefix())).collect();
        self.table.lock().unfollow(self.stream, &self.exact, &prefixes);
    }
}
