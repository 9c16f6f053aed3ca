//! All documents of `kind: Service`, and which of them one proxy is told: that of its own identity, and those of the
//! identities that it calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use signet_proto::digest::{self, Digest};
use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use crate::store::model::NewService;

/// The documents as of one commit.
#[derive(Debug, Default)]
pub struct TrafficSection(BTreeMap<SpiffeId, Arc<str>>);

/// The documents that concern one proxy.
#[derive(Debug)]
pub struct TrafficSubset {
    documents: Vec<Arc<str>>,
    pub(super) digest: Digest,
}

impl TrafficSection {
    /// The section with these documents, and of whom one came, went or says something else.
    #[must_use]
    pub fn next(&self, services: Vec<NewService>) -> (Self, BTreeSet<SpiffeId>) {
        let now: BTreeMap<SpiffeId, Arc<str>> =
            services.into_iter().map(|service| (service.id, service.document.into())).collect();
        let changed = self.0.keys().chain(now.keys()).filter(|id| self.0.get(id) != now.get(id));
        let changed = changed.cloned().collect();
        (Self(now), changed)
    }

    /// What the proxies of `id` are told that call `upstreams`.
    #[must_use]
    pub fn subset(&self, id: &SpiffeId, upstreams: &[Pattern]) -> TrafficSubset {
        let mut found: BTreeMap<&SpiffeId, &Arc<str>> = self.0.get_key_value(id).into_iter().collect();
        for upstream in upstreams {
            match upstream {
                Pattern::Exact(id) => found.extend(self.0.get_key_value(id)),
                subtree => found.extend(self.0.iter().filter(|(id, _)| subtree.matches(id))),
            }
        }
        let documents: Vec<Arc<str>> = found.into_values().cloned().collect();
        TrafficSubset { digest: digest::traffic(documents.iter().map(AsRef::as_ref)), documents }
    }
}

impl TrafficSubset {
    /// As it is sent.
    #[must_use]
    pub fn message(&self) -> v1::Traffic {
        v1::Traffic { documents: self.documents.iter().map(ToString::to_string).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_told_of_itself_and_of_those_whom_it_calls() {
        let service = |name: &str| NewService {
            id: format!("spiffe://td/{name}").parse().unwrap(),
            document: name.to_owned(),
        };
        let (section, all) =
            TrafficSection::default().next(["a", "b", "shop/c", "shop/d"].map(service).into());
        assert_eq!(all.len(), 4);
        let told = |id: &str, upstreams: &[&str]| {
            let upstreams: Vec<Pattern> = upstreams.iter().map(|text| text.parse().unwrap()).collect();
            section.subset(&id.parse().unwrap(), &upstreams).message().documents.join(" ")
        };
        assert_eq!(told("spiffe://td/a", &[]), "a");
        assert_eq!(told("spiffe://td/a", &["spiffe://td/b", "spiffe://td/a", "spiffe://td/x"]), "a b");
        assert_eq!(told("spiffe://td/x", &["spiffe://td/shop/*", "spiffe://td/shop/c"]), "shop/c shop/d");
        assert_eq!(told("spiffe://td/x", &["spiffe://td/*"]), "a b shop/c shop/d");
        let subset = |id: &str| section.subset(&id.parse().unwrap(), &[]).digest;
        assert_eq!(subset("spiffe://td/x"), subset("spiffe://td/y"));
        assert_ne!(subset("spiffe://td/x"), subset("spiffe://td/a"));
    }

    #[test]
    fn what_came_went_or_says_something_else_has_changed() {
        let of = |services: &[(&str, &str)]| {
            let services = services.iter().map(|(name, document)| NewService {
                id: format!("spiffe://td/{name}").parse().unwrap(),
                document: (*document).to_owned(),
            });
            services.collect::<Vec<_>>()
        };
        let (before, _) = TrafficSection::default().next(of(&[("same", "1"), ("other", "1"), ("gone", "1")]));
        let (after, changed) = before.next(of(&[("same", "1"), ("other", "2"), ("new", "1")]));
        let changed: Vec<_> = changed.iter().map(SpiffeId::as_str).collect();
        assert_eq!(changed, ["spiffe://td/gone", "spiffe://td/new", "spiffe://td/other"]);
        assert!(after.next(of(&[("new", "1"), ("other", "2"), ("same", "1")])).1.is_empty());
    }
}
