//! What control says of itself: every metric that an alert can be made of, with labels of a few words; health, and
//! warnings.

use signet_tests::apps::RequestApp;
use signet_tests::client::curl;
use signet_tests::disk::SmallDisk;
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::on_both_engines;
use signet_tests::{PATIENCE, eventually};

on_both_engines!(metrics_and_health_say_how_control_is);

const ALWAYS: [&str; 25] = [
    "signet_control_issuances_total",
    "signet_control_signing_seconds_count",
    "signet_control_store_commit_jobs_count",
    "signet_control_store_commit_seconds_count",
    "signet_control_store_reachable",
    "signet_control_streams",
    "signet_control_messages_total",
    "signet_control_push_lag_seconds_count",
    "signet_control_revision",
    "signet_control_revision_lag",
    "signet_control_connections_total",
    "signet_control_ca_expiry_timestamp_seconds",
    "signet_control_svids_live",
    "signet_control_workloads",
    "signet_control_policy_readable",
    "signet_control_pruned_rows_total",
    "signet_control_duty_last_success_timestamp_seconds",
    "signet_control_data_directory_free_bytes",
    "signet_control_leads",
    "signet_control_audit_chain_intact",
    "signet_control_audit_checkpoint_sequence",
    "signet_control_audit_checkpoint_timestamp_seconds",
    "signet_control_audit_sink_lag_events",
    "signet_control_calls_total",
    "signet_control_handshake_failures_total",
];
const DUTIES: [&str; 17] = [
    "audit",
    "authorities",
    "checkpoint",
    "crl",
    "endpoints",
    "export",
    "federation",
    "identity",
    "lapse",
    "measure",
    "prune",
    "refusals",
    "replicas",
    "requests",
    "templates",
    "tokens",
    "upstream",
];

async fn metrics_and_health_say_how_control_is(store: Store) {
    let sink = tempfile::tempdir().unwrap();
    let sink = format!("file:{}", sink.path().join("audit.jsonl").display());
    let options = ["--audit-checkpoint-every", "1s", "--audit-sink", &sink];
    let disk = SmallDisk::of_megabytes(1024);
    let mesh = Mesh::on(store).options(&options).data_in(&disk.path().join("data")).start().await;
    let app = RequestApp::start().await;
    let _pair = mesh.pair(&id("/frontend"), &id("/web"), "http://", app.address).await;
    mesh.policy(&allow("web", &id("/web"), &[&id("/frontend")])).await;
    assert_ne!(mesh.signet(&["suspend", &id("/nobody"), "--reason", "none"]).await.code(), 0);
    // Whoever is no proxy and speaks no TLS.
    let _ = curl().arg(format!("http://{}/", mesh.grpc)).run().await;

    let mut duties: Vec<&str> = DUTIES.into();
    if store == Store::Postgres {
        duties.insert(7, "follow");
    }
    eventually("everything was measured once", PATIENCE, async || {
        let metrics = mesh.metrics().await;
        let missing: Vec<_> = ALWAYS.iter().filter(|name| !metrics.has(name)).collect();
        let reachable = metrics.count("signet_control_store_reachable", &[]) == 1;
        let done = metrics.values("signet_control_duty_last_success_timestamp_seconds", "duty");
        if missing.is_empty() && reachable && done == duties {
            Ok(())
        } else {
            Err(format!("{missing:?} {done:?}"))
        }
    })
    .await;
    let metrics = mesh.metrics().await;
    assert_eq!(metrics.values("signet_control_issuances_total", "operation"), ["attest", "own"]);
    assert_eq!(metrics.values("signet_control_issuances_total", "result"), ["issued"]);
    let expiry = metrics.values("signet_control_ca_expiry_timestamp_seconds", "authority");
    assert_eq!(expiry, ["intermediate", "jwt", "own", "root"]);
    if store == Store::Postgres {
        let ahead = metrics.sum("signet_control_clock_ahead_seconds", &[]);
        assert!(metrics.has("signet_control_clock_ahead_seconds") && ahead.abs() < 2.0, "{ahead}");
    }
    assert_eq!(metrics.count("signet_control_leads", &[]), 1);
    assert_eq!(metrics.count("signet_control_streams", &[]), 2);

    assert_eq!(mesh.readiness().await, (200, "ready\n".to_owned()));
    assert!(mesh.json(&["status"]).await["warnings"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_to_fail_is_said_while_everything_works() {
    let disk = SmallDisk::of_megabytes(24);
    let mesh = Mesh::on(Store::Sqlite).data_in(&disk.path().join("data")).start().await;
    let (status, text) = mesh.readiness().await;
    let warning = "the disk of the data directory is nearly full";
    assert!(status == 200 && text.starts_with(&format!("ready\nwarning: {warning}")), "{status} {text}");
    let told = mesh.json(&["status"]).await;
    assert!(told["warnings"][0].as_str().unwrap().starts_with(warning), "{told}");
}
