//! What people run, between two pods, none of it told that there is a proxy.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use signet_tests::apps::{
    Iperf, MariaDb, Nats, Nginx, Postgres, Redis, iperf, iperf_received, mariadb, nats,
};
use signet_tests::client::{Client, noise, pgbench, psql, redis};
use signet_tests::files::{checksum_of, digest, write_gibibyte};
use signet_tests::mesh::id;
use signet_tests::place::Place;
use signet_tests::pods::Family;
use signet_tests::process::Process;
use signet_tests::report::{measured, pgbench_without_failures, wrk_without_failures};
use signet_tests::tools::tool;

use crate::captured::{Captured, Inside, Pods, assert_from_frontend, page, text};
use crate::python::{listens, python, python_server, said, websocket_client};

/// Both proxies saw this app called, for what it is, and the caller's knows where the client wanted to go.
async fn assert_carried(captured: &Captured, protocol: &str, app: SocketAddr) {
    let requested = [("direction", "outbound"), ("protocol", protocol), ("requested", &app.to_string())];
    let line = captured.caller.access(&requested).await;
    assert_eq!(text(&line, "destination"), id("/web"), "{line}");
    let line = captured
        .server
        .access(&[("direction", "inbound"), ("protocol", protocol), ("verdict", "allow")])
        .await;
    assert_eq!(text(&line, "source"), id("/frontend"), "{line}");
    assert_eq!(text(&line, "port"), app.port().to_string(), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_wrk_reach_nginx() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    nginx.serve("page", noise(1024));
    let captured = pods.captured(&[nginx.address]).await;

    assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
    assert_carried(&captured, "http/1.1", nginx.address).await;

    let url = format!("http://{}/files/page", nginx.address);
    let load = Client::new("wrk").args(["-t", "2", "-c", "32", "-d", "2s", &url]).inside(&pods.caller);
    let requests = wrk_without_failures(load.run().await);
    measured("wrk requests per second between pods, 1 KiB, 32 connections, captured", requests / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_pgbench_reach_postgresql() {
    let pods = Pods::new(Family::V4);
    let postgres = Postgres::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.captured(&[postgres.address]).await;

    let rows = psql(postgres.address, "select 6 * 7").inside(&pods.caller).run().await.succeeded();
    assert_eq!(rows.stdout.trim(), "42");
    assert_carried(&captured, "tcp", postgres.address).await;
    let bench = |arguments: &[&str]| pgbench(postgres.address, arguments).inside(&pods.caller);
    let _ = bench(&["-i", "-q", "-s", "1"]).run().await.succeeded();
    // Half of it over connections that last, half over one connection per transaction.
    for options in [&["-c", "8", "-j", "2", "-t", "100"][..], &["-C", "-S", "-c", "4", "-t", "25"]] {
        let transactions = pgbench_without_failures(bench(options).run().await);
        measured(&format!("pgbench {} between pods, transactions", options.join(" ")), transactions);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_cli_and_redis_benchmark_reach_redis() {
    let pods = Pods::new(Family::V4);
    let app = Redis::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.captured(&[app.address]).await;

    let client = |program: &str| redis(program, app.address).inside(&pods.caller);
    let answer = client("redis-cli").args(["set", "key", "value"]).run().await.succeeded();
    assert_eq!(answer.stdout.trim(), "OK");
    let load = ["-n", "20000", "-c", "20", "-P", "4", "-t", "set,get", "--csv"];
    let answer = client("redis-benchmark").args(load).run().await.succeeded();
    for line in answer.stdout.lines().filter(|line| line.contains("ET\"")) {
        measured("redis-benchmark between pods (test, requests per second, ..)", line);
    }
    assert!(answer.stdout.contains("\"GET\"") && !answer.all().contains("rror"), "{}", answer.all());
    assert_carried(&captured, "tcp", app.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_client_reaches_mariadb_which_speaks_first() {
    let pods = Pods::new(Family::V4);
    let app = MariaDb::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.captured(&[app.address]).await;

    let select = "select 6 * 7; select repeat('x', 100000)";
    let rows = mariadb(app.address, select).inside(&pods.caller).run().await.succeeded();
    assert_eq!(rows.stdout.lines().next(), Some("42"));
    assert_eq!(rows.stdout.lines().nth(1).map(str::len), Some(100_000));
    assert_carried(&captured, "tcp", app.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_client_reaches_nats_which_speaks_first() {
    let pods = Pods::new(Family::V4);
    let app = Nats::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.captured(&[app.address]).await;

    let answer = nats(app.address, 5000).inside(&pods.caller).run().await.succeeded();
    assert_eq!(answer.stdout.trim(), "5000");
    assert_carried(&captured, "tcp", app.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_in_every_form() {
    let pods = Pods::new(Family::V4);
    let (_server, app) = python_server(&pods.app, "grpc_server.py", &[]).await;
    let captured = pods.captured(&[app]).await;

    let said = python("grpc_client.py", &[&app.to_string()]).inside(&pods.caller).run().await.succeeded();
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_from_frontend(said["identity"].as_str().unwrap());
    let expected = json!({
        "unary": "hello", "large": 3_000_000, "server_stream": 1000, "client_stream": "1000",
        "both": ["a", "b", "c"], "cancelled": true, "denied": "OK", "after_denial": "still here"
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&said[name], value, "{name}: {said}");
    }
    assert!(said["deadline"].as_str().unwrap().starts_with("DEADLINE_EXCEEDED"), "{said}");
    assert_carried(&captured, "http/2", app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_talks_and_is_cut_when_the_caller_is_revoked() {
    let pods = Pods::new(Family::V4);
    let (_server, app) = python_server(&pods.app, "websocket.py", &["serve"]).await;
    let captured = pods.captured(&[app]).await;
    let mut client = websocket_client(&pods.caller, app);
    said(&client, "talked").await;

    let _ = captured.mesh.signet(&["revoke", &id("/frontend"), "--reason", "test"]).await.succeeded();

    assert!(client.exit(signet_tests::PATIENCE).await.success(), "{}", client.logs().text());
    said(&client, "cut").await;
    captured.server.access(&[("direction", "inbound"), ("close_reason", "revoked_identity")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_sees_no_error() {
    let pods = Pods::new(Family::V4);
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("page"), "x".repeat(1024)).unwrap();
    let app = pods.app.at(8080);
    let mut command = Command::new(tool("nghttpd"));
    command.args(["--no-tls", "--htdocs"]).arg(root.path()).arg("8080");
    let _server = Process::start("nghttpd", pods.app.wrap(&command, 0));
    listens(&pods.app, app).await;
    let captured = pods.captured(&[app]).await;

    let url = format!("http://{app}/page");
    let load = Client::new("h2load").args(["-n", "10000", "-c", "8", "-m", "16", &url]);
    let load = load.inside(&pods.caller).run().await.succeeded();
    let requests = load.stdout.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
    assert!(requests.contains(" 10000 succeeded, 0 failed, 0 errored, 0 timeout"), "{}", load.stdout);
    assert_carried(&captured, "http/2", app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn iperf3_moves_bytes_both_ways() {
    const MEGABYTES: u64 = 300;
    let pods = Pods::new(Family::V4);
    let app = Iperf::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.captured(&[app.address]).await;

    for (direction, option) in [("to the app", None), ("from the app", Some("--reverse"))] {
        let client = iperf(app.address, MEGABYTES, option.as_slice()).inside(&pods.caller);
        let (bytes, gigabits) = iperf_received(client.run().await);
        assert!(bytes >= MEGABYTES * 1_000_000, "{direction}: {bytes} bytes");
        measured(&format!("iperf3 between pods, {direction}"), format!("{gigabits:.2} Gbit/s"));
    }
    assert_carried(&captured, "tcp", app.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_of_1_gib_arrives_as_it_was_sent() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let sent = write_gibibyte(&nginx.files().join("large")).await;
    let captured = pods.captured(&[nginx.address]).await;

    let received = checksum_of(nginx.address, "/files/large").inside(&pods.caller).run().await.succeeded();
    assert_eq!(digest(&received), sent);
    let line = captured.caller.access(&[("path", "/files/large"), ("status", "200")]).await;
    assert_eq!(text(&line, "bytes_out"), (1_u64 << 30).to_string(), "{line}");
}
