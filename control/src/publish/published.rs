//! What streams are told of one service: made once for all of them, with the difference to what was before.

use std::collections::BTreeMap;

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
