//! What there is, and who talks to whom: the lists of `signet` after real traffic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

use serde_json::Value;
use signet_tests::apps::{Nginx, Redis};
use signet_tests::binaries::binaries;
use signet_tests::client::{curl_get, redis};
use signet_tests::mesh::{Mesh, allow, id, rows};
use signet_tests::process::Process;
use signet_tests::{PATIENCE, eventually};

/// The rows of a list, once they are as wanted.
async fn listed(mesh: &Mesh, arguments: &[&str], wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    eventually(&format!("signet {arguments:?}"), PATIENCE, async || {
        let found = rows(mesh.json(arguments).await);
        if wanted(&found) { Ok(found) } else { Err(Value::from(found).to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_tell_who_talked_to_whom_how_much_and_what_was_denied_by_which_rule() {
    let (mesh, nginx, store) = (Mesh::start().await, Nginx::start().await, Redis::start().await);
    let (frontend, intruder, web, cache) = (id("/frontend"), id("/batch/nightly"), id("/web"), id("/cache"));
    for workload in [&intruder, &web, &cache] {
        mesh.workload(workload).await;
    }
    mesh.short_lived_workload(&frontend, "6s").await;
    let denies = format!("  - name: no-batch\n    deny: {{ from: [\"{}\"] }}\n", id("/batch/*"));
    let web_policy = format!("{}{denies}", allow("web", &web, &[&frontend]));
    mesh.policy(&format!("{web_policy}---\n{}", allow("cache", &cache, &[&frontend]))).await;
    let served = mesh.proxy(&web).await.inbound("http://", nginx.address).start().await;
    let cached = mesh.proxy(&cache).await.inbound("tcp://", store.address).start().await;
    let caller = mesh
        .proxy(&frontend)
        .await
        .outbound("http://", &web)
        .outbound("tcp://", &cache)
        .outbound("http://", &id("/nobody"))
        .start()
        .await;
    let other = mesh.proxy(&intruder).await.outbound("http://", &web).start().await;

    for _ in 0..3 {
        assert!(curl_get(caller.outbounds()[0], "/identity").await.stdout.starts_with("HTTP/1.1 200"));
    }
    let _ = redis("redis-cli", caller.outbounds()[1]).args(["set", "answer", "42"]).run().await.succeeded();
    assert!(curl_get(other.outbounds()[0], "/identity").await.stdout.starts_with("HTTP/1.1 403"));
    assert!(curl_get(caller.outbounds()[2], "/").await.stdout.starts_with("HTTP/1.1 503"));

    let to_web = listed(&mesh, &["connections", "--destination", &web, "--source", &frontend], |found| {
        found.len() == 1 && found[0]["requests"] == 3
    })
    .await;
    assert!(to_web[0]["connections"].as_u64().unwrap() >= 1, "{to_web:?}");
    assert!(to_web[0]["bytes_out"].as_u64().unwrap() > 0, "{to_web:?}");
    assert_eq!((&to_web[0]["protocol"], &to_web[0]["denied"]), (&"http/1.1".into(), &0.into()), "{to_web:?}");
    assert_eq!(to_web[0]["port"], nginx.address.port());

    let denied =
        listed(&mesh, &["connections", "--denied", "--source", &intruder], |found| found.len() == 1).await;
    assert_eq!((&denied[0]["denied"], &denied[0]["requests"]), (&1.into(), &0.into()), "{denied:?}");
    let refusal = &denied[0]["refusals"][0];
    let by = ["kind", "policy", "rule", "reason"].map(|field| refusal[field].as_str().unwrap());
    assert_eq!(by, ["denied", "web", "no-batch", "denied_by_rule"]);

    let to_cache = listed(&mesh, &["connections", "--id", &cache], |found| found.len() == 1).await;
    assert_eq!(to_cache[0]["protocol"], "tcp");
    assert!(to_cache[0]["bytes_in"].as_u64().unwrap() > 20, "SET answer 42: {to_cache:?}");
    let unreached =
        listed(&mesh, &["connections", "--destination", &id("/nobody")], |found| found.len() == 1).await;
    assert_eq!(
        (&unreached[0]["connections"], &unreached[0]["refusals"][0]["reason"]),
        (&0.into(), &"no_endpoint".into())
    );

    // Each certificate was seen by the other end, or by control.
    listed(&mesh, &["certificates", "--id", &web], |found| {
        found.iter().any(|certificate| !certificate["last_seen"].is_null())
    })
    .await;
    let instances = listed(&mesh, &["instances", "--status", "active"], |found| found.len() == 4).await;
    assert!(instances.iter().all(|instance| instance["connected"] == true), "{instances:?}");
    assert!(instances.iter().all(|instance| instance["attested_by"] == "join_token"), "{instances:?}");

    let csv = mesh.signet(&["connections", "-o", "csv", "--sort", "source"]).await.succeeded().stdout;
    assert!(csv.starts_with("source,destination,port,protocol,"), "{csv}");
    assert_eq!(csv.lines().count(), 5, "a head, and a line for each: {csv}");
    assert!(csv.contains("1 denied: web/no-batch (denied_by_rule)"), "{csv}");
    let table = mesh.signet(&["connections", "--denied", "-o", "wide"]).await.succeeded().stdout;
    assert!(table.contains("DENIED") && table.contains("no-batch") && table.contains("REFUSED"), "{table}");
    let wrong = mesh.signet(&["certificates", "--sort", "colour"]).await;
    assert_eq!((wrong.code(), wrong.stderr.contains("last-seen")), (2, true), "{}", wrong.all());

    let mut watch = Command::new(&binaries().signet);
    watch.arg("--control").arg(format!("unix:{}", mesh.admin_socket().display()));
    watch.args(["certificates", "--id", &frontend, "--watch", "-o", "json"]);
    let watch = Process::start("signet", watch);
    let first = watch.wait_for_log("what there is", |line| line["change"] == "added").await;
    let serial = first["row"]["serial"].clone();
    let rotated = watch
        .wait_for_log("a rotation", |line| line["change"] == "added" && line["row"]["serial"] != serial)
        .await;
    assert_eq!(rotated["row"]["spiffe_id"], frontend);
    drop((served, cached));
}
