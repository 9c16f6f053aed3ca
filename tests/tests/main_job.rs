//! The main job: apps that talk only through two proxies, with clients and servers that we did not write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use serde_json::Value;
use signet_tests::apps::{Nginx, Postgres, Redis, RequestApp, TcpCounter, TcpEcho, header_values};
use signet_tests::client::{Client, curl, curl_get, noise, pgbench, psql, redis};
use signet_tests::logs::field;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::report::{measured, pgbench_without_failures, wrk_without_failures};
use signet_tests::sockets::{send_and_read, send_half_close_and_read};

const MEBIBYTE: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn curl_reaches_nginx_and_nginx_sees_who_calls() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", nginx.address).await;

    let answer = curl_get(pair.entry(), "/identity").await;

    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
    let header = answer.stdout.lines().last().unwrap_or_default();
    assert_identity_header(header, &web, &frontend);
    for (proxy, direction) in [(&pair.caller, "outbound"), (&pair.server, "inbound")] {
        let line = proxy.access(&[("direction", direction), ("path", "/identity"), ("status", "200")]).await;
        assert_eq!(field(&line, "source"), frontend, "{line}");
        assert_eq!(field(&line, "destination"), web, "{line}");
        assert_eq!(field(&line, "method"), "GET", "{line}");
        // Who is called decides; the caller's side only passes on.
        let verdict = if direction == "inbound" { "allow" } else { "none" };
        assert_eq!(field(&line, "verdict"), verdict, "{line}");
        assert_ne!(field(&line, "request_id"), "", "{line}");
    }
    let requests =
        [("direction", "inbound"), ("status", "200"), ("source", &frontend), ("destination", &web)];
    pair.server.counts("signet_requests_total", &requests, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_headers_of_the_client_never_reach_the_app() {
    let (mesh, nginx, app) = (Mesh::start().await, Nginx::start().await, RequestApp::start().await);
    let (frontend, web, api) = (id("/frontend"), id("/web"), id("/api"));
    for workload in [&frontend, &web, &api] {
        mesh.workload(workload).await;
    }
    mesh.policy(&format!("{}---\n{}", allow("web", &web, &[&frontend]), allow("api", &api, &[&frontend])))
        .await;
    let web_proxy = mesh.proxy(&web).await.inbound("http://", nginx.address).start().await;
    let api_proxy = mesh.proxy(&api).await.inbound("http://", app.address).start().await;
    let caller =
        mesh.proxy(&frontend).await.outbound("http://", &web).outbound("http://", &api).start().await;

    let forged = "By=spiffe://mesh.test/web;Hash=00;URI=spiffe://mesh.test/admin";
    let forgeries = [
        "x-forwarded-client-cert",
        "X-Forwarded-Client-Cert",
        "x_forwarded_client_cert",
        "X_FORWARDED_CLIENT_CERT",
        "x-forwarded_client-cert",
    ];
    for name in forgeries {
        let forge = format!("{name}: {forged}");
        let at_nginx = curl()
            .args(["-H", &forge, &format!("http://{}/identity", caller.outbounds()[0])])
            .run()
            .await
            .succeeded();
        assert_identity_header(&at_nginx.stdout, &web, &frontend);

        let at_app = curl()
            .args(["-H", &forge, &format!("http://{}/echo", caller.outbounds()[1])])
            .run()
            .await
            .succeeded();
        assert_one_identity(&at_app.stdout, &api, &frontend);
    }

    // A client that names the header in `Connection` asks each hop to remove it (RFC 9110 s7.6.1).
    let url = format!("http://{}/echo", caller.outbounds()[1]);
    let hop_by_hop = curl()
        .args([
            "-H",
            "Connection: x-forwarded-client-cert",
            "-H",
            &format!("x-forwarded-client-cert: {forged}"),
            &url,
        ])
        .run()
        .await
        .succeeded();
    assert_one_identity(&hop_by_hop.stdout, &api, &frontend);
    drop((web_proxy, api_proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrk_through_a_pair_sees_no_error() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    nginx.serve("page", noise(1024));
    // The protocol is not declared: it is detected.
    let pair = mesh.pair(&frontend, &web, "", nginx.address).await;

    let url = format!("http://{}/files/page", pair.entry());
    let finished = Client::new("wrk").args(["-t", "2", "-c", "32", "-d", "5s", &url]).run().await;

    let requests = wrk_without_failures(finished);
    measured("wrk requests per second through a pair, 1 KiB, 32 connections, detected", requests / 5);
    pair.server.access(&[("protocol", "http/1.1"), ("path", "/files/page")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_no_rule_allows_gets_403_and_the_reason() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, intruder, web) = (id("/frontend"), id("/batch/intruder"), id("/web"));
    mesh.policy(&format!(
        "{}  - name: no-batch\n    deny: {{ from: [\"{}\"] }}\n",
        allow("web-callers", &web, &[&frontend]),
        id("/batch/nightly")
    ))
    .await;
    let pair = mesh.pair(&intruder, &web, "http://", app.address).await;

    let answer = curl_get(pair.entry(), "/secret").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.stdout);
    assert!(answer.stdout.contains("no_rule"), "the body names the reason: {}", answer.stdout);
    let line =
        pair.server.access(&[("direction", "inbound"), ("verdict", "deny"), ("reason", "no_rule")]).await;
    assert_eq!(field(&line, "source"), intruder, "{line}");
    assert_eq!(field(&line, "path"), "/secret", "{line}");
    assert_eq!(field(&line, "status"), "403", "{line}");
    assert!(
        answer.stdout.contains(&field(&line, "request_id")),
        "the body names the request: {}",
        answer.stdout
    );
    let denied =
        [("direction", "inbound"), ("reason", "no_rule"), ("source", &intruder), ("destination", &web)];
    pair.server.counts("signet_denied_total", &denied, 1).await;

    // The same caller, denied by name: the body and the log name the rule.
    mesh.policy(&format!(
        "kind: Policy\nname: web-callers\ntarget: {web}\nrules:\n  - name: no-batch\n    deny: {{ from: [\"{}\"] }}\n",
        id("/batch/*")
    ))
    .await;
    let answer = curl_get(pair.entry(), "/secret").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.stdout);
    for word in ["denied_by_rule", "web-callers", "no-batch"] {
        assert!(answer.stdout.contains(word), "the body names {word}: {}", answer.stdout);
    }
    let line = pair.server.access(&[("verdict", "deny"), ("reason", "denied_by_rule")]).await;
    assert_eq!(
        (field(&line, "policy"), field(&line, "rule")),
        ("web-callers".into(), "no-batch".into()),
        "{line}"
    );

    assert_eq!(app.requests(), 0, "no denied request reaches the app");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_nobody_gets_in() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let pair = mesh.pair(&id("/frontend"), &id("/web"), "http://", app.address).await;

    let answer = curl_get(pair.entry(), "/").await;

    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.stdout);
    assert!(answer.stdout.contains("no_policy"), "{}", answer.stdout);
    assert_eq!(app.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_decide_and_ambiguous_paths_are_refused() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (checkout, payments) = (id("/checkout"), id("/payments"));
    mesh.policy(&format!(
        r#"
kind: Policy
name: payments
target: {payments}
rules:
  - name: checkout-charges
    allow:
      from: [{checkout}]
      ports: [{}]
      http: {{ methods: [GET, POST], paths: ["/charge/*"] }}
"#,
        nginx.address.port()
    ))
    .await;
    let pair = mesh.pair(&checkout, &payments, "http://", nginx.address).await;

    // What the app sees, which is what policy saw; or the status.
    let cases = [
        ("GET", "/charge/1", Ok("/charge/1")),
        ("POST", "/charge/1/lines/2", Ok("/charge/1/lines/2")),
        ("GET", "/charge/1?next=/../refund/1", Ok("/charge/1?next=/../refund/1")),
        ("GET", "//charge//1", Ok("/charge/1")),
        ("GET", "/charge/./x/../1", Ok("/charge/1")),
        ("GET", "/%63harge/%31", Ok("/charge/1")),
        ("PUT", "/charge/1", Err(403)),
        ("get", "/charge/1", Err(403)),
        ("GET", "/charge", Err(403)),
        ("GET", "/charges/1", Err(403)),
        ("GET", "/refund/1", Err(403)),
        ("GET", "/charge/../refund/1", Err(403)),
        ("GET", "/charge/%2e%2e/refund/1", Err(403)),
        ("GET", "/charge/1;x=y", Err(403)),
        ("GET", "/charge%2f1", Err(403)),
        ("GET", "/charge/..%2frefund/1", Err(400)),
        ("GET", "/charge/1%00", Err(400)),
        ("GET", "/charge/1\\..\\refund", Err(400)),
    ];
    for (method, path, expected) in cases {
        let answer = curl()
            .args([
                "--path-as-is",
                "--globoff",
                "--include",
                "-X",
                method,
                &format!("http://{}{path}", pair.entry()),
            ])
            .run()
            .await
            .succeeded();
        let status = answer.stdout.split(' ').nth(1).unwrap_or_default();
        let wanted = expected.map_or_else(|status| status.to_string(), |_| "200".to_owned());
        assert_eq!(status, wanted, "{method} {path}: {}", answer.stdout);
        if let Ok(path) = expected {
            let seen = answer.stdout.lines().last().unwrap_or_default();
            assert_eq!(seen, format!("{method} {path}"), "the app sees the request as it was judged");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_policy_denies_is_closed_before_the_app_hears_of_it() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (frontend, intruder, store) = (id("/frontend"), id("/intruder"), id("/store"));
    mesh.policy(&allow("store", &store, &[&frontend])).await;
    let pair = mesh.pair(&intruder, &store, "tcp://", echo.address).await;

    let (closed, answer) = send_and_read(pair.entry(), b"let me in\n", Duration::from_secs(10)).await;

    assert!(closed, "the connection is closed");
    assert!(answer.is_empty(), "and nothing came back: {answer:?}");
    let line =
        pair.server.access(&[("direction", "inbound"), ("verdict", "deny"), ("reason", "no_rule")]).await;
    assert_eq!(
        (field(&line, "source"), field(&line, "destination")),
        (intruder.clone(), store.clone()),
        "{line}"
    );
    let denied = [("direction", "inbound"), ("reason", "no_rule"), ("source", &intruder)];
    pair.server.counts("signet_denied_total", &denied, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_pgbench_work_through_a_pair() {
    let (mesh, postgres) = (Mesh::start().await, Postgres::start().await);
    let (billing, ledger) = (id("/billing"), id("/ledger"));
    mesh.policy(&allow("ledger", &ledger, &[&billing])).await;
    let pair = mesh.pair(&billing, &ledger, "tcp://", postgres.address).await;
    let entry = pair.entry();

    let rows = psql(entry, "select repeat('x', 100) from generate_series(1, 20000)").run().await.succeeded();
    assert_eq!(rows.stdout.lines().filter(|line| line.len() == 100).count(), 20_000, "every row arrives");

    let _ = pgbench(entry, &["-i", "-q", "-s", "2"]).run().await.succeeded();
    let load = pgbench(entry, &["-n", "-c", "8", "-j", "2", "-T", "5"]).run().await;
    measured("pgbench transactions per second through a pair, 8 clients", pgbench_without_failures(load) / 5);
    let reconnecting = pgbench(entry, &["-n", "-S", "-C", "-c", "4", "-T", "3"]).run().await;
    measured("pgbench -C connections per second through a pair", pgbench_without_failures(reconnecting) / 3);

    let sums =
        "select (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)";
    let consistent = psql(entry, sums).run().await.succeeded();
    assert_eq!(consistent.stdout.trim(), "t", "the bank's books agree");
    pair.server.access(&[("protocol", "tcp"), ("close_reason", "finished"), ("source", &billing)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_clients_work_through_a_pair_that_detects_the_protocol() {
    let (mesh, redis_server) = (Mesh::start().await, Redis::start().await);
    let (cart, cache) = (id("/cart"), id("/cache"));
    mesh.policy(&allow("cache", &cache, &[&cart])).await;
    let pair = mesh.pair(&cart, &cache, "", redis_server.address).await;
    let entry = pair.entry();

    let value = noise(3 * MEBIBYTE);
    let stored =
        redis("redis-cli", entry).args(["-x", "set", "large"]).input(value.clone()).run().await.succeeded();
    assert_eq!(stored.stdout.trim(), "OK");
    let read = redis("redis-cli", entry).args(["get", "large"]).run().await.succeeded();
    assert!(read.bytes.strip_suffix(b"\n") == Some(&value), "3 MiB come back as they went");

    for more in [&["-P", "1"], &["-P", "16"]] {
        let benchmark = redis("redis-benchmark", entry)
            .args(["-q", "-n", "20000", "-c", "20", "-t", "ping_mbulk,set,get,lpush"])
            .args(more)
            .run()
            .await
            .succeeded();
        assert!(!benchmark.all().contains("Error"), "{}", benchmark.all());
        for line in benchmark.stdout.replace('\r', "\n").lines().filter(|line| line.contains("p50=")) {
            measured("redis-benchmark through a pair", line);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_unchanged_in_both_directions() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", nginx.address).await;
    let body = noise(20 * MEBIBYTE + 7);

    let uploads: [&[&str]; 3] = [&[], &["-H", "Transfer-Encoding: chunked"], &["-H", "Expect:"]];
    for (number, options) in uploads.iter().enumerate() {
        let url = format!("http://{}/files/upload-{number}", pair.entry());
        let put =
            curl().args(["--fail", "-T", "-"]).args(*options).args([&url]).input(body.clone()).run().await;
        let _ = put.succeeded();
        let stored = std::fs::read(nginx.files().join(format!("upload-{number}"))).expect("nginx stored it");
        assert!(stored == body, "upload {options:?} arrives unchanged ({} bytes)", stored.len());
        let got = curl().args(["--fail", &url]).run().await.succeeded();
        assert!(got.bytes == body, "download {number} arrives unchanged ({} bytes)", got.bytes.len());
    }
    let line =
        pair.server.access(&[("direction", "inbound"), ("method", "GET"), ("path", "/files/upload-0")]).await;
    let bytes_out: usize = field(&line, "bytes_out").parse().expect("a number");
    assert!(bytes_out >= body.len(), "the access log counts the body: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_closed_connections_still_carry_the_answer() {
    let (mesh, counter) = (Mesh::start().await, TcpCounter::start().await);
    let (sender, receiver) = (id("/sender"), id("/receiver"));
    mesh.policy(&allow("receiver", &receiver, &[&sender])).await;
    let pair = mesh.pair(&sender, &receiver, "tcp://", counter.address).await;
    let body = noise(2 * MEBIBYTE);

    let answer = send_half_close_and_read(pair.entry(), &body).await;
    assert_eq!(String::from_utf8_lossy(&answer), format!("received {} bytes", body.len()));

    let target = format!("TCP:{}", pair.entry());
    let socat =
        Client::new("socat").args(["-t", "20", "-", &target]).input(body.clone()).run().await.succeeded();
    assert_eq!(socat.stdout, format!("received {} bytes", body.len()));

    let closed = [("direction", "inbound"), ("reason", "finished")];
    pair.server.counts("signet_connections_closed_total", &closed, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_does_what_the_options_do() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let inbound = format!(
        "[[inbound]]\nlisten = \"127.0.0.1:0\"\nforward = \"{}\"\nprotocol = \"http\"\n",
        nginx.address
    );
    let server = mesh.proxy(&web).await.config(&inbound, 1, 0).start().await;
    let outbound = format!(
        "[[outbound]]\nlisten = \"127.0.0.1:0\"\npeer = \"{web}\"\naddress = \"{}\"\nprotocol = \"http\"\n",
        server.inbound()
    );
    let caller = mesh.proxy(&frontend).await.config(&outbound, 0, 1).start().await;

    let answer = curl_get(caller.outbound(), "/identity").await;

    assert_identity_header(answer.stdout.lines().last().unwrap_or_default(), &web, &frontend);
}

/// Exactly `By=<destination>;Hash=<64 hex digits>;URI=<source>`.
fn assert_identity_header(header: &str, destination: &str, source: &str) {
    let hash = header
        .strip_prefix(&format!("By={destination};Hash="))
        .and_then(|rest| rest.strip_suffix(&format!(";URI={source}")))
        .unwrap_or_else(|| panic!("not the identity of {source} at {destination}: {header}"));
    let lower_hex = hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    assert!(hash.len() == 64 && lower_hex, "not a SHA-256: {header}");
}

/// The app received exactly one header that any server could take for the identity header, and it is ours.
fn assert_one_identity(answer: &str, destination: &str, source: &str) {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("not from the app: {answer}"));
    let name = |name: &str| name.to_ascii_lowercase().replace('_', "-") == "x-forwarded-client-cert";
    let values = header_values(&answer, name);
    assert_eq!(values.len(), 1, "one identity header: {answer}");
    assert_identity_header(&values[0], destination, source);
}
