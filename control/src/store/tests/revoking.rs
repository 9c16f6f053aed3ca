//! What takes many away at once takes exactly those, and orders to renew mean exactly those.

use super::model::{RevocationTarget, WorkloadStatus};
use super::sql::values;
use super::*;
use crate::registry::Name;
use crate::roles::{Binding, Refused, Scope};

both_engines!(
    revoked_subtree_ends_all_below_it_and_nothing_beside,
    revoked_team_ends_what_it_answers_for,
    who_may_not_change_all_of_it_revokes_nothing,
    revoked_key_ends_every_instance_that_has_it,
    revoked_intermediate_is_listed_once_another_signs,
    intermediate_by_which_a_replica_shows_itself_is_not_revoked,
    order_to_renew_is_followed_by_certificates_issued_since,
    wider_order_takes_the_place_of_narrower_ones,
    order_to_renew_is_forgotten_when_nothing_is_left_that_it_could_mean,
);

async fn revoke(fixture: &Fixture, target: RevocationTarget) -> Result<Vec<String>, StoreError> {
    Ok(fixture.store.revoke(target, "test".into(), operator()).await?.effects)
}

async fn listed(fixture: &Fixture) -> model::RevocationList {
    fixture.store.mesh_since(None).await.unwrap().revocations.unwrap()
}

fn subtree(text: &str) -> RevocationTarget {
    match text.parse().unwrap() {
        Scope::Of(signet_proto::policy::Pattern::Subtree(subtree)) => RevocationTarget::Subtree(subtree),
        other => panic!("no subtree: {other}"),
    }
}

async fn registered(fixture: &Fixture, name: &str, team: &str) {
    let owner = Owner { team: team.into(), contact: None };
    let declaration = Declaration { owner, ..declared(&format!("spiffe://mesh.local/{name}")) };
    fixture.store.create_workload(declaration, operator()).await.unwrap();
}

async fn status(fixture: &Fixture, name: &str) -> (WorkloadStatus, bool) {
    let name: Name = format!("spiffe://mesh.local/{name}").parse().unwrap();
    let found = fixture.store.workloads().await.unwrap();
    let found = found.into_iter().find(|found| found.declaration.name == name).unwrap();
    (found.declaration.status, found.held)
}

async fn revoked_subtree_ends_all_below_it_and_nothing_beside(fixture: Fixture) {
    for name in ["batch", "batch/a", "batch/b/c", "batches", "batch/{job}", "{area}/{job}"] {
        registered(&fixture, name, "team").await;
    }
    let (one, certificate) = fixture.instance("batch/a", 1, HOUR).await;
    let (two, _) = fixture.instance("batch/b/c", 2, HOUR).await;
    let (beside, other) = fixture.instance("batches", 3, HOUR).await;
    fixture.token("batch/a", 4).await;
    let before = fixture.store.committed().borrow().revision;

    let effects = revoke(&fixture, subtree("spiffe://mesh.local/batch/*")).await.unwrap();

    assert_eq!(fixture.store.committed().borrow().revision, before + 1, "one change for everybody");
    assert!(effects.iter().any(|line| line.contains("2 identities with 2 instances")), "{effects:?}");
    assert!(effects.iter().any(|line| line.contains("`spiffe://mesh.local/batch/{job}` suspended")));
    let goes_on = |line: &&String| line.contains("{area}/{job}") && line.contains("signet freeze");
    assert_eq!(effects.iter().filter(goes_on).count(), 1, "{effects:?}");
    let list = listed(&fixture).await;
    assert_eq!(list.identities, [id("batch/a").to_string(), id("batch/b/c").to_string()]);
    let mut instances = [(one.to_string(), false), (two.to_string(), false)];
    instances.sort();
    assert_eq!(list.instances, instances);
    for (name, expected) in [
        ("batch/a", (WorkloadStatus::Suspended, true)),
        ("batch/{job}", (WorkloadStatus::Suspended, true)),
        ("batch", (WorkloadStatus::Active, false)),
        ("batches", (WorkloadStatus::Active, false)),
        ("{area}/{job}", (WorkloadStatus::Active, false)),
    ] {
        assert_eq!(status(&fixture, name).await, expected, "{name}");
    }
    let next = |name| issuance(name, time::now() + HOUR);
    let refused = fixture.store.record_renewal(next("batch/a"), renewal(one, &certificate)).await;
    assert!(matches!(refusal(refused), Refusal::WorkloadNotActive { .. }));
    let token = fixture.store.redeemable_token([4; 32], time::now()).await;
    assert_eq!(refusal(token.map(drop)), Refusal::TokenSpent);
    fixture.store.record_renewal(next("batches"), renewal(beside, &other)).await.unwrap();

    let again = revoke(&fixture, subtree("spiffe://mesh.local/batch/*")).await.unwrap();
    assert!(again[0].contains("nothing changed"), "{again:?}");
    let nothing = revoke(&fixture, subtree("spiffe://mesh.local/nowhere/*")).await;
    assert!(matches!(nothing, Err(StoreError::NotFound { .. })), "{nothing:?}");
    fixture.verified_events().await;
}

async fn revoked_team_ends_what_it_answers_for(fixture: Fixture) {
    for (name, team) in [("a", "batch-team"), ("b", "shop-team"), ("jobs/{job}", "batch-team")] {
        registered(&fixture, name, team).await;
    }
    let (gone, _) = fixture.instance("a", 1, HOUR).await;
    fixture.instance("b", 2, HOUR).await;
    revoke(&fixture, RevocationTarget::Owner("batch-team".into())).await.unwrap();
    let list = listed(&fixture).await;
    assert_eq!(list.identities, [id("a").to_string()]);
    assert_eq!(list.instances, [(gone.to_string(), false)]);
    assert_eq!(status(&fixture, "jobs/{job}").await, (WorkloadStatus::Suspended, true));
    assert_eq!(status(&fixture, "b").await, (WorkloadStatus::Active, false));
    let nobody = revoke(&fixture, RevocationTarget::Owner("nobody".into())).await;
    assert!(matches!(nobody, Err(StoreError::NotFound { .. })), "{nobody:?}");
    fixture.verified_events().await;
}

/// Reaches one scope only.
struct Only(Scope);

impl Permission for Only {
    fn on_all(&self, targets: &[Scope]) -> Result<Actor, Refused> {
        let permitted = !targets.is_empty() && targets.iter().all(|target| self.0.covers(target));
        if permitted { Ok(operator()) } else { Err(Refused::Untold("test")) }
    }

    fn may_become(&self, _: &SpiffeId, _: &[Binding]) -> Result<(), Refused> {
        Err(Refused::Untold("test"))
    }
}

async fn who_may_not_change_all_of_it_revokes_nothing(fixture: Fixture) {
    registered(&fixture, "batch/a", "shared").await;
    registered(&fixture, "shop/a", "shared").await;
    let (instance, certificate) = fixture.instance("shop/a", 1, HOUR).await;
    let only = || Only("spiffe://mesh.local/batch/*".parse().unwrap());
    for target in [
        RevocationTarget::Owner("shared".into()),
        RevocationTarget::Owner("nobody".into()),
        subtree("spiffe://mesh.local/*"),
        RevocationTarget::Identity(id("shop/a")),
        RevocationTarget::Instance(instance),
        RevocationTarget::Serial(certificate.serial.clone()),
        RevocationTarget::Key(certificate.spki_sha256),
        RevocationTarget::Issuer("ca".into()),
    ] {
        let refused = fixture.store.revoke(target.clone(), "test".into(), only()).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{target:?}: {refused:?}");
    }
    let refused = fixture.store.order_rotation(Scope::Everything, "test".into(), only()).await;
    assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
    assert_eq!(listed(&fixture).await, model::RevocationList::default());
    fixture.store.revoke(subtree("spiffe://mesh.local/batch/*"), "test".into(), only()).await.unwrap();
    assert_eq!(listed(&fixture).await.identities, [id("batch/a").to_string()]);
}

async fn revoked_key_ends_every_instance_that_has_it(fixture: Fixture) {
    let (one, first) = fixture.instance("orders", 1, HOUR).await;
    let (other, second) = fixture.instance("orders", 2, HOUR).await;
    // The same key again, by another proof.
    fixture.token("orders", 3).await;
    let again = Issuance { spki_sha256: first.spki_sha256, ..issuance("orders", time::now() + HOUR * 2) };
    let twin = attestation(3);
    fixture.store.record_attestation(again, twin.clone()).await.unwrap();

    revoke(&fixture, RevocationTarget::Key(first.spki_sha256)).await.unwrap();

    let list = listed(&fixture).await;
    assert_eq!(list.keys, [first.spki_sha256]);
    let mut instances = [(one.to_string(), false), (twin.instance.to_string(), false)];
    instances.sort();
    assert_eq!(list.instances, instances);
    let next = || issuance("orders", time::now() + HOUR);
    fixture.store.record_renewal(next(), renewal(other, &second)).await.unwrap();
    let with_the_key = Issuance { spki_sha256: first.spki_sha256, ..next() };
    let refused = fixture.store.record_renewal(with_the_key, renewal(other, &second)).await;
    assert_eq!(refusal(refused), Refusal::KeyRevoked, "nobody is certified for it again");
    let again = revoke(&fixture, RevocationTarget::Key(first.spki_sha256)).await.unwrap();
    assert!(again[0].contains("nothing changed"), "{again:?}");
    let unknown = revoke(&fixture, RevocationTarget::Key([9; 32])).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "{unknown:?}");
    fixture.verified_events().await;
}

/// A certificate that can be read, for an authority of the fixture.
async fn certify(fixture: &Fixture, authority: &'static str) -> Vec<u8> {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap().der().to_vec();
    let der = certificate.clone();
    let written = fixture.store.write(move |change| {
        change.operational();
        change.sql.execute("UPDATE authority SET certificate = ?2 WHERE id = ?1", values![authority, &der])
    });
    assert_eq!(written.await.unwrap(), 1);
    certificate
}

async fn revoked_intermediate_is_listed_once_another_signs(fixture: Fixture) {
    let (root, ca) = (certify(&fixture, "root").await, certify(&fixture, "ca").await);
    let fingerprint =
        |certificate: &[u8]| RevocationTarget::Issuer(crate::hex::encode(&crate::sha256(certificate)));
    let (instance, certificate) = fixture.instance("orders", 1, HOUR).await;
    let (goes_on, old) = fixture.instance("orders", 2, HOUR).await;
    assert_eq!(refusal(revoke(&fixture, fingerprint(&root)).await), Refusal::RootIssuer);
    assert_eq!(refusal(revoke(&fixture, fingerprint(&ca)).await), Refusal::IssuerInUse("ca".into()));
    let next = AuthorityRecord { certificate: ca.clone(), ..authority("next", AuthorityKind::Intermediate) };
    let prepared = AuthorityRecord { id: "a prepared one".into(), ..next.clone() };
    fixture.store.prepare_authority(prepared, operator()).await.unwrap();
    let refused = refusal(revoke(&fixture, RevocationTarget::Issuer("a prepared one".into())).await);
    assert!(refused.to_string().contains("`signet ca retire a prepared one`"), "{refused}");
    fixture.store.retire_authority("a prepared one".into(), operator()).await.unwrap();
    fixture.store.replace_intermediates(in_place_of("ca", next), operator()).await.unwrap();
    let renewed = Issuance { authority: "next".into(), ..issuance("orders", time::now() + HOUR) };
    fixture.store.record_renewal(renewed, renewal(goes_on, &old)).await.unwrap();

    let handle = signet_proto::spiffe::certificate_handle(&ca).unwrap();
    let effects = revoke(&fixture, RevocationTarget::Issuer("ca".into())).await.unwrap();

    assert!(effects[1].starts_with("1 instance holds nothing else"), "{effects:?}");
    let list = listed(&fixture).await;
    assert_eq!(list.certificates, [(handle.issuer_sha256, handle.serial.clone())]);
    assert_eq!(list.keys, [handle.spki_sha256]);
    // Who renews shows what signed its SVID.
    let mut shown = renewal(instance, &certificate);
    shown.presented.push((handle.issuer_sha256, handle.serial));
    let refused = fixture.store.record_renewal(issuance("orders", time::now() + HOUR), shown).await;
    assert_eq!(refusal(refused), Refusal::CertificateRevoked);
    fixture.verified_events().await;
}

async fn intermediate_by_which_a_replica_shows_itself_is_not_revoked(fixture: Fixture) {
    let ca = certify(&fixture, "ca").await;
    let own = |authority: &str| {
        let issued = issuance("signet/control", time::now() + HOUR);
        fixture.store.record_own(Issuance { authority: authority.into(), ..issued })
    };
    let replica = async |statement: &'static str| {
        let written = fixture.store.write(move |change| {
            change.operational();
            change.sql.post(statement, &[])
        });
        written.await.unwrap();
    };
    fixture.store.heartbeat(time::now()).await.unwrap();
    own("ca").await.unwrap();
    replica("UPDATE replica SET id = 'other'").await;
    let next = AuthorityRecord { certificate: ca, ..authority("next", AuthorityKind::Intermediate) };
    fixture.store.replace_intermediates(in_place_of("ca", next), operator()).await.unwrap();
    own("next").await.unwrap();
    let revoked = revoke(&fixture, RevocationTarget::Issuer("ca".into())).await;
    assert_eq!(refusal(revoked), Refusal::IssuerInUse("ca".into()), "the other replica shows itself by it");
    replica("DELETE FROM replica").await;
    revoke(&fixture, RevocationTarget::Issuer("ca".into())).await.unwrap();
}

async fn watches(fixture: &Fixture, name: &str, secret: u8) -> (InstanceId, Issuance) {
    let (instance, certificate) = fixture.instance(name, secret, HOUR).await;
    fixture.store.watched(instance).await.unwrap();
    (instance, certificate)
}

async fn order(fixture: &Fixture, scope: &str) -> model::RotationOrder {
    // A certificate of the same millisecond counts as issued since.
    tokio::time::sleep(Duration::from_millis(2)).await;
    fixture.store.order_rotation(scope.parse().unwrap(), "drill".into(), operator()).await.unwrap().1
}

async fn order_to_renew_is_followed_by_certificates_issued_since(fixture: Fixture) {
    for name in ["shop/a", "shop/b"] {
        fixture.workload(name).await;
    }
    let (one, first) = watches(&fixture, "shop/a", 1).await;
    let (two, _) = watches(&fixture, "shop/b", 2).await;
    watches(&fixture, "orders", 3).await;
    // An operator's own, which nobody can tell anything.
    fixture.instance("shop/a", 4, HOUR).await;

    let ordered = order(&fixture, "spiffe://mesh.local/shop/*").await;

    let concern = fixture.store.concern(fixture.store.committed().borrow().revision).await.unwrap();
    assert!(concern.includes(&id("shop/a")) && !concern.includes(&id("orders")), "{concern:?}");
    let progress = async |scope: &str| {
        let (scope, at) = (scope.parse().unwrap(), ordered.issued_before);
        fixture.store.rotated(scope, at, time::now()).await.unwrap()
    };
    let found = progress("spiffe://mesh.local/shop/*").await;
    assert_eq!((found.rotated, found.left), (0, 2));
    assert_eq!(found.left_some, [(id("shop/a"), one), (id("shop/b"), two)]);
    assert_eq!(progress("everything").await.left, 3);
    assert_eq!(progress("spiffe://mesh.local/shop/b").await.left_some, [(id("shop/b"), two)]);

    let next = issuance("shop/a", time::now() + HOUR);
    fixture.store.record_renewal(next, renewal(one, &first)).await.unwrap();
    let found = progress("spiffe://mesh.local/shop/*").await;
    assert_eq!((found.rotated, found.left, found.left_some), (1, 1, vec![(id("shop/b"), two)]));
    fixture.verified_events().await;
}

async fn wider_order_takes_the_place_of_narrower_ones(fixture: Fixture) {
    for scope in ["spiffe://mesh.local/shop/a", "spiffe://mesh.local/orders", "spiffe://mesh.local/shop/*"] {
        order(&fixture, scope).await;
    }
    let all = async || {
        let orders = fixture.store.mesh_since(None).await.unwrap().rotations.unwrap();
        orders.iter().map(|order| order.scope.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(all().await, ["spiffe://mesh.local/orders", "spiffe://mesh.local/shop/*"]);
    let newest = order(&fixture, "everything").await;
    assert_eq!(all().await, ["everything"]);
    let stored = fixture.store.mesh_since(None).await.unwrap().rotations.unwrap();
    assert_eq!(stored, [newest]);
}

async fn order_to_renew_is_forgotten_when_nothing_is_left_that_it_could_mean(fixture: Fixture) {
    let ordered = order(&fixture, "everything").await;
    let left = async |before: SystemTime| {
        fixture.store.prune_ended(before, 10).await.unwrap();
        fixture.store.mesh_since(None).await.unwrap().rotations.unwrap().len()
    };
    assert_eq!(left(ordered.issued_before).await, 1);
    assert_eq!(left(ordered.issued_before + Duration::from_millis(1)).await, 0);
}
