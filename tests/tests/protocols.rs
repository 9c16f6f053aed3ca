//! What apps speak beyond HTTP/1 requests: HTTP/2, gRPC, WebSocket, opaque streams; and what must not pass as
//! any of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use signet_tests::apps::{Nginx, TcpEcho};
use signet_tests::client::{Client, Finished, curl};
use signet_tests::logs::field;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::peers::{python, python_server, talking};
use signet_tests::process::Process;
use signet_tests::report::measured;
use signet_tests::sockets::{free_address, send_and_read, send_half_close_and_read};
use signet_tests::tools::tool;
use signet_tests::ways::{BOTH, Ways};
use signet_tests::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const FORGED: &str = "By=x;Hash=00;URI=spiffe://mesh.test/admin";

#[tokio::test(flavor = "multi_thread")]
async fn grpc_in_every_form_with_the_identity_and_a_decision_per_call() {
    let mesh = Mesh::start().await;
    let (frontend, echo) = (id("/frontend"), id("/echo"));
    mesh.policy(&format!(
        "kind: Policy\nname: echo\ntarget: {echo}\nrules:\n  - name: calls\n    allow:\n      from: [{frontend}]\n      http: {{ methods: [POST], paths: [\"/signet.test.Echo/*\"] }}\n"
    ))
    .await;
    let (_server, app) = python_server("grpc_server.py", &[]).await;
    // Neither side declares what it speaks.
    let pair = mesh.pair(&frontend, &echo, "", app).await;

    let said = python("grpc_client.py", &[&pair.entry().to_string()]).run().await.succeeded();
    let said: Value = serde_json::from_str(&said.stdout).unwrap();

    assert_eq!(said["unary"], "hello");
    let identity = said["identity"].as_str().unwrap();
    assert!(identity.ends_with(&format!(";URI={frontend}")) && !identity.contains("admin"), "{identity}");
    assert_eq!(said["large"], 3_000_000);
    assert_eq!(said["server_stream"], 1000);
    assert_eq!(said["client_stream"], "1000");
    assert_eq!(said["both"], serde_json::json!(["a", "b", "c"]));
    assert!(said["deadline"].as_str().unwrap().starts_with("DEADLINE_EXCEEDED"), "{said}");
    assert_eq!(said["cancelled"], true);
    let denied = said["denied"].as_str().unwrap();
    assert!(
        denied.starts_with("PERMISSION_DENIED") && denied.contains("/signet.test.Secret/Unary"),
        "{denied}"
    );
    assert_eq!(said["after_denial"], "still here");
    let line = pair.server.access(&[("path", "/signet.test.Secret/Unary"), ("verdict", "deny")]).await;
    assert_eq!(field(&line, "protocol"), "http/2", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_through_a_pair_sees_no_error() {
    let mesh = Mesh::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("page"), "x".repeat(1024)).unwrap();
    let app = free_address();
    let mut command = Command::new(tool("nghttpd"));
    command
        .args(["--no-tls", "--address", "127.0.0.1", "--htdocs"])
        .arg(root.path())
        .arg(app.port().to_string());
    let _server = Process::start("nghttpd", command);
    eventually("nghttpd", PATIENCE, async || {
        TcpStream::connect(app).await.map_err(|error| error.to_string())
    })
    .await;
    let pair = mesh.pair(&frontend, &web, "", app).await;

    let url = format!("http://{}/page", pair.entry());
    let load =
        Client::new("h2load").args(["-n", "20000", "-c", "8", "-m", "16", &url]).run().await.succeeded();

    let requests = load.stdout.lines().find(|line| line.starts_with("requests:")).unwrap_or_default();
    assert!(requests.contains(" 20000 succeeded, 0 failed, 0 errored, 0 timeout"), "{}", load.stdout);
    measured("h2load through a pair, 8 connections x 16 streams", requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_talks_and_is_cut_when_its_peer_is_revoked() {
    let mesh = Mesh::start().await;
    let (frontend, chat) = (id("/frontend"), id("/chat"));
    mesh.policy(&allow("chat", &chat, &[&frontend])).await;
    let (_server, app) = python_server("websocket.py", &["serve"]).await;
    let pair = mesh.pair(&frontend, &chat, "", app).await;

    let mut client = talking("websocket.py", &["talk", &pair.entry().to_string()]).await;
    let _ = mesh.signet(&["revoke", &chat, "--reason", "test"]).await.succeeded();

    // The caller's proxy cuts it: it is the peer of the identity that was revoked.
    let cut = pair.caller.access(&[("kind", "connection"), ("close_reason", "revoked_identity")]).await;
    assert_eq!(field(&cut, "direction"), "outbound", "{cut}");
    assert!(client.exit(PATIENCE).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_stream_is_cut_when_either_side_loses_its_right() {
    for revoke_server in [true, false] {
        let mesh = Mesh::start().await;
        let (frontend, echo) = (id("/frontend"), id("/echo"));
        mesh.policy(&allow("echo", &echo, &[&frontend])).await;
        let (_server, app) = python_server("grpc_server.py", &[]).await;
        // Certificates rotate meanwhile: the stream is older than the certificates in force.
        mesh.short_lived_workload(&frontend, "6s").await;
        mesh.short_lived_workload(&echo, "6s").await;
        let pair = mesh.proxies(&frontend, &echo, "", app).await;
        let mut client = talking("grpc_hold.py", &[&pair.entry().to_string()]).await;
        let rotations = pair.caller.rotations().await;
        pair.caller.rotates(rotations, 2, PATIENCE).await;
        assert!(client.is_running(), "rotation cuts nothing");

        let revoked = if revoke_server { &echo } else { &frontend };
        let applied = mesh.signet(&["revoke", revoked, "--reason", "test"]).await.succeeded();
        assert!(client.exit(Duration::from_secs(5)).await.success(), "{}", client.logs().text());
        assert!(client.logs().text().contains("ended: "), "{}", client.logs().text());
        measured("gRPC stream cut by a revocation", applied.stdout.lines().last().unwrap_or_default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_speaks_first_is_heard_at_once() {
    let mesh = Mesh::start().await;
    let (frontend, mail) = (id("/frontend"), id("/mail"));
    mesh.policy(&allow("mail", &mail, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&mail).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"220 ready\r\n").await;
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    // Declared and detected; a new connection between the proxies, and one that waited.
    for scheme in ["tcp://", ""] {
        let pair = mesh.proxies(&frontend, &mail, scheme, app).await;
        for _ in 0..3 {
            let mut stream = TcpStream::connect(pair.entry()).await.unwrap();
            let mut greeting = [0; 11];
            let started = std::time::Instant::now();
            tokio::time::timeout(PATIENCE, stream.read_exact(&mut greeting)).await.unwrap().unwrap();
            measured(
                &format!("greeting of a server that speaks first ({scheme})"),
                format!("{:?}", started.elapsed()),
            );
            stream.write_all(b"QUIT").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"QUIT");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_disguise_never_reaches_the_app_as_bytes() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    // Bytes are allowed as well: only detection stands between a forged header and the app.
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let caller = mesh.pair(&frontend, &web, "", nginx.address).await;
    let request = format!(
        "/identity HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: {FORGED}\r\nConnection: close\r\n\r\n"
    );
    let disguises = [
        format!("GET {request}"),
        format!("{} {request}", "A".repeat(40)),
        format!("{} {request}", "A".repeat(5000)),
        format!("\r\n\r\nGET {request}"),
        format!("{}GET {request}", "\r\n".repeat(2100)),
        format!("get {request}"),
        format!("GET\t{request}"),
    ];
    for disguise in disguises {
        let (_, answer) = send_and_read(caller.entry(), disguise.as_bytes(), Duration::from_secs(8)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.contains("admin"), "{:.60} got {answer}", disguise.escape_debug());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_that_only_a_lenient_app_knows_for_one_is_forged() {
    let (_server, app) = python_server("lenient.py", &[]).await;
    let fields = format!("Host: a\r\nX-Forwarded-Client-Cert: {FORGED}\r\nConnection: close\r\n\r\n");
    let disguises = [
        &b"\x0bGET / HTTP/1.1\r\n"[..],
        b"GET\x0b/identity\x0bHTTP/1.1\r\n",
        b"\x0cGET / HTTP/1.1\r\n",
        b"GET\x0c/\x0cHTTP/1.1\r\n",
        b"\x1cGET / HTTP/1.1\r\n",
        b"\x1dGET\x1e/\x1fHTTP/1.1\r\n",
        b"\xa0GET / HTTP/1.1\r\n",
        b"\x85GET / HTTP/1.1\r\n",
        b"GET\x85/ HTTP/1.1\r\n",
        b"G\xa0/\xa0HTTP/1.1\r\n",
        b"\x0b\x0c\x1c \tGET / HTTP/1.1\r\n",
        // Neither these methods nor lines without a version are HTTP by any rule.
        b"(GET / HTTP/1.1\r\n",
        b"{GET / HTTP/1.1\r\n",
        b"A\x01T / HTTP/1.1\r\n",
        b"GET /identity\r\n",
        b"GET a\r\n",
    ]
    .map(|line| [line, fields.as_bytes()].concat());
    let limit = Duration::from_secs(8);
    for disguise in &disguises {
        let (_, answer) = send_and_read(app, disguise, limit).await;
        let shown = String::from_utf8_lossy(&answer).into_owned();
        assert!(shown.ends_with(FORGED), "the app takes {} for a request: {shown}", disguise.escape_ascii());
    }

    // Beside the caller, and as a peer that sends whatever it likes.
    for way in BOTH {
        let ways = &Ways::to(app, "", "*").await;
        for disguise in &disguises {
            let answer = ways.say_and_wait(way, disguise).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(!answer.contains("admin"), "{way:?}: {} got {answer}", disguise.escape_ascii());
        }
    }
}

/// An app that answers every request with 200 and shows what it received, to the letter.
async fn letter_by_letter() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (report, reports) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let report = report.clone();
            tokio::spawn(async move {
                let mut received = Vec::new();
                while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
                    let text = String::from_utf8_lossy(&received).into_owned();
                    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
                    let chunked = head.to_ascii_lowercase().contains("transfer-encoding");
                    if !head.is_empty()
                        && (!chunked || body.starts_with("0\r\n") || body.contains("\r\n0\r\n"))
                    {
                        break;
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.read_buf(&mut received).await;
                let _ = report.send(String::from_utf8_lossy(&received).into_owned());
            });
        }
    });
    (address, reports)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_brings_along_neither_forges_nor_smuggles() {
    let mesh = Mesh::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let (app, mut received) = letter_by_letter().await;
    let pair = mesh.pair(&frontend, &web, "http://", app).await;
    let cases = [
        // Trailers that some servers merge into the header fields.
        format!(
            "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-Client-Cert\r\n\r\n2\r\nhi\r\n0\r\nX-Forwarded-Client-Cert: {FORGED}\r\n\r\n"
        ),
        // An upgrade after which requests would pass undecided.
        "GET /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n".into(),
    ];
    for case in cases {
        send_and_read(pair.entry(), case.as_bytes(), Duration::from_secs(2)).await;
    }
    // The connections of the app are kept; the end of the proxies ends them.
    drop(pair);
    let all = [received.recv().await.unwrap(), received.recv().await.unwrap()].concat().to_ascii_lowercase();
    assert!(all.contains("post /t ") && all.contains("get /u "), "{all}");
    assert!(!all.contains("admin") && !all.contains("h2c") && !all.contains("http2-settings"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_between_the_proxies_carries_one_stream_after_the_other() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (frontend, store) = (id("/frontend"), id("/store"));
    mesh.policy(&allow("store", &store, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &store, "tcp://", echo.address).await;

    for number in 0..50 {
        let message = format!("stream {number} {}", "x".repeat(number * 1000));
        let echoed = send_half_close_and_read(pair.entry(), message.as_bytes()).await;
        assert_eq!(echoed.len(), message.len());
    }

    // Each stream is a connection of its own in log and metrics.
    pair.server.accesses(50, &[("kind", "connection"), ("verdict", "allow"), ("protocol", "tcp")]).await;
    let handshakes =
        pair.server.metrics().await.count("signet_handshake_seconds_count", &[("direction", "inbound")]);
    assert!(handshakes <= 3, "{handshakes} handshakes for 50 connections");
    measured("handshakes for 50 connections one after the other", handshakes);

    // A kept connection gives no right: what is removed is refused on it, and then it is allowed again.
    let _ = mesh.signet(&["policy", "delete", "store"]).await.succeeded();
    assert!(send_and_read(pair.entry(), b"?", PATIENCE).await.1.is_empty());
    let denied =
        pair.server.access(&[("kind", "connection"), ("verdict", "deny"), ("reason", "no_policy")]).await;
    assert_eq!(field(&denied, "source"), frontend, "{denied}");
    mesh.policy(&allow("store", &store, &[&frontend])).await;
    assert_eq!(send_half_close_and_read(pair.entry(), b"again").await, b"again");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_http2_with_prior_knowledge() {
    let mesh = Mesh::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    // Nobody is allowed: the refusal is an HTTP/2 response.
    let pair = mesh.proxies(&frontend, &web, "", free_address()).await;
    let answer: Finished = curl()
        .args(["--include", "--http2-prior-knowledge", &format!("http://{}/x", pair.entry())])
        .run()
        .await
        .succeeded();
    assert!(answer.stdout.starts_with("HTTP/2 403"), "{}", answer.stdout);
    assert!(answer.stdout.contains("no_policy"), "{}", answer.stdout);
}
