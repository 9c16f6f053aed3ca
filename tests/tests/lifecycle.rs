//! From start to end: ready only with identity and policy in hand, drained on SIGTERM, and never harmed by
//! what the network or a configuration file holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use signet_tests::apps::{H2App, Recorder, RequestApp, TcpEcho};
use signet_tests::client::{curl, curl_get, file, noise};
use signet_tests::http;
use signet_tests::logs::is_message;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::process::Process;
use signet_tests::proxy::ProxyBuilder;
use signet_tests::raw_h2::{
    DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, fields, frame, headers, read_frame,
    request,
};
use signet_tests::sockets::{EchoConnection, free_address, send_and_read};
use signet_tests::talk::{Talk, To};
use signet_tests::{PATIENCE, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_alive_at_once_and_ready_only_with_identity_and_policy() {
    let (mut mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let web = id("/web");
    mesh.workload(&web).await;
    let builder = mesh.proxy(&web).await.inbound("http://", app.address);
    mesh.kill_control().await;

    let mut proxy = builder.start_unready().await;
    let live = http::request(proxy.admin, "/livez").await.expect("/livez answers");
    assert_eq!(live.status, 200);
    let ready = proxy.readyz().await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("identity"), "it lists what is missing: {}", ready.body);

    mesh.restart_control().await;
    proxy.become_ready().await;
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.count("signet_control_connected", &[]), 1);
    assert!(metrics.sum("signet_svid_expiry_timestamp_seconds", &[]) > 1.0e9);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_the_request_in_flight_end_and_then_the_proxy_ends() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let mut pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let slow = curl().args(["--include", &format!("http://{}/hold", pair.entry())]).start();
    app.holds_one().await;

    pair.server.process.terminate();
    let inbound = pair.server.inbound();
    eventually("no new connection is served", PATIENCE, async || match TcpStream::connect(inbound).await {
        Err(_) => Ok(()),
        Ok(_) => Err("it still accepts".to_owned()),
    })
    .await;
    assert!(pair.server.process.is_running() && !slow.is_finished(), "it waits for the request in flight");
    app.release();

    let answer = slow.finish().await.succeeded();
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
    let status = pair.server.process.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_says_goaway_and_the_http2_request_in_flight_ends() {
    let app = H2App::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    for ends_server in [true, false] {
        let mesh = Mesh::start().await;
        mesh.policy(&allow("web", &web, &[&frontend])).await;
        let mut pair = mesh.pair(&frontend, &web, "", app.address).await;
        let mut stream = TcpStream::connect(pair.entry()).await.unwrap();
        let seen = app.arrived();
        let begun = headers(1, 0, &fields(&request("POST", "/")));
        let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &begun, &frame(DATA, 0, 1, b"first")];
        stream.write_all(&opening.concat()).await.unwrap();
        eventually("the request reaches the app", PATIENCE, async || match app.arrived() {
            count if count > seen => Ok(()),
            count => Err(count.to_string()),
        })
        .await;

        let draining = if ends_server { &mut pair.server.process } else { &mut pair.caller.process };
        draining.terminate();
        draining.wait_for_log("draining", |event| is_message(event, "draining")).await;
        if !ends_server {
            let goaway = next(&mut stream, |frame| frame.kind == GOAWAY).await.expect("it says so");
            assert_eq!(goaway.payload[4..8], [0; 4], "NO_ERROR: {goaway:?}");
        }
        stream.write_all(&frame(DATA, END_STREAM, 1, b"last")).await.unwrap();
        let answered = |frame: &Frame| frame.stream == 1 && frame.flags & END_STREAM != 0;
        let last = next(&mut stream, answered).await.expect("the request in flight is answered");
        assert!(matches!(last.kind, DATA | HEADERS), "{last:?}");
        assert_eq!(draining.exit(PATIENCE).await.code(), Some(0));
        if !ends_server {
            assert!(next(&mut stream, |_| false).await.is_none(), "and the connection ends");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_begun_to_come_is_answered_while_the_proxy_drains() {
    let app = Recorder::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    let mesh = Mesh::start().await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let mut pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let mut talk = Talk::new(Box::new(TcpStream::connect(pair.entry()).await.unwrap()));
    talk.say("GET /begun HTTP/1.1\r\nHost: a\r\n").await;
    let mut idle = Talk::new(Box::new(TcpStream::connect(pair.entry()).await.unwrap()));
    idle.say("GET /before HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.hear(To::Get).await.unwrap().body, "/before");

    pair.caller.process.terminate();
    pair.caller.process.wait_for_log("draining", |event| is_message(event, "draining")).await;
    assert!(idle.hear(To::Get).await.is_none(), "who has said nothing is closed");
    for piece in ["X", ":", " ", "y", "\r\n", "\r\n"] {
        talk.say(piece).await;
        tokio::task::yield_now().await;
    }
    let answer = talk.hear(To::Get).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, "/begun"));
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    assert!(talk.hear(To::Get).await.is_none(), "and closed after it");
    assert_eq!(pair.caller.process.exit(PATIENCE).await.code(), Some(0));
}

/// The next frame of that kind; nothing once the connection has ended. Answers what has to be answered.
async fn next(stream: &mut TcpStream, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
    let found = async {
        loop {
            let received = read_frame(stream).await.ok()?;
            if wanted(&received) {
                return Some(received);
            }
            if matches!(received.kind, PING | SETTINGS) && received.flags & END_STREAM == 0 {
                let content = if received.kind == PING { &received.payload[..] } else { &[] };
                let _ = stream.write_all(&frame(received.kind, END_STREAM, 0, content)).await;
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_deadline_and_says_what_it_cut() {
    let (mesh, app, echo) = (Mesh::start().await, RequestApp::start().await, TcpEcho::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let mut server = mesh.proxy(&web).await.inbound("tcp://", echo.address).drain_timeout("1s").start().await;
    let caller = mesh.proxy(&frontend).await.outbound("tcp://", &web).start().await;
    let mut connection = EchoConnection::open(caller.outbound()).await;

    let asked = Instant::now();
    server.process.terminate();
    connection.ping().await.expect("open connections are served while it drains");
    let status = server.process.exit(Duration::from_secs(10)).await;

    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(5),
        "the deadline is 1 s: {took:?}"
    );
    timeout(PATIENCE, connection.closed()).await.expect("and the connection is cut");
    server.access(&[("direction", "inbound"), ("close_reason", "drained")]).await;
    drop(app);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_down_is_a_gateway_error_and_not_a_hang() {
    let mesh = Mesh::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", free_address()).await;

    let answer = curl_get(pair.entry(), "/").await;
    assert!(is_gateway_error(&answer.stdout), "{}", answer.stdout);

    // Without its peer the caller's own proxy answers.
    let caller = pair.caller;
    drop(pair.server);
    let answer = curl_get(caller.outbound(), "/").await;
    assert!(is_gateway_error(&answer.stdout), "{}", answer.stdout);
}

/// One of the statuses that say who is at fault, with a request id to look for in the log.
fn is_gateway_error(answer: &str) -> bool {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    ["502", "503", "504"].contains(&status) && answer.contains("request id: ")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_handshake_costs_a_closed_connection_a_metric_and_a_log_line() {
    const FAILURES: &str = "signet_handshake_failures_total";
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let inbound = pair.server.inbound();
    // A ClientHello as far as the record and handshake headers, which promise more than comes.
    let half_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0x11, 0x22];
    let huge_record = [&[0x16, 0x03, 0x03, 0xff, 0xff][..], &[0; 70_000]].concat();
    let cases: [(&str, Vec<u8>); 7] = [
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("noise", noise(100_000)),
        ("zeros", vec![0; 4096]),
        ("an alert", vec![0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28]),
        ("an oversized record", huge_record),
        ("an SSLv2 hello", vec![0x80, 0x2e, 0x01, 0x00, 0x02, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10]),
        ("half a hello", half_hello.to_vec()),
    ];
    for (case, bytes) in cases {
        let before = pair.server.metrics().await.count(FAILURES, &[("direction", "inbound")]);
        let mark = pair.server.process.logs().mark();

        let (closed, _) = send_and_read(inbound, &bytes, PATIENCE).await;

        assert!(closed, "{case}: the connection is closed");
        pair.server.counts(FAILURES, &[("direction", "inbound")], before + 1).await;
        pair.server
            .access_since(mark, &[("direction", "inbound"), ("close_reason", "handshake_failed")])
            .await;
    }

    // Cut off inside the hello, many times over; then it still serves.
    for length in 1..half_hello.len() {
        let mut stream = TcpStream::connect(inbound).await.expect("it accepts");
        stream.write_all(&half_hello[..length]).await.expect("it reads");
    }
    let answer = curl_get(pair.entry(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
    assert_eq!(app.requests(), 1, "nothing else reached the app");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_operators_are_promised_is_there() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "", app.address).await;
    let _ = curl_get(pair.entry(), "/").await;
    mesh.policy(&allow("web", &web, &[&id("/nobody")])).await;
    let _ = curl_get(pair.entry(), "/").await;
    send_and_read(pair.server.inbound(), b"GET / HTTP/1.0\r\n\r\n", PATIENCE).await;
    pair.server.access(&[("direction", "inbound"), ("close_reason", "handshake_failed")]).await;
    pair.server.access(&[("direction", "inbound"), ("reason", "no_rule")]).await;

    let metrics = pair.server.metrics().await;
    for name in [
        "signet_connections_opened_total",
        "signet_connections_open",
        "signet_connections_closed_total",
        "signet_denied_total",
        "signet_bytes_total",
        "signet_connection_duration_seconds_count",
        "signet_handshake_seconds_bucket",
        "signet_handshake_failures_total",
        "signet_requests_total",
        "signet_request_duration_seconds_count",
        "signet_svid_expiry_timestamp_seconds",
        "signet_svid_rotations_total",
        "signet_control_connected",
        "signet_snapshot_generation",
        "signet_snapshot_revision",
    ] {
        assert!(metrics.has(name), "{name} is missing");
    }
    assert_eq!(metrics.values("signet_connections_opened_total", "direction"), ["inbound"]);
    assert_eq!(metrics.values("signet_requests_total", "status"), ["200", "403"]);
    assert_eq!(metrics.values("signet_denied_total", "source"), [frontend.as_str()]);
    let caller = pair.caller.metrics().await;
    // The caller's proxy finds out what is spoken and says so in the handshake.
    assert_eq!(caller.values("signet_detection_total", "result"), ["http/1.1"]);
    assert_eq!(caller.values("signet_requests_total", "direction"), ["outbound"]);
    assert_eq!(caller.values("signet_requests_total", "destination"), [web.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_on_an_http_port_is_answered_or_closed() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let cases = [
        ("noise", String::from_utf8_lossy(&noise(5000)).into_owned()),
        ("no host", "GET / HTTP/1.1\r\nhost x\r\n\r\n".to_owned()),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_owned()),
        (
            "both lengths",
            format!(
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n{smuggled}"
            ),
        ),
        ("a negative length", format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{smuggled}")),
        ("a bare CR", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n".to_owned()),
    ];
    for (case, text) in cases {
        let (closed, answer) = send_and_read(pair.entry(), text.as_bytes(), PATIENCE).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(closed, "{case}: the connection is closed: {answer}");
        assert!(!answer.contains("/smuggled"), "{case}: no request inside a request: {answer}");
        assert!(!answer.contains("HTTP/1.1 5"), "{case}: the client's fault is not ours: {answer}");
    }
    let answer = curl_get(pair.entry(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_errors_name_the_key_the_file_and_the_line() {
    let listener = "[[inbound]]\nlisten = \"127.0.0.1:0\"\nforward = \"127.0.0.1:8080\"\n";
    let cases = [
        (format!("{listener}protocl = \"http\"\n"), 4, "protocl"),
        (format!("{listener}protocol = \"smtp\"\n"), 4, "protocol"),
        ("metrics-listen = 15020\n".to_owned(), 1, "metrics-listen"),
        ("drain-timeout = \"a while\"\n".to_owned(), 1, "drain-timeout"),
        (
            "\n[[inbound]]\nlisten = \"127.0.0.1:99999\"\nforward = \"127.0.0.1:8080\"\n".to_owned(),
            3,
            "listen",
        ),
        ("[[outbound]]\nlisten = \"127.0.0.1:0\"\npeer = \"spiffe://mesh.test//x\"\n".to_owned(), 3, "peer"),
        ("[[outbound]\n".to_owned(), 1, "proxy.toml"),
        ("[[outbound]]\nlisten = \"127.0.0.1:0\"\n".to_owned(), 1, "peer"),
    ];
    for (toml, line, key) in cases {
        let (code, said) = ProxyBuilder::bare().config(&toml, 0, 0).refuses_to_run().await;
        assert!(code > 0, "{toml} is refused: {said}");
        assert!(said.contains(&format!("proxy.toml:{line}:")), "it names the file and line {line}: {said}");
        assert!(said.contains(key), "it names {key}: {said}");
    }
    let (code, said) = ProxyBuilder::bare().refuses_to_run().await;
    assert!(code > 0 && said.contains("inbound"), "without any listener it says what is missing: {said}");
    let (code, said) = ProxyBuilder::bare().inbound("tcp://", free_address()).refuses_to_run().await;
    assert!(code > 0 && said.contains("join"), "without any identity it says what is missing: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_names_the_key_the_file_and_the_line_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let cases = [
        ("trust-domian = \"mesh.test\"\n", 1, "trust-domian"),
        ("\ntrust-domain = \"Mesh Test\"\n", 2, "trust-domain"),
        ("default-ttl = 3600\n", 1, "default-ttl"),
        ("grpc-listen = \"nowhere\"\n", 1, "grpc-listen"),
    ];
    for (toml, line, key) in cases {
        let path = file(directory.path(), "control.toml", toml);
        let mut command = std::process::Command::new(&signet_tests::binaries::binaries().control);
        command.current_dir(directory.path()).args(["run", "--config"]).arg(path);
        let mut process = Process::start("signet-control", command);
        let status = process.exit(PATIENCE).await;
        let said = process.logs().text();
        assert!(status.code().is_some_and(|code| code > 0), "{toml} is refused: {said}");
        assert!(said.contains(&format!("control.toml:{line}:")), "it names the file and line {line}: {said}");
        assert!(said.contains(key), "it names {key}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn control_ends_in_order_and_refuses_a_second_one_on_the_same_data() {
    let mut mesh = Mesh::start().await;
    let mut command = std::process::Command::new(&signet_tests::binaries::binaries().control);
    command.args([
        "run",
        "--grpc-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]);
    command.args(["--trust-domain", "mesh.test", "--data-dir"]).arg(mesh.data());
    let mut second = Process::start("second signet-control", command);
    let status = second.exit(PATIENCE).await;
    assert!(!status.success(), "two controls on one store would sign behind each other's back");
    assert!(!second.logs().text().contains("\"listening\""), "{}", second.logs().text());
    let _ = mesh.signet(&["status"]).await.succeeded();

    mesh.control.terminate();
    let status = mesh.control.exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(mesh.control.logs().events(|event| is_message(event, "listening")).len() == 1);
}
