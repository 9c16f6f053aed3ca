//! Taking a right away cuts the connections that rest on it: exactly those, within a second, with the reason.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use signet_proto::clock;
use signet_tests::apps::{H2App, TcpEcho};
use signet_tests::client::{Client, Finished, curl, curl_get, file};
use signet_tests::door::Door;
use signet_tests::mesh::{Mesh, allow, id, parse_json};
use signet_tests::peers::script;
use signet_tests::proxy::Proxy;
use signet_tests::raw_h2::{Frame, GOAWAY, HEADERS, PING, frame};
use signet_tests::report::{measured, percentiles};
use signet_tests::sockets::EchoConnection;
use signet_tests::talk_h2::TalkH2;
use signet_tests::tls;
use signet_tests::tools::pki_python;
use signet_tests::{PATIENCE, eventually};
use tokio::time::{Instant, timeout};

/// `SIGNET_CUT_CONNECTIONS` of two callers, or of one.
fn each() -> usize {
    let told = std::env::var("SIGNET_CUT_CONNECTIONS").ok();
    told.map_or(100, |text| text.parse().expect("SIGNET_CUT_CONNECTIONS is a number"))
}
/// `SIGNET_CUT_PROXIES`: half of them callers, each with as many connections.
fn proxies() -> usize {
    let told = std::env::var("SIGNET_CUT_PROXIES").ok();
    told.map_or(6, |text| text.parse().expect("SIGNET_CUT_PROXIES is a number"))
}

/// From the start of the operator's command until the last connection without a right is closed.
const LIMIT: Duration = Duration::from_secs(1);
/// From the commit until a proxy's acknowledgement that the change is in force, its connections cut.
const PUSH_LIMIT_MS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn exactly_those_connections_without_a_right_are_cut_within_a_second() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (first, second, store) = (id("/first"), id("/second"), id("/store"));
    for workload in [&first, &second, &store] {
        mesh.workload(workload).await;
    }
    mesh.policy(&allow("store", &store, &[&first, &second])).await;
    let server = mesh.proxy(&store).await.inbound("tcp://", echo.address).start().await;
    let first_proxy = mesh.proxy(&first).await.outbound("tcp://", &store).start().await;
    let second_proxy = mesh.proxy(&second).await.outbound("tcp://", &store).start().await;
    let firsts = open(&first_proxy).await;
    let mut seconds = open(&second_proxy).await;
    server.counts("signet_connections_open", &[("direction", "inbound")], 2 * each() as u64).await;

    // The first identity loses its right by policy.
    let change = mesh.policy_file(&allow("store", &store, &[&second]));
    let change = change.display().to_string();
    let (cut, applied) = cut_by(&mesh, firsts, &["policy", "apply", "-f", &change]).await;
    measured("policy change until its connections are closed, as their clients see it", percentiles(cut));
    measured("push latency of the policy change", pushes(&applied));
    assert_eq!(closed_connections(&applied, &store), each() as u64, "{applied}");
    all_alive(&mut seconds).await;
    has_cut(&server, "policy_lost", &first).await;

    // The second identity is revoked.
    let (cut, revoked) = cut_by(&mesh, seconds, &["revoke", &second, "--reason", "key leaked"]).await;
    measured("revocation until its connections are closed, as their clients see it", percentiles(cut));
    measured("push latency of the revocation", pushes(&revoked));
    has_cut(&server, "revoked_identity", &second).await;

    server.counts("signet_connections_open", &[("direction", "inbound")], 0).await;
    server.counts("signet_connections_closed_total", &[("direction", "inbound")], 2 * each() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_one_instance_spares_the_other_instances_of_the_identity() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (worker, store) = (id("/worker"), id("/store"));
    mesh.workload(&worker).await;
    mesh.workload(&store).await;
    mesh.policy(&allow("store", &store, &[&worker])).await;
    let server = mesh.proxy(&store).await.inbound("tcp://", echo.address).start().await;
    let leaked = mesh.proxy(&worker).await.outbound("tcp://", &store).start().await;
    let instance = mesh
        .identities()
        .await
        .iter()
        .find(|row| row["spiffe_id"] == worker.as_str())
        .map(|row| row["instance"].as_str().unwrap().to_owned())
        .expect("the first worker joined");
    let healthy = mesh.proxy(&worker).await.outbound("tcp://", &store).start().await;
    let doomed = open(&leaked).await;
    let mut spared = open(&healthy).await;

    let (cut, _) = cut_by(&mesh, doomed, &["revoke", "--instance", &instance, "--reason", "host lost"]).await;

    measured("revocation of one instance until its connections are closed", percentiles(cut));
    all_alive(&mut spared).await;
    has_cut(&server, "revoked_instance", &worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_proxies_the_right_ones_renew_are_cut_and_say_so() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (batch, shop, store) = (id("/batch/*"), id("/shop/*"), id("/store"));
    let callers: Vec<String> = (0..proxies() / 2)
        .map(|number| id(&format!("/{}/{number}", if number % 2 == 0 { "batch" } else { "shop" })))
        .collect();
    for workload in callers.iter().chain([&store]) {
        mesh.workload(workload).await;
    }
    mesh.policy(&allow("store", &store, &[&format!("\"{batch}\""), &format!("\"{shop}\"")])).await;
    let mut servers = Vec::new();
    for _ in 0..proxies() - callers.len() {
        servers.push(mesh.proxy(&store).await.inbound("tcp://", echo.address).start().await);
    }
    let (mut started, mut doomed, mut spared) = (Vec::new(), Vec::new(), Vec::new());
    for caller in &callers {
        let proxy = mesh.proxy(caller).await.outbound("tcp://", &store).start().await;
        let connections = open(&proxy).await;
        if caller.contains("/batch/") {
            doomed.extend(connections);
        } else {
            spared.extend(connections);
        }
        started.push(proxy);
    }
    let shops = callers.iter().filter(|caller| caller.contains("/shop/")).count();

    // Only those renew who are told to, and nothing is closed by it.
    let before = serials(&mesh).await;
    let rotated = mesh.json(&["rotate", "--now", &shop, "--reason", "drill"]).await;
    assert_eq!((&rotated["rotated"], &rotated["left"]), (&shops.into(), &0.into()), "{rotated}");
    for (instance, (identity, serial)) in serials(&mesh).await {
        let renewed = before[&instance].1 != serial;
        assert_eq!(renewed, identity.contains("/shop/"), "{identity} {instance}");
    }
    all_alive(&mut spared).await;
    all_alive(&mut doomed).await;

    // All below are cut, nobody else, and every proxy that is left says how many those were.
    let count = doomed.len();
    let (cut, revoked) = cut_by(&mesh, doomed, &["revoke", &batch, "--reason", "cluster lost"]).await;
    measured("revocation of a subtree until all its connections are closed", percentiles(cut));
    let after = revoked["proxies"].as_array().unwrap().iter().filter_map(|proxy| proxy["after_ms"].as_u64());
    measured("slowest acknowledgement of it, in ms", format!("{:?}", after.max()));
    assert_eq!(revoked["connections_cut"], count, "{revoked}");
    assert_eq!(
        (&revoked["acknowledged"], &revoked["unreachable"]),
        (&(servers.len() + shops).into(), &0.into())
    );
    all_alive(&mut spared).await;
    let ticket = mesh.signet(&["token", "create", &callers[0]]).await;
    assert_eq!(ticket.code(), 1, "no further ticket: {}", ticket.all());

    // One that cannot be reached may still let in whoever was suspended: it is named, and the exit code says so.
    servers.remove(0).process.kill().await;
    eventually("the end of its stream is noticed", PATIENCE, async || {
        let connected = mesh.identities().await.iter().filter(|row| row["connected"] == true).count();
        if connected == servers.len() + shops { Ok(()) } else { Err(format!("{connected} are connected")) }
    })
    .await;
    let suspended = mesh.signet(&["suspend", &callers[1], "--reason", "incident"]).await;
    assert_eq!(suspended.code(), 6, "{}", suspended.all());
    assert!(suspended.stdout.contains(" 1 unreachable") && suspended.stdout.contains("not connected"));
    assert!(suspended.stderr.contains("1 proxy has not said"), "{}", suspended.stderr);
    let _ = mesh.signet(&["resume", &callers[1]]).await.succeeded();
}

/// Of each instance its identity and its newest serial.
async fn serials(mesh: &Mesh) -> BTreeMap<String, (String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().expect("a text").to_owned();
    let of = |row: &Value| (text(row, "instance"), (text(row, "spiffe_id"), text(row, "serial")));
    mesh.identities().await.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_change_that_concerns_nobody_closes_nothing() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (worker, store) = (id("/worker"), id("/store"));
    mesh.policy(&allow("store", &store, &[&worker])).await;
    let pair = mesh.pair(&worker, &store, "tcp://", echo.address).await;
    let mut connections = open(&pair.caller).await;

    // Another way to say the same, a rule more, and a document about somebody else.
    mesh.policy(&allow("store", &store, &[&format!("\"{}\"", id("/*"))])).await;
    mesh.policy(&allow("elsewhere", &id("/elsewhere"), &[&worker])).await;

    all_alive(&mut connections).await;
    pair.server.counts("signet_connections_closed_total", &[("direction", "inbound")], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_rule_cuts_what_it_allowed_when_its_time_comes() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (worker, store) = (id("/worker"), id("/store"));
    let until = Timestamp::try_from(clock::now() + Duration::from_secs(6)).expect("a time of our days");
    mesh.policy(&format!("{}    until: {until}\n", allow("store", &store, &[&worker]))).await;
    let pair = mesh.pair(&worker, &store, "tcp://", echo.address).await;
    let connections = open_some(&pair.caller, 10).await;

    for mut connection in connections {
        timeout(PATIENCE, connection.closed()).await.expect("the rule ends");
    }
    let late = clock::now().duration_since(until.into()).expect("not before its time");
    measured("end of a rule until its connections are closed", format!("{late:?}"));
    assert!(late < LIMIT, "{late:?} after its time");
    pair.server.accesses(10, &[("direction", "inbound"), ("close_reason", "policy_lost")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_http_connection_loses_its_right_like_any_other() {
    let (mesh, app) = (Mesh::start().await, signet_tests::apps::RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let answer = curl_get(pair.entry(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);

    mesh.policy(&allow("web", &web, &[&id("/nobody")])).await;
    let answer = curl_get(pair.entry(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "the next request is refused: {}", answer.stdout);

    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let answer = curl_get(pair.entry(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "and allowed again: {}", answer.stdout);

    let _ = mesh.signet(&["suspend", &frontend]).await.succeeded();
    let answer = curl().args([&format!("http://{}/", pair.entry())]).run().await;
    assert!(!answer.stdout.contains("\"method\""), "a suspended workload reaches nobody: {}", answer.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_caller_is_told_that_its_connection_ends() {
    let app = H2App::start().await;
    let door =
        Door::open_with(|proxy| proxy.inbound("http://", app.address).with("--max-connection-age", "2s"))
            .await;
    let id = |path: &str| door.frame.authority.id(path);

    // Old: nothing new, and what is under way goes on.
    let mut old = http2(&door).await;
    old.ask(1, "/").await;
    old.reads(|frame| frame.kind == HEADERS && frame.stream == 1).await;
    old.ask(3, "/hold").await;
    let goodbye = old.reads(|frame| frame.kind == GOAWAY && last_stream(frame) < LAST_OF_ALL).await;
    assert_eq!((last_stream(&goodbye), code(&goodbye)), (3, 0), "what came so far is still answered");
    old.send(&frame(PING, 0, 0, b"are you?")).await;
    old.reads(|frame| frame.kind == PING && frame.payload == b"are you?").await;

    // Without its right: told, and gone.
    let mut lost = http2(&door).await;
    lost.ask(1, "/").await;
    lost.reads(|frame| frame.kind == HEADERS && frame.stream == 1).await;
    let policy = allow("door", &id("/server"), &[&id("/nobody")]);
    fs::write(&door.frame.policy, policy).expect("the policy is replaced");
    lost.reads(|frame| frame.kind == GOAWAY).await;
    lost.ends().await;
    old.ends().await;
    door.proxy.accesses(2, &[("kind", "connection"), ("close_reason", "policy_lost")]).await;
}

/// HTTP/2 as a peer's proxy speaks it, frame by frame.
async fn http2(door: &Door) -> TalkH2 {
    let mut config = tls::config(door.frame.svid());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tls::handshake(door.proxy.inbound(), config).await.expect("the handshake succeeds");
    TalkH2::new(Box::new(stream)).await
}

/// What a first GOAWAY names, before it is known which stream is the last.
const LAST_OF_ALL: u32 = 0x7fff_ffff;

fn last_stream(goodbye: &Frame) -> u32 {
    u32::from_be_bytes(goodbye.payload[..4].try_into().unwrap())
}

fn code(goodbye: &Frame) -> u32 {
    u32::from_be_bytes(goodbye.payload[4..8].try_into().unwrap())
}

async fn open(caller: &Proxy) -> Vec<EchoConnection> {
    open_some(caller, each()).await
}

async fn open_some(caller: &Proxy, count: usize) -> Vec<EchoConnection> {
    join_all((0..count).map(|_| EchoConnection::open(caller.outbound()))).await
}

async fn all_alive(connections: &mut [EchoConnection]) {
    for (number, result) in
        join_all(connections.iter_mut().map(EchoConnection::ping)).await.into_iter().enumerate()
    {
        result.unwrap_or_else(|error| panic!("connection {number} was to be spared: {error}"));
    }
}

/// Runs `signet` with that change, and waits until every one of `connections` is closed. The time runs from
/// the start of the command, so the command's own start is in it.
async fn cut_by(mesh: &Mesh, connections: Vec<EchoConnection>, change: &[&str]) -> (Vec<Duration>, Value) {
    let watchers: Vec<_> = connections
        .into_iter()
        .map(|mut connection| tokio::spawn(async move { timeout(PATIENCE, connection.closed()).await }))
        .collect();
    let start = Instant::now();
    let answer = mesh.json(change).await;
    let mut cut = Vec::new();
    for watcher in watchers {
        let closed = watcher.await.expect("it watches").expect("every connection without a right is closed");
        cut.push(closed.duration_since(start));
    }
    let last = cut.iter().max().copied().unwrap_or_default();
    assert!(last < LIMIT, "the last connection was closed {last:?} after the command started");
    (cut, answer)
}

/// The access log has one line for each connection of `source`, and the metric says the same.
async fn has_cut(server: &Proxy, reason: &str, source: &str) {
    let lines = server
        .accesses(each(), &[("direction", "inbound"), ("close_reason", reason), ("source", source)])
        .await;
    assert_eq!(lines.len(), each());
    let closed = [("direction", "inbound"), ("reason", reason)];
    server.counts("signet_connections_closed_total", &closed, each() as u64).await;
    let again = server.process.logs().events(|event| {
        signet_tests::logs::is_access(
            event,
            &[("direction", "inbound"), ("close_reason", reason), ("source", source)],
        )
    });
    assert_eq!(again.len(), each(), "the reason is recorded once for each");
}

/// Who applied a change after how long, as `signet` told; nobody later than a push may take.
fn pushes(applied: &Value) -> String {
    let proxies = applied["proxies"].as_array().cloned().unwrap_or_default();
    assert!(!proxies.is_empty(), "it tells who applied the change: {applied}");
    let late = |proxy: &&Value| proxy["after_ms"].as_u64().is_none_or(|millis| millis > PUSH_LIMIT_MS);
    assert!(!proxies.iter().any(|proxy| late(&proxy)), "in force within {PUSH_LIMIT_MS} ms: {applied}");
    let one =
        |proxy: &Value| format!("{} after {} ms", proxy["spiffe_id"].as_str().unwrap(), proxy["after_ms"]);
    proxies.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn closed_connections(applied: &Value, destination: &str) -> u64 {
    let proxies = applied["proxies"].as_array().cloned().unwrap_or_default();
    let of = proxies.iter().find(|proxy| proxy["spiffe_id"] == destination);
    of.and_then(|proxy| proxy["closed_connections"].as_u64()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_proxy_learns_from_revocation_lists() {
    let lists = "http://pki.mesh.test:8080/crl";
    let mesh = Mesh::start_with(&["--crl-url", lists, "--crl-every", "1s"]).await;
    let directory = mesh.directory().to_owned();
    let mut serials = BTreeMap::new();
    for name in ["leaked", "paused", "good"] {
        mesh.workload(&id(&format!("/{name}"))).await;
        let credentials = directory.join(name);
        let ticket = mesh.ticket(&id(&format!("/{name}"))).await;
        let login = ["login", &ticket, "--dir", &credentials.display().to_string()];
        let _ = mesh.signet(&login).await.succeeded();
        let svid = fs::read_to_string(credentials.join("svid.pem")).expect("an SVID and its issuer");
        let (leaf, above) = svid.split_at(svid.find("-----END").map(|end| end + 26).expect("PEM"));
        let _ = (file(&directory, &format!("{name}.pem"), leaf), file(&directory, "ca.pem", above));
        let told = openssl(&directory, &["x509", "-in", &format!("{name}.pem"), "-noout", "-serial"]).await;
        serials.insert(name, told.stdout.trim().trim_start_matches("serial=").to_lowercase());
    }
    let _ = fs::copy(directory.join("good/bundle.pem"), directory.join("root.pem")).expect("the root");

    // Each certificate names the list of its issuer, which is there, signed, and empty.
    let root_list =
        list_of(&openssl(&directory, &["x509", "-in", "ca.pem", "-noout", "-text"]).await.stdout, lists);
    let leaf_list =
        list_of(&openssl(&directory, &["x509", "-in", "good.pem", "-noout", "-text"]).await.stdout, lists);
    let (before, headers) = fetched(&mesh, &leaf_list, &[]).await;
    assert!(headers.contains("content-type: application/pkix-crl"), "{headers}");
    let fresh = headers.contains("cache-control: public, max-age=1") && headers.contains("last-modified: ");
    assert!(headers.starts_with("HTTP/1.1 200") && fresh, "{headers}");
    let tag = headers.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an entity tag").trim();
    let (_, unchanged) = fetched(&mesh, &leaf_list, &["--header", &format!("if-none-match: {tag}")]).await;
    assert!(unchanged.starts_with("HTTP/1.1 304"), "{unchanged}");
    let (_, missing) = fetched(&mesh, "unknown.crl", &[]).await;
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");

    // What is revoked is in the next list, and what is suspended is on hold there.
    let _ =
        mesh.signet(&["revoke", "--serial", &serials["leaked"], "--reason", "key leaked"]).await.succeeded();
    let _ = mesh.signet(&["suspend", &id("/paused"), "--reason", "incident"]).await.succeeded();
    let list = eventually("a list with both", PATIENCE, async || {
        let (list, _) = fetched(&mesh, &leaf_list, &[]).await;
        let held =
            linted(&directory, &[("ca.pem", "leaves.crl", &list)]).await["leaves.crl"]["entries"].clone();
        let both =
            serde_json::json!({ &serials["leaked"]: "keyCompromise", &serials["paused"]: "certificateHold" });
        if held == both { Ok(list) } else { Err(held.to_string()) }
    })
    .await;
    assert_ne!(list, before);
    let (roots, _) = fetched(&mesh, &root_list, &[]).await;
    let (changes, _) = fetched(&mesh, &delta_of(&leaf_list), &[]).await;
    let told = linted(
        &directory,
        &[
            ("ca.pem", "leaves.crl", &list),
            ("root.pem", "root.crl", &roots),
            ("ca.pem", "delta.crl", &changes),
        ],
    )
    .await;
    for (name, answer) in told.as_object().expect("an answer for each") {
        // It calls every SPIFFE ID an invalid URI.
        let others = answer["findings"].as_array().unwrap();
        let others: Vec<_> = others.iter().filter(|code| *code != "pkix.invalid_uri_syntax").collect();
        assert!(others.is_empty(), "{name}: {answer}");
        assert!(answer.get("signed").is_none_or(|signed| signed == true), "{name}: {answer}");
    }
    assert_eq!(told["root.crl"]["entries"], serde_json::json!({}));
    let (complete, delta) = (&told["leaves.crl"], &told["delta.crl"]);
    assert_eq!((&complete["number"], &complete["entries"]), (&delta["number"], &delta["entries"]), "{told}");
    assert!(delta["base"].as_u64().unwrap() < delta["number"].as_u64().unwrap(), "{told}");
    assert!(complete["base"].is_null(), "{told}");

    // OpenSSL goes by it.
    let verify = ["crl", "-in", "leaves.crl", "-inform", "DER", "-CAfile", "ca.pem", "-noout"];
    assert!(openssl(&directory, &verify).await.all().contains("verify OK"));
    let mut both = Vec::new();
    for list in ["leaves.crl", "root.crl"] {
        let pem = openssl(&directory, &["crl", "-in", list, "-inform", "DER"]).await.succeeded().stdout;
        both.push(pem);
    }
    let _ = file(&directory, "lists.pem", both.concat());
    let check =
        ["verify", "-crl_check_all", "-CRLfile", "lists.pem", "-CAfile", "root.pem", "-untrusted", "ca.pem"];
    for (name, expected) in
        [("leaked", "certificate revoked"), ("paused", "certificate revoked"), ("good", ": OK")]
    {
        let checked = openssl(&directory, &[&check[..], &[&format!("{name}.pem")]].concat()).await.all();
        assert!(checked.contains(expected), "{name}: {checked}");
    }
    // Nor by one that has ended: it is good for a day.
    let later = clock::now().duration_since(std::time::UNIX_EPOCH).unwrap() + Duration::from_secs(25 * 3600);
    let later = ["-attime", &later.as_secs().to_string(), "good.pem"];
    let checked = openssl(&directory, &[&check[..], &later].concat()).await.all();
    assert!(checked.contains("CRL has expired"), "{checked}");
    assert!(mesh.metrics().await.sum("signet_control_crl_bytes", &[]) > 0.0);

    // Who is resumed is taken off again.
    let _ = mesh.signet(&["resume", &id("/paused")]).await.succeeded();
    eventually("who is resumed is not listed", PATIENCE, async || {
        let (changes, _) = fetched(&mesh, &delta_of(&leaf_list), &[]).await;
        let held =
            linted(&directory, &[("ca.pem", "delta.crl", &changes)]).await["delta.crl"]["entries"].clone();
        if held[&serials["paused"]] == "removeFromCRL" { Ok(()) } else { Err(held.to_string()) }
    })
    .await;
}

fn delta_of(list: &str) -> String {
    list.replace(".crl", "-delta.crl")
}

/// The file of the one revocation list below `lists` that a certificate, as `openssl` shows it, names.
fn list_of(shown: &str, lists: &str) -> String {
    let below = format!("URI:{lists}/");
    let named: Vec<&str> = shown.lines().filter_map(|line| line.trim().strip_prefix(&below)).collect();
    let [named] = named.as_slice() else { panic!("one list: {shown}") };
    (*named).to_owned()
}

/// A revocation list and the headers that came with it.
async fn fetched(mesh: &Mesh, list: &str, options: &[&str]) -> (Vec<u8>, String) {
    let url = format!("http://{}/crl/{list}", mesh.http);
    let answer = curl().args(["--include"]).args(options).arg(url).run().await.succeeded().bytes;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("headers") + 4;
    (answer[end..].to_vec(), String::from_utf8_lossy(&answer[..end]).into_owned())
}

async fn openssl(directory: &Path, arguments: &[&str]) -> Finished {
    Client::new("openssl").args(arguments).within(directory).run().await
}

/// What pkilint and cryptography say of lists, each with its issuer, and of all certificates.
async fn linted(directory: &Path, lists: &[(&str, &str, &Vec<u8>)]) -> Value {
    let mut arguments: Vec<String> = ["root.pem", "ca.pem", "good.pem"].map(str::to_owned).to_vec();
    for (issuer, name, der) in lists {
        let _ = file(directory, name, der);
        arguments.push(format!("{issuer}:{name}"));
    }
    let mut command = pki_python();
    command.arg(script("pki_lint.py")).args(arguments).current_dir(directory);
    parse_json(&Client::of(command).run().await.succeeded())
}
