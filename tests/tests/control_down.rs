//! Control dies without warning. Traffic must not notice, and control must not have lost anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::Value;
use signet_tests::apps::{Nginx, Postgres, RequestApp, TcpEcho};
use signet_tests::attest::Joiner;
use signet_tests::client::{Client, curl_get, noise, pgbench};
use signet_tests::clock::Clock;
use signet_tests::logs::{field, is_message};
use signet_tests::mesh::{Mesh, Pair, Store, allow, id, rows};
use signet_tests::proxy::Proxy;
use signet_tests::report::{hey_without_failures, measured, pgbench_without_failures};
use signet_tests::sockets::EchoConnection;
use signet_tests::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn traffic_passes_through_a_renewal_point_without_control_and_nothing_is_lost() {
    // Renewal is due 12 s after an SVID was received: control is down over it, and back before the end.
    const LIFE: &str = "24s";
    let (mut mesh, nginx, postgres) = (Mesh::start().await, Nginx::start().await, Postgres::start().await);
    let (caller_id, web_id, ledger_id) = (id("/frontend"), id("/web"), id("/ledger"));
    for workload in [&caller_id, &web_id, &ledger_id] {
        mesh.short_lived_workload(workload, LIFE).await;
    }
    let policies = [allow("web", &web_id, &[&caller_id]), allow("ledger", &ledger_id, &[&caller_id])];
    mesh.policy(&policies.join("---\n")).await;
    let web = mesh.proxy(&web_id).await.inbound("http://", nginx.address).start().await;
    let ledger = mesh.proxy(&ledger_id).await.inbound("tcp://", postgres.address).start().await;
    let caller = mesh
        .proxy(&caller_id)
        .await
        .outbound("http://", &web_id)
        .outbound("tcp://", &ledger_id)
        .start()
        .await;
    nginx.serve("page", noise(4096));
    let _ = pgbench(caller.outbounds()[1], &["-i", "-q", "-s", "1"]).run().await.succeeded();
    let ends = [&caller, &web, &ledger];

    let url = format!("http://{}/files/page", caller.outbounds()[0]);
    let hey = |options: &[&str]| {
        Client::new("hey").args(["-z", "35s"]).args(options).args([&url]).limit(PATIENCE * 3).start()
    };
    let kept = hey(&["-c", "4", "-q", "25"]);
    let new = hey(&["-c", "2", "-q", "10", "-disable-keepalive"]);
    let transactions = pgbench(caller.outbounds()[1], &["-n", "-T", "35", "-c", "4", "-R", "200"])
        .limit(PATIENCE * 3)
        .start();

    let known = Known::read(&mesh).await;
    mesh.kill_control().await;
    for proxy in ends {
        proxy.counts("signet_control_connected", &[], 0).await;
        failed_rotation(proxy).await;
        assert_eq!(proxy.readyz().await.status, 200, "it is ready without control");
    }
    assert!(!kept.is_finished() && !transactions.is_finished(), "the load runs");

    let rotations = [caller.rotations().await, web.rotations().await, ledger.rotations().await];
    mesh.restart_control().await;
    for (proxy, before) in ends.iter().zip(rotations) {
        proxy.rotates(before, 1, PATIENCE).await;
        proxy.counts("signet_control_connected", &[], 1).await;
    }

    measured(
        "requests on kept connections over the outage, 0 failed",
        hey_without_failures(kept.finish().await),
    );
    measured(
        "requests on new connections over the outage, 0 failed",
        hey_without_failures(new.finish().await),
    );
    measured(
        "pgbench transactions over the outage, 0 failed",
        pgbench_without_failures(transactions.finish().await),
    );
    known.is_still_known(&mesh).await;

    // Changes still reach everybody.
    mesh.policy(&allow("web", &web_id, &[&id("/nobody")])).await;
    let answer = curl_get(caller.outbounds()[0], "/files/page").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.stdout);
}

/// Everybody's clock but the machine's own: 20 minutes at a time, as after so many sleeps.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_without_control_costs_nothing_but_svids_that_end_within_it() {
    // Of the longer life, renewal is due within the hour, and the end is after it.
    const LONG: &str = "90m";
    const SHORT: &str = "30m";
    let clock = Clock::default();
    let (mut mesh, app) = (Mesh::on(Store::Sqlite).by(&clock).start().await, RequestApp::start().await);
    let echo = TcpEcho::start().await;
    let [frontend, web, batch, ledger] = ["/frontend", "/web", "/batch", "/ledger"].map(id);
    for (workload, life) in [(&frontend, LONG), (&web, LONG), (&batch, SHORT), (&ledger, SHORT)] {
        mesh.short_lived_workload(workload, life).await;
    }
    let policies = [allow("web", &web, &[&frontend]), allow("ledger", &ledger, &[&batch])];
    mesh.policy(&policies.join("---\n")).await;
    let server = mesh.proxy(&web).await.inbound("http://", app.address).inbound("tcp://", echo.address);
    let server = server.by(&clock).start().await;
    let [pages, bytes] = [server.inbounds()[0], server.inbounds()[1]].map(|at| format!("{web}@{at}"));
    let caller = mesh.proxy(&frontend).await.outbound("http://", &pages).outbound("tcp://", &bytes);
    let caller = caller.by(&clock).start().await;
    let brief = mesh.proxy(&ledger).await.inbound("http://", app.address).by(&clock).start().await;
    let brief = Pair {
        caller: mesh.proxy(&batch).await.outbound("http://", &ledger).by(&clock).start().await,
        server: brief,
    };
    let lasting = [&caller, &server];
    let all = [&caller, &server, &brief.caller, &brief.server];

    let url = format!("http://{}/", caller.outbounds()[0]);
    let load = |options: &[&str]| {
        Client::new("hey").args(["-z", "25s"]).args(options).args([&url]).limit(PATIENCE * 3).start()
    };
    let kept = load(&["-c", "2", "-q", "20"]);
    let new = load(&["-c", "2", "-q", "5", "-disable-keepalive"]);
    let mut open = EchoConnection::open(caller.outbounds()[1]).await;
    let status = async || {
        let answer = curl_get(brief.entry(), "/").await.stdout;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status().await, "200");
    let known = Known::read(&mesh).await;
    mesh.kill_control().await;
    for proxy in all {
        proxy.counts("signet_control_connected", &[], 0).await;
        assert_eq!(proxy.readyz().await.status, 200, "it is ready without control");
    }

    for minutes in [20, 40, 60] {
        clock.set_ahead(Duration::from_secs(minutes * 60));
        for proxy in lasting {
            let jumped = |event: &Value| is_message(event, "the clock jumped: looking at the SVID again");
            let seen = usize::try_from(minutes / 20).unwrap();
            let _ = proxy.process.wait_for_logs(0, seen, "it sees the clock jump", jumped).await;
            assert_eq!(proxy.readyz().await.status, 200, "{minutes} minutes on");
        }
        open.ping().await.expect("what is open stays open");
        if minutes == 20 {
            assert_eq!(status().await, "200", "its certificates have ten minutes left");
            continue;
        }
        for proxy in [&brief.caller, &brief.server] {
            eventually("it is closed to all, and says why", PATIENCE, async || match proxy.readyz().await {
                ready if ready.status == 503 && ready.body.contains("the SVID has ended") => Ok(()),
                ready => Err(ready.body),
            })
            .await;
            let ended =
                |event: &Value| field(event, "message").starts_with("the SVID has ended and cannot be");
            let _ = proxy.process.wait_for_log("its log does, too", ended).await;
        }
        assert_ne!(status().await, "200", "nothing passes with what has ended");
    }
    for proxy in lasting {
        failed_rotation(proxy).await;
    }
    assert!(!kept.is_finished() && !new.is_finished(), "the load runs");

    let rotations = [caller.rotations().await, server.rotations().await];
    mesh.restart_control().await;
    for (proxy, before) in lasting.iter().zip(rotations) {
        proxy.rotates(before, 1, PATIENCE * 2).await;
        proxy.counts("signet_control_connected", &[], 1).await;
    }
    measured(
        "requests on kept connections over an hour, 0 failed",
        hey_without_failures(kept.finish().await),
    );
    measured("requests on new connections over an hour, 0 failed", hey_without_failures(new.finish().await));
    open.ping().await.expect("and over the renewal");
    known.is_still_known(&mesh).await;
    assert_ne!(status().await, "200", "what has ended is not brought back by control's return alone");
    mesh.policy(&allow("web", &web, &[&id("/nobody")])).await;
    let answer = curl_get(caller.outbounds()[0], "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_of_issuance_control_keeps_every_svid_it_handed_out() {
    const ROUNDS: usize = 6;
    const TICKETS: usize = 40;
    let mut mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let mut random =
        signet_proto::clock::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    println!("kill points by seed {random}");
    let mut handed_out = BTreeSet::new();

    for round in 0..ROUNDS {
        let tickets: Vec<String> =
            stream::iter(0..TICKETS).map(|_| mesh.ticket(&worker)).buffer_unordered(4).collect().await;
        let kill_after = next(&mut random) as usize % TICKETS;
        let answered = Arc::new(AtomicUsize::new(0));
        let received = Arc::new(Mutex::new(Vec::new()));
        let control = mesh.grpc;
        let load = {
            let (answered, received) = (Arc::clone(&answered), Arc::clone(&received));
            tokio::spawn(stream::iter(tickets.clone()).for_each_concurrent(8, move |ticket| {
                let (answered, received) = (Arc::clone(&answered), Arc::clone(&received));
                async move {
                    // Those that come too late find control gone.
                    let Ok(joiner) = Joiner::connect(control, &ticket).await else { return };
                    if let Ok(svid) = joiner.join().await {
                        received.lock().push((ticket, svid.instance));
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }))
        };
        eventually("some SVIDs are handed out", PATIENCE, async || match answered.load(Ordering::SeqCst) {
            seen if seen >= kill_after => Ok(()),
            seen => Err(format!("{seen} of {kill_after}")),
        })
        .await;
        mesh.kill_control().await;
        load.await.expect("the load ends");
        let received = std::mem::take(&mut *received.lock());
        println!("round {round}: killed after {kill_after}, {} were handed out", received.len());
        handed_out.extend(received.iter().map(|(_, instance)| instance.clone()));

        mesh.restart_control().await;
        mesh.verify_audit().await;
        let listed: BTreeSet<String> =
            mesh.identities().await.iter().map(|row| row["instance"].as_str().unwrap().to_owned()).collect();
        let lost: Vec<&String> = handed_out.difference(&listed).collect();
        assert!(lost.is_empty(), "round {round}: SVIDs were handed out but are not recorded: {lost:?}");
        if let Some((ticket, _)) = received.first() {
            let again = Joiner::connect(mesh.grpc, ticket).await.expect("control is back").join().await;
            assert!(again.is_err(), "a used ticket stays used over a crash");
        }
    }
    measured("SVIDs handed out around crashes, all of them recorded", handed_out.len());
}

/// The next of a sequence of pseudo-random numbers (xorshift64).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What control said about itself at one time.
struct Known {
    workloads: Vec<Value>,
    instances: BTreeSet<String>,
    events: Vec<Value>,
}

impl Known {
    async fn read(mesh: &Mesh) -> Self {
        Self {
            workloads: rows(mesh.json(&["workload", "list"]).await),
            instances: mesh.identities().await.iter().map(|row| row["instance"].to_string()).collect(),
            events: events(mesh).await,
        }
    }

    async fn is_still_known(&self, mesh: &Mesh) {
        mesh.verify_audit().await;
        let now = Self::read(mesh).await;
        assert_eq!(now.workloads, self.workloads, "the registry is as it was");
        assert!(now.instances.is_superset(&self.instances), "every instance is still listed");
        for event in &self.events {
            assert!(now.events.contains(event), "an audit event is gone: {event}");
        }
        assert!(now.events.len() > self.events.len(), "and there are new ones");
    }
}

async fn events(mesh: &Mesh) -> Vec<Value> {
    rows(mesh.json(&["audit", "list", "--limit", "10000"]).await)
}

/// Waits until the proxy wanted to renew and could not.
async fn failed_rotation(proxy: &Proxy) {
    eventually("a renewal fails", PATIENCE, async || {
        let metrics = proxy.metrics().await;
        let all = metrics.count("signet_svid_rotations_total", &[]);
        let good = metrics.count("signet_svid_rotations_total", &[("result", "success")]);
        if all > good { Ok(()) } else { Err(format!("{good} of {all} succeeded")) }
    })
    .await;
}
