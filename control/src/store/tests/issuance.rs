//! Who gets an SVID is decided inside the commit that records it.

use super::model::{RevocationTarget, WorkloadStatus};
use super::*;

both_engines!(
    of_a_hundred_redeems_of_one_token_one_wins,
    token_is_for_one_workload_and_for_its_time,
    every_issuance_is_a_row_and_an_event,
    suspended_workload_gets_nothing_until_it_is_resumed,
    instance_whose_svid_ended_cannot_renew,
    instance_of_another_identity_cannot_be_renewed,
    key_is_certified_for_one_identity_and_never_after_its_revocation,
    refused_known_token_is_in_the_audit_but_cannot_fill_it,
    redeem_whose_answer_was_lost_is_answered_again_to_the_same_key_only,
    identity_gets_its_quota_of_an_hour_and_the_audit_says_so_once,
);

async fn identity_gets_its_quota_of_an_hour_and_the_audit_says_so_once(fixture: Fixture) {
    let bounded = fixture.store.clone().with_limits(Limits { issuance_quota: 2, ..Limits::default() });
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let next = || issuance("orders", time::now() + HOUR * 2);
    bounded.record_renewal(next(), renewal(instance, &first)).await.unwrap();
    fixture.token("orders", 2).await;
    for _ in 0..3 {
        let renewed = bounded.record_renewal(next(), renewal(instance, &first)).await;
        assert!(matches!(refusal(renewed), Refusal::QuotaUsed { quota: 2, .. }));
    }
    let joined = bounded.record_attestation(next(), attestation(2)).await;
    assert!(matches!(refusal(joined), Refusal::QuotaUsed { .. }));
    fixture.store.redeemable_token([2; 32], time::now()).await.expect("its token is for later");
    fixture.token("payments", 3).await;
    let other = issuance("payments", time::now() + HOUR);
    bounded.record_attestation(other, attestation(3)).await.expect("another identity has its own quota");

    let events = fixture.store.newest_events(100, Some(id("orders").to_string())).await.unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.action == "svid.quota_used").collect();
    assert_eq!(told.len(), 1, "{events:?}");
    assert!(told[0].detail.contains("\"issued\":2"), "{told:?}");

    let unbounded = fixture.store.clone().with_limits(Limits { issuance_quota: 0, ..Limits::default() });
    unbounded.record_renewal(next(), renewal(instance, &first)).await.unwrap();
    fixture.verified_events().await;
}

async fn of_a_hundred_redeems_of_one_token_one_wins(fixture: Fixture) {
    fixture.token("orders", 1).await;
    let redeems: Vec<_> = (0..100)
        .map(|_| {
            let store = fixture.store.clone();
            let issuance = issuance("orders", time::now() + HOUR);
            tokio::spawn(async move { store.record_attestation(issuance, attestation(1)).await })
        })
        .collect();
    let mut won = 0;
    for redeem in redeems {
        match redeem.await.unwrap() {
            Ok(()) => won += 1,
            lost => assert_eq!(refusal(lost), Refusal::TokenSpent),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(fixture.store.identities(None, true, time::now()).await.unwrap().len(), 1);
    fixture.verified_events().await;
}

async fn token_is_for_one_workload_and_for_its_time(fixture: Fixture) {
    fixture.token("orders", 1).await;
    let other = issuance("payments", time::now() + HOUR);
    let stolen = fixture.store.record_attestation(other, attestation(1)).await;
    assert_eq!(refusal(stolen), Refusal::TokenUnknown);
    assert!(fixture.store.redeemable_token([1; 32], time::now()).await.is_ok(), "and is not spent by it");
    let late = fixture.store.redeemable_token([1; 32], time::now() + HOUR).await;
    assert_eq!(refusal(late.map(drop)), Refusal::TokenExpired);
    let unknown = fixture.store.redeemable_token([9; 32], time::now()).await;
    assert_eq!(refusal(unknown.map(drop)), Refusal::TokenUnknown);
}

async fn every_issuance_is_a_row_and_an_event(fixture: Fixture) {
    let before = fixture.verified_events().await;
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let next = issuance("orders", time::now() + HOUR * 2);
    fixture.store.record_renewal(next.clone(), renewal(instance, &first)).await.unwrap();
    assert_eq!(fixture.verified_events().await, before + 3, "token, attestation, renewal");
    let events = fixture.store.newest_events(1, Some(id("orders").to_string())).await.unwrap();
    assert!(events[0].detail.contains(&crate::hex::encode(&next.serial)));
    let identity = &fixture.store.identities(None, false, time::now()).await.unwrap()[0];
    assert_eq!((identity.renewals, &identity.serial), (1, &next.serial));
}

async fn suspended_workload_gets_nothing_until_it_is_resumed(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    fixture.token("orders", 2).await;
    let set = |status| fixture.store.set_workload_status(id("orders"), status, String::new(), operator());
    set(WorkloadStatus::Suspended).await.unwrap();
    let attest =
        fixture.store.record_attestation(issuance("orders", time::now() + HOUR), attestation(2)).await;
    assert!(matches!(refusal(attest), Refusal::WorkloadNotActive { .. }));
    let renew =
        fixture.store.record_renewal(issuance("orders", time::now() + HOUR), renewal(instance, &first)).await;
    assert!(matches!(refusal(renew), Refusal::WorkloadNotActive { .. }));
    set(WorkloadStatus::Active).await.unwrap();
    fixture
        .store
        .record_renewal(issuance("orders", time::now() + HOUR), renewal(instance, &first))
        .await
        .unwrap();
    set(WorkloadStatus::Retired).await.unwrap();
    assert_eq!(
        refusal(set(WorkloadStatus::Active).await),
        Refusal::WorkloadRetired(id("orders").to_string())
    );
}

async fn instance_whose_svid_ended_cannot_renew(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, Duration::ZERO).await;
    let renew =
        fixture.store.record_renewal(issuance("orders", time::now() + HOUR), renewal(instance, &first)).await;
    assert_eq!(refusal(renew), Refusal::InstanceLapsed);
}

async fn instance_of_another_identity_cannot_be_renewed(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let renew = fixture
        .store
        .record_renewal(issuance("payments", time::now() + HOUR), renewal(instance, &first))
        .await;
    assert_eq!(refusal(renew), Refusal::InstanceUnknown);
}

async fn key_is_certified_for_one_identity_and_never_after_its_revocation(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    fixture.token("payments", 2).await;
    let with_key =
        |name: &str| Issuance { spki_sha256: first.spki_sha256, ..issuance(name, time::now() + HOUR) };
    let other = fixture.store.record_attestation(with_key("payments"), attestation(2)).await;
    assert_eq!(refusal(other), Refusal::KeyOfAnother);
    fixture.store.revoke(RevocationTarget::Instance(instance), "test".into(), operator()).await.unwrap();
    fixture.token("orders", 3).await;
    let again = fixture.store.record_attestation(with_key("orders"), attestation(3)).await;
    assert_eq!(refusal(again), Refusal::KeyRevoked);
    let fresh = issuance("orders", time::now() + HOUR);
    fixture.store.record_attestation(fresh, attestation(3)).await.unwrap();
}

async fn refused_known_token_is_in_the_audit_but_cannot_fill_it(fixture: Fixture) {
    fixture.instance("orders", 1, HOUR).await;
    let before = fixture.verified_events().await;
    for _ in 0..30 {
        fixture.store.refuse_token([1; 32], "token_spent", operator()).await.unwrap();
        fixture.store.refuse_token([9; 32], "token_unknown", operator()).await.unwrap();
    }
    assert_eq!(fixture.verified_events().await, before + 10);
}

async fn redeem_whose_answer_was_lost_is_answered_again_to_the_same_key_only(fixture: Fixture) {
    fixture.token("orders", 1).await;
    let (first, new) = (issuance("orders", time::now() + HOUR), attestation(1));
    fixture.store.record_attestation(first.clone(), new.clone()).await.unwrap();
    let token = fixture.store.redeemable_token([1; 32], time::now()).await.unwrap();
    assert_eq!(token.redeemed_by, Some(new.instance));
    let before = fixture.verified_events().await;

    let with_key = |certificate: Issuance| Issuance { spki_sha256: first.spki_sha256, ..certificate };
    let fresh = || issuance("orders", time::now() + HOUR);
    let thief = fixture.store.record_attestation(fresh(), new.clone()).await;
    assert_eq!(refusal(thief), Refusal::TokenSpent, "another key");
    let other = fixture.store.record_attestation(with_key(fresh()), attestation(1)).await;
    assert_eq!(refusal(other), Refusal::TokenSpent, "another instance");
    let again = with_key(fresh());
    fixture.store.record_attestation(again.clone(), new.clone()).await.unwrap();
    assert_eq!(fixture.verified_events().await, before + 1);
    let identities = fixture.store.identities(None, true, time::now()).await.unwrap();
    assert_eq!(identities.len(), 1);
    assert_eq!((identities[0].instance, &identities[0].serial), (new.instance, &again.serial));

    fixture.store.record_renewal(fresh(), renewal(new.instance, &again)).await.unwrap();
    let late = fixture.store.record_attestation(with_key(fresh()), new).await;
    assert_eq!(refusal(late), Refusal::TokenSpent, "it heard the answer, or it could not have renewed");
    let later = fixture.store.redeemable_token([1; 32], time::now() + Duration::from_secs(601)).await;
    assert_eq!(refusal(later.map(drop)), Refusal::TokenSpent);
}
