//! What is revoked stays revoked for as long as anything it covers could be believed.

use proptest::prelude::*;

use super::model::{RevocationTarget, WorkloadStatus};
use super::*;

both_engines!(
    revoked_identity_is_listed_with_its_instances_and_gets_nothing,
    revoked_instance_ends_alone,
    revoked_serial_takes_its_key_and_its_line_with_it,
    what_was_never_issued_cannot_be_revoked,
    revoking_twice_changes_nothing_and_says_so,
    instance_that_stopped_renewing_lapses_and_only_it,
    endpoints_of_a_revoked_instance_are_gone_and_do_not_come_back,
    ended_things_are_dropped_in_small_batches,
    instance_that_said_goodbye_ends_without_a_word_to_the_others,
    departed_instance_that_renews_or_watches_again_is_live_again,
    departed_instance_can_still_be_revoked,
    instance_that_a_wrong_clock_lapsed_renews_and_is_live_again,
    neither_a_revoked_instance_nor_one_that_truly_lapsed_comes_back,
    lapsed_entries_go_after_a_day_and_revocations_a_week_after_their_certificates,
);

async fn revoke(fixture: &Fixture, target: RevocationTarget) -> Vec<String> {
    fixture.store.revoke(target, "test".into(), operator()).await.unwrap().effects
}

async fn listed(fixture: &Fixture) -> model::RevocationList {
    fixture.store.mesh_since(None).await.unwrap().revocations.unwrap()
}

async fn revoked_identity_is_listed_with_its_instances_and_gets_nothing(fixture: Fixture) {
    let (one, first) = fixture.instance("orders", 1, HOUR).await;
    let (two, _) = fixture.instance("orders", 2, HOUR).await;
    let (other, _) = fixture.instance("payments", 3, HOUR).await;
    fixture.token("orders", 4).await;
    let effects = revoke(&fixture, RevocationTarget::Identity(id("orders"))).await;
    assert!(effects.iter().any(|effect| effect.contains("1 unused join token")), "{effects:?}");
    let list = listed(&fixture).await;
    assert_eq!(list.identities, [id("orders").to_string()]);
    let mut expected = [(one.to_string(), false), (two.to_string(), false)];
    expected.sort();
    assert_eq!(list.instances, expected);
    assert_ne!(other, one);
    let workload = fixture.store.workload(id("orders")).await.unwrap();
    assert_eq!(workload.status, WorkloadStatus::Suspended);
    let active = WorkloadStatus::Active;
    fixture.store.set_workload_status(id("orders"), active, String::new(), operator()).await.unwrap();
    let list = listed(&fixture).await;
    assert!(list.identities.is_empty());
    assert_eq!(list.instances.len(), 2, "resuming a workload brings no revoked instance back");
    let renew =
        fixture.store.record_renewal(issuance("orders", time::now() + HOUR), renewal(one, &first)).await;
    assert_eq!(refusal(renew), Refusal::InstanceRevoked);
    let token = fixture.store.redeemable_token([4; 32], time::now()).await;
    assert_eq!(refusal(token.map(drop)), Refusal::TokenSpent);
}

async fn revoked_instance_ends_alone(fixture: Fixture) {
    let (one, first) = fixture.instance("orders", 1, HOUR).await;
    let (two, second) = fixture.instance("orders", 2, HOUR).await;
    revoke(&fixture, RevocationTarget::Instance(one)).await;
    let list = listed(&fixture).await;
    assert_eq!(list.instances, [(one.to_string(), false)]);
    assert!(list.identities.is_empty());
    let next = || issuance("orders", time::now() + HOUR);
    assert_eq!(
        refusal(fixture.store.record_renewal(next(), renewal(one, &first)).await),
        Refusal::InstanceRevoked
    );
    fixture.store.record_renewal(next(), renewal(two, &second)).await.unwrap();
}

async fn revoked_serial_takes_its_key_and_its_line_with_it(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    let next = issuance("orders", time::now() + HOUR);
    fixture.store.record_renewal(next.clone(), renewal(instance, &first)).await.unwrap();
    revoke(&fixture, RevocationTarget::Serial(first.serial.clone())).await;
    let list = listed(&fixture).await;
    assert_eq!(list.certificates, [(ISSUER, first.serial.clone())]);
    assert_eq!(list.keys, [first.spki_sha256]);
    assert_eq!(list.instances, [(instance.to_string(), false)]);
}

async fn what_was_never_issued_cannot_be_revoked(fixture: Fixture) {
    for target in [
        RevocationTarget::Identity(id("nobody")),
        RevocationTarget::Instance(InstanceId::random().unwrap()),
        RevocationTarget::Serial(vec![1, 2, 3]),
    ] {
        let result = fixture.store.revoke(target, "test".into(), operator()).await;
        assert!(matches!(result, Err(StoreError::NotFound { .. })));
    }
}

async fn revoking_twice_changes_nothing_and_says_so(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    for target in [
        RevocationTarget::Serial(first.serial),
        RevocationTarget::Instance(instance),
        RevocationTarget::Identity(id("orders")),
    ] {
        revoke(&fixture, target.clone()).await;
        let before = fixture.store.committed().borrow().revision;
        let effects = revoke(&fixture, target).await;
        assert!(effects[0].contains("nothing changed"), "{effects:?}");
        assert_eq!(fixture.store.committed().borrow().revision, before);
    }
}

async fn instance_that_stopped_renewing_lapses_and_only_it(fixture: Fixture) {
    let (gone, _) = fixture.instance("orders", 1, Duration::ZERO).await;
    fixture.instance("orders", 2, HOUR).await;
    let before = time::now() + Duration::from_secs(1);
    assert!(fixture.store.any_lapsed(before).await.unwrap());
    assert_eq!(fixture.store.lapse_instances(before, 10).await.unwrap(), [gone]);
    assert!(!fixture.store.any_lapsed(before).await.unwrap());
    assert_eq!(listed(&fixture).await.instances, [(gone.to_string(), true)]);
    let revision = fixture.store.committed().borrow().revision;
    assert!(fixture.store.lapse_instances(before, 10).await.unwrap().is_empty());
    assert_eq!(fixture.store.committed().borrow().revision, revision);
    revoke(&fixture, RevocationTarget::Instance(gone)).await;
    assert_eq!(listed(&fixture).await.instances, [(gone.to_string(), false)], "revoked outweighs lapsed");
}

async fn endpoints_of_a_revoked_instance_are_gone_and_do_not_come_back(fixture: Fixture) {
    let (instance, _) = fixture.instance("orders", 1, HOUR).await;
    let lease = model::Lease {
        instance,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listeners: vec![listener(1), listener(2)],
        locality: None,
    };
    fixture.watch(lease.clone()).await;
    assert_eq!(fixture.store.leases().await.unwrap(), [(lease.clone(), false)]);
    revoke(&fixture, RevocationTarget::Instance(instance)).await;
    fixture.watch(lease).await;
    assert!(fixture.store.leases().await.unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever was revoked, and whenever it is pruned: as long as one certificate of it has not ended, some
    /// entry still matches that certificate.
    #[test]
    fn prune_never_readmits_a_certificate_that_has_not_ended(
        lives in proptest::collection::vec((0_u64..100, 0_u8..3), 1..6),
        prune_at in 0_u64..120,
        engine in proptest::sample::select(vec![Engine::Sqlite, Engine::Postgres]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new(engine).await;
            let start = time::now();
            let mut issued = Vec::new();
            for (index, (life, kind)) in lives.iter().enumerate() {
                let name = if index % 2 == 0 { "orders" } else { "payments" };
                let secret = u8::try_from(index).unwrap() + 1;
                let ttl = Duration::from_secs(1000 + life);
                let (instance, certificate) = fixture.instance(name, secret, ttl).await;
                issued.push((instance, certificate, *kind));
            }
            for (instance, certificate, kind) in &issued {
                let target = match kind {
                    0 => RevocationTarget::Instance(*instance),
                    1 => RevocationTarget::Serial(certificate.serial.clone()),
                    _ => RevocationTarget::Identity(certificate.spiffe_id.clone()),
                };
                revoke(&fixture, target).await;
                let active = WorkloadStatus::Active;
                let id = certificate.spiffe_id.clone();
                fixture.store.set_workload_status(id, active, String::new(), operator()).await.unwrap();
            }
            let now = start + Duration::from_secs(1000 + prune_at);
            fixture.store.prune_revocations(now, now, 1000).await.unwrap();
            let list = listed(&fixture).await;
            let crl = fixture.store.revoked_certificates("ca".into(), now).await.unwrap();
            let mut crl: Vec<_> = crl.into_iter().map(|revoked| revoked.serial).collect();
            let live = issued.iter().filter(|(_, certificate, _)| certificate.not_after >= now);
            let mut expected: Vec<_> = live.map(|(_, certificate, _)| certificate.serial.clone()).collect();
            crl.sort();
            expected.sort();
            prop_assert_eq!(crl, expected, "what a revocation list has to hold");
            for (instance, certificate, _) in &issued {
                if certificate.not_after > now {
                    let matched = list.identities.contains(&certificate.spiffe_id.to_string())
                        || list.instances.iter().any(|(listed, _)| *listed == instance.to_string())
                        || list.certificates.iter().any(|(_, serial)| *serial == certificate.serial);
                    prop_assert!(matched, "{certificate:?} would be believed again");
                }
            }
            fixture.verified_events().await;
            Ok(())
        })?;
    }
}

async fn ended_things_are_dropped_in_small_batches(fixture: Fixture) {
    for secret in 1..6 {
        fixture.instance("orders", secret, Duration::ZERO).await;
    }
    let later = time::now() + HOUR;
    fixture.store.lapse_instances(later, 100).await.unwrap();
    let mut batches = 0;
    while fixture.store.prune_ended(later, 2).await.unwrap() > 0 {
        batches += 1;
    }
    assert!(batches >= 3, "{batches}");
    assert!(fixture.store.identities(None, true, later).await.unwrap().is_empty());
}

async fn instance_that_said_goodbye_ends_without_a_word_to_the_others(fixture: Fixture) {
    let (job, _) = fixture.instance("orders", 1, HOUR).await;
    let lease = model::Lease {
        instance: job,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listeners: vec![listener(1)],
        locality: None,
    };
    fixture.watch(lease).await;
    let revision = fixture.store.committed().borrow().revision;
    fixture.store.depart_instance(job, id("orders"), Actor::identity(&id("orders"))).await.unwrap();
    assert!(fixture.store.leases().await.unwrap().is_empty());
    let standing = &fixture.store.identities(None, false, time::now()).await.unwrap()[0];
    assert_eq!(standing.status, "departed", "what it holds is good until it ends");
    let later = time::now() + HOUR * 2;
    assert!(!fixture.store.any_lapsed(later).await.unwrap());
    assert!(fixture.store.lapse_instances(later, 10).await.unwrap().is_empty());
    assert_eq!(fixture.store.committed().borrow().revision, revision, "nobody is told");
    while fixture.store.prune_ended(later, 10).await.unwrap() > 0 {}
    assert!(fixture.store.identities(None, true, later).await.unwrap().is_empty(), "and it is forgotten");
    fixture.verified_events().await;
}

async fn departed_instance_that_renews_or_watches_again_is_live_again(fixture: Fixture) {
    let (renewing, first) = fixture.instance("orders", 1, HOUR).await;
    let (watching, _) = fixture.instance("orders", 2, HOUR).await;
    for instance in [renewing, watching] {
        fixture.store.depart_instance(instance, id("orders"), Actor::identity(&id("orders"))).await.unwrap();
    }
    let next = issuance("orders", time::now() + HOUR);
    fixture.store.record_renewal(next, renewal(renewing, &first)).await.unwrap();
    let lease = model::Lease {
        instance: watching,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listeners: vec![],
        locality: None,
    };
    fixture.watch(lease).await;
    let mut lapsed = fixture.store.lapse_instances(time::now() + HOUR * 2, 10).await.unwrap();
    lapsed.sort_unstable();
    let mut both = [renewing, watching];
    both.sort_unstable();
    assert_eq!(lapsed, both);
}

async fn departed_instance_can_still_be_revoked(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    fixture.store.depart_instance(instance, id("orders"), Actor::identity(&id("orders"))).await.unwrap();
    revoke(&fixture, RevocationTarget::Identity(id("orders"))).await;
    assert_eq!(listed(&fixture).await.instances, [(instance.to_string(), false)]);
    fixture.store.depart_instance(instance, id("orders"), Actor::identity(&id("orders"))).await.unwrap();
    let active = WorkloadStatus::Active;
    fixture.store.set_workload_status(id("orders"), active, String::new(), operator()).await.unwrap();
    let renew =
        fixture.store.record_renewal(issuance("orders", time::now() + HOUR), renewal(instance, &first)).await;
    assert_eq!(refusal(renew), Refusal::InstanceRevoked);
}

async fn instance_that_a_wrong_clock_lapsed_renews_and_is_live_again(fixture: Fixture) {
    let (renewing, first) = fixture.instance("orders", 1, HOUR).await;
    let (calling, _) = fixture.instance("orders", 2, HOUR).await;
    let ahead = time::now() + Duration::from_secs(4000);
    assert_eq!(fixture.store.lapse_instances(ahead, 10).await.unwrap().len(), 2);
    let revision = fixture.store.committed().borrow().revision;
    let next = issuance("orders", time::now() + HOUR);
    fixture.store.record_renewal(next, renewal(renewing, &first)).await.unwrap();
    assert_eq!(listed(&fixture).await.instances, [(calling.to_string(), true)]);
    let commit = fixture.store.revive_instance(calling, id("orders")).await.unwrap();
    assert_eq!(commit.revision, revision + 2, "each is news for everyone");
    assert!(listed(&fixture).await.instances.is_empty());
    let again = fixture.store.revive_instance(calling, id("orders")).await.unwrap();
    assert_eq!(again.revision, commit.revision);
    let stolen = fixture.store.revive_instance(calling, id("payments")).await;
    assert_eq!(refusal(stolen), Refusal::InstanceUnknown);
    fixture.verified_events().await;
}

async fn neither_a_revoked_instance_nor_one_that_truly_lapsed_comes_back(fixture: Fixture) {
    let (ended, _) = fixture.instance("orders", 1, Duration::ZERO).await;
    let (revoked, first) = fixture.instance("orders", 2, HOUR).await;
    fixture.store.lapse_instances(time::now() + HOUR * 2, 10).await.unwrap();
    revoke(&fixture, RevocationTarget::Instance(revoked)).await;
    assert_eq!(refusal(fixture.store.revive_instance(ended, id("orders")).await), Refusal::InstanceLapsed);
    assert_eq!(refusal(fixture.store.revive_instance(revoked, id("orders")).await), Refusal::InstanceRevoked);
    let next = issuance("orders", time::now() + HOUR);
    let renew = fixture.store.record_renewal(next, renewal(revoked, &first)).await;
    assert_eq!(refusal(renew), Refusal::InstanceRevoked);
    assert_eq!(listed(&fixture).await.instances.len(), 2);
}

async fn lapsed_entries_go_after_a_day_and_revocations_a_week_after_their_certificates(fixture: Fixture) {
    let (gone, _) = fixture.instance("orders", 1, Duration::ZERO).await;
    let (revoked, _) = fixture.instance("orders", 2, HOUR).await;
    fixture.store.lapse_instances(time::now() + Duration::from_secs(1), 10).await.unwrap();
    revoke(&fixture, RevocationTarget::Instance(revoked)).await;
    let prune = async |now: SystemTime| {
        let kept = crate::duty::REVOCATION_KEPT;
        fixture.store.prune_revocations(now - kept, now - HOUR, 100).await.unwrap()
    };
    assert_eq!(prune(time::now() + HOUR * 24).await, 0);
    assert_eq!(prune(time::now() + HOUR * 26).await, 1);
    assert_eq!(listed(&fixture).await.instances, [(revoked.to_string(), false)], "not {gone}");
    assert_eq!(prune(time::now() + HOUR * 24 * 7).await, 0, "who was cut off for days still has to learn");
    assert_eq!(prune(time::now() + HOUR * 24 * 7 + HOUR * 3).await, 1);
}
