//! Twenty new policies and twenty new SVIDs at both ends, one after the other, under load: what both the old
//! and the new policy allow does not notice.

use std::time::Duration;

use signet_tests::apps::Nginx;
use signet_tests::client::{Client, noise};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::Proxy;
use signet_tests::report::{hey_without_failures, measured};

const ROUNDS: u64 = 20;
/// Renewed at half of it.
const LIFE: &str = "2s";
/// Twenty rounds take about this long; whatever of them is left afterwards is not under load, and fails.
const LOAD: &str = "30s";

#[tokio::test(flavor = "multi_thread")]
async fn twenty_policies_and_twenty_rotations_lose_no_request() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    for workload in [&frontend, &web] {
        mesh.short_lived_workload(workload, LIFE).await;
    }
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.proxies(&frontend, &web, "http://", nginx.address).await;
    nginx.serve("page", noise(2048));
    let ends: [&Proxy; 2] = [&pair.caller, &pair.server];
    let rotations = async || [ends[0].rotations().await, ends[1].rotations().await];
    let (first, revision) = (rotations().await, revision(&pair.server).await);
    let url = format!("http://{}/files/page", pair.entry());
    let hey = |options: &[&str]| {
        Client::new("hey").args(["-z", LOAD]).args(options).arg(&url).limit(Duration::from_secs(60)).start()
    };
    let kept = hey(&["-c", "4", "-q", "50"]);
    let new = hey(&["-c", "2", "-q", "10", "-disable-keepalive"]);

    for round in 0..ROUNDS {
        let before = rotations().await;
        let other = id(&format!("/other-{round}"));
        mesh.policy(&allow("web", &web, &[&frontend, &other])).await;
        for (proxy, before) in ends.iter().zip(before) {
            proxy.rotates(before, 1, Duration::from_secs(20)).await;
        }
    }

    assert!(!kept.is_finished() && !new.is_finished(), "all of it happened under load");
    measured("requests on kept connections, 0 failed", hey_without_failures(kept.finish().await));
    measured("requests on new connections, 0 failed", hey_without_failures(new.finish().await));
    let last = rotations().await;
    measured(
        "rotations of caller and server meanwhile",
        format!("{} and {}", last[0] - first[0], last[1] - first[1]),
    );
    assert!(self::revision(&pair.server).await >= revision + ROUNDS, "each policy was in force");
    for proxy in ends {
        let metrics = proxy.metrics().await;
        for reason in ["policy_lost", "revoked_identity", "lapsed", "trust_removed", "error"] {
            let closed = metrics.count("signet_connections_closed_total", &[("reason", reason)]);
            assert_eq!(closed, 0, "{closed} connections were closed with {reason}");
        }
        assert_eq!(metrics.count("signet_denied_total", &[]), 0);
    }
}

async fn revision(proxy: &Proxy) -> u64 {
    proxy.metrics().await.count("signet_snapshot_revision", &[])
}
