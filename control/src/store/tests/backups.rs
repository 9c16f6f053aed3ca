//! From either engine to either engine, and nothing from what is not whole.

use super::*;
use crate::audit::{AuditKeyRecord, AuditStore as _, testing};
use crate::store::backup::{OPERATIONAL, TABLES};

async fn empty(engine: Engine) -> (TempDir, Location) {
    let directory = tempfile::tempdir().unwrap();
    let location = match engine {
        Engine::Sqlite => Location::from(directory.path()),
        Engine::Postgres => server::database().await,
    };
    (directory, location)
}

fn taken(location: &Location) -> (Vec<u8>, Summary) {
    let mut file = Vec::new();
    let summary = Store::backup(location, &mut file).unwrap();
    (file, summary)
}

async fn filled(engine: Engine) -> Fixture {
    let fixture = Fixture::new(engine).await;
    for secret in 1..5 {
        fixture.instance("orders", secret, HOUR).await;
    }
    fixture
        .store
        .apply_policies(vec![policy("p", "{\"\u{e9}\\n\": 1}")], operator(), |_| Ok(()))
        .await
        .unwrap();
    let key = AuditKeyRecord { id: "key".into(), public_key: vec![1], sealed_key: vec![2] };
    let event = fixture.store.newest_event().await.unwrap().unwrap();
    fixture.store.create_audit_key(key).await.unwrap();
    fixture.store.add_checkpoint(testing::checkpoint(&testing::signer(), &event)).await.unwrap();
    fixture.store.set_sink_position("file:/a".into(), 3).await.unwrap();
    fixture
}

#[tokio::test]
async fn backup_of_either_engine_restores_into_either() {
    for from in [Engine::Sqlite, Engine::Postgres] {
        let fixture = filled(from).await;
        let (file, summary) = taken(&fixture.location);
        let events = fixture.verified_events().await;
        assert_eq!(summary.sequence, events);
        for to in [Engine::Sqlite, Engine::Postgres] {
            let (directory, location) = empty(to).await;
            assert_eq!(Store::restore(&location, &mut file.as_slice()).unwrap(), summary);
            assert_eq!(
                Store::restore(&location, &mut file.as_slice()).unwrap_err().to_string(),
                "cannot open the store: there is something in the store: restore into an empty one"
            );
            let (again, _) = taken(&location);
            let body = |file: &[u8]| {
                file.split(|byte| *byte == b'\n').skip(1).map(<[u8]>::to_vec).collect::<Vec<_>>()
            };
            let (mut before, mut after) = (body(&file), body(&again));
            // The last line covers the header too, which says when.
            before.truncate(before.len() - 2);
            after.truncate(after.len() - 2);
            assert_eq!(before, after);
            let restored = Fixture { store: open(&location), directory, location };
            assert_eq!(restored.verified_events().await, events);
            assert_eq!(restored.store.policies().await.unwrap(), fixture.store.policies().await.unwrap());
            let newest = fixture.store.newest_checkpoint().await.unwrap();
            assert!(newest.is_some() && restored.store.newest_checkpoint().await.unwrap() == newest);
            let position = restored.store.sink_position("file:/a".into()).await.unwrap();
            assert_eq!(position, 0, "a copy may hold what the restored store lacks");
            restored.instance("payments", 9, HOUR).await;
        }
    }
}

#[tokio::test]
async fn backup_that_is_not_whole_restores_nothing() {
    let fixture = filled(Engine::Sqlite).await;
    let (file, _) = taken(&fixture.location);
    let mut cuts = vec![Vec::new(), file[..file.len() - 1].to_vec()];
    for at in (0..file.len()).step_by(file.len() / 40) {
        cuts.push(file[..at].to_vec());
        let mut flipped = file.clone();
        flipped[at] ^= 1;
        cuts.push(flipped);
    }
    let without = file.split_inclusive(|byte| *byte == b'\n').enumerate();
    cuts.push(without.filter(|(number, _)| *number != 9).flat_map(|(_, line)| line.to_vec()).collect());
    for cut in cuts {
        let (_directory, location) = empty(Engine::Sqlite).await;
        assert!(Store::restore(&location, &mut cut.as_slice()).is_err());
        Store::restore(&location, &mut file.as_slice()).expect("as empty as before");
    }
}

/// A table that a migration adds has to be named: backed up, or of the moment.
#[tokio::test]
async fn every_table_is_backed_up_or_known_to_be_of_the_moment() {
    let fixture = filled(Engine::Sqlite).await;
    let tables = fixture
        .store
        .read(|sql| {
            sql.all("SELECT name FROM sqlite_schema WHERE type = 'table'", &[], |row| row.get::<String>(0))
        })
        .await
        .unwrap();
    let mut known: Vec<_> = TABLES.iter().chain(OPERATIONAL).map(ToString::to_string).collect();
    known.sort_unstable();
    let mut tables = tables;
    tables.sort_unstable();
    assert_eq!(tables, known);
}
