//! What a callee takes: so much of each caller, and so much at once.

use signet_tests::apps::RequestApp;
use signet_tests::client::{Client, curl};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::{PATIENCE, eventually};

use super::worker::Worker;

#[tokio::test(flavor = "multi_thread")]
async fn each_calling_identity_has_a_rate_of_its_own() {
    let (mesh, app) = (Mesh::start().await, Worker::start("web").await);
    let (frontend, batch, web) = (id("/frontend"), id("/batch"), id("/web"));
    for workload in [&frontend, &batch, &web] {
        mesh.workload(workload).await;
    }
    mesh.policy(&allow("web", &web, &[&frontend, &batch])).await;
    mesh.apply(&format!("kind: Service\nid: {web}\nrate: {{ requests: 1, per: 1h, burst: 5 }}\n")).await;
    let server = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    for caller in [&frontend, &batch] {
        let caller = mesh.proxy(caller).await.outbound("http://", &web).start().await;
        let url = format!("http://{}/", caller.outbound());
        let finished = Client::new("hey").args(["-n", "50", "-c", "5", &url]).run().await.succeeded();
        assert!(finished.stdout.contains("[200]\t5 responses"), "{}", finished.stdout);
        assert!(finished.stdout.contains("[429]\t45 responses"), "{}", finished.stdout);
        let refused = curl().args(["--include", &url]).run().await.succeeded().stdout;
        assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: "), "{refused}");
        assert!(refused.contains("too many requests of this identity"), "{refused}");
        let grpc = ["--http2-prior-knowledge", "--include", "--header", "content-type: application/grpc"];
        let refused = curl().args(grpc).args(["--data-binary", "", &url]).run().await.succeeded().stdout;
        assert!(refused.contains("grpc-status: 8"), "RESOURCE_EXHAUSTED: {refused}");
    }
    assert_eq!(app.requests(), 10);
    server.counts("signet_rate_limited_total", &[("source", &frontend)], 47).await;
    server.counts("signet_rate_limited_total", &[("source", &batch)], 47).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_gets_so_many_requests_at_once_and_the_rest_waits_or_is_shed() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;
    mesh.apply(&format!("kind: Service\nid: {web}\nlimits: {{ requests: 1, queue: 0 }}\n")).await;
    let url = |path: &str| format!("http://{}{path}", pair.entry());
    let include = |path: &str| curl().args(["--include", &url(path)]);
    let held = include("/hold").start();
    app.holds_one().await;
    eventually("what is too much is shed", PATIENCE, async || {
        let answer = include("/").run().await.succeeded().stdout;
        let shed = answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1");
        if shed { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(pair.server.metrics().await.count("signet_shed_total", &[("reason", "queue_full")]) > 0);

    // With room to wait, it waits.
    mesh.apply(&format!("kind: Service\nid: {web}\nlimits: {{ requests: 1, queue: 10, wait: 60s }}\n")).await;
    let waiting = eventually("one waits", PATIENCE, async || {
        let waiting = include("/waits").start();
        for _ in 0..20 {
            signet_tests::wait::breath().await;
        }
        if waiting.is_finished() { Err("it is shed".to_owned()) } else { Ok(waiting) }
    })
    .await;
    app.release();
    for answer in [held.finish().await, waiting.finish().await] {
        assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
    }
}
