//! What is answered is kept, whole, and can be verified.

use rusqlite::Connection;

use super::*;
use crate::audit::BrokenChain;
use crate::store::sql::sqlite::database_path;

both_engines!(
    everything_answered_is_there_after_a_restart,
    changes_at_the_same_time_share_commits_and_lose_nothing,
    failed_change_in_a_batch_rolls_back_alone,
    change_without_an_audit_event_is_refused,
    change_that_fails_late_in_a_batch_fails_alone,
    reads_that_wait_together_fail_alone,
    what_changed_since_a_revision_is_told_even_after_the_log_was_pruned,
    store_of_another_history_is_told_as_a_whole_whatever_its_revisions_are,
    equal_documents_make_no_revision,
    policies_that_do_not_go_together_in_the_commit_are_refused_whole,
    change_of_policy_concerns_old_and_new_targets_and_no_others,
);

async fn everything_answered_is_there_after_a_restart(fixture: Fixture) {
    let (instance, _) = fixture.instance("orders", 1, HOUR).await;
    let (applied, _) =
        fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    let events = fixture.verified_events().await;
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.committed().borrow().revision, applied.revision);
    let identities = fixture.store.identities(None, true, time::now()).await.unwrap();
    assert_eq!(identities[0].instance, instance);
    assert_eq!(fixture.store.policies().await.unwrap().len(), 1);
    assert_eq!(fixture.verified_events().await, events);
}

async fn changes_at_the_same_time_share_commits_and_lose_nothing(fixture: Fixture) {
    let writes = (0..300).map(|number| {
        let store = fixture.store.clone();
        tokio::spawn(async move {
            let policy = policy(&format!("p{number}"), "{}");
            store.apply_policies(vec![policy], operator(), |_| Ok(())).await.unwrap().0.revision
        })
    });
    let mut revisions = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        revisions.push(write.await.unwrap());
    }
    revisions.sort_unstable();
    let first = revisions[0];
    assert_eq!(revisions, (first..first + 300).collect::<Vec<_>>(), "each its own revision, without gaps");
    assert_eq!(fixture.store.policies().await.unwrap().len(), 300);
    fixture.verified_events().await;
}

async fn failed_change_in_a_batch_rolls_back_alone(fixture: Fixture) {
    let good = fixture.store.apply_policies(vec![policy("a", "{}")], operator(), |_| Ok(()));
    let missing = fixture.store.delete_policy("nothing".into(), operator());
    let also_good = fixture.store.apply_policies(vec![policy("b", "{}")], operator(), |_| Ok(()));
    let (good, missing, also_good) = tokio::join!(good, missing, also_good);
    assert!(good.is_ok() && also_good.is_ok());
    assert!(matches!(missing, Err(StoreError::NotFound { .. })));
    assert_eq!(fixture.store.policies().await.unwrap().len(), 2);
    fixture.verified_events().await;
}

async fn change_without_an_audit_event_is_refused(fixture: Fixture) {
    let result = fixture
        .store
        .write(|change| {
            change.sql.execute("DELETE FROM workload", &[])?;
            Ok(())
        })
        .await;
    assert!(matches!(result, Err(StoreError::Unaudited)));
    assert_eq!(fixture.store.workloads().await.unwrap().len(), 2);
}

async fn change_that_fails_late_in_a_batch_fails_alone(fixture: Fixture) {
    let store = &fixture.store;
    let apply = |name: &str| store.apply_policies(vec![policy(name, "{}")], operator(), |_| Ok(()));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let held = store.write(move |_| {
        let _ = wait.recv();
        Ok(())
    });
    let unaudited = store.write(|change| change.sql.post("DELETE FROM selector", &[]));
    // Sent without waiting for its answer: where the engine is far away, it fails after the next change has begun.
    let broken = store.write(|change| {
        change.operational();
        change.sql.post("INSERT INTO meta (name, value) VALUES ('broken', NULL)", &[])
    });
    let refused = store.write(|change| {
        change.operational();
        change.sql.post("INSERT INTO meta (name, value) VALUES ('refused', '')", &[])?;
        Err::<(), _>(Refusal::TokenUnknown.into())
    });
    let (first, middle, last) = (apply("a"), apply("b"), apply("c"));
    let begin = async move { drop(go) };
    let (held, first, unaudited, middle, broken, refused, last, ()) =
        tokio::join!(held, first, unaudited, middle, broken, refused, last, begin);
    held.unwrap();
    assert!(matches!(unaudited, Err(StoreError::Unaudited)), "{unaudited:?}");
    assert!(matches!(broken, Err(StoreError::Io(_))), "{broken:?}");
    assert_eq!(refusal(refused), Refusal::TokenUnknown);
    let revisions = [first, middle, last].map(|applied| applied.unwrap().0.revision);
    assert_eq!(revisions, [revisions[0], revisions[0] + 1, revisions[0] + 2], "as if the others were not");
    let left: u64 =
        store.read(|sql| sql.one("SELECT count(*) FROM meta WHERE name = 'refused'", &[])).await.unwrap();
    assert_eq!(left, 0);
    fixture.verified_events().await;
}

async fn reads_that_wait_together_fail_alone(fixture: Fixture) {
    let reads = (0..100).map(|number| {
        let store = fixture.store.clone();
        async move {
            let table = if number % 3 == 0 { "nothing" } else { "workload" };
            store.read(move |sql| sql.one::<u64>(&format!("SELECT count(*) FROM {table}"), &[])).await
        }
    });
    let counts = futures_util::future::join_all(reads).await;
    for (number, count) in counts.iter().enumerate() {
        assert_eq!(count.as_ref().ok(), (number % 3 != 0).then_some(&2), "{count:?}");
    }
}

#[tokio::test]
async fn change_whose_audit_event_fails_does_not_happen() {
    let fixture = Fixture::new(Engine::Sqlite).await;
    let break_audit = fixture
        .store
        .write(|change| {
            change.operational();
            change.sql.execute(
                "CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END",
                &[],
            )
        })
        .await;
    break_audit.unwrap();
    assert!(fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.is_err());
    assert!(fixture.store.policies().await.unwrap().is_empty());
    let revoked =
        fixture.store.revoke(model::RevocationTarget::Identity(id("orders")), "r".into(), operator()).await;
    assert!(revoked.is_err());
    let workload = fixture.store.workload(id("orders")).await.unwrap();
    assert_eq!(workload.status, model::WorkloadStatus::Active);
}

#[tokio::test]
async fn full_disk_refuses_changes_and_the_service_goes_on() {
    let fixture = Fixture::new(Engine::Sqlite).await;
    let limit = |pages: &'static str| {
        let store = fixture.store.clone();
        async move {
            store
                .write(move |change| {
                    change.operational();
                    let sql = format!("PRAGMA max_page_count = {pages}");
                    change.sql.row(&sql, &[]).map(drop)
                })
                .await
                .unwrap();
        }
    };
    limit("1").await;
    let big = format!("\"{}\"", "x".repeat(200_000));
    let refused = fixture.store.apply_policies(vec![policy("p", &big)], operator(), |_| Ok(())).await;
    assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    assert!(fixture.store.policies().await.unwrap().is_empty());
    fixture.store.workloads().await.unwrap();
    limit("1000000").await;
    fixture.store.apply_policies(vec![policy("p", &big)], operator(), |_| Ok(())).await.unwrap();
    fixture.verified_events().await;
}

#[tokio::test]
async fn tampered_audit_is_found() {
    let fixture = Fixture::new(Engine::Sqlite).await;
    fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    let direct = Connection::open(database_path(fixture.directory.path())).unwrap();
    let change = direct.execute("UPDATE audit SET actor = 'nobody' WHERE sequence = 2", []);
    assert!(change.unwrap_err().to_string().contains("append-only"), "a mistake is stopped");
    direct
        .execute_batch(
            "DROP TRIGGER audit_is_not_changed; UPDATE audit SET actor = 'nobody' WHERE sequence = 2",
        )
        .unwrap();
    let mut verifier = ChainVerifier::from_genesis();
    let events = fixture.store.events_after(0, 100).await.unwrap();
    let broken = events.iter().find_map(|event| verifier.take(event).err());
    assert_eq!(broken, Some(BrokenChain::Hash(2)));
}

#[tokio::test]
async fn second_control_on_the_same_directory_is_refused() {
    let fixture = Fixture::new(Engine::Sqlite).await;
    let second = Store::open(fixture.directory.path(), &"mesh.local".parse().unwrap());
    assert!(second.unwrap_err().to_string().contains("another signet-control"));
}

#[tokio::test]
async fn store_of_another_mesh_or_a_newer_version_is_refused() {
    let fixture = Fixture::new(Engine::Sqlite).await;
    let Fixture { directory, store, .. } = fixture;
    drop(store);
    let other = Store::open(directory.path(), &"other.local".parse().unwrap());
    assert!(other.unwrap_err().to_string().contains("`mesh.local`, not `other.local`"));
    let direct = Connection::open(database_path(directory.path())).unwrap();
    direct
        .execute("UPDATE meta SET value = '99' WHERE name IN ('schema_version', 'schema_oldest')", [])
        .unwrap();
    drop(direct);
    let newer = Store::open(directory.path(), &"mesh.local".parse().unwrap());
    assert!(newer.unwrap_err().to_string().contains("version 99"));
}

#[tokio::test]
async fn foreign_database_is_not_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let direct = Connection::open(database_path(directory.path())).unwrap();
    direct.execute_batch("CREATE TABLE accounts (id INTEGER)").unwrap();
    drop(direct);
    let opened = Store::open(directory.path(), &"mesh.local".parse().unwrap());
    assert!(opened.unwrap_err().to_string().contains("not Signet's"));
}

async fn what_changed_since_a_revision_is_told_even_after_the_log_was_pruned(fixture: Fixture) {
    let known = *fixture.store.committed().borrow();
    let nothing = fixture.store.mesh_since(Some(known)).await.unwrap();
    assert!(nothing.policies.is_none() && nothing.revocations.is_none() && nothing.bundle.is_none());
    fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    let read = fixture.store.mesh_since(Some(known)).await.unwrap();
    assert!(read.policies.is_some() && read.revocations.is_none() && read.bundle.is_none());
    assert_eq!(read.commit.revision, known.revision + 1);
    fixture.store.apply_policies(vec![policy("q", "{}")], operator(), |_| Ok(())).await.unwrap();
    fixture.store.prune_revisions(1, 100).await.unwrap();
    let all = fixture.store.mesh_since(Some(known)).await.unwrap();
    assert!(all.policies.is_some() && all.revocations.is_some() && all.bundle.is_some());
    assert!(!all.went_back, "pruning is no other history");
}

async fn store_of_another_history_is_told_as_a_whole_whatever_its_revisions_are(fixture: Fixture) {
    fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    let newest = *fixture.store.committed().borrow();
    fixture.store.apply_policies(vec![policy("q", "{}")], operator(), |_| Ok(())).await.unwrap();
    let ahead = Commit { revision: newest.revision + 5, ..newest };
    let other = Commit { at: newest.at - Duration::from_secs(1), ..newest };
    for (known, went_back) in [(newest, false), (ahead, true), (other, true)] {
        let read = fixture.store.mesh_since(Some(known)).await.unwrap();
        assert_eq!(read.went_back, went_back, "{known:?}");
        assert_eq!(read.bundle.is_some() && read.revocations.is_some(), went_back);
        assert_eq!(read.policies.unwrap().len(), 2);
    }
}

async fn equal_documents_make_no_revision(fixture: Fixture) {
    let (first, _) =
        fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    let (second, changes) =
        fixture.store.apply_policies(vec![policy("p", "{}")], operator(), |_| Ok(())).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(changes, [("p".to_owned(), Action::Unchanged)]);
}

async fn policies_that_do_not_go_together_in_the_commit_are_refused_whole(fixture: Fixture) {
    fixture.store.apply_policies(vec![policy("a", "1")], operator(), |_| Ok(())).await.unwrap();
    let before = fixture.verified_events().await;
    let check = |documents: &[&str]| {
        assert_eq!(documents, ["3", "2"], "all as they would be");
        Err("too many".into())
    };
    let new = vec![policy("b", "2"), policy("a", "3")];
    let refused = fixture.store.apply_policies(new, operator(), check).await;
    assert_eq!(refusal(refused.map(drop)), Refusal::PoliciesDoNotFit("too many".into()));
    assert_eq!(fixture.store.policies().await.unwrap().len(), 1);
    assert_eq!(fixture.verified_events().await, before);
}

async fn change_of_policy_concerns_old_and_new_targets_and_no_others(fixture: Fixture) {
    let apply = |new| fixture.store.apply_policies(vec![new], operator(), |_| Ok(()));
    let (first, _) = apply(policy("a", "1")).await.unwrap();
    let moved = NewPolicy { target: "spiffe://mesh.local/pay/*".into(), ..policy("a", "2") };
    let (second, _) = apply(moved).await.unwrap();
    let deleted = fixture.store.delete_policy("a".into(), operator()).await.unwrap().commit;
    let concern = async |commit: Commit| {
        let concern = fixture.store.concern(commit.revision).await.unwrap();
        ["orders", "pay/a", "other"].map(|name| concern.includes(&id(name)))
    };
    assert_eq!(concern(first).await, [true, false, false]);
    assert_eq!(concern(second).await, [true, true, false]);
    assert_eq!(concern(deleted).await, [false, true, false]);
    assert_eq!(fixture.store.concern(999).await.unwrap(), Concern::Everyone);
}
