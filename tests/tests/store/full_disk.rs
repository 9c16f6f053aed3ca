//! The disk is full: changes are refused with a reason, everything else goes on, and so do changes once there
//! is room.

use signet_proto::v1::ApplyPolicyRequest;
use signet_tests::apps::RequestApp;
use signet_tests::client::{Finished, curl_get};
use signet_tests::disk::SmallDisk;
use signet_tests::load::{is_sound, operator};
use signet_tests::mesh::{Mesh, Pair, Store, allow, id, rows};
use signet_tests::on_both_engines;
use signet_tests::postgres::Database;
use signet_tests::report::measured;
use signet_tests::{PATIENCE, eventually};

on_both_engines!(a_full_disk_stops_changes_and_nothing_else);

async fn a_full_disk_stops_changes_and_nothing_else(store: Store) {
    let (disk, mut mesh) = on_a_small_disk(store).await;
    let app = RequestApp::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;

    disk.fill();
    let mut stored = write_until_refused(&mesh).await;
    let (registered, refused) = register_until_refused(&mesh).await;
    assert_eq!(refused.code(), 1, "{}", refused.all());
    let said = refused.stderr.to_lowercase();
    assert!(said.contains("space") || said.contains("full"), "an operator learns what to do: {said}");

    for read in
        [&["status"][..], &["workload", "list"], &["policy", "list"], &["audit", "list", "--limit", "10"]]
    {
        let _ = mesh.signet(read).await.succeeded();
    }
    passes(&pair).await;
    assert!(mesh.control.is_running());

    disk.free();
    if store == Store::Postgres && !mesh.database().is_running() {
        measured("PostgreSQL itself", "ended, and was started again");
        mesh.database().start_again().await;
    }
    eventually("changes are taken again", PATIENCE, async || {
        let created = mesh.create_workload(&id("/room-again")).run().await;
        if created.code() == 0 { Ok(()) } else { Err(created.all()) }
    })
    .await;
    stored.push("web".to_owned());
    let policies = rows(mesh.json(&["policy", "list"]).await);
    let kept = |name: &String| policies.iter().any(|policy| policy["name"] == name.as_str());
    assert!(stored.iter().all(kept), "what was answered before is there");
    let workloads = rows(mesh.json(&["workload", "list"]).await);
    let kept = |id: &String| workloads.iter().any(|workload| workload["spiffe_id"] == id.as_str());
    assert!(registered.iter().all(kept), "what was answered in between, too");
    passes(&pair).await;
    is_sound(&mesh).await;
    measured(&format!("{store:?}, changes taken before the full disk refused one"), stored.len());
}

/// Control, or the PostgreSQL that it uses, on a disk that is soon full.
async fn on_a_small_disk(store: Store) -> (SmallDisk, Mesh) {
    match store {
        Store::Sqlite => {
            let disk = SmallDisk::of_megabytes(24);
            let mesh = Mesh::on(store).data_in(&disk.path().join("data")).start().await;
            (disk, mesh)
        }
        Store::Postgres => {
            let disk = SmallDisk::of_megabytes(128);
            let mesh = Mesh::on(store).with_database(Database::start_on(disk.path()).await).start().await;
            (disk, mesh)
        }
    }
}

/// Policy documents of a few kilobytes, until one is refused: a store may use what it has allotted already.
/// Their names.
async fn write_until_refused(mesh: &Mesh) -> Vec<String> {
    const MORE_THAN_FIT: usize = 10_000;
    let callers: Vec<String> = (0..100).map(|number| id(&format!("/caller-{number}"))).collect();
    let callers: Vec<&str> = callers.iter().map(String::as_str).collect();
    let mut admin = operator(&mesh.admin_socket()).await.expect("control answers");
    let mut stored = Vec::new();
    for number in 0..MORE_THAN_FIT {
        let name = format!("filler-{number}");
        let yaml = allow(&name, &id("/nobody-runs-this"), &callers);
        let change = ApplyPolicyRequest { yaml, file: "filler.yaml".to_owned() };
        if admin.apply_policy(change).await.is_err() {
            return stored;
        }
        stored.push(name);
    }
    panic!("{MORE_THAN_FIT} documents fit on a full disk");
}

/// A small change may still fit where a large one did not: those that did, and how the first that did not was
/// refused.
async fn register_until_refused(mesh: &Mesh) -> (Vec<String>, Finished) {
    const MORE_THAN_FIT: usize = 1000;
    let mut registered = Vec::new();
    for number in 0..MORE_THAN_FIT {
        let workload = id(&format!("/small-{number}"));
        let created = mesh.create_workload(&workload).run().await;
        if created.code() != 0 {
            return (registered, created);
        }
        registered.push(workload);
    }
    panic!("{MORE_THAN_FIT} workloads fit on a full disk");
}

async fn passes(pair: &Pair) {
    let answer = curl_get(pair.entry(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
}
