//! What is changed at one replica holds at all of them, and for the proxies of all of them.

use signet_tests::apps::{RequestApp, TcpEcho};
use signet_tests::attest::redeem_at_once;
use signet_tests::client::curl_get;
use signet_tests::load::is_sound;
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::proxy::ProxyBuilder;
use signet_tests::report::measured;
use signet_tests::sockets::EchoConnection;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_replica_is_in_force_at_the_proxies_of_another_when_the_operator_hears() {
    const CHANGES: usize = 5;
    let mesh = Mesh::on(Store::Postgres).replicas(2).start().await;
    let (here, there) = (&mesh.replicas[0], &mesh.replicas[1]);
    let app = RequestApp::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    here.workload(&frontend).await;
    there.workload(&web).await;
    there.policy(&allow("web", &web, &[&frontend])).await;
    // Each knows one replica only, and finds the other's endpoints all the same.
    let server = ProxyBuilder::joining(&here.ticket_to(&web, there).await);
    let server = server.inbound("http://", app.address).start().await;
    let caller = ProxyBuilder::joining(&there.ticket_to(&frontend, here).await);
    let caller = caller.outbound("http://", &web).start().await;
    assert_eq!((here.streams().await, there.streams().await), (1, 1));
    let status = async || curl_get(caller.outbound(), "/").await.stdout[..12].to_owned();
    assert_eq!(status().await, "HTTP/1.1 200");

    for change in 0..CHANGES {
        let changed = Instant::now();
        here.policy(&allow("web", &web, &[&id("/nobody")])).await;
        measured(
            "applied at one replica, in force at the proxy of another, ms",
            changed.elapsed().as_millis(),
        );
        assert_eq!(status().await, "HTTP/1.1 403", "change {change}");
        there.policy(&allow("web", &web, &[&frontend])).await;
        assert_eq!(status().await, "HTTP/1.1 200", "change {change}");
    }
    drop(server);
    is_sound(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_at_one_replica_cuts_the_connections_that_proxies_of_another_have_open() {
    let mesh = Mesh::on(Store::Postgres).replicas(2).start().await;
    let (here, there) = (&mesh.replicas[0], &mesh.replicas[1]);
    let echo = TcpEcho::start().await;
    let (frontend, ledger) = (id("/frontend"), id("/ledger"));
    here.workload(&frontend).await;
    here.workload(&ledger).await;
    here.policy(&allow("ledger", &ledger, &[&frontend])).await;
    let server = ProxyBuilder::joining(&here.ticket_to(&ledger, there).await);
    let _server = server.inbound("tcp://", echo.address).start().await;
    let caller = ProxyBuilder::joining(&here.ticket_to(&frontend, there).await);
    let caller = caller.outbound("tcp://", &ledger).start().await;
    let mut connection = EchoConnection::open(caller.outbound()).await;

    let revoked = Instant::now();
    let _ = here.signet(&["revoke", &frontend, "--reason", "exercise"]).await.succeeded();
    let closed = timeout(signet_tests::PATIENCE, connection.closed()).await.expect("it is cut");

    measured("revoked at one replica, cut at the proxies of another, ms", (closed - revoked).as_millis());
    is_sound(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_100_redeems_of_one_ticket_at_three_replicas_one_wins() {
    let mesh = Mesh::on(Store::Postgres).replicas(3).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let ticket = mesh.ticket(&worker).await;
    let controls: Vec<_> = mesh.replicas.iter().map(|replica| replica.grpc).collect();

    let answers = redeem_at_once(&controls, &ticket, 100).await;

    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{won:?}");
    let refusals: Vec<String> =
        lost.into_iter().filter_map(Result::err).map(|status| format!("{:?}", status.code())).collect();
    let refused = |code: &String| code == "PermissionDenied" || code == "Unauthenticated";
    assert!(refusals.iter().all(refused), "refused for what they are, not for an accident: {refusals:?}");
    for replica in &mesh.replicas {
        assert_eq!(replica.identities().await.len(), 1, "every replica knows the one");
    }
    is_sound(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_that_start_at_once_on_an_empty_database_are_one_mesh() {
    let mesh = Mesh::on(Store::Postgres).replicas(3).at_once().start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;

    let mut bundles = Vec::new();
    for replica in &mesh.replicas {
        bundles.push(replica.signet(&["bundle"]).await.succeeded().stdout);
        let ticket = mesh.replicas[0].ticket(&worker).await;
        let joined = redeem_at_once(&[replica.grpc], &ticket, 1).await;
        assert!(joined[0].is_ok(), "{joined:?}");
    }

    assert!(bundles.iter().all(|bundle| *bundle == bundles[0]), "one root: {bundles:?}");
    let made = mesh.select("select kind, count(*) from authority group by kind order by kind").await;
    assert_eq!(made, [["intermediate", "3"], ["root", "1"]], "each replica signs with its own");
    is_sound(&mesh).await;
}
