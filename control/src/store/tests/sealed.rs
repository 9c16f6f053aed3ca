//! All that is sealed, replaced at once or not at all.

use super::*;
use crate::audit::{AuditKeyRecord, AuditStore as _};
use crate::store::sealed::SEALED;

both_engines!(sealed_keys_are_replaced_all_at_once_and_by_nobody_while_control_runs);

async fn sealed_keys_are_replaced_all_at_once_and_by_nobody_while_control_runs(fixture: Fixture) {
    let key = AuditKeyRecord { id: "key".into(), public_key: vec![1], sealed_key: vec![2] };
    fixture.store.create_audit_key(key).await.unwrap();
    let keys = fixture.store.sealed_keys().await.unwrap();
    let told: Vec<_> = keys.iter().map(|key| (key.purpose.as_str(), key.id.as_str())).collect();
    assert_eq!(
        told,
        [("intermediate", "ca"), ("root", "root"), ("jwt", "first"), ("audit checkpoint", "key")]
    );
    let again = |keys: &[SealedKey]| keys.iter().map(|key| (key.clone(), vec![9])).collect::<Vec<_>>();
    let reseal = async |keys, seen| fixture.store.reseal(keys, "elsewhere".into(), seen).await;

    fixture.store.heartbeat(time::now()).await.unwrap();
    let refused = reseal(again(&keys), HOUR).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(Refusal::ReplicaRuns(_))), "{refused}");
    fixture.store.forget_replicas(time::now() + HOUR).await.unwrap();
    let mut other = again(&keys);
    other[2].0.sealed = vec![3];
    for wrong in [other, again(&keys[1..])] {
        let refused = reseal(wrong, HOUR).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused(Refusal::SealedMeanwhile)), "{refused}");
    }
    assert_eq!(fixture.store.sealed_keys().await.unwrap(), keys, "nothing of it was done");
    reseal(again(&keys), HOUR).await.unwrap();
    let sealed = fixture.store.sealed_keys().await.unwrap();
    assert!(sealed.len() == 4 && sealed.iter().all(|key| key.sealed == [9]), "{sealed:?}");
    fixture.verified_events().await;
}

/// A table that a migration adds has to be named where it holds anything sealed.
#[tokio::test]
async fn every_table_with_sealed_keys_is_known() {
    let fixture = Fixture::new(Engine::Sqlite).await;
    let tables: Vec<String> = fixture
        .store
        .read(|sql| {
            sql.all(
                "SELECT t.name FROM sqlite_schema t WHERE t.type = 'table' AND EXISTS (
                   SELECT 1 FROM pragma_table_info(t.name) c WHERE c.name = 'sealed_key')",
                &[],
                |row| row.get(0),
            )
        })
        .await
        .unwrap();
    let known: BTreeSet<_> = SEALED.iter().map(|(table, _)| (*table).to_owned()).collect();
    assert_eq!(tables.into_iter().collect::<BTreeSet<_>>(), known);
}
