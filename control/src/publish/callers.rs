//! Who calls whom: the streams that follow an identity, by its name or by a subtree around it.

use std::collections::HashMap;
use std::sync::Arc;

use signet_proto::policy::{Pattern, ancestors};
use signet_proto::spiffe::{InstanceId, SpiffeId};

/// The index.
#[derive(Debug, Default)]
pub(super) struct Callers {
    exact: HashMap<SpiffeId, Vec<InstanceId>>,
    /// By prefix.
    subtrees: HashMap<Arc<str>, Vec<InstanceId>>,
}

impl Callers {
    /// This instance calls these.
    pub(super) fn insert(&mut self, upstreams: &[Pattern], caller: InstanceId) {
        for upstream in upstreams {
            let callers = match upstream {
                Pattern::Exact(id) => self.exact.entry(id.clone()).or_default(),
                Pattern::Subtree(subtree) => self.subtrees.entry(Arc::clone(subtree.prefix())).or_default(),
            };
            if !callers.contains(&caller) {
                callers.push(caller);
            }
        }
    }

    /// It does not any more.
    pub(super) fn remove(&mut self, upstreams: &[Pattern], caller: &InstanceId) {
        for upstream in upstreams {
            match upstream {
                Pattern::Exact(id) => {
                    if let Some(callers) = self.exact.get_mut(id) {
                        callers.retain(|known| known != caller);
                        if callers.is_empty() {
                            self.exact.remove(id);
                        }
                    }
                }
                Pattern::Subtree(subtree) => {
                    if let Some(callers) = self.subtrees.get_mut(subtree.prefix()) {
                        callers.retain(|known| known != caller);
                        if callers.is_empty() {
                            self.subtrees.remove(subtree.prefix());
                        }
                    }
                }
            }
        }
    }

    /// Those that call `id`; who does by several names, several times.
    pub(super) fn of(&self, id: &SpiffeId) -> impl Iterator<Item = &InstanceId> {
        let around = ancestors(id).filter_map(|prefix| self.subtrees.get(prefix));
        self.exact.get(id).into_iter().chain(around).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_found_by_name_and_subtree_and_leave_nothing_behind() {
        let patterns =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Pattern>>();
        let [one, all, other] = [(); 3].map(|()| InstanceId::random().unwrap());
        let entries = [
            (patterns(&["spiffe://td/shop/web", "spiffe://td/shop/web"]), one),
            (patterns(&["spiffe://td/*", "spiffe://td/shop/*"]), all),
            (patterns(&["spiffe://td/shopping"]), other),
        ];
        let mut callers = Callers::default();
        for (upstreams, caller) in &entries {
            callers.insert(upstreams, *caller);
        }
        let of = |callers: &Callers, id: &str| {
            let mut found: Vec<InstanceId> = callers.of(&id.parse().unwrap()).copied().collect();
            found.dedup();
            found
        };
        assert_eq!(of(&callers, "spiffe://td/shop/web"), [one, all]);
        assert_eq!(of(&callers, "spiffe://td/shopping"), [other, all]);
        assert!(of(&callers, "spiffe://other/shop/web").is_empty());
        for (upstreams, caller) in &entries {
            callers.remove(upstreams, caller);
        }
        assert!(callers.exact.is_empty() && callers.subtrees.is_empty());
    }
}
