//! A backup is taken while control works, control dies, and the backup becomes the store, on the other engine: proxies
//! carry on. That it is older than what was lost is noticed, and has to be accepted.

use signet_tests::apps::Nginx;
use signet_tests::client::{curl_get, noise};
use signet_tests::load::{Load, is_sound};
use signet_tests::mesh::{Mesh, Store, allow, id, rows};
use signet_tests::on_both_engines;
use signet_tests::{PATIENCE, eventually};

on_both_engines!(a_backup_becomes_the_store_of_the_other_engine);

/// A renewal is due at half of it, over the time that control is away.
const LIFE: &str = "40s";

async fn a_backup_becomes_the_store_of_the_other_engine(store: Store) {
    let other = if store == Store::Sqlite { Store::Postgres } else { Store::Sqlite };
    let options = ["--audit-checkpoint-every", "1s"];
    let (mut mesh, nginx) = (Mesh::on(store).options(&options).start().await, Nginx::start().await);
    let (worker, frontend, web, thief) = (id("/worker"), id("/frontend"), id("/web"), id("/thief"));
    for workload in [&worker, &thief] {
        mesh.workload(workload).await;
    }
    for workload in [&frontend, &web] {
        mesh.short_lived_workload(workload, LIFE).await;
    }
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    nginx.serve("page", noise(100));
    let pair = mesh.proxies(&frontend, &web, "http://", nginx.address).await;

    let load = Load::start(&mesh.replicas, &worker);
    load.answered(20).await;
    let backup = mesh.directory().join("signet.backup").display().to_string();
    let _ = mesh.upkeep(&["backup", "--out", &backup]).run().await.succeeded();
    load.answered(20).await;
    load.finish().await;
    let _ = mesh.signet(&["revoke", &thief, "--reason", "stolen"]).await.succeeded();
    let newest = mesh.events().await.iter().filter_map(|event| event["sequence"].as_u64()).max().unwrap();
    eventually("what was done is signed", PATIENCE, async || {
        match mesh.metrics().await.count("signet_control_audit_checkpoint_sequence", &[]) {
            signed if signed >= newest => Ok(()),
            signed => Err(format!("{signed} of {newest}")),
        }
    })
    .await;

    mesh.kill_control().await;
    mesh.move_to(other).await;
    let restored = mesh.upkeep(&["restore", "--from", &backup]).run().await.succeeded();
    assert!(restored.stdout.contains("has to be revoked again"), "{}", restored.stdout);
    assert!(restored.stdout.contains("--accept-older-store"), "{}", restored.stdout);
    let refused = mesh.attempt().run().await;
    assert_ne!(refused.code(), 0, "a store that forgot a revocation");
    assert!(refused.all().contains("--accept-older-store"), "{}", refused.all());

    let rotations = [pair.caller.rotations().await, pair.server.rotations().await];
    mesh.restart_control_with("--accept-older-store").await;
    let events = mesh.events().await;
    assert!(events.iter().any(|event| event["action"] == "store.older_accepted"), "somebody did accept it");
    let workloads = rows(mesh.json(&["workload", "list"]).await);
    let standing = workloads.iter().find(|workload| workload["spiffe_id"] == thief.as_str());
    assert_eq!(standing.unwrap()["status"], "active", "it is shown as it was: to be revoked again");
    // Its proxies may not have come back yet.
    let again = mesh.signet(&["revoke", &thief, "--reason", "stolen, once more"]).await;
    assert!([0, 6].contains(&again.code()), "{}", again.all());
    for (proxy, before) in [&pair.caller, &pair.server].into_iter().zip(rotations) {
        proxy.counts("signet_control_connected", &[], 1).await;
        proxy.rotates(before, 1, PATIENCE).await;
    }
    let answer = curl_get(pair.entry(), "/files/page").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);

    mesh.kill_control().await;
    mesh.restart_control().await;
    is_sound(&mesh).await;
}
