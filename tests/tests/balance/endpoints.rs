//! Three endpoints of a service under load, of which one is slowed, one killed and one revoked, while one is added.
//! The error budget of the client is nothing: no connect failure and no failed request, as GETs are sent again.

use serde_json::Value;
use signet_tests::client::Client;
use signet_tests::http;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::Proxy;
use signet_tests::report::{measured, wrk_without_failures};
use signet_tests::{PATIENCE, eventually};

use super::worker::Worker;

/// What the caller's proxy says of the endpoints of its only callee.
async fn endpoints(caller: &Proxy) -> Vec<Value> {
    let reply =
        http::request(caller.operated_at().await, "/services").await.expect("the admin listener answers");
    let services: Value = serde_json::from_str(&reply.body).expect("JSON");
    services["services"][0]["endpoints"].as_array().cloned().unwrap_or_default()
}

async fn has_endpoints(caller: &Proxy, count: usize) {
    eventually("the caller knows its endpoints", PATIENCE, async || match endpoints(caller).await {
        known if known.len() == count => Ok(()),
        known => Err(format!("{known:?}")),
    })
    .await;
}

/// Waits until the app got that many more requests.
async fn gets(worker: &Worker, more: usize) {
    let before = worker.requests();
    eventually("the app gets requests", PATIENCE, async || match worker.requests() - before {
        got if got >= more => Ok(()),
        got => Err(got.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_endpoints_under_load_while_one_is_slowed_one_killed_one_revoked_and_one_added() {
    let mesh = Mesh::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let workers = Worker::start_beside(["killed", "slow", "revoked", "added"]).await;
    let [killed, slow, revoked, added] = &workers;
    let beside =
        async |worker: &Worker| mesh.proxy(&web).await.inbound("http://", worker.address).start().await;
    let mut doomed = beside(killed).await;
    let (_second, third) = (beside(slow).await, beside(revoked).await);
    let caller = mesh.proxy(&frontend).await.outbound("http://", &web).start().await;
    let url = format!("http://{}/", caller.outbound());
    let _ = Client::new("curl").args(["--fail", "--silent", &url]).run().await.succeeded();
    has_endpoints(&caller, 3).await;

    let load = Client::new("wrk").args(["-t", "1", "-c", "16", "-d", "15s", &url]).start();
    for worker in [killed, slow, revoked] {
        gets(worker, 100).await;
    }

    slow.slow_down(50);
    let before = workers.each_ref().map(Worker::requests);
    gets(killed, 500).await;
    let got = |worker: &Worker, before: usize| worker.requests() - before;
    assert!(
        got(slow, before[1]) * 4 < got(killed, before[0]),
        "the slow one gets less: {} and {}",
        got(slow, before[1]),
        got(killed, before[0])
    );

    let _fourth = beside(added).await;
    gets(added, 100).await;

    doomed.process.kill().await;
    eventually("the killed one gets nothing", PATIENCE, async || {
        let known = endpoints(&caller).await;
        let ejected = known.iter().any(|endpoint| endpoint["state"] == "ejected");
        if ejected || known.len() == 3 { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;

    let at = third.inbound().port();
    let instance = endpoints(&caller)
        .await
        .iter()
        .find(|endpoint| {
            endpoint["address"].as_str().is_some_and(|address| address.ends_with(&format!(":{at}")))
        })
        .map(|endpoint| endpoint["instance"].as_str().unwrap_or_default().to_owned())
        .expect("it is known");
    let told = mesh.signet(&["revoke", "--instance", &instance, "--reason", "host lost"]).await;
    assert_eq!(told.code(), 6, "the killed one cannot say that it knows: {}", told.all());
    let before = revoked.requests();
    gets(added, 200).await;
    assert!(revoked.requests() - before < 50, "the revoked one gets nothing");

    let requests = wrk_without_failures(load.finish().await);
    measured("requests over endpoints that came and went, without a failure", requests);
    let metrics = caller.metrics().await;
    measured("retries for it", metrics.sum("signet_retries_total", &[]));
    measured("endpoints that could not be connected", metrics.sum("signet_upstream_failures_total", &[]));
    assert_eq!(metrics.count("signet_retry_budget_exhausted_total", &[]), 0);
}
