//! Identities that rotate by themselves, under load: more than fifty rotations of both ends and one of the
//! intermediate authority, and nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use signet_tests::apps::{Nginx, Postgres};
use signet_tests::client::{Client, noise, pgbench, psql_script};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::Proxy;
use signet_tests::report::{hey_without_failures, measured, pgbench_without_failures};

/// SVIDs live this long, so they rotate every two seconds.
const LIFE: &str = "4s";
const ROTATIONS: u64 = 50;
/// Fifty rotations need 90 to 100 s; the rest is for a busy machine.
const LOAD_SECONDS: &str = "110";
const LOAD: Duration = Duration::from_secs(110);

#[tokio::test(flavor = "multi_thread")]
async fn fifty_rotations_of_both_ends_and_one_of_the_intermediate_lose_nothing() {
    // Control's own identity rotates as fast.
    let mesh = Mesh::start_with(&["--default-ttl", LIFE]).await;
    let (nginx, postgres) = (Nginx::start().await, Postgres::start().await);
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
    let (web_entry, ledger_entry) = (caller.outbounds()[0], caller.outbounds()[1]);
    nginx.serve("page", noise(4096));
    let _ = pgbench(ledger_entry, &["-i", "-q", "-s", "1"]).run().await.succeeded();

    let ends: [(&str, &Proxy); 3] = [("caller", &caller), ("web", &web), ("ledger", &ledger)];
    let mut before = Vec::new();
    for (_, proxy) in ends {
        before.push(proxy.rotations().await);
    }
    let url = format!("http://{web_entry}/files/page");
    let hey = |options: &[&str]| {
        Client::new("hey")
            .args(["-z", &format!("{LOAD_SECONDS}s")])
            .args(options)
            .args([&url])
            .limit(LOAD * 2)
            .start()
    };
    let kept = hey(&["-c", "4", "-q", "25"]);
    let new = hey(&["-c", "2", "-q", "10", "-disable-keepalive"]);
    let bench = |options: &[&str]| {
        pgbench(ledger_entry, &["-n", "-T", LOAD_SECONDS]).args(options).limit(LOAD * 2).start()
    };
    let transactions = bench(&["-c", "4", "-j", "2"]);
    let reconnecting = bench(&["-S", "-C", "-c", "1", "-R", "10"]);
    let session = psql_script(ledger_entry, &session_script()).limit(LOAD * 2).start();

    caller.rotates(before[0], ROTATIONS / 2, LOAD).await;
    let previous = mesh.json(&["ca", "status"]).await;
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let current = mesh.json(&["ca", "status"]).await;
    assert_ne!(
        previous["intermediate"]["serial"], current["intermediate"]["serial"],
        "another intermediate signs"
    );
    assert_eq!(previous["root"]["sha256"], current["root"]["sha256"], "below the same root");

    for ((name, proxy), before) in ends.iter().zip(&before) {
        proxy.rotates(*before, ROTATIONS, LOAD).await;
        let metrics = proxy.metrics().await;
        let of = |labels: &[(&str, &str)]| metrics.count("signet_svid_rotations_total", labels);
        assert_eq!(of(&[]), of(&[("result", "success")]), "no rotation of {name} failed");
    }
    let subject = current["intermediate"]["subject"].as_str().expect("a name");
    let name = subject.rsplit(['=', ' ']).next().unwrap_or_default();
    for address in [web.inbound(), ledger.inbound(), mesh.grpc] {
        let issuer = presented_issuer(address).await;
        assert!(issuer.contains(name), "{issuer} presents what {subject} signed");
    }
    assert!(!session.is_finished() && !transactions.is_finished(), "all that happened during the load");

    measured("requests on kept connections, 0 failed", hey_without_failures(kept.finish().await));
    measured("requests on new connections, 0 failed", hey_without_failures(new.finish().await));
    measured(
        "pgbench transactions, 4 clients, 0 failed",
        pgbench_without_failures(transactions.finish().await),
    );
    measured("pgbench -C transactions, 0 failed", pgbench_without_failures(reconnecting.finish().await));
    let session = session.finish().await.succeeded();
    let backends: Vec<&str> = session.stdout.split_whitespace().collect();
    assert!(backends.len() > 2 && backends.iter().all(|id| *id == backends[0]), "one connection throughout");
    measured("statements of one psql session that lived through all of it", backends.len());
    for ((name, proxy), before) in ends.iter().zip(&before) {
        measured(&format!("rotations of {name} under load"), proxy.rotations().await - before);
        let metrics = proxy.metrics().await;
        for reason in [
            "policy_lost",
            "revoked_identity",
            "revoked_instance",
            "revoked_certificate",
            "revoked_key",
            "lapsed",
            "trust_removed",
            "error",
        ] {
            let closed = metrics.count("signet_connections_closed_total", &[("reason", reason)]);
            assert_eq!(closed, 0, "{name} closed {closed} connections with {reason}");
        }
    }
    mesh.verify_audit().await;
}

/// The line in which `openssl s_client` tells who signed the leaf that a listener presents.
async fn presented_issuer(listener: SocketAddr) -> String {
    let seen = Client::new("openssl").args(["s_client", "-connect", &listener.to_string()]).run().await;
    seen.stdout.lines().find(|line| line.starts_with("issuer=")).unwrap_or_default().to_owned()
}

/// One connection that asks the server for its process id, again and again, as long as the load lasts.
fn session_script() -> String {
    const STATEMENT: &str = "select pg_backend_pid();\nselect pg_sleep(0.1) \\g /dev/null\n";
    STATEMENT.repeat(LOAD.as_secs() as usize * 10)
}
