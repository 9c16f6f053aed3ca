//! What one proxy has, and what it must be told next. Pure: no clock, no I/O.

use std::sync::Arc;
use std::time::SystemTime;

use signet_proto::digest::{Digest, StateDigest};
use signet_proto::policy::{Pattern, Schema};
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use super::MeshState;
use super::bell::Moved;
use super::following::Following;
use super::rotations;
use super::traffic::{TrafficSection, TrafficSubset};
use crate::time;

/// One stream's memory: digests of the sections that its proxy has, once what was sent is in force.
#[derive(Debug)]
pub struct View {
    id: SpiffeId,
    schema: Schema,
    /// The first message goes out even if there is nothing new: it says that.
    begun: bool,
    bundles: Option<Digest>,
    policies: Option<Digest>,
    revocations: Option<Digest>,
    services: Option<Digest>,
    mesh: Option<Digest>,
    traffic: Option<Digest>,
    /// The order to renew that it was told last, on this stream.
    renewal: Option<SystemTime>,
    /// Whom it calls.
    upstreams: Vec<Pattern>,
    /// What is told of services, and what that was taken from.
    services_told: Option<(Arc<TrafficSection>, TrafficSubset)>,
}

impl View {
    /// One of the proxies of `id`, which reads policy documents of `schema` and has `have`.
    #[must_use]
    pub fn new(id: SpiffeId, upstreams: Vec<Pattern>, schema: Schema, have: Option<StateDigest>) -> Self {
        Self {
            id,
            schema,
            begun: false,
            bundles: have.map(|have| have.bundles),
            policies: have.map(|have| have.policies),
            revocations: have.map(|have| have.revocations),
            services: have.map(|have| have.services),
            mesh: have.map(|have| have.mesh),
            traffic: have.map(|have| have.traffic),
            renewal: None,
            upstreams,
            services_told: None,
        }
    }

    /// Nothing is known of what the proxy has: everything is sent again.
    pub fn forget(&mut self) {
        *self = Self::new(self.id.clone(), std::mem::take(&mut self.upstreams), self.schema, None);
    }

    /// The message that brings the proxy from what it has to `state` and the services that it follows: only the
    /// sections whose content differs; `None` if none does. With what the proxy has then.
    pub fn next(
        &mut self,
        state: &MeshState,
        following: &mut Following,
        moved: Moved,
    ) -> Option<(v1::WatchResponse, StateDigest)> {
        let policies = state.policies.subset(&self.id, self.schema);
        let first = !self.begun;
        let changes = following.refresh(if first { Moved::All } else { moved });
        let now = StateDigest {
            bundles: state.bundles.digest,
            policies: policies.digest,
            revocations: state.revocations.digest,
            services: following.digest(),
            mesh: state.settings.digest,
            traffic: self.services_of(state).digest,
        };
        let mut message = v1::WatchResponse {
            revision: state.commit.revision,
            committed_at: Some(time::to_proto(state.commit.at)),
            state: Some(now.message()),
            ..v1::WatchResponse::default()
        };
        if self.bundles.replace(now.bundles) != Some(now.bundles) {
            message.bundles = Some(state.bundles.message.clone());
        }
        if self.revocations.replace(now.revocations) != Some(now.revocations) {
            message.revocations = Some(state.revocations.message.clone());
        }
        if self.policies.replace(now.policies) != Some(now.policies) {
            let documents = policies.documents.iter().map(ToString::to_string).collect();
            message.policies = Some(v1::Policies { documents });
        }
        if self.mesh.replace(now.mesh) != Some(now.mesh) {
            message.mesh = Some(state.settings.message.clone());
        }
        if self.traffic.replace(now.traffic) != Some(now.traffic) {
            message.traffic = Some(self.services_of(state).message());
        }
        if let Some(order) = state.rotations.of(&self.id)
            && self.renewal.replace(order.issued_before) != Some(order.issued_before)
        {
            message.renewal = Some(rotations::message(order));
        }
        if self.services.replace(now.services) != Some(now.services) {
            // Changes are to what was told on this stream, not to what the proxy had before it.
            if first {
                message.services = Some(following.whole());
            } else {
                message.service_changes = changes;
            }
        }
        self.begun = true;
        let news = first
            || message.bundles.is_some()
            || message.policies.is_some()
            || message.revocations.is_some()
            || message.mesh.is_some()
            || message.traffic.is_some()
            || message.renewal.is_some()
            || message.services.is_some()
            || message.service_changes.is_some();
        news.then_some((message, now))
    }

    /// Looked for again only if documents changed: a stream is woken for much else.
    fn services_of(&mut self, state: &MeshState) -> &TrafficSubset {
        let told = self.services_told.take().filter(|(section, _)| Arc::ptr_eq(section, &state.traffic));
        let found = told
            .unwrap_or_else(|| (Arc::clone(&state.traffic), state.traffic.subset(&self.id, &self.upstreams)));
        &self.services_told.insert(found).1
    }
}

#[cfg(test)]
mod tests;
