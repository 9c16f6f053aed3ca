//! Secrets by differences: each is sent when the client comes to want it and when it changed, by a version of its own. A
//! name that there is nothing for is told as removed, as the protocol has it, and sent as soon as there is something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use signet_proto::standard::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use tonic::Status;

use super::discovery::{Sent, Subscription, about_secrets};
use super::feed::Material;
use super::secrets::{Names, TYPE, look_up};
use super::{Asking, Caller, Connected};

/// What a client wants, and what it has.
#[derive(Debug, Default)]
pub(super) struct Delta {
    /// Whether it said what it wants.
    has_asked: bool,
    wanted: Names,
    /// The versions that it has, by name.
    has: BTreeMap<String, String>,
    /// Of what it wants, that of which it was told that there is none.
    told_missing: BTreeSet<String>,
    sent: Sent,
    /// Whose stream it is.
    place: Option<(Arc<Connected>, Caller)>,
}

impl Subscription for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn hear(&mut self, request: DeltaDiscoveryRequest, asking: &Asking) -> Result<bool, Status> {
        about_secrets(&request.type_url)?;
        self.place.get_or_insert_with(|| (Arc::clone(&asking.place), asking.caller));
        // A request may say both: of the answers before it, and what it wants from now on.
        let _ = self.sent.answered_by(&request.response_nonce, request.error_detail.as_ref(), asking);
        let (more, less) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        if !self.has_asked {
            (self.has_asked, self.wanted) = (true, Names::of(more)?);
            // Of a stream before this one.
            let has = request.initial_resource_versions.into_iter();
            self.has = has.filter(|(name, _)| self.wanted.include(name)).collect();
            return Ok(true);
        }
        if more.is_empty() && less.is_empty() {
            return Ok(false);
        }
        for name in less.iter().chain(&more) {
            // What is asked for anew is sent anew: the client may have dropped it meanwhile.
            self.has.remove(name);
            self.told_missing.remove(name);
        }
        self.wanted.change(&less, more)?;
        Ok(true)
    }

    fn names(&self) -> &Names {
        &self.wanted
    }

    fn answer(&mut self, material: &Material) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let looked = look_up(material, &self.wanted);
        let has = self.has.keys().filter(|name| !looked.found.contains_key(*name));
        let gone: BTreeSet<String> = has.cloned().collect();
        let missing: BTreeSet<String> = looked.missing.difference(&self.told_missing).cloned().collect();
        let complains = || self.place.as_ref().is_some_and(|(place, caller)| place.may_complain(*caller));
        if let Some(name) = missing.first()
            && complains()
        {
            tracing::warn!(
                missing = missing.len(),
                why = looked.unknown(name),
                "an SDS client wants a secret that there is not"
            );
        }
        let news = looked.found.iter().filter(|(name, found)| self.has.get(*name) != Some(&found.version));
        let resources: Vec<_> = news
            .map(|(name, found)| Resource {
                version: found.version.clone(),
                resource: Some(found.resource.clone()),
                name: name.clone(),
            })
            .collect();
        self.has.retain(|name, _| !gone.contains(name));
        self.has.extend(resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())));
        let system_version_info = looked.version();
        self.told_missing = looked.missing;
        if resources.is_empty() && missing.is_empty() && gone.is_empty() {
            return Ok(None);
        }
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url: TYPE.into(),
            nonce: self.sent.next(),
            removed_resources: gone.union(&missing).cloned().collect(),
        }))
    }
}
