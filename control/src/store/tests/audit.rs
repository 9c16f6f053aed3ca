//! What the audit keeps besides its events, and what each event says about its call.

use serde_json::json;

use super::*;
use crate::audit::{
    Action, Annotation, AuditEvent, AuditKeyRecord, AuditStore as _, Checkpoint, RequestId, testing,
};

both_engines!(
    first_key_counts_and_is_audited_once,
    checkpoints_only_go_forward_and_stay,
    positions_are_kept_but_not_for_ever,
    events_say_in_which_call_they_were_made,
    accepted_store_is_found_by_what_it_lacks,
);

fn record(id: &str) -> AuditKeyRecord {
    AuditKeyRecord { id: id.into(), public_key: vec![1], sealed_key: vec![2] }
}

async fn newest_event(store: &Store) -> AuditEvent {
    store.newest_event().await.unwrap().unwrap()
}

async fn first_key_counts_and_is_audited_once(fixture: Fixture) {
    let store = fixture.store.clone();
    assert_eq!(store.audit_key().await.unwrap(), None);
    let (one, two) =
        tokio::join!(store.create_audit_key(record("one")), store.create_audit_key(record("two")));
    let first = one.unwrap();
    assert_eq!(first, two.unwrap());
    let events = fixture.verified_events().await;
    drop(store);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.audit_key().await.unwrap(), Some(first.clone()));
    assert_eq!(fixture.store.create_audit_key(record("three")).await.unwrap(), first);
    assert_eq!(fixture.verified_events().await, events);
    let event = newest_event(&fixture.store).await;
    assert_eq!((&*event.action, &*event.subject), (Action::AuditKeyCreated.as_str(), &*first.id));
}

async fn checkpoints_only_go_forward_and_stay(fixture: Fixture) {
    let signer = testing::signer();
    let events = fixture.store.newest_events(3, None).await.unwrap();
    let [first, second, third] = [0, 1, 2].map(|at| testing::checkpoint(&signer, &events[at]));
    assert_eq!(fixture.store.newest_checkpoint().await.unwrap(), None);
    fixture.store.add_checkpoint(first.clone()).await.unwrap();
    fixture.store.add_checkpoint(third.clone()).await.unwrap();
    let late = Checkpoint { at: first.at - HOUR, sequence: third.sequence + 1, ..third.clone() };
    for refused in [&first, &second, &third, &late] {
        let refused = fixture.store.add_checkpoint(refused.clone()).await;
        assert!(matches!(refused, Err(StoreError::Exists { .. })), "{refused:?}");
    }
    let fixture = fixture.reopen();
    let (store, all) = (&fixture.store, [first.clone(), third.clone()]);
    assert_eq!(store.newest_checkpoint().await.unwrap().as_ref(), Some(&third));
    assert_eq!(store.checkpoints_after(0, 9).await.unwrap(), all);
    assert_eq!(store.checkpoints_after(0, 1).await.unwrap(), all[..1]);
    assert_eq!(store.checkpoints_after(first.sequence, 9).await.unwrap(), [third]);
    let removed = store
        .write(|change| {
            change.operational();
            change.sql.execute("DELETE FROM audit_checkpoint", &[])
        })
        .await;
    assert!(removed.is_err());
}

async fn positions_are_kept_but_not_for_ever(fixture: Fixture) {
    let store = &fixture.store;
    assert_eq!(store.sink_position("file:/a".into()).await.unwrap(), 0);
    for sequence in [7, 5] {
        store.set_sink_position("file:/a".into(), sequence).await.unwrap();
        assert_eq!(store.sink_position("file:/a".into()).await.unwrap(), sequence, "back, too");
    }
    for name in 0..300 {
        store.set_sink_position(format!("file:/{name}"), 9).await.unwrap();
    }
    let kept: u64 = store.read(|sql| sql.one("SELECT count(*) FROM audit_copy", &[])).await.unwrap();
    assert!((256..=257).contains(&kept), "{kept}");
    assert_eq!(store.sink_position("file:/299".into()).await.unwrap(), 9);
}

async fn events_say_in_which_call_they_were_made(fixture: Fixture) {
    let (call, store) = (Some(RequestId::random()), &fixture.store);
    let said = async || Annotation::of(&newest_event(store).await.detail);
    store.apply_policies(vec![policy("p", "{}")], operator().in_call(call), |_| Ok(())).await.unwrap();
    assert_eq!(said().await, Annotation::request(call));
    let target = model::RevocationTarget::Identity(id("payments"));
    store.revoke(target, "key leaked".into(), operator().in_call(call)).await.unwrap();
    assert_eq!(said().await, Annotation::request(call).because("key leaked"));

    fixture.token("orders", 1).await;
    assert_eq!(said().await, Annotation::default(), "nobody's call");
    let first = issuance("orders", time::now() + HOUR);
    let attestation = Attestation { request_id: call, ..attestation(1) };
    let instance = attestation.instance;
    store.record_attestation(first.clone(), attestation).await.unwrap();
    assert_eq!(said().await, Annotation::request(call));
    let next = Renewal { request_id: call, ..renewal(instance, &first) };
    store.record_renewal(issuance("orders", time::now() + HOUR), next).await.unwrap();
    assert_eq!(said().await, Annotation::request(call));
    assert_eq!(newest_event(store).await.action, Action::SvidRenewed.as_str());

    let detail = Annotation::request(call).because("may not").on(json!({ "left_out": 3 }));
    let who = Actor::identity(&id("orders"));
    store.record_refusal(who, Action::CallRefused, "Admin/Status".into(), detail).await.unwrap();
    let event = newest_event(store).await;
    assert_eq!((&*event.action, &*event.subject), (Action::CallRefused.as_str(), "Admin/Status"));
    assert_eq!(said().await, Annotation::request(call).because("may not"));
    fixture.verified_events().await;
}

async fn accepted_store_is_found_by_what_it_lacks(fixture: Fixture) {
    let (store, signer) = (&fixture.store, testing::signer());
    let [one, other] =
        [20, 30].map(|count| testing::checkpoint(&signer, &testing::chain(count)[count as usize - 1]));
    assert_eq!(store.accepted_older(&one).await.unwrap(), None);
    store.accept_older(one.clone(), "the store lacks events".into()).await.unwrap();
    let event = newest_event(store).await;
    assert_eq!(store.accepted_older(&one).await.unwrap(), Some(event.sequence));
    assert_eq!(store.accepted_older(&other).await.unwrap(), None);
    assert_eq!(Annotation::of(&event.detail).reason.as_deref(), Some("the store lacks events"));
    fixture.verified_events().await;
}
