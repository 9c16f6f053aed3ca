//! Who is let in by people: approvals are for one signing request, by as many others as it takes.

use std::sync::Arc;

use super::model::RevocationTarget;
use super::*;
use crate::registry::Selector;
use crate::roles::{Binding, Role, Scope};

both_engines!(
    request_is_held_with_its_token_unspent_and_issued_once_it_is_approved,
    two_approvers_are_two_and_none_of_them_has_a_part_in_it,
    second_name_of_the_same_person_is_no_approver,
    approval_is_for_the_signing_request_that_was_seen,
    denial_is_for_good_and_takes_the_token_along,
    request_expires_with_its_time_and_token_lives_as_long_as_its_request,
    of_approvals_and_denials_at_the_same_time_a_denial_stays,
    what_is_held_is_bounded,
    rule_on_a_subtree_holds_and_the_stricter_one_counts,
    later_approval_holds_new_instances_and_not_what_runs,
    succession_whose_answer_was_lost_is_asked_for_again_with_the_same_key,
    freeze_stops_new_instances_below_it_until_it_is_lifted,
    revoked_identity_has_no_request_left,
    proven_request_is_held_before_its_template_gave_the_identity,
    freeze_of_renewals_stops_them_too,
    no_svid_outlives_a_workload_that_ends_sooner_since,
    proof_of_a_revoked_instance_proves_no_other,
    proof_of_one_key_is_held_with_one_key,
);

const DAY: Duration = Duration::from_secs(86_400);

fn person(name: &str) -> Actor {
    Actor::identity(&id(&format!("people/{name}")))
}

fn held(name: &str, secret: u8, csr: u8) -> (Issuance, Attestation) {
    (issuance(name, time::now() + HOUR), Attestation { csr_sha256: [csr; 32], ..attestation(secret) })
}

impl Fixture {
    /// A workload that needs as many approvers.
    async fn guarded(&self, name: &str, approval: Approval) {
        let declared = Declaration { approval, ..declared(id(name).as_str()) };
        self.store.create_workload(declared, operator()).await.unwrap();
    }

    /// Asks as the service does: what needs approval is held.
    async fn ask(&self, asked: &(Issuance, Attestation), life: Duration) -> Result<HeldRequest, StoreError> {
        let (issuance, attestation) = asked.clone();
        let refused = self.store.record_attestation(issuance.clone(), attestation.clone()).await;
        assert_eq!(refusal(refused), Refusal::ApprovalRequired);
        let Attestation { evidence, csr_sha256, version, address, request_id, .. } = attestation;
        let (spiffe_id, spki_sha256) = (issuance.spiffe_id, issuance.spki_sha256);
        let new =
            NewRequest { spiffe_id, csr_sha256, spki_sha256, evidence, address, version, request_id, life };
        self.store.hold_request(new).await
    }

    async fn issue(&self, asked: &(Issuance, Attestation)) -> Result<(), StoreError> {
        self.store.record_attestation(asked.0.clone(), asked.1.clone()).await
    }

    async fn approve(&self, request: HeldId, by: Actor) -> Result<model::Mutation, StoreError> {
        self.store.decide_request(request, Verdict::Approve, None, "fine".into(), by).await
    }

    async fn deny(&self, request: HeldId, by: Actor) -> Result<model::Mutation, StoreError> {
        self.store.decide_request(request, Verdict::Deny, None, "not ours".into(), by).await
    }

    async fn newest_detail(&self, name: &str) -> serde_json::Value {
        let events = self.store.newest_events(1, Some(id(name).to_string())).await.unwrap();
        serde_json::from_str(&events[0].detail).unwrap()
    }
}

fn part(result: Result<model::Mutation, StoreError>) -> Part {
    match refusal(result) {
        Refusal::NotIndependent { part, .. } => part,
        other => panic!("{other}"),
    }
}

async fn request_is_held_with_its_token_unspent_and_issued_once_it_is_approved(fixture: Fixture) {
    fixture.guarded("vault", Approval::One).await;
    fixture.token("vault", 1).await;
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap();
    assert_eq!((request.state, request.needed), (HeldState::Pending, 1));
    assert_eq!(request.token_by.as_deref(), Some("unix:uid=0"));
    let events = fixture.verified_events().await;
    assert_eq!(fixture.ask(&asked, DAY).await.unwrap(), request, "asked again, it is the same one");
    assert_eq!(fixture.verified_events().await, events, "and no news");
    let waiting = fixture.store.held_requests(None, false).await.unwrap();
    assert_eq!(waiting.iter().collect::<Vec<_>>(), [&request]);

    fixture.approve(request.id, person("ada")).await.unwrap();
    fixture.issue(&asked).await.unwrap();
    let detail = fixture.newest_detail("vault").await;
    assert_eq!(detail["approved_by"], serde_json::json!([id("people/ada").as_str()]));
    assert_eq!(detail["request"], request.id.to_string());
    assert!(fixture.store.held_requests(None, false).await.unwrap().is_empty());
    assert_eq!(fixture.store.held_request(request.id).await.unwrap().state, HeldState::Used);

    let again = held("vault", 1, 1);
    assert_eq!(refusal(fixture.issue(&again).await), Refusal::TokenSpent, "an approval is good once");
    fixture.token("vault", 2).await;
    let with_the_same_request = held("vault", 2, 1);
    let used = fixture.issue(&with_the_same_request).await;
    assert!(matches!(refusal(used), Refusal::RequestUsed(_)));
}

async fn two_approvers_are_two_and_none_of_them_has_a_part_in_it(fixture: Fixture) {
    fixture.guarded("vault", Approval::Two).await;
    let token = NewToken { secret_sha256: [1; 32], spiffe_id: id("vault"), expires_at: time::now() + HOUR };
    fixture.store.create_token(token, person("eve")).await.unwrap();
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    assert_eq!(part(fixture.approve(request, person("eve")).await), Part::MadeToken);
    assert_eq!(part(fixture.approve(request, operator()).await), Part::Declared);
    assert_eq!(part(fixture.approve(request, Actor::identity(&id("vault"))).await), Part::Asks);
    fixture.approve(request, person("ada")).await.unwrap();
    assert_eq!(part(fixture.approve(request, person("ada")).await), Part::Approved);
    assert_eq!(refusal(fixture.issue(&asked).await), Refusal::ApprovalRequired, "one of two");
    fixture.approve(request, Actor::unix(7)).await.unwrap();
    fixture.issue(&asked).await.unwrap();
    let detail = fixture.newest_detail("vault").await;
    assert_eq!(detail["approved_by"], serde_json::json!([id("people/ada").as_str(), "unix:uid=7"]));
    fixture.verified_events().await;
}

async fn second_name_of_the_same_person_is_no_approver(fixture: Fixture) {
    let give = async |to: &str, role, on: &str, by: Actor| {
        let binding = Binding { subject: to.parse().unwrap(), role, scope: on.parse().unwrap() };
        fixture.store.grant_role(binding, by).await.unwrap();
    };
    let (mallory, subtree) = (person("mallory"), format!("{}/*", id("payments")));
    give(mallory.as_str(), Role::Admin, &subtree, operator()).await;
    let declared = Declaration { approval: Approval::One, ..declared(id("payments/vault").as_str()) };
    fixture.store.create_workload(declared, mallory.clone()).await.unwrap();
    let token =
        NewToken { secret_sha256: [1; 32], spiffe_id: id("payments/vault"), expires_at: time::now() + HOUR };
    fixture.store.create_token(token, mallory.clone()).await.unwrap();
    let asked = held("payments/vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;

    // An identity below it, an accomplice's name, and that of whoever the accomplice appoints.
    let puppet = Actor::identity(&id("payments/puppet"));
    give(puppet.as_str(), Role::Approver, &subtree, operator()).await;
    assert_eq!(part(fixture.approve(request, puppet).await), Part::Puppet);
    give("unix:uid=1001", Role::Approver, &subtree, mallory.clone()).await;
    assert_eq!(part(fixture.approve(request, Actor::unix(1001)).await), Part::Appointed);
    give(person("eve").as_str(), Role::Admin, &subtree, mallory.clone()).await;
    give("unix:uid=1002", Role::Approver, &subtree, person("eve")).await;
    assert_eq!(part(fixture.approve(request, Actor::unix(1002)).await), Part::Appointed);

    // The same role from somebody else counts.
    give("unix:uid=1001", Role::Approver, id("payments/vault").as_str(), operator()).await;
    fixture.approve(request, Actor::unix(1001)).await.unwrap();
    fixture.issue(&asked).await.unwrap();
}

async fn approval_is_for_the_signing_request_that_was_seen(fixture: Fixture) {
    fixture.guarded("vault", Approval::One).await;
    fixture.token("vault", 1).await;
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    let seen = |csr: u8| {
        fixture.store.decide_request(request, Verdict::Approve, Some([csr; 32]), String::new(), person("ada"))
    };
    assert!(matches!(refusal(seen(2).await), Refusal::RequestDiffers { .. }));
    seen(1).await.unwrap();
    // Another key with the same token waits by itself.
    let thief = held("vault", 1, 9);
    assert_eq!(fixture.ask(&thief, DAY).await.unwrap().state, HeldState::Pending);
    fixture.guarded("safe", Approval::One).await;
    fixture.token("safe", 3).await;
    let elsewhere = held("safe", 3, 1);
    assert_eq!(fixture.ask(&elsewhere, DAY).await.unwrap().state, HeldState::Pending, "another identity");
    fixture.issue(&asked).await.unwrap();
}

async fn denial_is_for_good_and_takes_the_token_along(fixture: Fixture) {
    fixture.guarded("vault", Approval::One).await;
    fixture.token("vault", 1).await;
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    fixture.approve(request, person("ada")).await.unwrap();
    fixture.deny(request, person("ada")).await.unwrap();
    let denied = Refusal::RequestDenied { request: request.to_string(), reason: "not ours".into() };
    assert!(fixture.store.redeemable_token([1; 32], time::now()).await.is_ok(), "so that it is told");
    assert_eq!(refusal(fixture.issue(&asked).await), denied);
    assert_eq!(refusal(fixture.approve(request, person("bob")).await), denied);
    assert_eq!(refusal(fixture.issue(&held("vault", 1, 2)).await), Refusal::TokenSpent);
}

async fn request_expires_with_its_time_and_token_lives_as_long_as_its_request(fixture: Fixture) {
    fixture.guarded("vault", Approval::One).await;
    let short = |secret: u8| NewToken {
        secret_sha256: [secret; 32],
        spiffe_id: id("vault"),
        expires_at: time::now() + Duration::from_millis(400),
    };
    fixture.store.create_token(short(1), operator()).await.unwrap();
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    fixture.store.create_token(short(2), operator()).await.unwrap();
    let late = held("vault", 2, 2);
    let over = fixture.ask(&late, Duration::from_millis(400)).await.unwrap().id;
    tokio::time::sleep(Duration::from_millis(450)).await;

    assert!(fixture.store.redeemable_token([1; 32], time::now()).await.is_ok());
    assert_eq!(refusal(fixture.issue(&held("vault", 1, 7)).await), Refusal::TokenExpired, "another request");
    fixture.approve(request, person("ada")).await.unwrap();
    fixture.issue(&asked).await.unwrap();

    let expired = Refusal::RequestExpired(over.to_string());
    assert_eq!(refusal(fixture.approve(over, person("ada")).await), expired);
    assert_eq!(refusal(fixture.issue(&late).await), Refusal::TokenExpired);
    assert!(fixture.store.any_request_expired(time::now()).await.unwrap());
    assert_eq!(fixture.store.expire_requests(time::now(), 10).await.unwrap(), 1);
    assert!(!fixture.store.any_request_expired(time::now()).await.unwrap());
    assert_eq!(fixture.store.held_request(over).await.unwrap().state, HeldState::Expired);
    let pruned = fixture.store.prune_ended(time::now() + DAY + HOUR, 100).await.unwrap();
    assert!(pruned > 0);
    assert!(fixture.store.held_requests(None, true).await.unwrap().is_empty());
    fixture.verified_events().await;
}

async fn of_approvals_and_denials_at_the_same_time_a_denial_stays(fixture: Fixture) {
    fixture.guarded("vault", Approval::Two).await;
    fixture.token("vault", 1).await;
    let fixture = Arc::new(fixture);
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    let decisions: Vec<_> = (0..20)
        .map(|person: u32| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                let by = Actor::unix(100 + person);
                if person == 10 {
                    fixture.deny(request, by).await
                } else {
                    fixture.approve(request, by).await
                }
            })
        })
        .collect();
    let mut taken = 0;
    for decision in decisions {
        match decision.await.unwrap() {
            Ok(_) => taken += 1,
            refused => assert!(matches!(refusal(refused), Refusal::RequestDenied { .. })),
        }
    }
    let request = fixture.store.held_request(request).await.unwrap();
    assert_eq!(request.state, HeldState::Denied);
    assert_eq!(request.decisions.len(), taken);
    assert!(matches!(refusal(fixture.issue(&asked).await), Refusal::RequestDenied { .. }));
    fixture.verified_events().await;
}

async fn what_is_held_is_bounded(fixture: Fixture) {
    fixture.guarded("vault", Approval::One).await;
    fixture.token("vault", 1).await;
    for csr in 0..100 {
        fixture.ask(&held("vault", 1, csr), DAY).await.unwrap();
    }
    assert_eq!(refusal(fixture.ask(&held("vault", 1, 100), DAY).await), Refusal::TooManyRequests);
    fixture.ask(&held("vault", 1, 7), DAY).await.unwrap();
    fixture.guarded("safe", Approval::One).await;
    fixture.token("safe", 2).await;
    fixture.ask(&held("safe", 2, 100), DAY).await.unwrap();
}

async fn rule_on_a_subtree_holds_and_the_stricter_one_counts(fixture: Fixture) {
    let set = |scope: &str, approval| {
        let restriction = Restriction::Approval(approval);
        fixture.store.restrict(scope.parse().unwrap(), restriction, "four eyes".into(), operator())
    };
    set("spiffe://mesh.local/prod/*", Approval::Two).await.unwrap();
    set("everything", Approval::One).await.unwrap();
    for (name, secret, needed) in [("prod/a", 1, 2), ("product", 2, 1), ("prod", 3, 1)] {
        fixture.workload(name).await;
        fixture.token(name, secret).await;
        let request = fixture.ask(&held(name, secret, secret), DAY).await.unwrap();
        assert_eq!(request.needed, needed, "{name}");
    }
    // What was approved by one is not enough when the rule has become stricter, and is when it is gone.
    let asked = held("product", 2, 2);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    fixture.approve(request, person("ada")).await.unwrap();
    set("spiffe://mesh.local/product", Approval::Two).await.unwrap();
    let stricter = fixture.ask(&asked, DAY).await.unwrap();
    assert_eq!((stricter.state, stricter.needed), (HeldState::Pending, 2));
    let scope: Scope = "spiffe://mesh.local/product".parse().unwrap();
    let lifted =
        fixture.store.lift(scope.clone(), RestrictionKind::Approval, "done".into(), operator()).await;
    assert!(lifted.unwrap().effects[0].ends_with("the one on everything goes on"));
    fixture.issue(&asked).await.unwrap();
    let again = fixture.store.lift(scope, RestrictionKind::Approval, "done".into(), operator()).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })));
    assert_eq!(fixture.store.restrictions().await.unwrap().len(), 2);
}

async fn later_approval_holds_new_instances_and_not_what_runs(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let rule = Restriction::Approval(Approval::One);
    fixture.store.restrict(Scope::Everything, rule, "from now on".into(), operator()).await.unwrap();
    let next = issuance("orders", time::now() + HOUR);
    fixture.store.record_renewal(next.clone(), renewal(instance, &first)).await.unwrap();
    fixture.token("orders", 2).await;
    fixture.ask(&held("orders", 2, 2), DAY).await.unwrap();
    let successor = Attestation {
        evidence: model::Evidence::Svid { instance, presented: vec![(ISSUER, next.serial)] },
        ..attestation(3)
    };
    let issuance = issuance("orders", time::now() + HOUR);
    fixture.store.record_attestation(issuance, successor).await.unwrap();
}

async fn succession_whose_answer_was_lost_is_asked_for_again_with_the_same_key(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let successor = |number: u8| Attestation {
        evidence: model::Evidence::Svid { instance, presented: vec![(ISSUER, first.serial.clone())] },
        ..attestation(number)
    };
    let asked = issuance("orders", time::now() + HOUR);
    fixture.store.record_attestation(asked.clone(), successor(3)).await.unwrap();
    let again = Issuance { serial: issuance("orders", time::now()).serial, ..asked.clone() };
    fixture.store.record_attestation(again, successor(4)).await.unwrap();
    let all = fixture.store.identities(None, false, time::now()).await.unwrap();
    let active = all.iter().filter(|identity| identity.status == "active").count();
    assert_eq!((all.len(), active), (3, 1), "what the first try made is not used");
    let of_another_key = issuance("orders", time::now() + HOUR);
    let refused = fixture.store.record_attestation(of_another_key, successor(5)).await;
    assert_eq!(refusal(refused), Refusal::InstanceUnknown);
    fixture.verified_events().await;
}

async fn freeze_stops_new_instances_below_it_until_it_is_lifted(fixture: Fixture) {
    let scope: Scope = "spiffe://mesh.local/shop/*".parse().unwrap();
    fixture.workload("shop/cart").await;
    let (instance, first) = fixture.instance("shop/cart", 1, HOUR).await;
    let freeze = Restriction::Freeze(Freeze::New);
    fixture.store.restrict(scope.clone(), freeze, "incident".into(), operator()).await.unwrap();
    fixture.token("shop/cart", 2).await;
    let asked = held("shop/cart", 2, 2);
    let frozen = Refusal::Frozen { scope: scope.to_string(), reason: "incident".into() };
    assert_eq!(refusal(fixture.issue(&asked).await), frozen);
    fixture.instance("orders", 3, HOUR).await;
    let next = issuance("shop/cart", time::now() + HOUR);
    fixture.store.record_renewal(next, renewal(instance, &first)).await.unwrap();
    let told: Vec<_> =
        fixture.store.restrictions().await.unwrap().iter().filter_map(Restricted::frozen).collect();
    assert_eq!(told, ["nothing is issued to new instances on spiffe://mesh.local/shop/*: incident"]);
    fixture.store.lift(scope, RestrictionKind::Freeze, "over".into(), operator()).await.unwrap();
    fixture.issue(&asked).await.unwrap();
    fixture.verified_events().await;
}

async fn revoked_identity_has_no_request_left(fixture: Fixture) {
    fixture.guarded("vault", Approval::One).await;
    fixture.token("vault", 1).await;
    let asked = held("vault", 1, 1);
    let request = fixture.ask(&asked, DAY).await.unwrap().id;
    fixture.approve(request, person("ada")).await.unwrap();
    let target = RevocationTarget::Identity(id("vault"));
    fixture.store.revoke(target, "stolen".into(), operator()).await.unwrap();
    let set = model::WorkloadStatus::Active;
    fixture.store.set_workload_status(id("vault"), set, String::new(), operator()).await.unwrap();
    assert_eq!(refusal(fixture.issue(&asked).await), Refusal::TokenSpent);
    assert_eq!(fixture.store.held_request(request).await.unwrap().state, HeldState::Expired);
}

async fn proven_request_is_held_before_its_template_gave_the_identity(fixture: Fixture) {
    let selector = |text: &str| text.parse::<Selector>().unwrap();
    let template = Declaration {
        selectors: BTreeSet::from([selector("k8s:ns:prod")]),
        approval: Approval::One,
        ..declared("spiffe://mesh.local/ns/{ns}/sa/{sa}")
    };
    fixture.store.create_workload(template, operator()).await.unwrap();
    let proven = crate::attest::Proven {
        attestor: "k8s".into(),
        selectors: BTreeSet::from([selector("k8s:ns:prod"), selector("k8s:sa:web")]),
        evidence: serde_json::json!({ "sub": "web" }),
        proof: crate::attest::ProofUse { sha256: [7; 32], ends: time::now() + HOUR },
        one_key: false,
    };
    let (issuance, attestation) = held("ns/prod/sa/web", 1, 1);
    let asked = (issuance, Attestation { evidence: model::Evidence::Proven(proven), ..attestation });
    let request = fixture.ask(&asked, DAY).await.unwrap();
    assert_eq!((&*request.proof, &*request.evidence), ("k8s", "{\"sub\":\"web\"}"));
    assert_eq!(request.registration.as_str(), "spiffe://mesh.local/ns/{ns}/sa/{sa}");
    assert!(fixture.store.workload(id("ns/prod/sa/web")).await.is_err(), "nothing is made of it yet");
    assert_eq!(part(fixture.approve(request.id, operator()).await), Part::Declared);
    fixture.approve(request.id, person("ada")).await.unwrap();
    fixture.issue(&asked).await.unwrap();
}

async fn freeze_of_renewals_stops_them_too(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let freeze = Restriction::Freeze(Freeze::All);
    fixture.store.restrict(Scope::Everything, freeze, "incident".into(), operator()).await.unwrap();
    let renew = || {
        let next = issuance("orders", time::now() + HOUR);
        fixture.store.record_renewal(next, renewal(instance, &first))
    };
    let frozen = Refusal::Frozen { scope: "everything".into(), reason: "incident".into() };
    assert_eq!(refusal(renew().await), frozen);
    fixture.store.lift(Scope::Everything, RestrictionKind::Freeze, "over".into(), operator()).await.unwrap();
    renew().await.unwrap();
}

async fn no_svid_outlives_a_workload_that_ends_sooner_since(fixture: Fixture) {
    let until = Some(time::now() + HOUR);
    let temporary = Declaration { until, ..declared(id("temporary").as_str()) };
    fixture.store.create_workload(temporary, operator()).await.unwrap();
    fixture.token("temporary", 1).await;
    let signed_before = held("temporary", 1, 1);
    let longer = (issuance("temporary", time::now() + HOUR * 2), signed_before.1.clone());
    assert_eq!(refusal(fixture.issue(&longer).await), Refusal::ChangedMeanwhile);
    let shorter = issuance("temporary", time::now() + HOUR / 2);
    fixture.issue(&(shorter.clone(), signed_before.1.clone())).await.unwrap();
    let instance = signed_before.1.instance;
    let next = issuance("temporary", time::now() + HOUR * 2);
    let renewed = fixture.store.record_renewal(next, renewal(instance, &shorter)).await;
    assert_eq!(refusal(renewed), Refusal::ChangedMeanwhile);
}

async fn proof_of_a_revoked_instance_proves_no_other(fixture: Fixture) {
    let selectors: BTreeSet<Selector> = BTreeSet::from(["devices:cn:pump".parse().unwrap()]);
    let pump = Declaration { selectors: selectors.clone(), ..declared(id("pump").as_str()) };
    fixture.store.create_workload(pump, operator()).await.unwrap();
    let with = |proof: u8| {
        let proven = crate::attest::Proven {
            attestor: "devices".into(),
            selectors: selectors.clone(),
            evidence: serde_json::json!({}),
            proof: crate::attest::ProofUse { sha256: [proof; 32], ends: time::now() + HOUR },
            one_key: false,
        };
        let evidence = model::Evidence::Proven(proven);
        (issuance("pump", time::now() + HOUR), Attestation { evidence, ..attestation(1) })
    };
    let first = with(1);
    fixture.issue(&first).await.unwrap();
    fixture.issue(&with(1)).await.unwrap();
    // Its successor has the same proof, whoever revokes which of them.
    let presented = vec![(ISSUER, first.0.serial.clone())];
    let evidence = model::Evidence::Svid { instance: first.1.instance, presented };
    let successor = (issuance("pump", time::now() + HOUR), Attestation { evidence, ..attestation(1) });
    fixture.issue(&successor).await.unwrap();
    let target = RevocationTarget::Instance(successor.1.instance);
    fixture.store.revoke(target, "stolen".into(), operator()).await.unwrap();
    assert_eq!(refusal(fixture.issue(&with(1)).await), Refusal::ProofRevoked);
    fixture.issue(&with(2)).await.unwrap();
}

async fn proof_of_one_key_is_held_with_one_key(fixture: Fixture) {
    let selector: Selector = "ci:repository:shop/web".parse().unwrap();
    let selectors = BTreeSet::from([selector]);
    let web = Declaration {
        selectors: selectors.clone(),
        approval: Approval::One,
        ..declared("spiffe://mesh.local/web")
    };
    fixture.store.create_workload(web, operator()).await.unwrap();
    let with_the_job = |csr| {
        let proof = crate::attest::ProofUse { sha256: [9; 32], ends: time::now() + HOUR };
        let evidence = serde_json::json!({});
        let selectors = selectors.clone();
        let proven =
            crate::attest::Proven { attestor: "ci".into(), selectors, evidence, proof, one_key: true };
        let (issuance, attestation) = held("web", 1, csr);
        (issuance, Attestation { evidence: model::Evidence::Proven(proven), ..attestation })
    };
    let asked = with_the_job(1);
    let request = fixture.ask(&asked, DAY).await.unwrap();
    let another = fixture.ask(&with_the_job(2), DAY).await;
    assert_eq!(refusal(another), Refusal::ProofUsed, "people see it once");
    fixture.approve(request.id, person("ada")).await.unwrap();
    fixture.issue(&asked).await.unwrap();
    fixture.verified_events().await;
}
