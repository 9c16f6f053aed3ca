//! From plaintext to mutual TLS, workload by workload: who still calls in plaintext is shown before the switch, and cut
//! by it. What the app is told of its callers on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use signet_proto::clock;
use signet_tests::apps::{Nats, RequestApp, TcpEcho, nats};
use signet_tests::client::{Client, Finished, curl, curl_get, file};
use signet_tests::envoy::Envoy;
use signet_tests::mesh::{Mesh, allow, id, rows};
use signet_tests::report::measured;
use signet_tests::sockets::{EchoConnection, send_half_close_and_read};
use signet_tests::{PATIENCE, eventually};
use tokio::time::{Instant, timeout};

/// From the start of the operator's command until the last plaintext connection is closed.
const LIMIT: Duration = Duration::from_secs(1);

/// The settings of a mesh that is strict but for these.
fn except(exceptions: &[(&str, u16, &str)]) -> String {
    let exception = |(target, port, more): &(&str, u16, &str)| {
        format!("  - {{ target: {target}, ports: [{port}]{more} }}\n")
    };
    let list: String = exceptions.iter().map(exception).collect();
    format!("kind: Mesh\nmode: strict\npermissive:\n{list}")
}

/// A request without TLS that claims an identity, in every way there is.
async fn claim(address: SocketAddr, path: &str, more: &[&str]) -> Finished {
    let claims =
        ["X-Forwarded-Client-Cert: URI=spiffe://x/a", "x_forwarded_client_cert: a", "Client-Cert: :AA==:"];
    let claims = claims.iter().flat_map(|claim| ["-H", claim]);
    let url = format!("http://{address}{path}");
    curl().args(["-i", "--max-time", "10"]).args(claims).args(more).arg(url).run().await
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_callers_are_let_in_shown_and_cut_when_their_time_is_over() {
    let (mesh, web, echo, bus) =
        (Mesh::start().await, RequestApp::start().await, TcpEcho::start().await, Nats::start().await);
    let (client, service, legacy, queue) = (id("/client"), id("/web"), id("/legacy"), id("/queue"));
    for workload in [&client, &service, &legacy, &queue] {
        mesh.workload(workload).await;
    }
    let no_delete = "  - name: no-delete\n    deny: { http: { methods: [DELETE] } }\n";
    let web_policy = format!("{}{no_delete}", allow("web", &service, &[&client]));
    let (legacy_policy, queue_policy) =
        (allow("legacy", &legacy, &[&client]), allow("queue", &queue, &[&client]));
    mesh.policy(&format!("{web_policy}---\n{legacy_policy}---\n{queue_policy}")).await;
    let served = mesh.proxy(&service).await.inbound("", web.address).start().await;
    let echoed = mesh.proxy(&legacy).await.inbound("tcp://", echo.address).start().await;
    let queued = mesh.proxy(&queue).await.inbound("", bus.address).start().await;
    let caller =
        mesh.proxy(&client).await.outbound("http://", &service).outbound("tcp://", &legacy).start().await;

    // A mesh is strict unless somebody says otherwise.
    assert!(!claim(served.inbound(), "/", &[]).await.status.success());
    served.access(&[("direction", "inbound"), ("close_reason", "handshake_failed")]).await;
    let shown = mesh.json(&["mesh", "show"]).await;
    assert_eq!((&shown["document"], &shown["plaintext"]), (&Value::Null, &Value::Array(Vec::new())));

    // Permissive, for these apps; the others of the same proxies would not be.
    let end = Timestamp::try_from(clock::now() + Duration::from_secs(3600)).expect("a time of our days");
    let open = except(&[
        (&service, web.address.port(), ""),
        (&legacy, echo.address.port(), ""),
        (&queue, bus.address.port(), &format!(", until: {end}")),
    ]);
    mesh.apply(&open).await;
    let answer = claim(served.inbound(), "/plain", &[]).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    let told = answer.stdout.to_ascii_lowercase().replace('_', "-");
    assert!(!told.contains("client-cert"), "an identity that nobody proved: {told}");
    let line = served.access(&[("direction", "inbound"), ("path", "/plain"), ("verdict", "allow")]).await;
    assert_eq!(
        (&line["fields"]["reason"], line["fields"].get("source")),
        (&"plaintext".into(), None),
        "{line}"
    );

    // A rule that names nobody holds for those without a name, too.
    let denied = claim(served.inbound(), "/plain", &["-X", "DELETE"]).await;
    assert!(denied.stdout.starts_with("HTTP/1.1 403"), "{}", denied.all());
    assert!(denied.stdout.contains("`no-delete` of policy `web`"), "{}", denied.all());

    // Bytes, also where the server speaks first; and mutual TLS as before, with an identity.
    let mut plain = EchoConnection::open(echoed.inbound()).await;
    plain.ping().await.unwrap();
    eventually("the server is heard though its client waits for it", PATIENCE, async || {
        let answer = nats(queued.inbound(), 3).run().await;
        if answer.status.success() { Ok(()) } else { Err(answer.all()) }
    })
    .await;
    let answer = curl_get(caller.outbounds()[0], "/proven").await;
    assert!(answer.stdout.contains(&format!("URI={client}")), "{}", answer.all());
    let mut proven = EchoConnection::open(caller.outbounds()[1]).await;
    proven.ping().await.unwrap();

    // What begins like TLS is held to it.
    let mark = echoed.process.logs().mark();
    let answer = send_half_close_and_read(echoed.inbound(), b"\x16\x03\x01\x00\x05hello").await;
    assert!(!answer.ends_with(b"hello"), "no echo: {answer:?}");
    echoed.access_since(mark, &[("direction", "inbound"), ("close_reason", "handshake_failed")]).await;

    // Who has to move before the switch.
    let listed = eventually("the plaintext callers are listed", PATIENCE, async || {
        let found = rows(mesh.json(&["connections", "--plaintext"]).await);
        if found.len() == 3 { Ok(found) } else { Err(Value::from(found).to_string()) }
    })
    .await;
    assert!(listed.iter().all(|row| row["address"] == "127.0.0.1"), "{listed:?}");
    let of = |workload: &str| listed.iter().find(|row| row["workload"] == workload).expect("a row");
    assert_eq!(of(&service)["port"], web.address.port());
    assert_eq!((&of(&service)["requests"], &of(&service)["denied"]), (&1.into(), &1.into()), "{listed:?}");
    let shown = mesh.json(&["mesh", "show"]).await;
    assert_eq!(shown["plaintext"].as_array().map(Vec::len), Some(3), "{shown}");
    let table = mesh.signet(&["mesh", "show"]).await.succeeded().stdout;
    assert!(table.contains("CALLED IN PLAINTEXT") && table.contains(&legacy), "{table}");
    echoed.counts("signet_plaintext_total", &[("result", "accepted")], 1).await;

    // One workload becomes strict: its callers are cut, the others' are not.
    let started = Instant::now();
    mesh.apply(&except(&[(&service, web.address.port(), "")])).await;
    let closed = timeout(PATIENCE, plain.closed()).await.expect("it is cut");
    let late = closed.duration_since(started);
    measured("from the operator's command until a plaintext connection is closed", format!("{late:?}"));
    assert!(late < LIMIT, "{late:?}");
    echoed.access(&[("direction", "inbound"), ("close_reason", "plaintext_refused")]).await;
    proven.ping().await.expect("who proved itself stays");
    assert!(claim(served.inbound(), "/still", &[]).await.stdout.starts_with("HTTP/1.1 200"));
    let silent = send_half_close_and_read(queued.inbound(), b"PING\r\n").await;
    assert!(!silent.starts_with(b"INFO"), "{silent:?}");

    // An exception ends by itself, and with it what it let in.
    let until = Timestamp::try_from(clock::now() + Duration::from_secs(4)).expect("a time of our days");
    mesh.apply(&except(&[(&legacy, echo.address.port(), &format!(", until: {until}"))])).await;
    let mut plain = EchoConnection::open(echoed.inbound()).await;
    plain.ping().await.unwrap();
    timeout(PATIENCE, plain.closed()).await.expect("the exception ends");
    let late = clock::now().duration_since(until.into()).expect("not before its time");
    assert!(late < LIMIT, "{late:?} after its time");
    proven.ping().await.expect("who proved itself stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_says_what_becomes_of_unknown_destinations() {
    let (mesh, stranger) = (Mesh::start().await, TcpEcho::start().await);
    let (client, careful) = (id("/client"), id("/careful"));
    mesh.workload(&client).await;
    mesh.workload(&careful).await;
    let caller = mesh.proxy(&client).await.connect().start().await;
    let stricter =
        mesh.proxy(&careful).await.connect().with("--unknown-destinations", "refuse").start().await;
    let asks = async |proxy: SocketAddr| {
        let connect =
            format!("CONNECT {} HTTP/1.1\r\nHost: {}\r\n\r\nping", stranger.address, stranger.address);
        let answer = send_half_close_and_read(proxy, connect.as_bytes()).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(asks(caller.outbound()).await.starts_with("HTTP/1.1 403"), "refused without a word from anybody");

    mesh.apply("kind: Mesh\nmode: strict\nunknownDestinations: passthrough\n").await;
    let answer = asks(caller.outbound()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ping"), "{answer}");
    assert!(asks(stricter.outbound()).await.starts_with("HTTP/1.1 403"), "a proxy may be stricter");
    let listed = eventually("where it went is listed", PATIENCE, async || {
        let found = rows(mesh.json(&["connections", "--passthrough"]).await);
        if found.len() == 1 { Ok(found) } else { Err(Value::from(found).to_string()) }
    })
    .await;
    assert_eq!((&listed[0]["workload"], &listed[0]["address"]), (&client.into(), &"127.0.0.1".into()));
    assert_eq!(listed[0]["port"], stranger.address.port());

    // What is open is held to the new settings.
    let mut open = tokio::net::TcpStream::connect(caller.outbound()).await.unwrap();
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", stranger.address);
    tokio::io::AsyncWriteExt::write_all(&mut open, connect.as_bytes()).await.unwrap();
    caller.counts("signet_passthrough_total", &[], 2).await;
    mesh.apply("kind: Mesh\nmode: strict\nunknownDestinations: refuse\n").await;
    let mut rest = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut open, &mut rest);
    let _ = timeout(PATIENCE, ended).await.expect("it is cut");
    assert!(asks(caller.outbound()).await.starts_with("HTTP/1.1 403"));
}

/// The fields of a request as the app got them.
fn headers(answer: &Finished) -> Vec<(String, String)> {
    let (_, body) = answer.stdout.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{}", answer.all()));
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{}", answer.all()));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let headers = body["headers"].as_array().unwrap().iter();
    headers.map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_who_calls_in_the_form_it_asks_for() {
    let (mesh, web) = (Mesh::start().await, RequestApp::start().await);
    let (client, service) = (id("/client"), id("/web"));
    mesh.workload(&client).await;
    mesh.workload(&service).await;
    mesh.policy(&allow("web", &service, &[&client])).await;
    let listens = format!(
        "[[inbound]]\nlisten = \"127.0.0.1:0\"\nforward = \"{}\"\nidentity = [\"client-cert-chain\"]\n",
        web.address
    );
    let _served = mesh.proxy(&service).await.config(&listens, 1, 0).start().await;
    let caller = mesh.proxy(&client).await.outbound("http://", &service).start().await;

    // What the caller's app says of itself does not pass, in any spelling.
    let answer = claim(caller.outbound(), "/", &["-H", "client_cert_chain: :AA==:"]).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    let mut told: Vec<_> = headers(&answer)
        .into_iter()
        .filter(|(name, _)| name.replace('_', "-").contains("client-cert"))
        .collect();
    told.sort();
    let [(leaf_name, leaf), (chain_name, chain)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((leaf_name.as_str(), chain_name.as_str()), ("client-cert", "client-cert-chain"));

    // openssl reads the certificates, finds the identity in the leaf, and that the next one signed it.
    let directory = tempfile::tempdir().unwrap();
    let written = |name: &str, field: &str| {
        let inner = field.strip_prefix(':').and_then(|item| item.strip_suffix(':')).expect("a byte sequence");
        let lines: Vec<&str> =
            inner.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        file(directory.path(), name, pem)
    };
    let leaf = written("leaf.pem", leaf);
    let issuer = written("issuer.pem", chain.split(", ").next().unwrap_or_default());
    let openssl = Client::new("openssl").args(["x509", "-noout", "-ext", "subjectAltName", "-in"]);
    let names = openssl.arg(&leaf).run().await.succeeded().stdout;
    assert!(names.contains(&format!("URI:{client}")), "{names}");
    let verify =
        Client::new("openssl").args(["verify", "-partial_chain", "-trusted"]).arg(&issuer).arg(&leaf);
    let _ = verify.run().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_app_is_told_who_calls_by_the_proxy_protocol_as_envoy_reads_it() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (client, service) = (id("/client"), id("/store"));
    mesh.workload(&client).await;
    mesh.workload(&service).await;
    mesh.policy(&allow("store", &service, &[&client])).await;
    let directory = tempfile::tempdir().unwrap();
    let log = file(directory.path(), "envoy.log", "");
    let (_envoy, apps) = Envoy::default().told(echo.address, &log).start(directory.path()).await;
    let listens = format!(
        "[[inbound]]\nlisten = \"127.0.0.1:0\"\nforward = \"{}\"\nprotocol = \"tcp\"\nsend-proxy = true\n",
        apps[0]
    );
    let served = mesh.proxy(&service).await.config(&listens, 1, 0).start().await;
    let caller = mesh.proxy(&client).await.outbound("tcp://", &service).start().await;
    let port = apps[0].port();
    mesh.apply(&except(&[(&service, port, "")])).await;

    drop(EchoConnection::open(caller.outbound()).await);
    let read = async |lines: usize| {
        eventually("Envoy has logged it", PATIENCE, async || {
            let text = std::fs::read_to_string(&log).unwrap();
            if text.lines().count() >= lines { Ok(text) } else { Err(text) }
        })
        .await
    };
    let told = read(1).await;
    assert!(told.starts_with("127.0.0.1 ") && told.contains(&client), "{told}");
    // Whoever has no identity is told by its address alone.
    drop(EchoConnection::open(served.inbound()).await);
    let told = read(2).await;
    let line = told.lines().nth(1).unwrap_or_default();
    assert!(line.starts_with("127.0.0.1 ") && !line.contains("spiffe://"), "{told}");
}
