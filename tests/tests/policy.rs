//! Policy as calls meet it: what rules ask of requests, of calls and of those who call in plaintext, what the app
//! receives of a path that they decided on, and whom a workload may call. What `signet explain` and a proxy's
//! `/explain` say is what happens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;

use serde_json::{Value, json};
use signet_tests::PATIENCE;
use signet_tests::apps::{H2App, Recorder, RequestApp, TcpEcho};
use signet_tests::client::curl;
use signet_tests::mesh::{Mesh, allow, id, parse_json};
use signet_tests::peers::{python, python_server, talking};
use signet_tests::proxy::Proxy;
use signet_tests::raw_h2::{GOAWAY, HEADERS};
use signet_tests::sockets::EchoConnection;
use signet_tests::talk::{Response, Talk, To};
use signet_tests::talk_h2::TalkH2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One request, and what becomes of it.
struct Case {
    method: &'static str,
    target: &'static str,
    host: &'static str,
    fields: &'static [&'static str],
    status: u16,
    /// What the app sees of the target.
    arrives: &'static str,
}

const fn get(target: &'static str, status: u16, arrives: &'static str) -> Case {
    Case { method: "GET", target, host: "a", fields: &[], status, arrives }
}

const fn asks(
    method: &'static str,
    host: &'static str,
    fields: &'static [&'static str],
    status: u16,
) -> Case {
    Case { method, target: "/x", host, fields, status, arrives: if status == 200 { "/x" } else { "" } }
}

const CASES: &[Case] = &[
    get("/shop/a", 200, "/shop/a"),
    get("/shop/%61/./x//y?q=%2F..//", 200, "/shop/a/x/y?q=%2F..//"),
    get("/%73hop/b/../c", 200, "/shop/c"),
    get("/shop/caf%c3%a9", 200, "/shop/caf%C3%A9"),
    get("/shop/../secret", 403, ""),
    get("/shop/a;b", 403, ""),
    get("/shop/a%2fb", 403, ""),
    get("/shop/%2561", 403, ""),
    get("/shop/admin/keys", 403, ""),
    get("/shop/x/../%61dmin//keys", 403, ""),
    get("/shop/..%2fx", 400, ""),
    get("/shop/%c0%af", 400, ""),
    get("/shop/%00", 400, ""),
    get("/shop/../../x", 400, ""),
    asks("PUT", "eu.API.example.:81", &[], 200),
    asks("PUT", "api.example", &[], 403),
    asks("PATCH", "a", &["x-tenant: blue"], 200),
    asks("PATCH", "a", &["x-tenant: red"], 403),
    asks("PATCH", "a", &["x-tenant: blue", "x-tenant: blue"], 403),
    asks("PATCH", "a", &["x-tenant: blue", "x_tenant: red"], 403),
    asks("PATCH", "a", &[], 403),
    asks("DELETE", "a", &[], 200),
    asks("OPTIONS", "a", &[], 403),
];

const RULES: &str = "
  - { name: shop, allow: { from: [spiffe://mesh.test/frontend], http: { methods: [GET], paths: [\"/shop/*\"] } } }
  - { name: no-admin, deny: { http: { paths: [\"/shop/admin/*\"] } } }
  - { name: host, allow: { http: { methods: [PUT], hosts: [\"*.api.example\"] } } }
  - { name: tenant, allow: { http: { methods: [PATCH], headers: [{ name: x-tenant, exact: [blue] }] } } }
  - { name: near, allow: { cidrs: [127.0.0.0/8], http: { methods: [DELETE] } } }
  - { name: far, allow: { cidrs: [10.0.0.0/8], http: { methods: [OPTIONS] } } }
";

/// The answer to a request on a connection of its own.
async fn answer(entry: SocketAddr, method: &str, target: &str, host: &str, fields: &[&str]) -> Response {
    let mut talk = Talk::new(Box::new(TcpStream::connect(entry).await.expect("the proxy accepts")));
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    talk.say(&format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
    talk.hear(To::Get).await.expect("an answer")
}

/// What control says of a call.
async fn explained(mesh: &Mesh, source: &str, destination: &str, port: u16, more: &[&str]) -> Value {
    let port = port.to_string();
    mesh.json(&[&["explain", source, destination, "--port", &port], more].concat()).await
}

/// What the proxy that decides on it says.
async fn explained_by(proxy: &Proxy, query: &str) -> Value {
    let url = format!("http://{}/explain?{query}", proxy.operators().await);
    let answer = curl().args(["--fail", "-H", "accept: application/json", &url]).run().await.succeeded();
    parse_json(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_decide_on_is_what_the_app_receives_and_what_control_explains() {
    let (mesh, app) = (Mesh::start().await, Recorder::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&format!("kind: Policy\nname: web\ntarget: {web}\nrules:{RULES}")).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let port = app.address.port();

    for Case { method, target, host, fields, status, arrives } in CASES {
        let about = format!("{method} {target} {host} {fields:?}");
        let before = app.requests().len();
        let answer = answer(pair.entry(), method, target, host, fields).await;
        assert_eq!(answer.status, *status, "{about}: {}", answer.body);
        let seen: Vec<String> = app.requests().into_iter().skip(before).map(|seen| seen.target).collect();
        assert_eq!(seen, [*arrives].map(str::to_owned)[usize::from(arrives.is_empty())..], "{about}");

        let mut asked = vec!["--method", method, "--path", target, "--host", host, "--address", "127.0.0.1"];
        asked.extend(fields.iter().flat_map(|field| ["--header", field]));
        let said = explained(&mesh, &frontend, &web, port, &asked).await;
        let decision = &said["decisions"][0];
        assert_eq!(decision["allowed"], *status == 200, "{about}: {said}");
        assert_eq!(decision["reason"] == "path_refused", *status == 400, "{about}: {said}");
        if *status == 403 {
            let told = decision["explanation"].as_str().unwrap();
            assert!(answer.body.contains(told), "{about}: {} is not {told}", answer.body);
        }
    }

    // An absolute target is the app's host and path; what ends at this hop is not there for any rule.
    let absolute = answer(pair.entry(), "GET", "http://b.example/%73hop/z", "a", &[]).await;
    let received = app.requests().pop().expect("it was forwarded");
    assert_eq!((absolute.status, &*received.target), (200, "/shop/z"));
    assert_eq!(received.values("host"), ["b.example"]);
    let fields = ["x-tenant: blue", "connection: x-tenant"];
    assert_eq!(answer(pair.entry(), "PATCH", "/x", "a", &fields).await.status, 403);
    let decided = [("path", "/shop/a/x/y"), ("policy", "web"), ("rule", "shop"), ("verdict", "allow")];
    pair.server.access(&decided).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_rules_see_services_and_methods_and_cut_the_calls_that_they_deny() {
    let mesh = Mesh::start().await;
    let (frontend, echo) = (id("/frontend"), id("/echo"));
    let policy = |more: &str| {
        format!(
            "kind: Policy\nname: echo\ntarget: {echo}\nrules:\n  - {{ name: calls, allow: {{ from: [{frontend}], grpc: {{ services: [signet.test.Echo] }} }} }}\n{more}"
        )
    };
    mesh.policy(&policy("")).await;
    let (_server, app) = python_server("grpc_server.py", &[]).await;
    let pair = mesh.pair(&frontend, &echo, "", app).await;

    let said = python("grpc_client.py", &[&pair.entry().to_string()]).run().await.succeeded();
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&said["unary"], &said["server_stream"]), (&json!("hello"), &json!(1000)));
    let denied = said["denied"].as_str().unwrap();
    assert!(denied.starts_with("PERMISSION_DENIED") && denied.contains("policy `echo`"), "{denied}");

    // The same path without the mark of a call is none.
    let url = format!("http://{}/signet.test.Echo/Unary", pair.entry());
    let other = curl().args(["--include", "--http2-prior-knowledge", "--data", "x", &url]).run().await;
    assert!(other.stdout.starts_with("HTTP/2 403"), "{}", other.all());

    let mut kept = talking("grpc_hold.py", &[&pair.entry().to_string()]).await;
    let no_unary = "  - { name: no-unary, deny: { grpc: { methods: [Unary] } } }\n";
    mesh.policy(&policy(no_unary)).await;
    assert!(kept.is_running(), "another method is denied");
    let path = ["--method", "POST", "--path", "/signet.test.Echo/Unary"];
    let grpc = [&path[..], &["--header", "content-type: application/grpc"]].concat();
    let said = explained(&mesh, &frontend, &echo, app.port(), &grpc).await;
    assert_eq!((&said["rule"], &said["allowed"]), (&json!("no-unary"), &json!(false)));

    mesh.policy(&policy("  - { name: no-streams, deny: { grpc: { methods: [Both] } } }\n")).await;
    assert!(kept.exit(PATIENCE).await.success(), "{}", kept.logs().text());
    let cut = [("path", "/signet.test.Echo/Both"), ("close_reason", "policy_lost")];
    pair.server.access(&cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_documents_say_whom_a_workload_may_call_and_cut_what_they_do_not() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let echo = TcpEcho::start().await;
    let (frontend, web, db) = (id("/frontend"), id("/web"), id("/db"));
    for workload in [&frontend, &web, &db] {
        mesh.workload(workload).await;
    }
    mesh.policy(&format!("{}---\n{}", allow("web", &web, &[&frontend]), allow("db", &db, &[&frontend])))
        .await;
    let served = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    let _stored = mesh.proxy(&db).await.inbound("tcp://", echo.address).start().await;
    let caller = mesh.proxy(&frontend).await.outbound("http://", &web).outbound("tcp://", &db).start().await;
    let [to_web, to_db] = caller.outbounds() else { panic!("two listeners") };

    // Who is not restricted calls everybody whose own policy lets it.
    let mut stored = EchoConnection::open(*to_db).await;
    let held = tokio::spawn(answer_of(*to_web, "/hold"));
    app.holds_one().await;

    // From now on the web alone, and not all of it: what is open and not named is cut, on this side.
    let out = |rules: &str| format!("kind: Policy\nname: out\nsource: {frontend}\nrules:\n{rules}");
    let shop = format!("  - {{ name: shop, allow: {{ to: [{web}], http: {{ paths: [\"/shop/*\"] }} }} }}\n");
    let applied = mesh.policy(&out(&shop)).await;
    let told = applied["proxies"].as_array().expect("who has it in force");
    assert_eq!(told.len(), 1, "whom it restricts, and nobody else: {applied}");
    timeout(PATIENCE, stored.closed()).await.expect("a connection without its right is cut");
    let cut = [("kind", "connection"), ("direction", "outbound"), ("close_reason", "policy_lost")];
    caller.access(&cut).await;
    let held = timeout(PATIENCE, held).await.expect("a request is, too").unwrap();
    assert!(held.status == 403 && held.body.contains("policy_lost"), "{} {}", held.status, held.body);

    let arrived = app.requests();
    assert_eq!(answer_of(*to_web, "/shop/a").await.status, 200);
    let denied = answer_of(*to_web, "/%73hop/../x").await;
    assert!(denied.status == 403 && denied.body.contains("policy `out`"), "{}", denied.body);
    assert_eq!(app.requests(), arrived + 1, "it does not leave");
    let line = [("direction", "outbound"), ("verdict", "deny"), ("policy", "out"), ("reason", "no_rule")];
    caller.access(&line).await;
    assert!(no_echo(*to_db).await, "nothing comes back");
    let refused = [("direction", "outbound"), ("close_reason", "denied"), ("policy", "out")];
    caller.access(&refused).await;

    // Control says the same, decision by decision, and so does the proxy that decides.
    let port = app.address.port();
    let said = explained(&mesh, &frontend, &web, port, &["--method", "GET", "--path", "/x"]).await;
    let of = |number: usize, field: &str| said["decisions"][number][field].clone();
    assert_eq!([of(0, "direction"), of(1, "direction")], [json!("egress"), json!("inbound")]);
    assert_eq!(
        [of(0, "allowed"), of(1, "allowed"), said["allowed"].clone()].map(|yes| yes == true),
        [false, true, false]
    );
    let asked = explained_by(&caller, &format!("destination={web}&port={port}&method=GET&path=/x")).await;
    assert_eq!(asked["explanation"], of(0, "explanation"));
    assert!(denied.body.contains(asked["explanation"].as_str().unwrap()), "{} {asked}", denied.body);

    // Deny wins here, too, as does a narrower right over a wider one that is not there.
    let no_delete = format!("  - {{ name: read, deny: {{ to: [{web}], http: {{ methods: [DELETE] }} }} }}\n");
    mesh.policy(&out(&format!("  - {{ name: all, allow: {{}} }}\n{no_delete}"))).await;
    assert_eq!(answer_of(*to_web, "/x").await.status, 200);
    let denied = answer(*to_web, "DELETE", "/x", "a", &[]).await;
    assert!(denied.status == 403 && denied.body.contains("denied_by_rule"), "{}", denied.body);
    drop(EchoConnection::open(*to_db).await);

    // Networks are of those who call; a document that asks for them on this side is refused, not misread.
    let networks = mesh.policy_file(&out("  - { name: near, allow: { cidrs: [127.0.0.0/8] } }\n"));
    let refused = mesh.signet(&["policy", "apply", "-f", &networks.display().to_string()]).await;
    assert!(refused.code() == 1 && refused.stderr.contains("expected one of `to`"), "{}", refused.all());
    let _ = mesh.signet(&["policy", "delete", "out"]).await.succeeded();
    assert_eq!(answer(*to_web, "DELETE", "/x", "a", &[]).await.status, 200, "nothing restricts it any more");
    served.counts("signet_connections_closed_total", &[("reason", "policy_lost")], 0).await;
}

/// Whether a new connection brings nothing back: it may be reset before it is used.
async fn no_echo(entry: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(entry).await else { return true };
    let _ = stream.write_all(b"ping").await;
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it ends");
    bytes.is_empty()
}

async fn answer_of(entry: SocketAddr, target: &str) -> Response {
    answer(entry, "GET", target, "a", &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_callers_are_explained_told_goodbye_and_cut_with_the_document_of_the_mesh() {
    let (mesh, app) = (Mesh::start().await, H2App::start().await);
    let web = id("/web");
    mesh.workload(&web).await;
    let no_delete = "  - name: no-delete\n    deny: { http: { methods: [DELETE] } }\n";
    mesh.policy(&format!("{}{no_delete}", allow("web", &web, &[&id("/frontend")]))).await;
    let served = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    let port = app.address.port();
    // Both say the same: the reason.
    let said = async |more: &[&str], asked: &str| {
        let control = explained(&mesh, "plaintext", &web, port, more).await;
        let proxy = explained_by(&served, &format!("source=plaintext&port={port}{asked}")).await;
        assert_eq!(control["decisions"], json!([proxy]), "control and proxy");
        proxy["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(said(&[], "").await, "plaintext_refused");

    let settings =
        format!("kind: Mesh\nmode: strict\npermissive:\n  - {{ target: {web}, ports: [{port}] }}\n");
    mesh.apply(&settings).await;
    let request = ["--method", "GET", "--path", "/"];
    assert_eq!(said(&request, "&method=GET&path=/").await, "plaintext");
    let request = ["--method", "DELETE", "--path", "/"];
    assert_eq!(said(&request, "&method=DELETE&path=/").await, "denied_by_rule");
    let url = format!("http://{}/", served.inbound());
    let delete = ["--include", "--http2-prior-knowledge", "-X", "DELETE", &url];
    let denied = curl().args(delete).run().await;
    assert!(denied.stdout.starts_with("HTTP/2 403"), "{}", denied.all());

    // Closed by an operator, it is told that it ends.
    let mut told = plaintext(&served).await;
    let open = served.ask("/connections?direction=inbound&sort=newest&limit=1").await;
    let close =
        format!("http://{}/connections/{}/close", served.operators().await, open["connections"][0]["id"]);
    let _ = curl().args(["--fail", "-H", "signet-admin: yes", "-X", "POST", &close]).run().await.succeeded();
    told.reads(|frame| frame.kind == GOAWAY).await;
    told.ends().await;
    served.access(&[("kind", "connection"), ("close_reason", "closed_by_operator")]).await;

    // Without its document the mesh is strict, and there is nothing to delete any more.
    let mut cut = plaintext(&served).await;
    let deleted = mesh.json(&["mesh", "delete"]).await;
    assert_eq!(deleted["complete"], true, "{deleted}");
    cut.reads(|frame| frame.kind == GOAWAY).await;
    cut.ends().await;
    served.access(&[("kind", "connection"), ("close_reason", "plaintext_refused")]).await;
    assert_eq!(said(&[], "").await, "plaintext_refused");
    assert_eq!(mesh.json(&["mesh", "show"]).await["document"], Value::Null);
    let again = mesh.signet(&["mesh", "delete"]).await;
    assert!(again.code() == 4 && again.stderr.contains("does not exist"), "{}", again.all());
}

/// A plaintext connection that was answered once.
async fn plaintext(served: &Proxy) -> TalkH2 {
    let stream = TcpStream::connect(served.inbound()).await.expect("the proxy accepts");
    let mut talk = TalkH2::new(Box::new(stream)).await;
    talk.ask(1, "/").await;
    talk.reads(|frame| frame.kind == HEADERS && frame.stream == 1).await;
    talk
}
