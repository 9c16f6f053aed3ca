//! Joining: a ticket is good for one workload, for a while, and only at the control that made it; that it is
//! good once is in `store`, for both engines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::str::FromStr;
use std::time::SystemTime;

use signet_proto::clock;
use signet_proto::ticket::JoinTicket;
use signet_tests::attest::Joiner;
use signet_tests::mesh::{Mesh, id, rows};
use signet_tests::proxy::ProxyBuilder;
use signet_tests::sockets::free_address;
use signet_tests::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn two_tickets_give_two_instances_of_one_identity() {
    let mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let first = Joiner::connect(mesh.grpc, &mesh.ticket(&worker).await).await.unwrap().join().await.unwrap();
    let second = Joiner::connect(mesh.grpc, &mesh.ticket(&worker).await).await.unwrap().join().await.unwrap();

    assert_eq!((first.spiffe_id, second.spiffe_id), (worker.clone(), worker));
    assert_ne!(first.instance, second.instance);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_ticket_is_refused() {
    let mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let created = mesh.json(&["token", "create", &worker, "--ttl", "1s"]).await;
    let ticket = created["ticket"].as_str().expect("the ticket").to_owned();
    let expires: jiff::Timestamp = created["expires_at"].as_str().expect("a time").parse().expect("RFC 3339");
    let joiner = Joiner::connect(mesh.grpc, &ticket).await.expect("control is up");

    eventually("the ticket has expired", PATIENCE, async || {
        if clock::now() > SystemTime::from(expires) { Ok(()) } else { Err(expires.to_string()) }
    })
    .await;
    let refused = joiner.join().await.expect_err("too late");

    assert!(refused.message().contains("expired") || refused.message().contains("ticket"), "{refused}");
    assert!(mesh.identities().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_a_suspended_workload_is_refused_until_it_is_resumed() {
    let mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let ticket = mesh.ticket(&worker).await;
    let _ = mesh.signet(&["suspend", &worker]).await.succeeded();

    let refused = Joiner::connect(mesh.grpc, &ticket).await.unwrap().join().await;

    assert!(refused.is_err(), "a suspended workload gets no SVID");
    let _ = mesh.signet(&["resume", &worker]).await.succeeded();
    let fresh = mesh.ticket(&worker).await;
    assert!(Joiner::connect(mesh.grpc, &fresh).await.unwrap().join().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_that_does_not_present_the_pinned_root_never_learns_the_secret() {
    let mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let good = mesh.ticket(&worker).await;
    let mut bad = JoinTicket::from_str(&good).expect("control made it");
    bad.root_sha256[0] ^= 1;
    let directory = mesh.directory().join("operator");

    let refused = mesh.signet(&["login", &bad.to_string(), "--dir", &directory.display().to_string()]).await;
    assert_ne!(refused.code(), 0, "{}", refused.all());
    let said = refused.all().to_lowercase();
    assert!(
        said.contains("root") || said.contains("pin") || said.contains("fingerprint"),
        "it says why: {said}"
    );
    assert!(!directory.join("svid.pem").exists());

    let mut proxy =
        ProxyBuilder::joining(&bad.to_string()).inbound("tcp://", free_address()).start_unready().await;
    proxy.process.expect_end();
    eventually("the proxy says that the root is not the pinned one", PATIENCE, async || {
        let text = proxy.process.logs().text().to_lowercase();
        if text.contains("root") || text.contains("pin") { Ok(()) } else { Err(text) }
    })
    .await;
    if proxy.process.is_running() {
        assert_eq!(proxy.readyz().await.status, 503);
    }

    // Nobody learned the secret, so the ticket is still good.
    assert!(Joiner::connect(mesh.grpc, &good).await.unwrap().join().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_a_ticket_is_named_as_such() {
    let mesh = Mesh::start().await;
    mesh.workload(&id("/worker")).await;
    let good = mesh.ticket(&id("/worker")).await;
    let cut = &good[..good.len() - 5];
    let long = format!("signet-join-v1.{}", "A".repeat(100_000));
    let garbage =
        ["", " ", "signet-join-v1.", "signet-join-v1.!!!!", "signet-join-v2.AAAA", "hunter2", cut, &long];

    for ticket in garbage {
        let shown: String = ticket.chars().take(40).collect();
        let login = mesh.signet(&["login", ticket, "--dir", "/nonexistent/operator"]).await;
        assert!([1, 2].contains(&login.code()), "{shown:?}: {}", login.all());
        assert!(login.stderr.contains("ticket"), "{shown:?}: {}", login.all());

        let (code, said) =
            ProxyBuilder::joining(ticket).inbound("tcp://", free_address()).refuses_to_run().await;
        assert_ne!(code, 0, "{shown:?} is no ticket");
        assert!(said.contains("ticket"), "{shown:?}: {said}");
        for said in [&said, &login.all()] {
            assert!(!said.contains(&good[40..80]), "an error never quotes a ticket: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_attestations_get_a_status_and_no_svid() {
    let mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let secrets = [vec![], vec![0; 1], vec![0; 32], vec![255; 32], vec![7; 100_000]];
    for secret in secrets {
        let length = secret.len();
        let refused = Joiner::connect_with(mesh.grpc, secret).await.expect("control is up").join().await;
        assert!(refused.is_err(), "{length} bytes are no secret");
    }
    let ticket = mesh.ticket(&worker).await;
    let requests =
        [vec![], vec![0x30], vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff], vec![0xff; 5000], vec![0x30; 200_000]];
    for csr in requests {
        let length = csr.len();
        let joiner = Joiner::connect(mesh.grpc, &ticket).await.expect("control is up").with_csr(csr);
        assert!(joiner.join().await.is_err(), "{length} bytes are no request");
    }
    assert!(mesh.identities().await.is_empty(), "nothing was issued");
    let events = rows(mesh.json(&["audit", "list", "--limit", "1000"]).await);
    assert!(!events.is_empty());
    mesh.verify_audit().await;
}
