//! Other trust domains and their bundles, on either engine.

use signet_proto::spiffe::{TrustBundle, TrustDomain};

use super::*;
use crate::store::model::{BundleEndpoint, EndpointProof, Fetched, NewFederation};

both_engines!(
    bundle_of_another_domain_is_published_and_does_not_go_back,
    federations_are_bounded_and_each_is_there_once,
);

fn other() -> TrustDomain {
    "other.example".parse().unwrap()
}

fn bundle(sequence: u64) -> TrustBundle {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    TrustBundle::new(other(), vec![root.into()], sequence).unwrap()
}

fn new(trust_domain: TrustDomain, proof: EndpointProof) -> NewFederation {
    let endpoint = BundleEndpoint { url: "https://other.example/bundle".into(), proof };
    NewFederation { trust_domain, endpoint, bundle: None }
}

async fn bundle_of_another_domain_is_published_and_does_not_go_back(fixture: Fixture) {
    let store = &fixture.store;
    let proof = EndpointProof::Web { authorities: Some("PEM".into()) };
    let created = store.create_federation(new(other(), proof.clone()), operator()).await.unwrap();
    let one = store.federations().await.unwrap().swap_remove(0);
    assert_eq!((&one.endpoint.proof, &one.bundle, one.fetched_at), (&proof, &None, None));
    assert!(one.due <= time::now(), "it is fetched at once");

    let (hint, due) = (Some(Duration::from_secs(60)), time::now() + HOUR);
    let known = async || store.federations().await.unwrap().swap_remove(0);
    let note = async |fetched| store.note_fetch(known().await, fetched, due, operator()).await;
    let told = |bundle: &TrustBundle| Fetched::Bundle(Box::new(bundle.clone()), hint);
    let first = bundle(7);
    let changed = note(told(&first)).await.unwrap();
    assert!(changed.commit.revision > created.commit.revision);
    let read = store.mesh_since(Some(created.commit)).await.unwrap();
    assert_eq!(read.bundle.unwrap().federated, std::slice::from_ref(&first));
    assert_eq!(note(told(&first)).await.unwrap().commit, changed.commit, "nothing changed");
    assert_eq!(note(Fetched::Nothing("x".repeat(5000))).await.unwrap().commit, changed.commit);
    let one = store.federations().await.unwrap().swap_remove(0);
    assert_eq!((one.failures, one.refresh_hint, one.bundle), (1, hint, Some(first)));
    assert_eq!(one.error.map(|error| error.len()), Some(512));

    let back = note(told(&bundle(6))).await;
    assert!(matches!(back, Err(StoreError::Refused(Refusal::BundleWentBack(_)))), "{back:?}");
    let given = bundle(2);
    let before = known().await;
    store.replace_federated_bundle(given.clone(), operator()).await.unwrap();
    let late = store.note_fetch(before, told(&bundle(8)), due, operator()).await;
    assert!(matches!(late, Err(StoreError::Refused(Refusal::FetchedMeanwhile(_)))), "{late:?}");
    assert_eq!(known().await.bundle, Some(given.clone()), "what an operator gave counts");
    note(told(&bundle(3))).await.unwrap();
    note(Fetched::Distrusted).await.unwrap();
    assert_eq!(store.mesh_since(None).await.unwrap().bundle.unwrap().federated, []);
    let back = note(told(&given)).await;
    assert!(
        matches!(back, Err(StoreError::Refused(Refusal::BundleWentBack(_)))),
        "nor by a way round: {back:?}"
    );

    let before = known().await;
    store.delete_federation(other(), operator()).await.unwrap();
    assert_eq!(store.federations().await.unwrap(), []);
    let gone = store.note_fetch(before, Fetched::Distrusted, due, operator()).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{gone:?}");
    let events = store.newest_events(20, Some("other.example".into())).await.unwrap();
    let mut actions: Vec<_> = events.iter().map(|event| &*event.action).collect();
    actions.dedup();
    let told = "federation.bundle";
    assert_eq!(actions, ["federation.created", told, "federation.distrusted", "federation.deleted"]);
    fixture.verified_events().await;
}

async fn federations_are_bounded_and_each_is_there_once(fixture: Fixture) {
    let id = "spiffe://other.example/control".parse().unwrap();
    let proof = EndpointProof::Spiffe(id);
    let create = async |name: String| {
        fixture.store.create_federation(new(name.parse().unwrap(), proof.clone()), operator()).await
    };
    for number in 0..64 {
        create(format!("d{number}.example")).await.unwrap();
    }
    let twice = create("d0.example".into()).await;
    assert!(matches!(twice, Err(StoreError::Exists { .. })), "{twice:?}");
    let more = create("e.example".into()).await;
    assert!(matches!(more, Err(StoreError::Refused(Refusal::TooManyFederations))), "{more:?}");
    let all = fixture.store.federations().await.unwrap();
    assert!(all.len() == 64 && all.iter().all(|one| one.endpoint.proof == proof));
}
