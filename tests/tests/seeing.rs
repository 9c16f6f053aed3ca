//! What people see at night: the admin listener, taps, the doctor, and traces in a collector that we did not write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use signet_tests::apps::{RequestApp, TcpEcho, header_values};
use signet_tests::binaries::binaries;
use signet_tests::client::{Client, curl, file};
use signet_tests::collector::{Collector, exemplars};
use signet_tests::http;
use signet_tests::logs::{field, is_message};
use signet_tests::mesh::{Mesh, Pair, allow, id};
use signet_tests::pki::{Authority, dns};
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::report::{measured, wrk_without_failures};
use signet_tests::sockets::{EchoConnection, free_address};
use signet_tests::{PATIENCE, eventually};

/// As in OTLP.
const SERVER: i64 = 2;
const CLIENT: i64 = 3;

/// A pair of proxies that send spans of all that comes with a sampled trace, and of that ratio of the rest.
async fn traced(mesh: &Mesh, scheme: &str, app: SocketAddr, collector: &Collector, ratio: &str) -> Pair {
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let to = collector.endpoint();
    let server = mesh.proxy(&web).await.inbound(scheme, app);
    let caller = mesh.proxy(&frontend).await.outbound(scheme, &web);
    let [server, caller] =
        [server, caller].map(|proxy| proxy.with("--otlp-endpoint", &to).with("--trace-sample", ratio));
    Pair { server: server.start().await, caller: caller.start().await }
}

async fn asked(entry: SocketAddr, path: &str, headers: &[&str]) -> Value {
    let headers = headers.iter().flat_map(|header| ["-H", header]);
    let answer = curl().args(["-s", &format!("http://{entry}{path}")]).args(headers).run().await.succeeded();
    serde_json::from_str(&answer.stdout).expect("the app answers JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_trace_from_app_to_app() {
    let (mesh, app, collector) = (Mesh::start().await, RequestApp::start().await, Collector::start().await);
    let pair = traced(&mesh, "http://", app.address, &collector, "0").await;
    let trace = "0af7651916cd43dd8448eb211c80319c";

    let parent = format!("traceparent: 00-{trace}-b7ad6b7169203331-01");
    let seen = asked(pair.entry(), "/charge?secret=1", &[&parent, "tracestate: vendor=1"]).await;
    let told = header_values(&seen, |name| name == "traceparent");
    assert_eq!(header_values(&seen, |name| name == "tracestate"), ["vendor=1"]);

    let whole = |kind: i64| move |span: &Value| span["kind"] == kind;
    let client = collector.span("the caller's span", whole(CLIENT)).await;
    let server = collector.span("the server's span", whole(SERVER)).await;
    assert_eq!((&client["trace"], &client["parent"]), (&json!(trace), &json!("b7ad6b7169203331")));
    assert_eq!((&server["trace"], &server["parent"]), (&json!(trace), &client["span"]));
    assert_eq!(told, [format!("00-{trace}-{}-01", server["span"].as_str().unwrap())]);
    assert_eq!((&client["service"], &server["service"]), (&json!("frontend"), &json!("web")));
    assert_eq!((&server["name"], &server["state"]), (&json!("GET"), &json!("vendor=1")));
    for (key, value) in [
        ("http.request.method", json!("GET")),
        ("url.path", json!("/charge")),
        ("http.response.status_code", json!(200)),
        ("network.protocol.version", json!("1.1")),
        ("signet.source", json!(id("/frontend"))),
        ("signet.destination", json!(id("/web"))),
        ("signet.policy", json!("web")),
        ("signet.rule", json!("callers")),
        ("signet.verdict", json!("allow")),
    ] {
        assert_eq!(server["attributes"][key], value, "{key}: {server}");
    }
    for (phase, whole) in [
        ("connect", &client),
        ("handshake", &client),
        ("forward", &client),
        ("authorize", &server),
        ("forward", &server),
    ] {
        let below = |span: &Value| span["name"] == phase && span["parent"] == whole["span"];
        let step = collector.span(phase, below).await;
        assert!(step["failed"] == false && step["nanos"].as_i64() <= whole["nanos"].as_i64(), "{step}");
    }
    // Nobody wants this one recorded, and a proxy does not know better.
    let not = format!("traceparent: 00-{trace}-b7ad6b7169203331-00");
    let seen = asked(pair.entry(), "/not", &[&not]).await;
    let told = header_values(&seen, |name| name == "traceparent");
    assert_eq!(told, [not.trim_start_matches("traceparent: ")]);
    let own = asked(pair.entry(), "/own", &[]).await;
    let own = header_values(&own, |name| name == "traceparent");
    assert!(own[0].ends_with("-00"), "decided for all who come behind: {own:?}");

    assert!(collector.spans().iter().all(|span| span["trace"] == trace), "only what was sampled");
    pair.server.counts("signet_spans_total", &[("result", "dropped")], 0).await;

    let line = pair.server.access(&[("kind", "request"), ("path", "/charge")]).await;
    assert_eq!(line["fields"]["trace_id"], trace);
    let scrape = Request::get("/metrics")
        .header("host", "metrics")
        .header("accept", "application/openmetrics-text; version=1.0.0")
        .body(Full::<Bytes>::default())
        .unwrap();
    let scrape = http::send(pair.server.admin, scrape).await.unwrap();
    let found = exemplars(&scrape.body).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["name"], "signet_request_duration_seconds_bucket");
    assert_eq!((&found[0]["trace_id"], &found[0]["labels"]["direction"]), (&json!(trace), &json!("inbound")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_bytes_takes_its_trace_to_the_other_proxy() {
    let (mesh, app, collector) = (Mesh::start().await, TcpEcho::start().await, Collector::start().await);
    let pair = traced(&mesh, "tcp://", app.address, &collector, "1").await;
    drop(EchoConnection::open(pair.entry()).await);
    let client = collector.span("the caller's span", |span| span["kind"] == CLIENT).await;
    let server = collector.span("the server's span", |span| span["kind"] == SERVER).await;
    assert_eq!((&server["trace"], &server["parent"]), (&client["trace"], &client["span"]));
    assert_eq!((&client["name"], &client["parent"]), (&json!("connection"), &json!("")));
    for (phase, whole) in
        [("connect", &client), ("handshake", &client), ("handshake", &server), ("authorize", &server)]
    {
        let below = |span: &Value| span["name"] == phase && span["parent"] == whole["span"];
        let _ = collector.span(phase, below).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_holds_nothing_up() {
    let (mesh, app, collector) = (Mesh::start().await, RequestApp::start().await, Collector::start().await);
    let pair = traced(&mesh, "http://", app.address, &collector, "1").await;
    drop(collector);
    for _ in 0..20 {
        let _ = asked(pair.entry(), "/", &[]).await;
    }
    eventually("the loss is counted", PATIENCE, async || {
        let lost = pair.caller.metrics().await.count("signet_spans_total", &[("result", "failed")]);
        if lost >= 20 { Ok(()) } else { Err(lost.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_over_tls_is_sent_spans_by_those_to_whom_it_proves_itself() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    let (authority, other) = (Authority::new("collectors.test"), Authority::new("others.test"));
    let files = tempfile::tempdir().unwrap();
    let certificate = authority
        .svid_with(&authority.id("/collector"), |leaf| leaf.subject_alt_names = vec![dns("localhost")])
        .write(files.path(), "collector");
    let collector = Collector::proving(&certificate.svid, &certificate.key).await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let to = collector.endpoint();
    let traced = |proxy: ProxyBuilder, roots: &Authority| {
        let roots = roots.write_bundle(files.path());
        proxy.with("--otlp-endpoint", &to).with("--trace-sample", "1").with("--otlp-roots", roots.display())
    };
    let server = mesh.proxy(&web).await.inbound("http://", app.address);
    let caller = mesh.proxy(&frontend).await.outbound("http://", &web);
    let (server, caller) = (traced(server, &authority).start().await, traced(caller, &other).start().await);
    let _ = asked(caller.outbound(), "/", &[]).await;

    let span = collector.span("the server's span", |span| span["kind"] == SERVER).await;
    assert_eq!(span["service"], "web");
    eventually("its spans are counted", PATIENCE, async || {
        let metrics = server.metrics().await;
        match metrics.count("signet_spans_total", &[("result", "exported")]) {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let refused = |event: &Value| field(event, "message").starts_with("the collector takes no spans");
    let said = caller.process.wait_for_log("whom it does not believe", refused).await.to_string();
    assert!(said.contains("UnknownIssuer") && said.contains(&to), "{said}");
    assert!(collector.spans().iter().all(|span| span["service"] == "web"), "nothing went to a stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_the_proxy_and_close_what_they_choose() {
    let (mesh, app) = (Mesh::start().await, TcpEcho::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "tcp://", app.address).await;

    let config = pair.server.ask("/config").await;
    assert_eq!(
        (&config["log-format"]["value"], &config["log-format"]["source"]),
        (&json!("json"), &json!("flag"))
    );
    assert_eq!(
        (&config["idle-timeout"]["value"], &config["idle-timeout"]["source"]),
        (&json!("24h"), &json!("default"))
    );
    let identity = pair.server.ask("/identity").await;
    assert_eq!((&identity["id"], &identity["source"]), (&json!(web), &json!("control")));
    assert!(
        identity["next_renewal"].is_string() && identity["chain"].as_array().unwrap().len() == 2,
        "{identity}"
    );
    let policy = pair.server.ask("/policy").await;
    assert_eq!(
        (&policy["documents"][0]["name"], &policy["denies_everything"]),
        (&json!("web"), &json!(false))
    );

    // What was made for one call is kept for the next, and is no connection of the app.
    drop(EchoConnection::open(pair.entry()).await);
    let pooled = eventually("the connection to the peer waits", PATIENCE, async || {
        let all = pair.caller.ask(&format!("/connections?destination={web}")).await;
        match all["to_peers"].as_array().unwrap().as_slice() {
            [one] if one["state"] == "idle" && all["open"] == 0 => Ok(one.clone()),
            _ => Err(all.to_string()),
        }
    })
    .await;
    assert_eq!((&pooled["source"], &pooled["destination"]), (&json!(frontend), &json!(web)));
    assert_eq!(
        (&pooled["address"], &pooled["alpn"]),
        (&json!(pair.server.inbound().to_string()), &json!("signet/1"))
    );
    assert!(pooled["bytes_in"].as_u64() > Some(1000), "a handshake has certificates: {pooled}");
    assert_eq!((&pooled["calls"], &pooled["calls_in_flight"]), (&json!(1), &json!(0)));
    let mut again = EchoConnection::open(pair.entry()).await;
    let table = admin(&pair.caller, &["connections", "--direction", "outbound"]).await.succeeded().stdout;
    assert!(table.contains("Accepted: 1 of 1") && table.contains("calls: 1 of 1"), "{table}");
    let id = pooled["id"].as_str().unwrap();
    let row =
        table.lines().find(|line| line.trim_start().starts_with(id)).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("in use") && row.contains(&web), "it is the same: {table}");
    let _ = admin(&pair.caller, &["connections", "--close", id]).await.succeeded();
    assert!(again.ping().await.is_err(), "what it carried ends with it");
    let others = admin(&pair.caller, &["connections", "--destination", "spiffe://mesh.test/other"]).await;
    assert!(others.succeeded().stdout.contains("calls: 0 of "));
    eventually("it is gone", PATIENCE, async || {
        let gone = admin(&pair.caller, &["connections", "--close", id]).await;
        let is_gone = gone.code() == 1 && gone.all().contains("no open connection");
        if is_gone { Ok(()) } else { Err(gone.all()) }
    })
    .await;
    eventually("nothing is open", PATIENCE, async || match &pair.server.ask("/connections").await["open"] {
        open if *open == 0 => Ok(()),
        open => Err(open.to_string()),
    })
    .await;

    // With the one that was closed already.
    for (proxy, direction, verdict, closed) in
        [(&pair.server, "inbound", "allow", 1), (&pair.caller, "outbound", "none", 2)]
    {
        let mut kept = EchoConnection::open(pair.entry()).await;
        let mut cut = EchoConnection::open(pair.entry()).await;
        let newest = proxy.ask(&format!("/connections?direction={direction}&sort=newest&limit=1")).await;
        assert_eq!((&newest["open"], &newest["connections"].as_array().unwrap().len()), (&json!(2), &1));
        let row = &newest["connections"][0];
        assert_eq!((&row["source"], &row["destination"]), (&json!(frontend), &json!(web)));
        assert_eq!((&row["protocol"], &row["verdict"]), (&json!("tcp"), &json!(verdict)));
        let bytes = (&row["bytes_in"], &row["bytes_out"]);
        assert!(bytes.0 == bytes.1 && bytes.0.as_u64() > Some(0), "{row}");

        let close = format!("/connections/{}/close", row["id"]);
        let _ = admin(proxy, &["POST", &close]).await.succeeded();
        assert!(cut.ping().await.is_err(), "{direction}: it is closed");
        kept.ping().await.expect("and only it");
        let reason = [("direction", direction), ("reason", "closed_by_operator")];
        proxy.counts("signet_connections_closed_total", &reason, closed).await;
        let gone = admin(proxy, &["POST", &close]).await;
        assert!(gone.code() == 1 && gone.all().contains("no open connection"), "{}", gone.all());
        drop(kept);
        eventually("nothing is open", PATIENCE, async || match &proxy.ask("/connections").await["open"] {
            open if *open == 0 => Ok(()),
            open => Err(open.to_string()),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_is_for_this_machine_alone() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.workload(&frontend).await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let proxy = mesh.proxy(&frontend).await.connect().with("--unknown-destinations", "passthrough");
    let proxy = proxy.inbound("http://", app.address).start().await;
    let at = proxy.operators().await;
    let url = format!("http://{at}/log");

    let status = async |arguments: &[&str]| {
        let asked = curl().args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]).args(arguments).arg(&url);
        asked.run().await.stdout
    };
    let change = r#"{"filter": "debug"}"#;
    assert_eq!(status(&[]).await, "200");
    assert_eq!(status(&["-H", "Host: attacker.example"]).await, "403");
    assert_eq!(status(&["-H", "Origin: http://localhost"]).await, "403");
    assert_eq!(status(&["-X", "POST", "--data", change]).await, "403", "as a form of a page could");
    assert_eq!(status(&["-X", "DELETE", "-H", "signet-admin: yes"]).await, "405");
    let refused =
        curl().args(["--noproxy", "", "-p", "-x", &format!("http://{}", proxy.outbound()), &url]).run().await;
    assert!(refused.code() != 0 && refused.stdout.is_empty(), "not through the proxy: {}", refused.all());

    let _ = admin(&proxy, &["PUT", "/log", r#"{"filter": "trace", "for": "1h"}"#]).await.succeeded();
    let state = proxy.ask("/log").await;
    assert!(state["filter"] == "trace" && state["reverts_at"].is_string(), "{state}");
    proxy.process.wait_for_log("a line that was not there before", |event| event["level"] == "TRACE").await;
    let wrong = admin(&proxy, &["PUT", "/log", r#"{"filter": "a=b=c"}"#]).await;
    assert!(wrong.code() == 1 && wrong.all().contains("400"), "{}", wrong.all());

    let elsewhere =
        mesh.proxy(&frontend).await.inbound("", app.address).with("--admin-listen", "0.0.0.0:15021");
    let (code, said) = elsewhere.refuses_to_run().await;
    assert!(code == 2 && said.contains("expected a loopback address"), "{code}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn taps_tell_what_was_asked_for_and_nothing_else() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&format!(
        "kind: Policy\nname: web\ntarget: {web}\nrules:\n  - name: reads\n    allow: {{ from: [{frontend}], http: {{ paths: [\"/open/*\"] }} }}\n"
    ))
    .await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    let at = pair.server.operators().await.to_string();
    let tap = |more: &[&str]| {
        Client::at(&binaries().proxy)
            .args(["tap", "--admin", &at, "--kind", "request", "--count", "3"])
            .args(more)
            .start()
    };
    let denied = tap(&["--verdict", "deny", "--output", "json"]);
    let shown = tap(&["--path", "/open/", "--source", &id("/*")]);
    eventually("both taps have their lines", PATIENCE, async || {
        for path in ["/open/a", "/closed"] {
            let _ = curl().args(["-s", &format!("http://{}{path}", pair.entry())]).run().await;
        }
        if denied.is_finished() && shown.is_finished() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let denied = denied.finish().await.succeeded();
    for line in denied.stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["path"], &event["status"], &event["verdict"]),
            (&json!("/closed"), &json!(403), &json!("deny"))
        );
        assert_eq!(event["source"], frontend);
    }
    let shown = shown.finish().await.succeeded();
    let is_open = |line: &str| line.contains("GET /open/a 200  allow by web/reads");
    assert!(shown.stdout.lines().count() == 3 && shown.stdout.lines().all(is_open), "{}", shown.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_is_wrong_and_its_fix() {
    let (mut mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let web = id("/web");
    mesh.workload(&web).await;
    let ticket = file(mesh.directory(), "ticket", mesh.ticket(&web).await);
    let ticket = ticket.display().to_string();
    let ports = [free_address(), free_address(), free_address()].map(|address| address.to_string());
    let check = async |app: SocketAddr| {
        let checked = Client::at(&binaries().proxy)
            .args(["check", "--output", "json", "--join-file", &ticket])
            .args(["--inbound", &format!("{}={app}", ports[0])])
            .args(["--metrics-listen", &ports[1], "--admin-listen", &ports[2]])
            .run()
            .await;
        let report: Value =
            serde_json::from_str(&checked.stdout).unwrap_or_else(|_| panic!("{}", checked.all()));
        (checked.code(), report["findings"].as_array().unwrap().clone())
    };
    let of = |findings: &[Value], name: &str| {
        findings
            .iter()
            .find(|finding| finding["check"] == name)
            .unwrap_or_else(|| panic!("{name}: {findings:?}"))
            .clone()
    };

    std::fs::set_permissions(&ticket, Permissions::from_mode(0o644)).unwrap();
    let (code, findings) = check(free_address()).await;
    assert_eq!(code, 1, "{findings:?}");
    for (name, fix) in [("app", "start the app"), ("files", "chmod 0600")] {
        let finding = of(&findings, name);
        assert_eq!(finding["state"], "problem", "{finding}");
        assert!(finding["fix"].as_str().unwrap().contains(fix), "{finding}");
    }
    std::fs::set_permissions(&ticket, Permissions::from_mode(0o600)).unwrap();
    let (code, findings) = check(app.address).await;
    assert_eq!(code, 0, "{findings:?}");
    for name in ["configuration", "files", "control", "clock", "app", "ports"] {
        assert_eq!(of(&findings, name)["state"], "ok", "{name}: {findings:?}");
    }

    // The ticket is not spent, and what runs is looked at, too.
    let proxy =
        mesh.proxy(&web).await.inbound("", app.address).with("--admin-listen", &ports[2]).start().await;
    let (_, findings) = check(app.address).await;
    let certificate = of(&findings, "certificate");
    assert!(certificate["says"].as_str().unwrap().contains(&web), "{certificate}");
    assert_eq!(of(&findings, "policy")["state"], "warning", "nobody is let in: {findings:?}");
    drop(proxy);

    mesh.kill_control().await;
    let (code, findings) = check(app.address).await;
    let control = of(&findings, "control");
    assert!(code == 1 && control["state"] == "problem", "{findings:?}");
    assert!(control["fix"].as_str().unwrap().contains("is control running there"), "{control}");
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_show_who_computes_and_who_holds_memory_where_they_are_allowed() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let server = mesh.proxy(&web).await.inbound("http://", app.address);
    let server = server.with("--profiles", "true").start().await;
    let caller = mesh.proxy(&frontend).await.outbound("http://", &web).start().await;

    for path in ["/profile/cpu", "/profile/heap"] {
        let refused = admin(&caller, &["GET", path]).await;
        assert!(refused.code() == 1 && refused.stderr.contains("`profiles` is not set"), "{}", refused.all());
    }
    for (path, says) in [
        ("/profile/cpu?seconds=0", "expected 1 to 300"),
        ("/profile/cpu?format=svg", "expected pprof or collapsed"),
        ("/profile/heap?format=collapsed&count=cows", "inuse_space"),
    ] {
        let refused = admin(&server, &["GET", path]).await;
        assert!(refused.code() == 1 && refused.stderr.contains(says), "{path}: {}", refused.all());
    }

    let url = format!("http://{}/", caller.outbound());
    let load = Client::new("wrk").args(["-t", "1", "-c", "8", "-d", "16s", &url]).start();
    let at = server.operators().await.to_string();
    let taking = Client::at(&binaries().proxy)
        .args(["admin", "--admin", &at, "GET", "/profile/cpu?seconds=3&format=collapsed&count=samples"])
        .start();
    let begun = |event: &Value| is_message(event, "an operator takes a CPU profile");
    let _ = server.process.wait_for_log("it begins", begun).await;
    let second = admin(&server, &["GET", "/profile/cpu?seconds=1"]).await;
    assert!(second.code() == 1 && second.stderr.contains("one at a time"), "{}", second.all());

    let lines = taking.finish().await.succeeded().stdout;
    let samples = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
    let all: u64 = lines.lines().map(|line| samples(line).unwrap_or_else(|| panic!("{line}"))).sum();
    let of =
        |part: &str| -> u64 { lines.lines().filter(|line| line.contains(part)).filter_map(samples).sum() };
    assert!(all >= 20, "it computed under load: {lines}");
    // Stacks are whole: from the worker's first function to where it was.
    assert!(of("tokio::runtime") * 2 >= all, "{all} samples: {lines}");
    assert!(of("signet_proxy::forward::http") > 0, "{all} samples: {lines}");
    let encoded = admin(&server, &["GET", "/profile/cpu?seconds=1"]).await.succeeded();
    for text in ["nanoseconds", "signet_proxy::", "libc.so"] {
        assert!(encoded.stdout.contains(text), "{text} is among its strings");
    }
    let heap = admin(&server, &["GET", "/profile/heap?format=collapsed&count=alloc_space"]).await.succeeded();
    assert!(heap.stdout.contains("signet_proxy::"), "{}", heap.stdout);
    let encoded = admin(&server, &["GET", "/profile/heap"]).await.succeeded();
    assert!(encoded.stdout.contains("inuse_space") && encoded.stdout.contains("signet_proxy::"));
    let load = load.finish().await;
    measured("wrk requests while profiles were taken, 0 failed", wrk_without_failures(load));
}

async fn admin(proxy: &Proxy, arguments: &[&str]) -> signet_tests::client::Finished {
    let at = proxy.operators().await.to_string();
    Client::at(&binaries().proxy).args(["admin", "--admin", &at]).args(arguments).run().await
}
