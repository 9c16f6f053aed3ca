//! What control does by itself is done once, by whichever replica comes first.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use signet_proto::clock;
use signet_tests::attest::Joiner;
use signet_tests::eventually;
use signet_tests::faults::Faults;
use signet_tests::load::{Load, is_sound};
use signet_tests::mesh::{Mesh, Store, id};
use signet_tests::report::measured;

/// The shortest that control takes; half of it is when an intermediate is replaced.
const INTERMEDIATE_LIFE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_elect_at_the_same_moment_rotate_once_each() {
    let options = ["--intermediate-ttl", "60s", "--default-ttl", "20s", "--issuance-quota", "0"];
    let mut mesh = Mesh::on(Store::Postgres).replicas(3).at_once().options(&options).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let mut faults = Faults::begin();

    loop {
        // All of them are gone when their intermediates are due, and find them due when they come back together.
        let before = rotations(&mesh).await.len();
        let due = rotation_due(&mesh).await;
        for replica in &mut mesh.replicas {
            replica.kill_control().await;
        }
        eventually("the intermediates are due", INTERMEDIATE_LIFE, async || {
            if clock::now() > due { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        mesh.restart_all_at_once().await;
        eventually("each has rotated its own", signet_tests::PATIENCE, async || {
            let after = rotations(&mesh).await.len();
            if after >= before + mesh.replicas.len() { Ok(()) } else { Err(format!("{after} rotations")) }
        })
        .await;

        // Whoever would do it again has had time for it when so much else was done.
        let load = Load::start(&mesh.replicas, &worker);
        load.answered(100).await;
        load.finish().await.is_kept_by(&mesh).await;
        let events = rotations(&mesh).await;
        assert_eq!(events.len(), before + mesh.replicas.len(), "one rotation of each: {events:?}");
        assert_eq!(signers(&mesh).await.len(), mesh.replicas.len(), "each of them signs with its own");
        if !faults.another() {
            break;
        }
    }
    measured("rotations of intermediates that all replicas found due together", rotations(&mesh).await.len());
    is_sound(&mesh).await;
}

/// What the audit says of intermediates that were replaced.
async fn rotations(mesh: &Mesh) -> Vec<Value> {
    let mut events = mesh.events().await;
    events.retain(|event| event["action"] == "authority.rotated");
    events
}

async fn rotation_due(mesh: &Mesh) -> SystemTime {
    let statement = "select max(not_after_ms) from authority where kind = 'intermediate' and active = 1";
    let ends: u64 = mesh.select(statement).await[0][0].parse().expect("milliseconds");
    SystemTime::UNIX_EPOCH + Duration::from_millis(ends) - INTERMEDIATE_LIFE / 2
}

/// The intermediates that the replicas sign with now.
async fn signers(mesh: &Mesh) -> BTreeSet<Vec<u8>> {
    let mut signers = BTreeSet::new();
    for replica in &mesh.replicas {
        let ticket = replica.ticket(&id("/worker")).await;
        let svid = Joiner::connect(replica.grpc, &ticket).await.unwrap().join().await.unwrap();
        signers.insert(svid.chain[1].clone());
    }
    signers
}
