//! Where captured connections of an app may go: to who the mesh knows, elsewhere only if that is wanted, and
//! never to a proxy or to control.

use std::net::SocketAddr;

use serde_json::Value;
use signet_tests::apps::{Nginx, Postgres};
use signet_tests::binaries::{Copy, binaries};
use signet_tests::client::{curl, psql};
use signet_tests::logs::is_access;
use signet_tests::mesh::{allow, id};
use signet_tests::place::Place;
use signet_tests::pods::Family;
use signet_tests::{PATIENCE, eventually};

use crate::attacks::joined;
use crate::captured::{
    Captured, INBOUND, Inside, MUTUAL_TLS, OUTBOUND, Pods, assert_from_frontend, assert_no_answer,
    caller_proxy, install, opened, page, page_as, text,
};
use crate::python::{python_server, said, websocket_client};

const PASSTHROUGH: &[(&str, &str)] = &[("--unknown-destinations", "passthrough")];

#[tokio::test(flavor = "multi_thread")]
async fn without_rules_nothing_is_captured() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.proxies(&[nginx.address], &[]).await;

    let identity = page(&pods.caller, nginx.address, "/identity").await;
    assert_eq!(identity.as_deref(), Ok(""), "the app is called without a proxy");
    assert_eq!(
        (opened(&captured.caller, "outbound").await, opened(&captured.server, "inbound").await),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_caller_is_told_why() {
    let pods = Pods::new(Family::V4);
    let place = Place::Pod(&pods.app);
    let (nginx, postgres) = (Nginx::start_at(place).await, Postgres::start_at(place).await);
    let captured = pods.captured(&[nginx.address, postgres.address]).await;
    let mesh = &captured.mesh;
    mesh.policy(&allow("web", &id("/web"), &[&id("/somebody/else")])).await;

    let url = format!("http://{}/identity", nginx.address);
    let answer = curl().args(["--include", &url]).inside(&pods.caller).run().await.succeeded().stdout;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("no_rule"), "{answer}");
    let refused = psql(postgres.address, "select 1").inside(&pods.caller).run().await;
    assert!(!refused.status.success() && refused.stderr.contains("closed"), "{}", refused.all());
    for app in [nginx.address, postgres.address] {
        let denied = [("verdict", "deny"), ("reason", "no_rule"), ("port", &app.port().to_string())];
        let line = captured.server.access(&denied).await;
        assert_eq!(text(&line, "source"), id("/frontend"), "{line}");
        let line = captured.caller.access(&[("requested", &app.to_string()), ("kind", "connection")]).await;
        assert_eq!(text(&line, "destination"), id("/web"), "{line}");
    }

    // What is allowed again works at once.
    mesh.policy(&allow("web", &id("/web"), &[&id("/frontend")])).await;
    assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_destinations_are_refused_unless_they_may_pass() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let stranger = Nginx::start_at(Place::Pod(&pods.outside)).await;
    for (options, passes) in [(&[][..], false), (&[("--unknown-destinations", "passthrough")][..], true)] {
        let captured = pods.proxies(&[nginx.address], options).await;
        pods.install_both(1).await;

        let answer = page(&pods.caller, stranger.address, "/charge/1").await;
        if passes {
            assert_eq!(answer.as_deref(), Ok("GET /charge/1"), "as it is, to nobody's identity");
        } else {
            assert_no_answer(&answer, "a stranger");
        }
        captured.caller.counts("signet_passthrough_total", &[], passes.into()).await;
        let line = captured.caller.access(&[("requested", &stranger.address.to_string())]).await;
        assert_eq!(text(&line, "destination"), "", "{line}");
        assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_and_control_are_no_destinations_and_nothing_goes_in_circles() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    // Even if strangers may be called.
    let captured = pods.proxies(&[nginx.address], &[("--unknown-destinations", "passthrough")]).await;
    pods.install_both(1).await;
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let refused = [
        captured.mesh.grpc,
        pods.caller.at(OUTBOUND),
        pods.caller.at(INBOUND),
        pods.caller.at(15020),
        loopback(OUTBOUND),
        pods.app.at(OUTBOUND),
        pods.app.at(INBOUND),
        pods.app.at(15020),
        pods.app.at(MUTUAL_TLS),
    ];
    for destination in refused {
        let answer = page(&pods.caller, destination, "/metrics").await;
        assert_no_answer(&answer, &destination.to_string());
    }

    // One connection each, not one that calls itself until descriptors run out.
    let tries = refused.len() as u64;
    for (proxy, direction) in [(&captured.caller, "outbound"), (&captured.server, "inbound")] {
        let seen = opened(proxy, direction).await;
        assert!(seen <= tries, "{seen} {direction} connections for {tries} tries");
        assert_eq!(opened(proxy, if direction == "inbound" { "outbound" } else { "inbound" }).await, 0);
    }
    assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
}

/// The peer's app is called by its own address, first as a peer's. The rules of its pod are left out: they would
/// stop what must not even be tried.
async fn called_as_a_peer(pods: &Pods, nginx: &Nginx) -> Captured {
    let captured = pods.proxies(&[nginx.address], PASSTHROUGH).await;
    install(&pods.caller, &["--proxy-uid", "0"]).await;
    assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
    captured
}

/// From some connection on, all are refused, and none before it was in the clear.
async fn is_refused_and_never_downgraded(pods: &Pods, captured: &Captured, app: SocketAddr) {
    let (mark, requested) = (captured.caller.process.logs().mark(), app.to_string());
    eventually("who is meant is unclear", PATIENCE, async || {
        match page(&pods.caller, app, "/identity").await {
            Ok(identity) => assert_from_frontend(&identity),
            answer => assert_no_answer(&answer, "no peer any more"),
        }
        let refused =
            captured.caller.process.logs().events_since(mark, |event| is_access(event, &refusal(&requested)));
        if refused.is_empty() { Err("still a peer".to_owned()) } else { Ok(()) }
    })
    .await;
    for _ in 0..3 {
        is_refused(pods, captured, app).await;
    }
    captured.caller.counts("signet_passthrough_total", &[], 0).await;
}

async fn is_refused(pods: &Pods, captured: &Captured, app: SocketAddr) {
    let mark = captured.caller.process.logs().mark();
    assert_no_answer(&page(&pods.caller, app, "/identity").await, "no peer any more");
    captured.caller.access_since(mark, &refusal(&app.to_string())).await;
}

fn refusal(requested: &str) -> [(&str, &str); 2] {
    [("requested", requested), ("close_reason", "unknown_destination")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_revoked_is_not_called_in_the_clear() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let captured = called_as_a_peer(&pods, &nginx).await;
    let _ = captured.mesh.signet(&["revoke", &id("/web"), "--reason", "test"]).await.succeeded();
    is_refused(&pods, &captured, nginx.address).await;
    is_refused_and_never_downgraded(&pods, &captured, nginx.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_left_is_not_called_in_the_clear() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let mut captured = called_as_a_peer(&pods, &nginx).await;
    captured.server.process.terminate();
    captured.server.process.exit(PATIENCE).await;
    is_refused_and_never_downgraded(&pods, &captured, nginx.address).await;

    // Another port of the address was never anybody's, and is not for strangers either.
    let other = pods.app.at(8081);
    is_refused_and_never_downgraded(&pods, &captured, other).await;
    let stranger = Nginx::start_at(Place::Pod(&pods.outside)).await;
    let answer = page(&pods.caller, stranger.address, "/charge/1").await;
    assert_eq!(answer.as_deref(), Ok("GET /charge/1"), "who never was a peer is called as a stranger");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_identities_at_one_address_are_not_called_in_the_clear() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let captured = called_as_a_peer(&pods, &nginx).await;
    let second = id("/second");
    captured.mesh.workload(&second).await;
    let options = ["--inbound", &format!("15444={}", nginx.address), "--metrics-listen", "127.0.0.1:15021"];
    let _second = joined(&captured.mesh, &second, &pods.app, &options).await;
    is_refused_and_never_downgraded(&pods, &captured, nginx.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_with_another_user_than_the_proxys_make_no_loop() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let stranger = Nginx::start_at(Place::Pod(&pods.outside)).await;
    let captured = pods.proxies(&[nginx.address], PASSTHROUGH).await;
    install(&pods.caller, &["--proxy-uid", "4242"]).await;

    assert_no_answer(&page(&pods.caller, stranger.address, "/charge/1").await, "a stranger");
    let why = |event: &Value| event.to_string().contains("install the rules with its user");
    captured.caller.process.wait_for_log("what is wrong", why).await;
    let seen = opened(&captured.caller, "outbound").await;
    assert!(seen < 5, "{seen} connections for one request");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_leave_alone_what_was_open_before_them() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.proxies(&[nginx.address], &[]).await;
    let (_server, stranger) = python_server(&pods.outside, "websocket.py", &["serve"]).await;
    let mut client = websocket_client(&pods.caller, stranger);
    said(&client, "talked").await;
    // Each proxy has a stream to control, on which control speaks next.
    pods.install_both(1).await;
    for allowed in ["/somebody/else", "/frontend"] {
        let applied = captured.mesh.policy(&allow("web", &id("/web"), &[&id(allowed)])).await;
        assert_eq!(applied["complete"], true, "every proxy is still connected: {applied}");
    }
    for proxy in [&captured.caller, &captured.server] {
        let lost = proxy.process.logs().events(|event| event["level"] == "WARN");
        assert!(lost.is_empty(), "nothing to complain about: {lost:?}");
    }
    assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
    assert!(client.is_running() && !client.logs().text().contains("cut"), "{}", client.logs().text());
    client.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_proxy_a_captured_pod_is_closed_and_not_open() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let mut captured = pods.captured(&[nginx.address]).await;
    captured.caller.process.kill().await;
    assert_no_answer(&page(&pods.caller, nginx.address, "/identity").await, "out of the caller's pod");
    captured.server.process.kill().await;
    assert_no_answer(&page(&pods.outside, nginx.address, "/identity").await, "into the app's pod");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_privileges_captures_as_well() {
    const PROXY_USER: u32 = 15443;
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.proxies(&[nginx.address], &[]).await;
    drop(captured.caller);
    let program = Copy::of(&binaries().proxy);
    let builder = captured.mesh.proxy(&id("/frontend")).await.as_user(PROXY_USER, &program.path);
    let caller = caller_proxy(builder, &pods.caller, &[]).start().await;
    install(&pods.caller, &["--proxy-uid", "15443"]).await;

    assert_from_frontend(&page(&pods.caller, nginx.address, "/identity").await.unwrap());
    assert_eq!(opened(&caller, "outbound").await, 1, "its own connection is not captured again");
    // Root is an app like any other now.
    assert_from_frontend(&page_as(&pods.caller, 0, nginx.address, "/identity").await.unwrap());
}
