//! Workloads, templates and documents, on both engines.

use std::collections::BTreeSet;

use serde_json::json;

use super::model::{RevocationTarget, WorkloadStatus};
use super::*;
use crate::attest::{ProofUse, Proven};
use crate::registry::{DocumentSet, File, Name, PlanOptions, Selector, plan};
use crate::roles::{Binding, Permission, Refused, Scope};
use crate::store::entitlement;

both_engines![
    a_registration_keeps_all_that_was_declared,
    documents_of_both_kinds_become_one_revision,
    what_is_refused_in_the_commit_writes_nothing,
    a_pruned_workload_is_retired_and_revoked,
    a_suspension_by_hand_or_a_revocation_is_lifted_by_hand_only,
    a_template_gives_one_row_for_each_proof,
    a_proof_that_is_good_with_one_key_proves_nothing_with_another,
    a_template_gives_no_more_than_its_limit,
    what_templates_gave_and_nobody_holds_is_forgotten,
    dns_names_and_labels_are_of_whoever_has_them_first,
    what_a_template_says_is_handed_down,
    a_template_takes_its_identities_with_it,
    a_registration_of_its_own_takes_an_identity_over,
    a_temporary_workload_gets_nothing_after_its_end,
    hundreds_of_documents_are_one_change,
    what_was_suspended_before_is_by_hand,
    the_document_of_the_mesh_is_deleted_by_who_may_change_everything,
];

fn label(text: &str) -> OwnerLabel {
    text.parse().unwrap()
}

fn full(name: &str) -> String {
    format!(
        "kind: Workload\nid: spiffe://mesh.local/{name}\nowner: {{ team: shop, contact: shop@prod.example }}\n\
         purpose: test\nenvironment: production\nselectors: [\"prod:namespace:shop\", \"prod:pod:{name}\"]\n\
         ttl: {{ default: 1h, min: 5m, max: 1d }}\ndns: [{name}.shop.example]\nuntil: 2100-01-31T00:00:00.250Z\n\
         approval: two\n"
    )
}

const CLUSTER: &str = "spiffe://mesh.local/ns/{namespace}/sa/{serviceaccount}";

fn cluster(more: &str) -> String {
    format!(
        "kind: Workload\nid: {CLUSTER}\nowner: {{ team: platform }}\npurpose: cluster\nselectors: [prod]\n\
         ttl: {{ default: 1h }}\ndns: [\"{{serviceaccount}}.{{namespace}}.svc\"]\n{more}"
    )
}

fn policy_document(name: &str) -> String {
    format!("kind: Policy\nname: {name}\ntarget: spiffe://mesh.local/{name}\nrules: []\n")
}

async fn try_apply(
    fixture: &Fixture,
    owner: &str,
    documents: &[String],
    options: PlanOptions,
) -> Result<(Commit, Plan), StoreError> {
    let yaml = documents.join("---\n");
    let set = DocumentSet::read(&[File { name: "mesh.yaml".into(), yaml }]).unwrap();
    let owner = label(owner);
    let decide = move |current: &model::Documents| {
        let plan = plan(current, &set, &owner, options);
        let refused = match plan.refused.first() {
            Some(refused) => Err(Refusal::NotApplied(refused.to_string())),
            None => Ok(()),
        };
        (plan, refused)
    };
    fixture.store.apply_documents(operator(), decide).await
}

async fn apply(fixture: &Fixture, documents: &[String]) -> (Commit, Plan) {
    try_apply(fixture, "shop", documents, PlanOptions::default()).await.unwrap()
}

fn pod(namespace: &str, account: &str) -> BTreeSet<Selector> {
    [("namespace", namespace), ("serviceaccount", account)]
        .map(|(key, value)| Selector::new("prod", key, value).unwrap())
        .into()
}

async fn admit(fixture: &Fixture, id: &SpiffeId, proven: BTreeSet<Selector>) -> Result<(), StoreError> {
    let id = id.clone();
    fixture.store.write(move |change| entitlement::admit(change, &id, &proven, &Actor::control(), 2)).await
}

async fn status(fixture: &Fixture, id: &SpiffeId) -> WorkloadStatus {
    fixture.store.workload(id.clone()).await.unwrap().status
}

async fn revoked(fixture: &Fixture) -> Vec<String> {
    fixture.store.mesh_since(None).await.unwrap().revocations.unwrap().identities
}

async fn a_registration_keeps_all_that_was_declared(fixture: Fixture) {
    let set = DocumentSet::read(&[File { name: "w".into(), yaml: full("w") }]).unwrap();
    let declaration = set.workloads[0].document.clone();
    let created = fixture.store.create_workload(declaration.clone(), operator()).await.unwrap();
    assert_eq!((&created.declaration, &created.managed_by, created.held), (&declaration, &None, false));
    let fixture = fixture.reopen();
    let listed = fixture.store.workloads().await.unwrap();
    assert!(listed.contains(&created), "{listed:?}");
    let workload = fixture.store.workload(id("w")).await.unwrap();
    assert_eq!((workload.ttl, workload.ttl_min), (HOUR, Some(Duration::from_secs(300))));
    assert_eq!((workload.dns, workload.approval), (vec!["w.shop.example".to_owned()], Approval::Two));
    let again = fixture.store.create_workload(declaration, operator()).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })));
}

async fn documents_of_both_kinds_become_one_revision(fixture: Fixture) {
    let before = fixture.store.committed().borrow().revision;
    let events = fixture.verified_events().await;
    let documents = [full("a"), full("b"), cluster(""), policy_document("a")];
    let (commit, plan) = apply(&fixture, &documents).await;
    assert_eq!(commit.revision, before + 1);
    assert_eq!(fixture.verified_events().await, events + 4, "one event for each document");
    assert_eq!(plan.changes.len(), 4);
    let stored = fixture.store.documents().await.unwrap();
    assert_eq!(stored.changed, commit.revision);
    let names: Vec<_> = stored.workloads.iter().map(|stored| stored.declaration.name.to_string()).collect();
    assert_eq!(
        names,
        ["a", "b", "ns/{namespace}/sa/{serviceaccount}", "orders", "payments"]
            .map(|name| format!("spiffe://mesh.local/{name}"))
    );
    assert_eq!(stored.policies[0].managed_by, Some(label("shop")));
    let (again, plan) = apply(&fixture, &documents).await;
    assert_eq!(again, commit);
    assert!(plan.is_unchanged());
    assert_eq!(fixture.verified_events().await, events + 4);
    let deleted = fixture.store.delete_policy("a".into(), operator()).await.unwrap();
    assert_eq!(fixture.store.documents().await.unwrap().changed, deleted.commit.revision);
}

async fn what_is_refused_in_the_commit_writes_nothing(fixture: Fixture) {
    apply(&fixture, &[full("a")]).await;
    let events = fixture.verified_events().await;
    let foreign = try_apply(&fixture, "infra", &[full("a"), full("b")], PlanOptions::default()).await;
    assert!(matches!(refusal(foreign), Refusal::NotApplied(_)));
    assert_eq!(fixture.verified_events().await, events);
    assert!(fixture.store.workload(id("b")).await.is_err());
}

const PRUNE: PlanOptions = PlanOptions { prune: true, prune_all: true, take_over: false };

async fn a_pruned_workload_is_retired_and_revoked(fixture: Fixture) {
    apply(&fixture, &[full("a"), full("b"), policy_document("a")]).await;
    try_apply(&fixture, "shop", &[full("b")], PRUNE).await.unwrap();
    assert_eq!(status(&fixture, &id("a")).await, WorkloadStatus::Retired);
    assert_eq!(revoked(&fixture).await, [id("a").to_string()]);
    assert!(fixture.store.policies().await.unwrap().is_empty());
    assert_eq!(status(&fixture, &id("orders")).await, WorkloadStatus::Active, "it carries no label");
    let back = try_apply(&fixture, "shop", &[full("a")], PlanOptions::default()).await;
    assert!(matches!(refusal(back), Refusal::NotApplied(_)));
}

async fn a_suspension_by_hand_or_a_revocation_is_lifted_by_hand_only(fixture: Fixture) {
    let set = |status| fixture.store.set_workload_status(id("a"), status, String::new(), operator());
    let suspended = format!("{}status: suspended\n", full("a"));
    apply(&fixture, &[full("a")]).await;
    apply(&fixture, std::slice::from_ref(&suspended)).await;
    assert_eq!(revoked(&fixture).await, [id("a").to_string()]);
    apply(&fixture, &[full("a")]).await;
    assert_eq!(
        status(&fixture, &id("a")).await,
        WorkloadStatus::Active,
        "by a document, lifted by a document"
    );
    assert!(revoked(&fixture).await.is_empty());

    set(WorkloadStatus::Suspended).await.unwrap();
    let (_, plan) = apply(&fixture, &[full("a")]).await;
    assert!(plan.is_unchanged() && plan.warnings.len() == 1);
    assert_eq!(status(&fixture, &id("a")).await, WorkloadStatus::Suspended);
    set(WorkloadStatus::Active).await.unwrap();

    // Suspended by its document, then revoked: now it is by hand.
    apply(&fixture, std::slice::from_ref(&suspended)).await;
    let target = RevocationTarget::Identity(id("a"));
    fixture.store.revoke(target, "key leaked".into(), operator()).await.unwrap();
    let changed = full("a").replace("purpose: test", "purpose: else");
    apply(&fixture, &[changed]).await;
    assert_eq!(status(&fixture, &id("a")).await, WorkloadStatus::Suspended);
    assert_eq!(revoked(&fixture).await, [id("a").to_string()]);
}

async fn a_template_gives_one_row_for_each_proof(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    let (payments, orders) = (id("ns/shop/sa/payments"), id("ns/shop/sa/orders"));
    let found = fixture.store.entitled(pod("shop", "payments"), None).await.unwrap();
    assert_eq!(found.id, payments);
    assert!(fixture.store.workload(payments.clone()).await.is_err(), "a question makes no row");
    for (id, account) in [(&payments, "payments"), (&orders, "orders"), (&payments, "payments")] {
        admit(&fixture, id, pod("shop", account)).await.unwrap();
    }
    let workload = fixture.store.workload(payments.clone()).await.unwrap();
    assert_eq!(workload.dns, ["payments.shop.svc"]);
    assert_eq!(workload.template.unwrap().as_str(), CLUSTER);
    assert_eq!(fixture.store.workloads().await.unwrap().len(), 5);
    assert_eq!(fixture.store.documents().await.unwrap().workloads.len(), 3, "not in any document");
    let other = admit(&fixture, &payments, pod("shop", "orders")).await;
    assert!(matches!(refusal(other), Refusal::Unmatched(_)), "a proof of another");
    let nothing = fixture.store.entitled(BTreeSet::from(["test:a:b".parse().unwrap()]), None).await;
    assert!(matches!(refusal(nothing), Refusal::Unmatched(_)));
    assert!(fixture.verified_events().await > 0);
}

async fn a_proof_that_is_good_with_one_key_proves_nothing_with_another(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    let ends = time::now() + HOUR;
    let attest = async |key: u8, used: Option<u8>| {
        let proof = ProofUse { sha256: [used.unwrap_or(9); 32], ends };
        let (evidence, one_key) = (json!({}), used.is_some());
        let selectors = pod("shop", "payments");
        let proven = Proven { attestor: "prod".into(), selectors, evidence, proof, one_key };
        let issuance = Issuance { spki_sha256: [key; 32], ..issuance("ns/shop/sa/payments", ends) };
        let attestation = Attestation { evidence: model::Evidence::Proven(proven), ..attestation(0) };
        fixture.store.record_attestation(issuance, attestation).await
    };
    attest(1, Some(7)).await.unwrap();
    attest(1, Some(7)).await.unwrap();
    assert_eq!(refusal(attest(2, Some(7)).await), Refusal::ProofUsed);
    attest(2, Some(8)).await.unwrap();
    attest(3, None).await.unwrap();
    let (one, other) = tokio::join!(attest(4, Some(9)), attest(5, Some(9)));
    assert_eq!([one.is_ok(), other.is_ok()].iter().filter(|won| **won).count(), 1, "of two at once one");
    assert_eq!(fixture.store.prune_ended(ends, 100).await.unwrap(), 1, "the count of the hour before");
    assert_eq!(refusal(attest(2, Some(7)).await), Refusal::ProofUsed, "as long as it lives");
    let after = ends + Duration::from_secs(1);
    assert!(fixture.store.prune_ended(after, 100).await.unwrap() >= 3);
    attest(2, Some(7)).await.unwrap();
    fixture.verified_events().await;
}

async fn a_template_gives_no_more_than_its_limit(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    for account in ["a", "b"] {
        admit(&fixture, &id(&format!("ns/shop/sa/{account}")), pod("shop", account)).await.unwrap();
    }
    let more = admit(&fixture, &id("ns/shop/sa/c"), pod("shop", "c")).await;
    assert!(matches!(refusal(more), Refusal::TemplateFull { given: 2, .. }));
    admit(&fixture, &id("ns/shop/sa/a"), pod("shop", "a")).await.unwrap();
    assert!(fixture.store.workload(id("ns/shop/sa/c")).await.is_err());
}

async fn what_templates_gave_and_nobody_holds_is_forgotten(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    let [unused, suspended] =
        ["a", "b"].map(|account| (id(&format!("ns/shop/sa/{account}")), pod("shop", account)));
    for (id, proof) in [&unused, &suspended] {
        admit(&fixture, id, proof.clone()).await.unwrap();
    }
    let by_hand = fixture.store.set_workload_status(
        suspended.0.clone(),
        WorkloadStatus::Suspended,
        String::new(),
        operator(),
    );
    by_hand.await.unwrap();
    assert_eq!(fixture.store.forget_given(time::now() - HOUR, 10).await.unwrap(), 0, "not yet");
    assert_eq!(fixture.store.forget_given(time::now() + HOUR, 10).await.unwrap(), 1);
    assert!(fixture.store.workload(unused.0.clone()).await.is_err());
    assert_eq!(status(&fixture, &suspended.0).await, WorkloadStatus::Suspended, "a proof must not resume it");
    assert_eq!(status(&fixture, &id("orders")).await, WorkloadStatus::Active, "registered by itself");

    admit(&fixture, &unused.0, unused.1.clone()).await.unwrap();
    fixture.instance("ns/shop/sa/a", 1, HOUR).await;
    assert_eq!(fixture.store.forget_given(time::now() + HOUR, 10).await.unwrap(), 0, "it holds an SVID");
    assert!(fixture.store.workload(unused.0).await.is_ok());
}

/// Reaches one scope only.
struct Only(Scope);

impl Permission for Only {
    fn on_all(&self, targets: &[Scope]) -> Result<Actor, Refused> {
        let reached = targets.iter().all(|target| self.0.covers(target));
        if reached { Ok(operator()) } else { Err(Refused::Untold("test")) }
    }

    fn may_become(&self, _: &SpiffeId, _: &[Binding]) -> Result<(), Refused> {
        Ok(())
    }
}

async fn dns_names_and_labels_are_of_whoever_has_them_first(fixture: Fixture) {
    apply(&fixture, &[full("shop")]).await;
    let as_eve = async |owner: &str, dns: &str| {
        let yaml = format!(
            "kind: Workload\nid: spiffe://mesh.local/eve/x\nowner: {{ team: eve }}\npurpose: test\n\
             ttl: {{ default: 1h }}\ndns: [{dns}]\n"
        );
        let set = DocumentSet::read(&[File { name: "mesh.yaml".into(), yaml }]).unwrap();
        let owner = label(owner);
        let decide =
            move |current: &model::Documents| (plan(current, &set, &owner, PlanOptions::default()), Ok(()));
        fixture.store.apply_documents(Only("spiffe://mesh.local/eve/*".parse().unwrap()), decide).await
    };
    assert!(matches!(refusal(as_eve("eve", "shop.shop.example").await), Refusal::DnsNameTaken { .. }));
    assert!(matches!(refusal(as_eve("shop", "eve.example").await), Refusal::LabelOfOthers(_)));
    as_eve("eve", "eve.example").await.unwrap();
    let by_hand = Declaration {
        dns: ["shop.shop.example".parse().unwrap()].into(),
        ..declared("spiffe://mesh.local/eve/y")
    };
    let only = Only("spiffe://mesh.local/eve/*".parse().unwrap());
    let refused = fixture.store.create_workload(by_hand.clone(), only).await;
    assert!(matches!(refusal(refused), Refusal::DnsNameTaken { .. }));
    fixture.store.create_workload(by_hand, operator()).await.unwrap();
}

async fn what_a_template_says_is_handed_down(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    let payments = id("ns/shop/sa/payments");
    admit(&fixture, &payments, pod("shop", "payments")).await.unwrap();
    let changed =
        cluster("approval: one\n").replace("default: 1h", "default: 2h").replace(".svc", ".cluster");
    apply(&fixture, &[changed]).await;
    let workload = fixture.store.workload(payments).await.unwrap();
    assert_eq!((workload.ttl, workload.approval), (HOUR * 2, Approval::One));
    assert_eq!(workload.dns, ["payments.shop.cluster"]);
}

async fn a_template_takes_its_identities_with_it(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    let [a, b] = ["a", "b"].map(|account| (id(&format!("ns/shop/sa/{account}")), pod("shop", account)));
    for (id, proof) in [&a, &b] {
        admit(&fixture, id, proof.clone()).await.unwrap();
    }
    let by_hand =
        |name: Name, status| fixture.store.set_workload_status(name, status, String::new(), operator());
    by_hand(a.0.clone().into(), WorkloadStatus::Suspended).await.unwrap();
    let template: Name = CLUSTER.parse().unwrap();
    by_hand(template.clone(), WorkloadStatus::Suspended).await.unwrap();
    assert_eq!(status(&fixture, &b.0).await, WorkloadStatus::Suspended);
    let new = admit(&fixture, &id("ns/shop/sa/c"), pod("shop", "c")).await;
    assert!(matches!(refusal(new), Refusal::WorkloadNotActive { .. }));
    by_hand(template, WorkloadStatus::Active).await.unwrap();
    assert_eq!(status(&fixture, &b.0).await, WorkloadStatus::Active);
    assert_eq!(status(&fixture, &a.0).await, WorkloadStatus::Suspended, "by itself, so by itself again");
    try_apply(&fixture, "shop", &[full("x")], PRUNE).await.unwrap();
    for (id, proof) in [a, b] {
        assert_eq!(status(&fixture, &id).await, WorkloadStatus::Retired);
        assert!(matches!(refusal(admit(&fixture, &id, proof).await), Refusal::Unmatched(_)));
    }
}

async fn a_registration_of_its_own_takes_an_identity_over(fixture: Fixture) {
    apply(&fixture, &[cluster("")]).await;
    let payments = id("ns/shop/sa/payments");
    admit(&fixture, &payments, pod("shop", "payments")).await.unwrap();
    let suspend = WorkloadStatus::Suspended;
    fixture.store.set_workload_status(payments.clone(), suspend, String::new(), operator()).await.unwrap();
    apply(
        &fixture,
        &[full("ns/shop/sa/payments")
            .replace("prod:pod:ns/shop/sa/payments", "prod:pod:p")
            .replace("dns: [ns/shop/sa/payments.shop.example]\n", "")],
    )
    .await;
    let workload = fixture.store.workload(payments.clone()).await.unwrap();
    assert!(workload.template.is_none() && workload.held);
    assert_eq!(workload.status, suspend, "what was suspended by hand stays so");
    let by_template = fixture.store.entitled(pod("shop", "payments"), None).await;
    assert!(matches!(refusal(by_template), Refusal::Unmatched(_)), "it asks for more now");
    let mut more = pod("shop", "payments");
    more.insert("prod:pod:p".parse().unwrap());
    assert_eq!(fixture.store.entitled(more, None).await.unwrap().id, payments);
}

async fn a_temporary_workload_gets_nothing_after_its_end(fixture: Fixture) {
    let declaration = Declaration {
        until: Some(time::now() - Duration::from_secs(1)),
        ..declared(id("temporary").as_str())
    };
    fixture.store.create_workload(declaration, operator()).await.unwrap();
    let token =
        NewToken { secret_sha256: [1; 32], spiffe_id: id("temporary"), expires_at: time::now() + HOUR };
    let refused = refusal(fixture.store.create_token(token, operator()).await);
    assert!(matches!(refused, Refusal::WorkloadEnded { .. }), "{refused}");
    let now = time::now();
    let declaration =
        Declaration { until: Some(now + Duration::from_secs(20)), ..declared(id("short").as_str()) };
    fixture.store.create_workload(declaration, operator()).await.unwrap();
    let workload = fixture.store.workload(id("short")).await.unwrap();
    assert_eq!(workload.terms().until, workload.until, "no SVID outlives its workload");
}

async fn hundreds_of_documents_are_one_change(fixture: Fixture) {
    let documents: Vec<String> = (0..300).map(|n| full(&format!("w{n}"))).collect();
    let (commit, _) = apply(&fixture, &documents).await;
    assert!(
        fixture
            .store
            .documents()
            .await
            .unwrap()
            .workloads
            .iter()
            .all(|stored| { stored.managed_by.is_none() || stored.revision == commit.revision })
    );
}

async fn what_was_suspended_before_is_by_hand(fixture: Fixture) {
    let row = "INSERT INTO workload (spiffe_id, owner, purpose, ttl_s, status, created_at_ms, revision)
               VALUES ('spiffe://mesh.local/old', 'team', 'test', 60, 'suspended', 7, 0)";
    let (fixture, _) = fixture.brought_up_from(3, &[row]).await;
    let [old] = &fixture.store.workloads().await.unwrap()[..] else { panic!("one workload") };
    let declaration = Declaration { status: WorkloadStatus::Suspended, ..declared(id("old").as_str()) };
    assert_eq!((&old.declaration, &old.managed_by, old.held), (&declaration, &None, true));
}

async fn the_document_of_the_mesh_is_deleted_by_who_may_change_everything(fixture: Fixture) {
    let nothing = fixture.store.delete_mesh_settings(operator()).await;
    assert!(matches!(nothing, Err(StoreError::NotFound { .. })), "{nothing:?}");
    apply(&fixture, &["kind: Mesh\nmode: permissive\n".to_owned()]).await;
    let known = fixture.store.mesh_since(None).await.unwrap().commit;
    let refused = fixture.store.delete_mesh_settings(Only("spiffe://mesh.local/*".parse().unwrap())).await;
    assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
    assert!(fixture.store.mesh_settings().await.unwrap().is_some());

    let events = fixture.verified_events().await;
    let deleted = fixture.store.delete_mesh_settings(operator()).await.unwrap();
    assert_eq!(fixture.verified_events().await, events + 1);
    assert!(fixture.store.mesh_settings().await.unwrap().is_none());
    let read = fixture.store.mesh_since(Some(known)).await.unwrap();
    assert_eq!((read.commit, read.settings), (deleted.commit, Some(String::new())), "proxies are told");
    assert_eq!(fixture.store.documents().await.unwrap().changed, deleted.commit.revision);
}
