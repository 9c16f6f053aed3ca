use std::sync::Arc;

use super::super::bell::Bell;
use super::super::endpoints::Endpoints;
use super::super::policies::tests::document as written;
use super::*;
use crate::publish::Concerned;
use crate::store::model::{BundleRead, Commit, Lease, Listener, MeshRead, Policy, RevocationList};

fn document(name: &str, target: &str) -> Policy {
    written(name, target, r#""allow":{}"#)
}

fn state(revision: u64, policies: Vec<Policy>, revoked: &[&str]) -> MeshState {
    let revocations = RevocationList {
        identities: revoked.iter().map(|id| (*id).to_owned()).collect(),
        ..RevocationList::default()
    };
    let commit = Commit { revision, at: time::from_millis(1_000) };
    let read = MeshRead {
        commit,
        bundle: Some(BundleRead { authorities: vec![vec![1]], ..BundleRead::default() }),
        policies: Some(policies),
        revocations: Some(revocations),
        settings: None,
        rotations: None,
        services: None,
        went_back: false,
    };
    MeshState::empty(commit).advance(read, &"mesh.local".parse().unwrap()).unwrap().unwrap().0
}

/// A stream of `orders`, and what its proxy has.
struct Orders {
    view: View,
    following: Following,
    endpoints: Endpoints,
    bell: Arc<Bell>,
}

impl Orders {
    fn new() -> Self {
        Self::with(None, Endpoints::default())
    }

    fn with(have: Option<StateDigest>, endpoints: Endpoints) -> Self {
        let id: SpiffeId = "spiffe://mesh.local/orders".parse().unwrap();
        let bell = Arc::new(Bell::default());
        let upstream = "spiffe://mesh.local/payments".parse().unwrap();
        let following = endpoints.follow(1, &bell, &[upstream]);
        Self { view: View::new(id, Vec::new(), Schema::NEWEST, have), following, endpoints, bell }
    }

    fn next(&mut self, state: &MeshState) -> Option<v1::WatchResponse> {
        let moved = self.bell.take().services;
        self.view.next(state, &mut self.following, moved).map(|(message, _)| message)
    }
}

fn payments(port: u16) -> Lease {
    Lease {
        instance: signet_proto::spiffe::InstanceId::from_bytes([7; 16]),
        spiffe_id: "spiffe://mesh.local/payments".parse().unwrap(),
        address: "10.0.0.1".parse().unwrap(),
        listeners: vec![Listener { port, app_port: 8080 }],
        locality: None,
    }
}

#[test]
fn first_message_is_complete_even_if_there_is_nothing() {
    let message = Orders::new().next(&state(1, vec![], &[])).unwrap();
    assert!(message.bundles.is_some() && message.policies.is_some());
    assert!(message.revocations.is_some() && message.services.is_some());
    assert!(message.state.is_some());
}

#[test]
fn only_documents_that_protect_the_caller_are_sent() {
    let policies = vec![
        document("mine", "spiffe://mesh.local/orders"),
        document("all", "spiffe://mesh.local/*"),
        document("below-me", "spiffe://mesh.local/orders/*"),
        document("other", "spiffe://mesh.local/payments"),
    ];
    let message = Orders::new().next(&state(1, policies, &[])).unwrap();
    let documents = message.policies.unwrap().documents;
    assert_eq!(documents.len(), 2);
    assert!(documents[0].contains("\"all\"") && documents[1].contains("\"mine\""));
}

#[test]
fn change_that_does_not_concern_the_caller_sends_nothing() {
    let mine = document("mine", "spiffe://mesh.local/orders");
    let other = document("other", "spiffe://mesh.local/payments");
    let mut orders = Orders::new();
    orders.next(&state(1, vec![mine.clone()], &[])).unwrap();
    assert_eq!(orders.next(&state(2, vec![mine, other], &[])), None);
}

#[test]
fn only_changed_sections_are_sent() {
    let mine = document("mine", "spiffe://mesh.local/orders");
    let mut orders = Orders::new();
    orders.next(&state(1, vec![mine.clone()], &[])).unwrap();
    let message = orders.next(&state(2, vec![mine], &["spiffe://mesh.local/batch"])).unwrap();
    assert_eq!(message.revision, 2);
    assert!(message.bundles.is_none() && message.policies.is_none() && message.services.is_none());
    assert_eq!(message.revocations.unwrap().identities, ["spiffe://mesh.local/batch"]);
}

#[test]
fn settings_of_the_mesh_are_sent_when_they_change_also_if_nobody_can_read_them() {
    let with = |revision: u64, document: &str| {
        let commit = Commit { revision, at: time::from_millis(1_000) };
        let read = MeshRead {
            commit,
            bundle: None,
            policies: None,
            revocations: None,
            settings: Some(document.into()),
            rotations: None,
            services: None,
            went_back: false,
        };
        let (next, concerned) =
            state(1, vec![], &[]).advance(read, &"mesh.local".parse().unwrap()).unwrap().unwrap();
        assert_eq!(concerned, Concerned::Everyone);
        next
    };
    let mut orders = Orders::new();
    assert_eq!(orders.next(&state(1, vec![], &[])).unwrap().mesh.unwrap().document, "");
    for (revision, document) in [(2, r#"{"kind":"Mesh","mode":"permissive"}"#), (3, "{"), (4, "")] {
        let message = orders.next(&with(revision, document)).unwrap();
        assert_eq!(message.mesh.unwrap().document, document);
        assert!(message.policies.is_none() && message.bundles.is_none());
        assert_eq!(orders.next(&with(revision, document)), None);
    }
}

#[test]
fn removed_document_is_sent_as_the_shorter_list() {
    let mut orders = Orders::new();
    orders.next(&state(1, vec![document("mine", "spiffe://mesh.local/orders")], &[])).unwrap();
    let message = orders.next(&state(2, vec![], &[])).unwrap();
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
    let message = Orders::new().next(&state).unwrap();
    assert_eq!(message.policies.unwrap().documents, ["{", "{"]);
    assert_eq!(message.revocations.unwrap().identities, ["spiffe://mesh.local/batch"]);
    let request = signet_proto::policy::Request {
        direction: signet_proto::policy::Direction::Inbound,
        source: Some(&"spiffe://mesh.local/a".parse().unwrap()),
        destination: &"spiffe://mesh.local/b".parse().unwrap(),
        port: Some(1),
        address: None,
        layer: signet_proto::policy::Layer::Opaque,
        now: time::from_millis(0),
    };
    let verdict = state.policies.compiled().decide(&request);
    assert_eq!(verdict.reason.as_str(), "policy_unreadable");
}

#[test]
fn moved_endpoint_is_sent_alone_and_as_the_difference() {
    let state = state(1, vec![], &[]);
    let mut orders = Orders::new();
    orders.endpoints.hold(1, &payments(1));
    let first = orders.next(&state).unwrap();
    assert_eq!(first.services.unwrap().services[0].endpoints[0].port, 1);
    orders.endpoints.hold(2, &payments(1));
    assert_eq!(orders.next(&state), None);
    orders.endpoints.hold(3, &payments(2));
    let message = orders.next(&state).unwrap();
    assert!(message.policies.is_none() && message.revocations.is_none() && message.services.is_none());
    let change = &message.service_changes.unwrap().changes[0];
    assert_eq!((change.removed.len(), change.added[0].port), (1, 2));
}

#[test]
fn who_has_everything_from_before_is_told_only_that() {
    let policies = || vec![document("mine", "spiffe://mesh.local/orders")];
    let mut orders = Orders::new();
    orders.endpoints.hold(1, &payments(1));
    let told = orders.next(&state(7, policies(), &["spiffe://mesh.local/batch"])).unwrap();
    let have = StateDigest::read(&told.state.unwrap());
    // Another control, with a store that is older by number, but not in content.
    let endpoints = Endpoints::default();
    endpoints.hold(1, &payments(1));
    let mut again = Orders::with(have, endpoints);
    let message = again.next(&state(3, policies(), &["spiffe://mesh.local/batch"])).unwrap();
    assert_eq!(message.revision, 3);
    assert!(message.bundles.is_none() && message.policies.is_none());
    assert!(message.revocations.is_none() && message.services.is_none());
    let mut changed = Orders::with(have, Endpoints::default());
    let message = changed.next(&state(7, Vec::new(), &["spiffe://mesh.local/batch"])).unwrap();
    assert!(message.bundles.is_none() && message.revocations.is_none());
    assert!(message.policies.is_some() && message.services.is_some());
    changed.view.forget();
    let message = changed.next(&state(7, Vec::new(), &[])).unwrap();
    assert!(message.bundles.is_some() && message.policies.is_some());
    assert!(message.revocations.is_some() && message.services.is_some());
}
