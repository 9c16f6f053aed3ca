//! What one proxy has been told, and what it must be told next. Pure: no clock, no I/O.

use std::sync::Arc;

use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use super::{MeshState, PolicySection, RevocationSection};
use crate::time;

/// One stream's memory.
#[derive(Debug)]
pub struct View {
    id: SpiffeId,
    told: Option<Told>,
}

#[derive(Debug)]
struct Told {
    bundles: Arc<v1::Bundles>,
    all_policies: Arc<PolicySection>,
    policies: Vec<Arc<str>>,
    revocations: Arc<RevocationSection>,
    services: Vec<v1::Service>,
}

impl View {
    /// Nothing told yet.
    #[must_use]
    pub fn new(id: SpiffeId) -> Self {
        Self { id, told: None }
    }

    /// The message that brings the proxy from what it was told to `state` and `services` (`None`: as they were): whole at first,
    /// then only the sections whose content changed; `None` if none did.
    pub fn next(
        &mut self,
        state: &MeshState,
        services: Option<Vec<v1::Service>>,
    ) -> Option<v1::WatchResponse> {
        let policies = match &self.told {
            Some(told) if Arc::ptr_eq(&told.all_policies, &state.policies) => told.policies.clone(),
            _ => self.concerned(&state.policies),
        };
        let mut message = v1::WatchResponse {
            revision: state.commit.revision,
            committed_at: Some(time::to_proto(state.commit.at)),
            ..v1::WatchResponse::default()
        };
        let first = self.told.is_none();
        let changed =
            |same: fn(&Told, &MeshState) -> bool| self.told.as_ref().is_none_or(|told| !same(told, state));
        if changed(|told, state| Arc::ptr_eq(&told.bundles, &state.bundles) || told.bundles == state.bundles)
        {
            message.bundles = Some((*state.bundles).clone());
        }
        if changed(|told, state| {
            Arc::ptr_eq(&told.revocations, &state.revocations)
                || told.revocations.message == state.revocations.message
        }) {
            message.revocations = Some(state.revocations.message.clone());
        }
        if self.told.as_ref().is_none_or(|told| told.policies != policies) {
            let documents = policies.iter().map(ToString::to_string).collect();
            message.policies = Some(v1::Policies { documents });
        }
        let services = match services {
            Some(services) => {
                if self.told.as_ref().is_none_or(|told| told.services != services) {
                    message.services = Some(v1::Services { services: services.clone() });
                }
                services
            }
            None => self.told.as_mut().map(|told| std::mem::take(&mut told.services)).unwrap_or_default(),
        };
        let news = first
            || message.bundles.is_some()
            || message.policies.is_some()
            || message.revocations.is_some()
            || message.services.is_some();
        self.told = Some(Told {
            bundles: Arc::clone(&state.bundles),
            all_policies: Arc::clone(&state.policies),
            policies,
            revocations: Arc::clone(&state.revocations),
            services,
        });
        news.then_some(message)
    }

    fn concerned(&self, section: &PolicySection) -> Vec<Arc<str>> {
        section
            .documents
            .iter()
            .filter(|(target, _)| target.as_ref().is_none_or(|target| target.matches(&self.id)))
            .map(|(_, document)| Arc::clone(document))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{policy_section, revocation_section};
    use crate::store::model::{Commit, Policy, RevocationList};

    fn document(name: &str, target: &str) -> Policy {
        let document = format!(
            r#"{{"kind":"Policy","name":"{name}","target":"{target}","rules":[{{"name":"r","allow":{{}}}}]}}"#
        );
        Policy {
            name: name.into(),
            target: target.into(),
            document,
            applied_at: time::from_millis(0),
            applied_by: "test".into(),
        }
    }

    fn state(revision: u64, policies: Vec<Policy>, revoked: &[&str]) -> MeshState {
        let revocations = RevocationList {
            identities: revoked.iter().map(|id| (*id).to_owned()).collect(),
            ..RevocationList::default()
        };
        MeshState {
            commit: Commit { revision, at: time::from_millis(1_000) },
            processed: revision,
            bundles: Arc::default(),
            policies: Arc::new(policy_section(policies)),
            revocations: Arc::new(revocation_section(revocations).unwrap()),
        }
    }

    fn orders() -> View {
        View::new("spiffe://mesh.local/orders".parse().unwrap())
    }

    #[test]
    fn first_message_is_complete_even_if_there_is_nothing() {
        let message = orders().next(&state(1, vec![], &[]), Some(vec![])).unwrap();
        assert!(message.bundles.is_some() && message.policies.is_some());
        assert!(message.revocations.is_some() && message.services.is_some());
    }

    #[test]
    fn only_documents_that_protect_the_caller_are_sent() {
        let policies = vec![
            document("mine", "spiffe://mesh.local/orders"),
            document("all", "spiffe://mesh.local/*"),
            document("below-me", "spiffe://mesh.local/orders/*"),
            document("other", "spiffe://mesh.local/payments"),
        ];
        let message = orders().next(&state(1, policies, &[]), Some(vec![])).unwrap();
        let documents = message.policies.unwrap().documents;
        assert_eq!(documents.len(), 2);
        assert!(documents[0].contains("\"mine\"") && documents[1].contains("\"all\""));
    }

    #[test]
    fn change_that_does_not_concern_the_caller_sends_nothing() {
        let mine = document("mine", "spiffe://mesh.local/orders");
        let other = document("other", "spiffe://mesh.local/payments");
        let mut view = orders();
        view.next(&state(1, vec![mine.clone()], &[]), Some(vec![])).unwrap();
        assert_eq!(view.next(&state(2, vec![mine, other], &[]), Some(vec![])), None);
    }

    #[test]
    fn only_changed_sections_are_sent() {
        let mine = document("mine", "spiffe://mesh.local/orders");
        let mut view = orders();
        view.next(&state(1, vec![mine.clone()], &[]), Some(vec![])).unwrap();
        let message = view.next(&state(2, vec![mine], &["spiffe://mesh.local/batch"]), Some(vec![])).unwrap();
        assert_eq!(message.revision, 2);
        assert!(message.bundles.is_none() && message.policies.is_none() && message.services.is_none());
        assert_eq!(message.revocations.unwrap().identities, ["spiffe://mesh.local/batch"]);
    }

    #[test]
    fn removed_document_is_sent_as_the_shorter_list() {
        let mut view = orders();
        view.next(&state(1, vec![document("mine", "spiffe://mesh.local/orders")], &[]), Some(vec![]))
            .unwrap();
        let message = view.next(&state(2, vec![], &[]), Some(vec![])).unwrap();
        assert_eq!(message.policies.unwrap().documents, Vec::<String>::new());
    }

    #[test]
    fn unreadable_document_is_sent_to_those_it_is_for_and_holds_back_nothing() {
        let broken = |name: &str, target: &str| Policy { document: "{".into(), ..document(name, target) };
        let policies = vec![
            broken("mine", "spiffe://mesh.local/orders"),
            broken("other", "spiffe://mesh.local/payments"),
            broken("whose", "?"),
        ];
        let state = state(1, policies, &["spiffe://mesh.local/batch"]);
        let message = orders().next(&state, Some(vec![])).unwrap();
        assert_eq!(message.policies.unwrap().documents, ["{", "{"]);
        assert_eq!(message.revocations.unwrap().identities, ["spiffe://mesh.local/batch"]);
        let request = signet_proto::policy::Request {
            source: Some(&"spiffe://mesh.local/a".parse().unwrap()),
            destination: &"spiffe://mesh.local/b".parse().unwrap(),
            port: 1,
            layer: signet_proto::policy::Layer::Opaque,
            now: time::from_millis(0),
        };
        let verdict = state.policies.compiled.decide(&request);
        assert_eq!(verdict.reason.as_str(), "policy_unreadable");
    }

    #[test]
    fn moved_endpoint_is_sent_alone() {
        let state = state(1, vec![], &[]);
        let service = |port| v1::Service {
            spiffe_id: "spiffe://mesh.local/payments".into(),
            endpoints: vec![v1::Endpoint {
                address: "10.0.0.1".into(),
                port,
                instance: "i".into(),
                app_port: 8080,
            }],
        };
        let mut view = orders();
        view.next(&state, Some(vec![service(1)])).unwrap();
        assert_eq!(view.next(&state, Some(vec![service(1)])), None);
        let message = view.next(&state, Some(vec![service(2)])).unwrap();
        assert!(message.policies.is_none() && message.revocations.is_none());
        assert_eq!(message.services.unwrap().services, [service(2)]);
    }
}
