//! Keys of tokens, one after another; and who gets a token.

use super::model::{
    JwtActivation, JwtCompromise, JwtIssuance, KnownJwtKey, Phase, RevocationTarget, WorkloadStatus,
};
use super::*;

both_engines!(
    jwt_key_signs_only_what_every_proxy_can_believe_and_stays_as_long_as_its_tokens,
    compromised_jwt_key_is_replaced_at_once,
    whoever_could_renew_gets_a_token_and_nobody_else,
);

const LONGEST: Duration = Duration::from_secs(300);

fn activation(id: &str, replaces: &str) -> JwtActivation {
    let replaces = Some(replaces.to_owned());
    JwtActivation { id: id.into(), replaces, longest: LONGEST, unacknowledged: false }
}

async fn keys(store: &Store) -> Vec<(String, Phase)> {
    store.jwt_keys().await.unwrap().into_iter().map(|key| (key.id, key.phase)).collect()
}

async fn known(store: &Store, id: &str) -> KnownJwtKey {
    store.jwt_keys().await.unwrap().into_iter().find(|key| key.id == id).unwrap()
}

async fn end_tokens(fixture: &Fixture) {
    fixture
        .store
        .write(|change| {
            change.operational();
            change.sql.post("UPDATE jwt_key SET ends_ms = 1 WHERE phase = 'retiring'", &[])
        })
        .await
        .unwrap();
}

async fn jwt_key_signs_only_what_every_proxy_can_believe_and_stays_as_long_as_its_tokens(fixture: Fixture) {
    let (knows, _) = fixture.instance("orders", 1, HOUR).await;
    let lease = model::Lease {
        instance: knows,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listeners: vec![listener(1)],
        locality: None,
    };
    fixture.watch(lease.clone()).await;
    let store = &fixture.store;
    assert_eq!(keys(store).await, [("first".to_owned(), Phase::Active)]);
    let announced = store.prepare_jwt_key(jwt_key("next"), operator()).await.unwrap().commit.revision;
    let bundle = store.mesh_since(None).await.unwrap().bundle.unwrap();
    assert_eq!((bundle.jwt_authorities.len(), bundle.sequence), (2, announced));
    let other = refusal(store.prepare_jwt_key(jwt_key("third"), operator()).await);
    assert!(matches!(other, Refusal::RotationUnderWay { .. }), "{other}");

    let early = refusal(store.activate_jwt_key(activation("next", "first"), operator()).await);
    assert!(matches!(early, Refusal::NotAcknowledged { count: 1, .. }), "{early}");
    fixture.acknowledge(lease, announced).await;
    let stale = refusal(store.activate_jwt_key(activation("next", "another"), operator()).await);
    assert_eq!(stale, Refusal::RotatedMeanwhile);
    store.activate_jwt_key(activation("next", "first"), operator()).await.unwrap();
    let fixture = fixture.reopen();
    let store = &fixture.store;
    assert_eq!(known(store, "first").await.phase, Phase::Retiring);
    assert_eq!(store.sealed_jwt_key("first".into()).await.unwrap(), None, "its key is erased");
    assert!(store.sealed_jwt_key("next".into()).await.unwrap().is_some());

    let needed = refusal(store.retire_jwt_key("first".into(), operator()).await);
    assert!(matches!(needed, Refusal::StillChained { .. }), "{needed}");
    end_tokens(&fixture).await;
    store.retire_jwt_key("first".into(), operator()).await.unwrap();
    let bundle = store.mesh_since(None).await.unwrap().bundle.unwrap();
    assert!(bundle.jwt_authorities.len() == 1 && bundle.sequence > announced, "{bundle:?}");
    fixture.verified_events().await;
}

async fn compromised_jwt_key_is_replaced_at_once(fixture: Fixture) {
    let store = &fixture.store;
    let compromise = |id: &str, next: &str, within| JwtCompromise {
        id: id.into(),
        successor: jwt_key(next),
        within,
        reason: "test".into(),
    };
    store.compromise_jwt_key(compromise("first", "second", LONGEST), operator()).await.unwrap();
    assert_eq!(known(store, "second").await.phase, Phase::Active);
    let ends = known(store, "first").await.ends.unwrap();
    assert!(ends > time::now() && ends <= time::now() + LONGEST);
    store.compromise_jwt_key(compromise("first", "third", Duration::ZERO), operator()).await.unwrap();
    assert_eq!(keys(store).await, [("second".to_owned(), Phase::Active)], "it signed no more");
    store.prepare_jwt_key(jwt_key("fourth"), operator()).await.unwrap();
    store.compromise_jwt_key(compromise("second", "fifth", Duration::ZERO), operator()).await.unwrap();
    assert_eq!(keys(store).await, [("fourth".to_owned(), Phase::Active)], "the next one was there already");
    fixture.verified_events().await;
}

async fn whoever_could_renew_gets_a_token_and_nobody_else(fixture: Fixture) {
    let bounded = fixture.store.clone().with_limits(Limits { issuance_quota: 3, ..Limits::default() });
    let (instance, svid) = fixture.instance("orders", 1, HOUR).await;
    let token = |key: &str| JwtIssuance {
        jti: "a".into(),
        spiffe_id: id("orders"),
        instance,
        spki_sha256: svid.spki_sha256,
        presented: vec![(svid.issuer_sha256, svid.serial.clone())],
        audience: vec!["billing".into()],
        key: key.into(),
        expires_at: time::now() + LONGEST,
        request_id: None,
    };
    bounded.record_jwt(token("first")).await.unwrap();
    let newest = fixture.store.newest_events(1, Some(id("orders").to_string())).await.unwrap();
    assert_eq!(newest[0].action, "jwt.issued");
    assert!(newest[0].detail.contains("billing") && newest[0].actor == id("orders").as_str(), "{newest:?}");
    assert_eq!(refusal(bounded.record_jwt(token("forgotten")).await), Refusal::SignerRemoved);

    let set = |status| fixture.store.set_workload_status(id("orders"), status, "test".into(), operator());
    set(WorkloadStatus::Suspended).await.unwrap();
    let suspended = refusal(bounded.record_jwt(token("first")).await);
    assert!(matches!(suspended, Refusal::WorkloadNotActive { .. }), "{suspended}");
    set(WorkloadStatus::Active).await.unwrap();
    let other = JwtIssuance { spiffe_id: id("payments"), ..token("first") };
    assert_eq!(refusal(bounded.record_jwt(other).await), Refusal::InstanceUnknown);

    for _ in 0..2 {
        bounded.record_jwt(token("first")).await.unwrap();
    }
    let used = refusal(bounded.record_jwt(token("first")).await);
    assert!(matches!(used, Refusal::QuotaUsed { quota: 3, .. }), "{used}");
    let next = issuance("orders", time::now() + HOUR);
    bounded.record_renewal(next, renewal(instance, &svid)).await.expect("SVIDs are counted apart");

    let target = RevocationTarget::Instance(instance);
    fixture.store.revoke(target, "test".into(), operator()).await.unwrap();
    assert_eq!(refusal(fixture.store.record_jwt(token("first")).await), Refusal::InstanceRevoked);
    fixture.verified_events().await;
}
