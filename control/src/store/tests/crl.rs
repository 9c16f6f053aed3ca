//! What belongs in revocation lists, for each way of taking away, and how the lists themselves are kept.

use super::model::{Crl, CrlHead, Listing, Reason, RevocationTarget, WorkloadStatus};
use super::*;

both_engines!(
    what_is_revoked_of_an_issuer_is_found_with_its_reason,
    authorities_are_found_by_certificate_and_key,
    newer_lists_are_kept_by_whoever_knew_the_newest,
);

async fn found(fixture: &Fixture, since: SystemTime) -> Vec<(Vec<u8>, Reason)> {
    let found = fixture.store.revoked_certificates("ca".into(), since).await.unwrap();
    found.into_iter().map(|revoked| (revoked.serial, revoked.reason)).collect()
}

async fn what_is_revoked_of_an_issuer_is_found_with_its_reason(fixture: Fixture) {
    for name in ["paused", "closed"] {
        fixture.workload(name).await;
    }
    let (good, _) = fixture.instance("orders", 1, HOUR).await;
    let (lost, first) = fixture.instance("orders", 2, HOUR).await;
    let renewed = issuance("orders", time::now() + 2 * HOUR);
    fixture.store.record_renewal(renewed.clone(), renewal(lost, &first)).await.unwrap();
    let (_, leaked) = fixture.instance("orders", 3, HOUR).await;
    let (_, paused) = fixture.instance("paused", 4, HOUR).await;
    let (_, closed) = fixture.instance("closed", 5, HOUR).await;
    let (lapsed, _) = fixture.instance("payments", 6, Duration::ZERO).await;
    let now = time::now();
    assert!(found(&fixture, now).await.is_empty());

    let revoke = async |target| fixture.store.revoke(target, "test".into(), operator()).await.unwrap();
    revoke(RevocationTarget::Instance(lost)).await;
    revoke(RevocationTarget::Serial(leaked.serial.clone())).await;
    let set = async |name, status| {
        fixture.store.set_workload_status(id(name), status, "test".into(), operator()).await.unwrap()
    };
    set("paused", WorkloadStatus::Suspended).await;
    set("closed", WorkloadStatus::Retired).await;
    assert_eq!(fixture.store.lapse_instances(now + Duration::from_secs(1), 10).await.unwrap(), [lapsed]);

    let mut expected = vec![
        (first.serial.clone(), Reason::Unspecified),
        (renewed.serial.clone(), Reason::Unspecified),
        (leaked.serial.clone(), Reason::KeyCompromise),
        (paused.serial, Reason::CertificateHold),
        (closed.serial, Reason::CessationOfOperation),
    ];
    expected.sort();
    assert_eq!(found(&fixture, now).await, expected, "{good} is good");
    set("paused", WorkloadStatus::Active).await;
    expected.retain(|(_, reason)| *reason != Reason::CertificateHold);
    assert_eq!(found(&fixture, now).await, expected);
    let later = now + HOUR + Duration::from_secs(60);
    assert_eq!(found(&fixture, later).await, [(renewed.serial, Reason::Unspecified)], "the others ended");
    let other = fixture.store.revoked_certificates("root".into(), now).await.unwrap();
    assert_eq!(other, [], "nothing of another issuer");
}

async fn authorities_are_found_by_certificate_and_key(fixture: Fixture) {
    let listing = |serial| Listing {
        id: "ca".into(),
        issuer_sha256: [3; 32],
        serial: vec![serial],
        spki_sha256: [serial; 32],
    };
    let listings = vec![listing(1), listing(2)];
    assert_eq!(fixture.store.revoked_authorities(listings.clone()).await.unwrap(), [None, None]);
    let (_, leaked) = fixture.instance("orders", 1, HOUR).await;
    let before = time::now();
    let target = RevocationTarget::Serial(leaked.serial.clone());
    fixture.store.revoke(target, "test".into(), operator()).await.unwrap();
    let by_key = Listing { spki_sha256: leaked.spki_sha256, ..listing(2) };
    let by_certificate = Listing { issuer_sha256: ISSUER, serial: leaked.serial, ..listing(3) };
    let all = vec![listing(1), by_key, by_certificate];
    let found = fixture.store.revoked_authorities(all).await.unwrap();
    assert!(found[0].is_none() && found[1..].iter().all(|at| at.is_some_and(|at| at >= before)), "{found:?}");
}

async fn newer_lists_are_kept_by_whoever_knew_the_newest(fixture: Fixture) {
    let now = time::now();
    let list = |number| Crl {
        head: CrlHead { authority: "ca".into(), number, this_update: now, next_update: now + HOUR },
        contents: format!("{number}"),
        complete: vec![1, number as u8],
        delta: vec![2, number as u8],
    };
    let put = async |new, replaces| fixture.store.put_crl(new, replaces).await.unwrap();
    assert!(put(list(7), None).await);
    assert!(!put(list(8), None).await, "another replica was faster");
    assert!(!put(list(9), Some(6)).await);
    assert!(put(list(9), Some(7)).await);
    assert_eq!(fixture.store.crl("ca".into()).await.unwrap(), Some(list(9)));
    assert_eq!(fixture.store.crl_contents("ca".into()).await.unwrap().unwrap().1, "9");
    assert_eq!(fixture.store.crl_heads().await.unwrap(), [list(9).head]);
    fixture.store.drop_crl("ca".into()).await.unwrap();
    assert_eq!(fixture.store.crl("ca".into()).await.unwrap(), None);
}
