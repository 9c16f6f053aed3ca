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
use super::published::Published;

/// One stream's.
#[derive(Debug)]
pub struct Following {
    stream: u64,
    exact: Vec<SpiffeId>,
    subtrees: Vec<Subtree>,
    /// By identity.
    told: Vec<Arc<Published>>,
    digest: Digest,
    table: Arc<Mutex<Table>>,
}

impl Following {
    pub(super) fn new(stream: u64, upstreams: &[Pattern], table: Arc<Mutex<Table>>) -> Self {
        let exact = upstreams.iter().filter_map(|upstream| match upstream {
            Pattern::Exact(id) => Some(id.clone()),
            Pattern::Subtree(_) => None,
        });
        let subtrees = upstreams.iter().filter_map(|upstream| match upstream {
            Pattern::Subtree(subtree) => Some(subtree.clone()),
            Pattern::Exact(_) => None,
        });
        Self {
            stream,
            exact: exact.collect(),
            subtrees: subtrees.collect(),
            told: Vec::new(),
            digest: digest::services([]),
            table,
        }
    }

    /// Takes in what may have moved. Returns how that differs from what was told, if it does.
    pub fn refresh(&mut self, moved: Moved) -> Option<v1::ServiceChanges> {
        if moved == Moved::None {
            return None;
        }
        let table = Arc::clone(&self.table);
        let table = table.lock();
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
        drop(table);
        let some = self.told.iter().filter(|told| !told.endpoints.is_empty());
        let digest = digest::services(some.map(|told| (told.id.as_str(), &told.digest)));
        (std::mem::replace(&mut self.digest, digest) != digest).then_some(changes)
    }

    /// All that was taken in.
    #[must_use]
    pub fn whole(&self) -> v1::Services {
        v1::Services { services: self.told.iter().map(|told| told.message()).collect() }
    }

    /// Of that.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    fn wants(&self, service: &Published) -> bool {
        let id = &service.id;
        if self.exact.contains(id) {
            return true;
        }
        let follows = self.subtrees.iter().any(|subtree| subtree.contains(id));
        follows && !service.endpoints.is_empty()
    }

    fn wanted(&self, table: &Table) -> BTreeMap<SpiffeId, Arc<Published>> {
        let exact = self.exact.iter().filter_map(|id| table.published(id));
        let mut wanted: BTreeMap<_, _> =
            exact.map(|service| (service.id.clone(), Arc::clone(service))).collect();
        for subtree in &self.subtrees {
            let services = table.below(subtree).filter(|service| !service.endpoints.is_empty());
            wanted.extend(services.map(|service| (service.id.clone(), Arc::clone(service))));
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
}

impl Drop for Following {
    fn drop(&mut self) {
        let prefixes: Vec<_> = self.subtrees.iter().map(|subtree| Arc::clone(subtree.prefix())).collect();
        self.table.lock().unfollow(self.stream, &self.exact, &prefixes);
    }
}
