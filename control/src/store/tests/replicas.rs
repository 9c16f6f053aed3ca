//! Several stores on one database, as several controls open it.

use std::time::Instant;

use super::*;
use crate::audit::{AuditStore as _, Checkpointer, Start, newest_checkpoint, verify};
use crate::ca::SealKey;

const SOON: Duration = Duration::from_secs(20);

fn replica(fixture: &Fixture, name: &str) -> Store {
    Store::open_as(fixture.location.clone(), &"mesh.local".parse().unwrap(), name).unwrap()
}

pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn commit_of_one_wakes_the_other() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let other = replica(&fixture, "other");
    let mut committed = other.committed();
    let (commit, _) =
        fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    tokio::time::timeout(SOON, committed.wait_for(|seen| seen.revision == commit.revision))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(other.policies().await.unwrap().len(), 1);
}

#[tokio::test]
async fn revisions_and_events_of_several_writers_are_one_order_without_gaps() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let others = [replica(&fixture, "one"), replica(&fixture, "two")];
    let first = fixture.store.committed().borrow().revision;
    let mut writes = Vec::new();
    for number in 0..150_usize {
        let store = others.get(number % 3).unwrap_or(&fixture.store).clone();
        writes.push(tokio::spawn(async move {
            let policy = policy(&format!("p{number}"), "{}");
            store.apply_policies(vec![policy], operator(), |_| Ok(())).await.unwrap().0.revision
        }));
    }
    let mut revisions = Vec::new();
    for write in writes {
        revisions.push(write.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (first + 1..=first + 150).collect::<Vec<_>>());
    fixture.verified_events().await;
}

#[tokio::test]
async fn one_leads_and_when_it_goes_another_does() {
    let fixture = Fixture::new(Engine::Postgres).await;
    eventually("the only replica leads", async || fixture.store.leads()).await;
    let others = [replica(&fixture, "one"), replica(&fixture, "two")];
    let events = fixture.store.committed();
    fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    for other in &others {
        let mut committed = other.committed();
        committed.wait_for(|commit| commit.revision == events.borrow().revision).await.unwrap();
        assert!(!other.leads());
    }
    let Fixture { store, .. } = fixture;
    drop(store);
    eventually("another leads", async || others.iter().filter(|other| other.leads()).count() == 1).await;
}

#[tokio::test]
async fn endpoints_follow_their_proxy_from_one_replica_to_another() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let here = Fixture { store: replica(&fixture, "here"), ..fixture };
    let there = replica(&here, "there");
    assert_eq!(there.endpoints_changed().await, Changed::All, "nobody knows what was before");
    let (instance, _) = here.instance("orders", 1, HOUR).await;
    let lease = model::Lease {
        instance,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listeners: vec![listener(1)],
        locality: None,
    };
    here.watch(lease.clone()).await;
    assert_eq!(there.endpoints_changed().await, Changed::Instances([instance].into()));
    assert_eq!(there.lease_elsewhere(instance).await.unwrap().as_ref(), Some(&lease));
    assert_eq!(here.store.lease_elsewhere(instance).await.unwrap(), None, "it is our own");
    assert_eq!(there.standings_elsewhere().await.unwrap().len(), 1);

    let Fixture { store, location, directory } = here;
    let there = Fixture { store: there, location, directory };
    there.watch(lease.clone()).await;
    store.remove_leases(vec![instance]).await.unwrap();
    assert_eq!(
        store.lease_elsewhere(instance).await.unwrap().as_ref(),
        Some(&lease),
        "it is no longer ours to remove"
    );

    assert!(!there.store.has_departed(instance).await.unwrap());
    let here = Fixture { store, location: there.location.clone(), directory: tempfile::tempdir().unwrap() };
    assert_eq!(here.watch_as(lease.clone(), 0).await, [instance], "a slow replica does not write over it");
    assert_eq!(here.store.lease_elsewhere(instance).await.unwrap().as_ref(), Some(&lease));
    let Fixture { store, .. } = here;

    there.store.heartbeat(time::now()).await.unwrap();
    assert_eq!(store.forget_replicas(time::now() - HOUR).await.unwrap(), 0);
    assert_eq!(store.forget_replicas(time::now() + HOUR).await.unwrap(), 1);
    assert!(store.leases().await.unwrap().is_empty(), "a replica that is gone takes its endpoints with it");
}

#[tokio::test]
async fn two_that_rotate_at_once_rotate_once() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let other = replica(&fixture, "other");
    let rotate = async |store: &Store, name: &str| {
        let new = in_place_of("ca", authority(name, AuthorityKind::Intermediate));
        store.replace_intermediates(new, operator()).await
    };
    let (one, two) = tokio::join!(rotate(&fixture.store, "one"), rotate(&other, "two"));
    let refused = [one, two].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(refused.as_slice(), [StoreError::Refused(Refusal::RotatedMeanwhile)]), "{refused:?}");
}

#[tokio::test]
async fn checkpoints_go_forward_whichever_replica_makes_them() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let other = replica(&fixture, "other");
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seal = SealKey::load(&here.path().join("seal.key"), true).unwrap();
    let open = async |store: &Store, directory: &TempDir| {
        let (domain, directory) = ("mesh.local".parse().unwrap(), directory.path().to_owned());
        Checkpointer::open(store, &seal, domain, Duration::ZERO, directory).await.unwrap()
    };
    let (one, two) = tokio::join!(open(&fixture.store, &here), open(&other, &there));
    assert_eq!(one.key(), two.key(), "of two keys one counts");
    let mut now = time::now();
    for round in 0..12 {
        fixture.token("orders", round).await;
        // Neither knows for a moment who leads; then the other one does, whose clock is behind.
        now += Duration::from_secs(1);
        let (made, also) = tokio::join!(
            one.run(&fixture.store, now, round % 4 < 3),
            two.run(&other, now - HOUR, round % 4 > 0)
        );
        assert!(made.unwrap().is_some() || also.unwrap().is_some(), "round {round}");
    }
    let made = other.checkpoints_after(0, 99).await.unwrap();
    assert_eq!(made.len(), 12);
    for pair in made.windows(2) {
        pair[1].follows(&pair[0]).unwrap();
    }
    let events = fixture.store.events_after(0, 999).await.unwrap();
    let report = verify(events, made.clone(), one.key(), Start::Genesis);
    assert!(report.is_intact(), "{report}");
    for (checkpointer, store, directory) in [(&one, &fixture.store, &here), (&two, &other, &there)] {
        checkpointer.run(store, now, false).await.unwrap();
        assert_eq!(newest_checkpoint(directory.path(), []).unwrap().as_ref(), made.last());
    }
}

#[tokio::test]
async fn lost_connections_are_made_again_and_what_was_answered_stays() {
    let fixture = Fixture::new(Engine::Postgres).await;
    for round in 0..5 {
        let name = format!("p{round}");
        fixture.store.apply_policies(vec![policy(&name, "{}")], operator(), |_| Ok(())).await.unwrap();
        server::cut_all(&fixture.location).await;
        assert_eq!(fixture.store.policies().await.unwrap().len(), round + 1);
    }
    fixture.verified_events().await;
}
