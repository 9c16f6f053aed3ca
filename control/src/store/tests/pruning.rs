//! What is dropped is found by an index, and once, whoever drops it.

use super::*;
use crate::store::lapse::PRUNE;
use crate::store::upkeep::{ENDED, REVISIONS};

both_engines!(what_is_dropped_is_found_by_an_index);

async fn what_is_dropped_is_found_by_an_index(fixture: Fixture) {
    let server = matches!(fixture.location, Location::Server(_));
    for statement in ENDED.into_iter().chain([REVISIONS, PRUNE]) {
        let filled = (1..=4).fold(statement.to_owned(), |sql, place| sql.replace(&format!("?{place}"), "7"));
        let plan = fixture.store.write(move |change| {
            let explain = if server { "EXPLAIN" } else { "EXPLAIN QUERY PLAN" };
            if server {
                // Tables of a few rows are read whole, whatever there is.
                change.sql.rows("SET LOCAL enable_seqscan = off", &[])?;
            }
            let step = |row: &sql::Row| row.get::<String>(if server { 0 } else { 3 });
            change.sql.all(&format!("{explain} {filled}"), &[], step)
        });
        let plan = plan.await.unwrap();
        let whole = |step: &&String| step.contains("Seq Scan") || step.starts_with("SCAN ");
        let by_index = |step: &String| ["INDEX", "Index", "PRIMARY KEY"].iter().any(|how| step.contains(how));
        assert!(plan.iter().any(by_index), "{statement}\n{plan:#?}");
        assert_eq!(plan.iter().find(whole), None, "{statement}\n{plan:#?}");
    }
}

#[tokio::test]
async fn two_that_prune_at_once_drop_each_row_once() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let other = Store::open_as(fixture.location.clone(), &"mesh.local".parse().unwrap(), "other").unwrap();
    for secret in 0..40 {
        fixture.instance("orders", secret, Duration::ZERO).await;
    }
    let after = time::now() + HOUR;
    fixture.store.lapse_instances(after, 100).await.unwrap();
    let prune = async |store: &Store| {
        let mut dropped = 0;
        loop {
            match store.prune_ended(after, 7).await.unwrap() {
                0 => return dropped,
                more => dropped += more,
            }
        }
    };
    let (one, two) = tokio::join!(prune(&fixture.store), prune(&other));
    assert_eq!(one + two, 3 * 40 + 1, "certificates, instances, tokens, a count: {one} and {two}");
    assert!(one > 0 && two > 0, "both did some of it");
    fixture.verified_events().await;
}
