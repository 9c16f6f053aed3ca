//! Each replica signs with an intermediate of its own: what one that leaks has signed ends, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use signet_proto::spiffe::sha256;
use signet_tests::apps::{Nginx, RequestApp};
use signet_tests::attest::{Joined, Joiner};
use signet_tests::client::{Client, curl_get, noise};
use signet_tests::clock::Clock;
use signet_tests::control::Control;
use signet_tests::load::is_sound;
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::proxy::ProxyBuilder;
use signet_tests::report::{hey_without_failures, measured};
use signet_tests::{PATIENCE, eventually};
use tokio::time::Instant;

/// Whoever leads takes a replica for gone that has said nothing for 90 s; and a machine is busy.
const FORGOTTEN: Duration = Duration::from_secs(180);
const BEHIND: Duration = Duration::from_secs(120);
/// What a replica signed has ended after this.
const LIFE: &str = "10s";

#[tokio::test(flavor = "multi_thread")]
async fn an_intermediate_that_leaks_ends_what_its_replica_signed_and_nothing_else() {
    let mesh = Mesh::on(Store::Postgres).replicas(2).start().await;
    let (here, there) = (&mesh.replicas[0], &mesh.replicas[1]);
    let app = RequestApp::start().await;
    let (frontend, web, worker) = (id("/frontend"), id("/web"), id("/worker"));
    for workload in [&frontend, &web, &worker] {
        mesh.workload(workload).await;
    }
    here.policy(&allow("web", &web, &[&frontend])).await;
    let server = ProxyBuilder::joining(&here.ticket_to(&web, here).await);
    let server = server.inbound("http://", app.address).start().await;
    let caller = ProxyBuilder::joining(&here.ticket_to(&frontend, there).await);
    let caller = caller.outbound("http://", &web).start().await;
    let status = async || curl_get(caller.outbound(), "/").await.stdout[..12].to_owned();
    assert_eq!(status().await, "HTTP/1.1 200", "SVIDs of two issuers believe each other");
    let (mut leaked, mut other) = (joined(here, &worker).await, joined(there, &worker).await);
    assert_ne!(leaked.svid.chain[1], other.svid.chain[1], "each replica signs with its own");
    issued_by(here, &leaked).await;
    issued_by(there, &other).await;
    let (replica, before) = (name(here).await, (server.rotations().await, caller.rotations().await));

    let both = there.signet(&["ca", "compromised", "intermediate", "--reason", "a test"]).await;
    assert!(both.code() != 0 && both.all().contains(&replica), "it names them: {}", both.all());
    let told = ["ca", "compromised", "intermediate", "--replica", &replica[..8], "--within", "5s"];
    let told = there.command(&told).args(["--reason", "a test"]).run().await;
    // Who has no stream cannot say that it heard of it.
    assert!([0, 6].contains(&told.code()), "{}", told.all());
    assert!(told.stdout.contains("nobody is believed by it from"), "{}", told.all());
    server.rotates(before.0, 1, PATIENCE).await;
    eventually("trust in it has ended", PATIENCE, async || {
        let words = standing(there, &replica).await;
        if words == ["removed", "active"] { Ok(()) } else { Err(format!("{words:?}")) }
    })
    .await;

    let refused = leaked.renew(there.grpc).await.expect_err("nobody believes what it signed");
    measured("who did not renew in time is told", refused.message());
    other.renew(here.grpc).await.expect("it concerns the other replica only");
    assert_eq!(status().await, "HTTP/1.1 200");
    assert_eq!(caller.rotations().await, before.1, "nobody else was told to renew");
    let again = joined(here, &worker).await;
    assert_ne!(again.svid.chain[1], leaked.svid.chain[1], "it signs with another one");

    // All of them, as nobody named one: a replica at which nobody asked takes its own over.
    let before = active(&mesh).await;
    let _ = there.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let after = active(&mesh).await;
    assert_eq!((before.len(), after.len(), before.intersection(&after).count()), (2, 2, 0));
    for replica in &mesh.replicas {
        issued_by(replica, &joined(replica, &worker).await).await;
    }
    is_sound(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_intermediate_of_a_replica_that_is_gone_retires_and_one_that_comes_back_makes_another() {
    let options = ["--default-ttl", LIFE, "--issuance-quota", "0"];
    let mut mesh = Mesh::on(Store::Postgres).replicas(3).options(&options).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    // Whose clock is behind by more than it takes to be gone is there all the same.
    let (behind, clock) = (name(&mesh.replicas[2]).await, Clock::default());
    clock.set_behind(BEHIND);
    mesh.replicas[2].kill_control().await;
    mesh.replicas[2].runs_by(&clock);
    mesh.replicas[2].restart_control().await;
    let gone = name(&mesh.replicas[1]).await;
    let mut orphan = joined(&mesh.replicas[1], &worker).await;
    mesh.replicas[1].kill_control().await;
    let killed = Instant::now();
    orphan.renew(mesh.replicas[0].grpc).await.expect("what it signed is believed");
    issued_by(&mesh.replicas[0], &orphan).await;

    let phases = async |phase: &str| {
        eventually("the intermediate of the dead replica went on", FORGOTTEN, async || {
            let words = standing(&mesh.replicas[0], &gone).await;
            if words == [phase] { Ok(()) } else { Err(format!("{words:?}")) }
        })
        .await;
    };
    // It retires first; by then what it signed has ended.
    phases("removed").await;
    measured("from the kill until nothing is left of its intermediate, s", killed.elapsed().as_secs());
    let stopped: Vec<_> = mesh.replicas[0].events().await;
    let stopped = stopped.iter().filter(|event| event["action"] == "authority.stopped").count();
    assert_eq!(stopped, 1, "once, and no other");
    assert_eq!(
        standing(&mesh.replicas[0], &behind).await,
        ["active"],
        "a clock is no reason to make another"
    );
    issued_by(&mesh.replicas[0], &joined(&mesh.replicas[0], &worker).await).await;

    mesh.replicas[1].restart_control().await;
    let back = joined(&mesh.replicas[1], &worker).await;
    issued_by(&mesh.replicas[1], &back).await;
    let mut words = standing(&mesh.replicas[0], &gone).await;
    words.sort();
    assert_eq!(words, ["active", "removed"], "under its name, with another key");
    is_sound(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_sign_below_the_next_root_and_no_request_fails() {
    let options = ["--default-ttl", LIFE, "--issuance-quota", "0"];
    let mesh = Mesh::on(Store::Postgres).replicas(2).options(&options).start().await;
    let (here, there) = (&mesh.replicas[0], &mesh.replicas[1]);
    let nginx = Nginx::start().await;
    let (frontend, web, worker) = (id("/frontend"), id("/web"), id("/worker"));
    for workload in [&frontend, &web, &worker] {
        mesh.workload(workload).await;
    }
    here.policy(&allow("web", &web, &[&frontend])).await;
    let server = ProxyBuilder::joining(&here.ticket_to(&web, here).await);
    let _server = server.inbound("http://", nginx.address).start().await;
    let caller = ProxyBuilder::joining(&here.ticket_to(&frontend, there).await);
    let caller = caller.outbound("http://", &web).start().await;
    nginx.serve("page", noise(512));
    let url = format!("http://{}/files/page", caller.outbound());
    let load = Client::new("hey").args(["-z", "25s", "-c", "2", "-q", "10", "-disable-keepalive"]);
    let load = load.arg(&url).limit(PATIENCE * 3).start();
    let mut members = [joined(here, &worker).await, joined(there, &worker).await];

    let prepared = here.json(&["ca", "prepare", "root"]).await;
    let _ = there.signet(&["ca", "activate", "root"]).await.succeeded();

    let root = prepared["id"].as_str().expect("an id");
    let below = signing(here).await;
    assert_eq!(below.len(), 2, "{below:?}");
    assert!(below.iter().all(|one| one["issuer"] == root), "in one commit: {below:?}");
    for (replica, member) in mesh.replicas.iter().zip(&mut members) {
        eventually("it has heard of it", PATIENCE, async || {
            let status = replica.json(&["status"]).await;
            let subject = status["intermediate"]["subject"].clone();
            if below.iter().any(|one| one["subject"] == subject) { Ok(()) } else { Err(subject.to_string()) }
        })
        .await;
        member.renew(replica.grpc).await.expect("it goes on");
        issued_by(replica, member).await;
        assert_eq!(member.svid.chain.len(), 3, "with the next root as the one before certified it");
    }
    let _ = here.signet(&["ca", "rotate-intermediate", "--replica", &name(there).await]).await.succeeded();
    assert!(!load.is_finished(), "all that happened during the load");
    measured("requests while the root was replaced, 0 failed", hey_without_failures(load.finish().await));
    is_sound(&mesh).await;
}

async fn joined(replica: &Control, workload: &str) -> Joined {
    let ticket = replica.ticket(workload).await;
    let joiner = Joiner::connect(replica.grpc, &ticket).await.expect("it listens");
    joiner.become_instance().await.expect("it lets in")
}

/// How the mesh names it.
async fn name(replica: &Control) -> String {
    replica.json(&["status"]).await["replica"].as_str().expect("a name").to_owned()
}

/// Checks that this replica signed it, by what it says of itself.
async fn issued_by(replica: &Control, member: &Joined) {
    let issuer: String = sha256(&member.svid.chain[1]).iter().map(|byte| format!("{byte:02x}")).collect();
    let status = replica.json(&["status"]).await;
    assert_eq!(status["intermediate"]["sha256"], issuer.as_str());
    let own = signing(replica).await.into_iter().find(|one| one["sha256"] == issuer.as_str());
    assert_eq!(own.expect("it signs")["replica"], status["replica"]);
}

async fn authorities(replica: &Control) -> Vec<Value> {
    let status = replica.json(&["ca", "status"]).await;
    status["authorities"].as_array().expect("a list").clone()
}

/// The intermediates that sign.
async fn signing(replica: &Control) -> Vec<Value> {
    let mut all = authorities(replica).await;
    all.retain(|one| one["kind"] == "intermediate" && one["phase"] == "active");
    all
}

/// Where the intermediates of a replica are, the oldest first.
async fn standing(replica: &Control, of: &str) -> Vec<String> {
    let all = authorities(replica).await.into_iter().filter(|one| one["replica"] == of);
    all.map(|one| one["phase"].as_str().expect("a word").to_owned()).collect()
}

async fn active(mesh: &Mesh) -> BTreeSet<String> {
    let all = signing(mesh).await.into_iter();
    all.map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}
