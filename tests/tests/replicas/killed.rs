//! A replica dies without warning. Its proxies go on elsewhere, no app notices, and nothing is lost.

use signet_tests::apps::{Nginx, Postgres};
use signet_tests::client::{Client, noise, pgbench};
use signet_tests::control::Control;
use signet_tests::faults::{self, Faults};
use signet_tests::load::{Load, NO_QUOTA};
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::report::{hey_without_failures, measured, percentiles, pgbench_without_failures};
use signet_tests::{PATIENCE, eventually};
use tokio::time::Instant;

const REPLICAS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_proxies_of_a_killed_replica_go_on_elsewhere_and_no_app_notices() {
    const PROXIES: u64 = 3;
    let mut mesh = Mesh::on(Store::Postgres).replicas(REPLICAS).options(&NO_QUOTA).start().await;
    let (nginx, postgres) = (Nginx::start().await, Postgres::start().await);
    let (frontend, web, ledger, worker) = (id("/frontend"), id("/web"), id("/ledger"), id("/worker"));
    for workload in [&frontend, &web, &ledger, &worker] {
        mesh.workload(workload).await;
    }
    mesh.policy(&[allow("web", &web, &[&frontend]), allow("ledger", &ledger, &[&frontend])].join("---\n"))
        .await;
    let _web = mesh.proxy(&web).await.inbound("http://", nginx.address).start().await;
    let _ledger = mesh.proxy(&ledger).await.inbound("tcp://", postgres.address).start().await;
    let caller = mesh.proxy(&frontend).await.outbound("http://", &web).outbound("tcp://", &ledger);
    let caller = caller.start().await;
    nginx.serve("page", noise(4096));
    let (http, sql) = (caller.outbounds()[0], caller.outbounds()[1]);
    let _ = pgbench(sql, &["-i", "-q", "-s", "1"]).run().await.succeeded();

    let (length, limit) = (faults::duration().as_secs().to_string(), faults::duration() + PATIENCE);
    let (for_hey, url) = (format!("{length}s"), format!("http://{http}/files/page"));
    let hey = |options: &[&str]| {
        Client::new("hey").args(["-z", &for_hey]).args(options).arg(&url).limit(limit).start()
    };
    let kept = hey(&["-c", "2", "-q", "25"]);
    let new = hey(&["-c", "2", "-q", "10", "-disable-keepalive"]);
    let transactions = pgbench(sql, &["-n", "-T", &length, "-c", "4", "-R", "100"]).limit(limit).start();
    let mut faults = Faults::begin();
    let load = Load::start(&mesh.replicas, &worker);
    let mut moves = Vec::new();

    while faults.another() {
        load.answered(1 + faults.below(100)).await;
        let victim = *faults.choose(&with_streams(&mesh.replicas).await);
        mesh.replicas[victim].kill_control().await;
        let killed = Instant::now();
        let survivors: Vec<&Control> = mesh
            .replicas
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != victim)
            .map(|(_, it)| it)
            .collect();
        eventually("its proxies are elsewhere", PATIENCE, async || {
            let mut streams = 0;
            for survivor in &survivors {
                streams += survivor.streams().await;
            }
            if streams == PROXIES { Ok(()) } else { Err(format!("{streams} streams")) }
        })
        .await;
        moves.push(killed.elapsed());
        load.answered(20).await;
        // Changes reach everybody without it.
        survivors[0].policy(&allow("web", &web, &[&frontend, &id("/another")])).await;
        mesh.replicas[victim].restart_control().await;
        mesh.replicas[victim].policy(&allow("web", &web, &[&frontend])).await;
    }

    let book = load.finish().await;
    book.is_kept_by(&mesh).await;
    measured(&format!("replicas killed {} times, nothing lost", faults.count()), book);
    measured("from the kill until all proxies had a stream elsewhere", percentiles(moves));
    let (kept, new) = (kept.finish().await, new.finish().await);
    measured("requests on kept connections, 0 failed", hey_without_failures(kept));
    measured("requests on new connections, 0 failed", hey_without_failures(new));
    measured("transactions, 0 failed", pgbench_without_failures(transactions.finish().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_names_a_dead_replica_first_is_redeemed_at_another() {
    let mut mesh = Mesh::on(Store::Postgres).replicas(REPLICAS).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let app = signet_tests::apps::RequestApp::start().await;
    let tickets = [mesh.ticket(&worker).await, mesh.ticket(&worker).await, mesh.ticket(&worker).await];
    mesh.kill_control().await;

    for ticket in tickets {
        let proxy = signet_tests::proxy::ProxyBuilder::joining(&ticket);
        let proxy = proxy.inbound("http://", app.address).start().await;
        proxy.counts("signet_control_connected", &[], 1).await;
    }
}

/// The replicas to which somebody is connected.
async fn with_streams(replicas: &[Control]) -> Vec<usize> {
    let mut found = Vec::new();
    for (number, replica) in replicas.iter().enumerate() {
        if replica.streams().await > 0 {
            found.push(number);
        }
    }
    found
}
