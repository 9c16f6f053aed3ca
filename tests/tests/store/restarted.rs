//! PostgreSQL stops in every way it can while control works: nothing that was answered is lost, everybody
//! goes on within seconds, and traffic between workloads does not notice.

use signet_tests::apps::Nginx;
use signet_tests::client::{Client, noise};
use signet_tests::faults::{self, Faults};
use signet_tests::load::{Load, NO_QUOTA, is_sound};
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::postgres::End;
use signet_tests::report::{hey_without_failures, measured, percentiles};
use signet_tests::{PATIENCE, eventually};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn postgres_restarted_under_load_loses_nothing_that_was_answered() {
    // Two: after a crash, PostgreSQL gives the number of a transaction that was lost to the next one,
    // whosever it is.
    let (mut mesh, nginx) =
        (Mesh::on(Store::Postgres).replicas(2).options(&NO_QUOTA).start().await, Nginx::start().await);
    let (worker, frontend, web) = (id("/worker"), id("/frontend"), id("/web"));
    mesh.workload(&worker).await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", nginx.address).await;
    nginx.serve("page", noise(4096));
    let url = format!("http://{}/files/page", pair.entry());
    let length = format!("{}s", faults::duration().as_secs());
    let hey = Client::new("hey").args(["-z", &length, "-c", "4", "-q", "25", &url]);
    let traffic = hey.limit(faults::duration() + PATIENCE).start();
    let mut faults = Faults::begin();
    let load = Load::start(&mesh.replicas, &worker);
    let mut outages = Vec::new();

    while faults.another() {
        load.answered(1 + faults.below(100)).await;
        let end = *faults.choose(&[End::Fast, End::Immediate, End::Killed]);
        mesh.database().stop(end).await;
        let all_run = mesh.replicas.iter().all(|replica| replica.control.is_running());
        assert!(all_run, "control waits for its database");
        mesh.database().start_again().await;
        let back = Instant::now();
        load.answered(1).await;
        println!("{end:?}: the next answer after {:?}", back.elapsed());
        outages.push(back.elapsed());
        is_sound(&mesh).await;
    }
    load.answered(50).await;

    let book = load.finish().await;
    book.is_kept_by(&mesh).await;
    for replica in &mesh.replicas {
        replica.is_ready().await;
    }
    measured(&format!("PostgreSQL restarted {} times, nothing lost", faults.count()), book);
    measured("from its return to control's next answer", percentiles(outages));
    measured("requests over the outages, 0 failed", hey_without_failures(traffic.finish().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_control_says_so_and_does_not_end() {
    let mut mesh = Mesh::on(Store::Postgres).start().await;
    mesh.workload(&id("/before")).await;

    mesh.database().stop(End::Fast).await;

    eventually("control is not ready", PATIENCE, async || match mesh.readyz().await {
        Ok(503) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let refused = mesh.create_workload(&id("/meanwhile")).run().await;
    assert_ne!(refused.code(), 0, "nothing can be stored");
    assert!(!refused.stderr.trim().is_empty(), "it says why");
    assert!(mesh.control.is_running());

    mesh.database().start_again().await;
    mesh.is_ready().await;
    mesh.workload(&id("/after")).await;
    is_sound(&mesh).await;
}
