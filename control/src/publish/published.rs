//! What streams are told of one service, and of addresses: made once for all of them, with the difference to what
//! was before.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use signet_proto::digest::{self, Digest};
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

/// The endpoints of one service.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) id: SpiffeId,
    /// By instance.
    pub(super) endpoints: Vec<v1::Endpoint>,
    pub(super) digest: Digest,
    /// From what was before.
    change: Option<(Digest, v1::ServiceChange)>,
}

/// Addresses of instances, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) list: Vec<String>,
    pub(super) digest: Digest,
    change: Option<(Digest, Moves)>,
}

/// Addresses that are gone, and such that are new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) removed: Vec<String>,
    pub(super) added: Vec<String>,
}

impl Published {
    pub(super) fn new(id: SpiffeId, endpoints: Vec<v1::Endpoint>, before: Option<&Self>) -> Self {
        let change = before.map(|before| (before.digest, difference(&id, &before.endpoints, &endpoints)));
        Self { digest: digest::endpoints(&endpoints), id, endpoints, change }
    }

    /// As it is sent.
    pub(super) fn message(&self) -> v1::Service {
        v1::Service { spiffe_id: self.id.to_string(), endpoints: self.endpoints.clone() }
    }

    /// What is different from `before`; `None`: nothing was known.
    pub(super) fn change_from(&self, before: Option<&Self>) -> v1::ServiceChange {
        match (before, &self.change) {
            (Some(before), Some((from, change))) if *from == before.digest => change.clone(),
            (before, _) => {
                let before = before.map_or(&[][..], |before| &before.endpoints);
                difference(&self.id, before, &self.endpoints)
            }
        }
    }

    /// What is different when there is nothing any more.
    pub(super) fn removal(&self) -> v1::ServiceChange {
        difference(&self.id, &self.endpoints, &[])
    }
}

impl Addresses {
    pub(super) fn of(list: Vec<String>) -> Self {
        Self { digest: digest::addresses(list.iter().map(String::as_str)), list, change: None }
    }

    /// The same with what was before.
    pub(super) fn next<'a>(&self, addresses: impl Iterator<Item = &'a IpAddr>) -> Self {
        let mut list: Vec<_> = addresses.map(ToString::to_string).collect();
        list.sort_unstable();
        let next = Self::of(list);
        let moves = next.moves_from(self);
        Self { change: Some((self.digest, moves)), ..next }
    }

    pub(super) fn moves_from(&self, before: &Self) -> Moves {
        if let Some((from, moves)) = &self.change
            && *from == before.digest
        {
            return moves.clone();
        }
        let (old, new): (HashSet<_>, HashSet<_>) = (before.list.iter().collect(), self.list.iter().collect());
        Moves {
            removed: before.list.iter().filter(|address| !new.contains(address)).cloned().collect(),
            added: self.list.iter().filter(|address| !old.contains(address)).cloned().collect(),
        }
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

/// Instances whose endpoints are different come anew.
fn difference(id: &SpiffeId, before: &[v1::Endpoint], after: &[v1::Endpoint]) -> v1::ServiceChange {
    let by_instance = |endpoints: &[v1::Endpoint]| {
        let mut instances: BTreeMap<String, Vec<v1::Endpoint>> = BTreeMap::new();
        for endpoint in endpoints {
            instances.entry(endpoint.instance.clone()).or_default().push(endpoint.clone());
        }
        instances
    };
    let (before, mut after) = (by_instance(before), by_instance(after));
    let mut removed = Vec::new();
    for (instance, endpoints) in before {
        if after.get(&instance) == Some(&endpoints) {
            after.remove(&instance);
        } else {
            removed.push(instance);
        }
    }
    let added = after.into_values().flatten().collect();
    v1::ServiceChange { spiffe_id: id.to_string(), removed, added }
}
