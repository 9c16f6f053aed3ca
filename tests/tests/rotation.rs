//! Identities that rotate by themselves, and the authorities above them, under load: nobody notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use signet_tests::apps::{Nginx, Postgres};
use signet_tests::client::{Client, Running, noise, pgbench, psql, psql_script};
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::proxy::Proxy;
use signet_tests::report::{hey_without_failures, measured, pgbench_without_failures, wrk_without_failures};
use signet_tests::{PATIENCE, eventually};

/// SVIDs live this long, so they rotate every two seconds.
const LIFE: &str = "4s";
/// So many intermediates one after the other, unless the environment says otherwise.
const INTERMEDIATES: u64 = 3;
/// For an intermediate and everybody to come below it, on a busy machine.
const EACH: Duration = Duration::from_secs(4);
/// For a root and what hangs on the one before.
const ROOT: Duration = Duration::from_secs(32);
/// Long enough for control to be killed and started again before anything ends.
const LONGER_LIFE: &str = "16s";
/// For all steps of two rotations, and what hangs on the old authorities to end.
const SHORTER_LOAD: Duration = Duration::from_secs(55);

#[tokio::test(flavor = "multi_thread")]
async fn one_intermediate_after_the_other_and_a_root_lose_nothing() {
    // Control's own identity rotates as fast.
    let mesh = Mesh::start_with(&["--default-ttl", LIFE]).await;
    let rotations = intermediates();
    let lasts = ROOT + EACH * u32::try_from(rotations).expect("a few");
    let load = UnderLoad::begin(&mesh, LIFE, lasts).await;
    let previous = mesh.json(&["ca", "status"]).await;
    let mut current = previous.clone();
    for _ in 0..rotations {
        let last = current["intermediate"]["serial"].clone();
        let mut before = Vec::new();
        for (_, proxy) in load.ends() {
            before.push(proxy.rotations().await);
        }
        let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
        current = mesh.json(&["ca", "status"]).await;
        assert_ne!(last, current["intermediate"]["serial"], "another intermediate signs");
        for ((_, proxy), before) in load.ends().iter().zip(before) {
            proxy.rotates(before, 1, PATIENCE).await;
        }
    }
    measured("intermediates rotated under load", rotations);
    assert_eq!(previous["root"]["sha256"], current["root"]["sha256"], "below the same root");

    prepare_root(&mesh).await;
    activate_root(&mesh).await;
    let current = mesh.json(&["ca", "status"]).await;
    assert_ne!(previous["root"]["sha256"], current["root"]["sha256"], "another root signs");
    retire_root(&mesh).await;

    for ((name, proxy), before) in load.ends().iter().zip(&load.before) {
        proxy.rotates(*before, rotations, PATIENCE).await;
        let metrics = proxy.metrics().await;
        let of = |labels: &[(&str, &str)]| metrics.count("signet_svid_rotations_total", labels);
        assert_eq!(of(&[]), of(&[("result", "success")]), "no rotation of {name} failed");
    }
    let subject = current["intermediate"]["subject"].as_str().expect("a name");
    let name = subject.rsplit(['=', ' ']).next().unwrap_or_default();
    for address in [load.web.inbound(), load.ledger.inbound(), mesh.grpc] {
        let issuer = presented_issuer(address).await;
        assert!(issuer.contains(name), "{issuer} presents what {subject} signed");
    }
    load.lost_nothing().await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_is_killed_after_every_step_and_the_rotation_goes_on_where_it_was() {
    let mut mesh = Mesh::on(Store::Postgres).options(&["--default-ttl", LONGER_LIFE]).start().await;
    let load = UnderLoad::begin(&mesh, LONGER_LIFE, SHORTER_LOAD).await;
    let first = mesh.json(&["ca", "status"]).await;

    prepare_root(&mesh).await;
    killed(&mut mesh).await;
    assert_eq!(phases(&mesh).await[..2], ["root active", "root prepared"]);
    activate_root(&mesh).await;
    killed(&mut mesh).await;
    assert_eq!(phases(&mesh).await[..2], ["root retiring", "root active"]);
    let prepared = mesh.json(&["ca", "prepare", "intermediate"]).await;
    killed(&mut mesh).await;
    let digits = &prepared["id"].as_str().expect("an id")[..8];
    let _ = mesh.signet(&["ca", "activate", digits]).await.succeeded();
    killed(&mut mesh).await;
    retire_root(&mesh).await;
    killed(&mut mesh).await;

    let last = mesh.json(&["ca", "status"]).await;
    assert_ne!(first["root"]["sha256"], last["root"]["sha256"]);
    assert!(
        prepared["id"]
            .as_str()
            .is_some_and(|id| last["intermediate"]["subject"].as_str().unwrap().contains(id))
    );
    load.lost_nothing().await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compromised_authorities_are_left_by_everybody_and_then_believed_by_nobody() {
    let mesh = Mesh::start().await;
    let app = Postgres::start().await;
    let (caller, server) = (id("/frontend"), id("/ledger"));
    let pair = mesh.pair(&caller, &server, "tcp://", app.address).await;
    mesh.policy(&allow("ledger", &server, &[&caller])).await;
    for kind in ["intermediate", "root"] {
        let before = mesh.json(&["ca", "status"]).await;
        let mut rotations = Vec::new();
        for proxy in [&pair.caller, &pair.server] {
            rotations.push(proxy.rotations().await);
        }
        let held = psql(pair.entry(), "select pg_sleep(60)").start();
        eventually("a connection is open", PATIENCE, async || {
            let open =
                pair.server.metrics().await.count("signet_connections_open", &[("direction", "inbound")]);
            if open > 0 { Ok(()) } else { Err(format!("{open}")) }
        })
        .await;
        let told = mesh
            .signet(&["ca", "compromised", kind, "--within", "8s", "--reason", "a copy was found"])
            .await
            .succeeded();
        assert!(told.stdout.contains("nobody is believed by it from"), "the time is stated: {}", told.all());
        for (proxy, before) in [&pair.caller, &pair.server].iter().zip(&rotations) {
            proxy.rotates(*before, 1, PATIENCE).await;
        }
        eventually("nobody is believed by it", PATIENCE, async || {
            let words = phases(&mesh).await;
            let gone =
                words.contains(&format!("{kind} removed")) && !words.contains(&format!("{kind} retiring"));
            if gone { Ok(()) } else { Err(format!("{words:?}")) }
        })
        .await;
        assert_ne!(held.finish().await.code(), 0, "a connection that it vouched for is cut");
        let after = mesh.json(&["ca", "status"]).await;
        assert_ne!(before[kind]["sha256"], after[kind]["sha256"]);
        let _ = psql(pair.entry(), "select 1").run().await.succeeded();
    }
    mesh.verify_audit().await;
}

/// How many intermediates: more than the gate has time for, where somebody has.
fn intermediates() -> u64 {
    let given = std::env::var("SIGNET_TEST_ROTATIONS").ok();
    given.map_or(INTERMEDIATES, |given| given.parse().expect("SIGNET_TEST_ROTATIONS is a number"))
}

/// SIGKILL, and a start.
async fn killed(mesh: &mut Mesh) {
    mesh.kill_control().await;
    mesh.restart_control().await;
}

async fn phases(mesh: &Mesh) -> Vec<String> {
    let status = mesh.json(&["ca", "status"]).await;
    let word = |one: &Value, key: &str| one[key].as_str().expect("a word").to_owned();
    let all = status["authorities"].as_array().expect("a list");
    all.iter().map(|one| format!("{} {}", word(one, "kind"), word(one, "phase"))).collect()
}

async fn prepare_root(mesh: &Mesh) {
    let early = mesh.signet(&["ca", "activate", "root"]).await;
    assert_ne!(early.code(), 0, "there is none to activate: {}", early.all());
    let _ = mesh.signet(&["ca", "prepare", "root"]).await.succeeded();
    let twice = mesh.signet(&["ca", "prepare", "root"]).await;
    assert!(twice.code() != 0 && twice.all().contains("prepared still"), "one at a time: {}", twice.all());
}

/// Waits for whoever does not know the root yet.
async fn activate_root(mesh: &Mesh) {
    let _ = mesh.signet(&["ca", "activate", "root"]).await.succeeded();
    let early = mesh.signet(&["ca", "retire", "root"]).await;
    let told = early.all();
    assert!(early.code() != 0 && told.contains("live certificates"), "SVIDs chain to the old one: {told}");
    assert!(told.contains(&id("/frontend")) || told.contains("/signet/control"), "it names them: {told}");
}

/// Once everything that the old root vouched for has ended.
async fn retire_root(mesh: &Mesh) {
    eventually("nothing live chains to the old root", SHORTER_LOAD, async || {
        let retired = mesh.signet(&["ca", "retire", "root"]).await;
        if retired.code() == 0 { Ok(()) } else { Err(retired.all()) }
    })
    .await;
}

/// Two services and who calls them, busy in every way for a while.
struct UnderLoad {
    caller: Proxy,
    web: Proxy,
    ledger: Proxy,
    /// Rotations of each when the load began.
    before: Vec<u64>,
    kept: Running,
    new: Running,
    flood: Running,
    transactions: Running,
    reconnecting: Running,
    session: Running,
    _apps: (Nginx, Postgres),
}

impl UnderLoad {
    async fn begin(mesh: &Mesh, life: &str, lasts: Duration) -> Self {
        let (nginx, postgres) = (Nginx::start().await, Postgres::start().await);
        let (caller_id, web_id, ledger_id) = (id("/frontend"), id("/web"), id("/ledger"));
        for workload in [&caller_id, &web_id, &ledger_id] {
            mesh.short_lived_workload(workload, life).await;
        }
        let policies = [allow("web", &web_id, &[&caller_id]), allow("ledger", &ledger_id, &[&caller_id])];
        mesh.policy(&policies.join("---\n")).await;
        let web = mesh.proxy(&web_id).await.inbound("http://", nginx.address).start().await;
        let ledger = mesh.proxy(&ledger_id).await.inbound("tcp://", postgres.address).start().await;
        let caller = mesh
            .proxy(&caller_id)
            .await
            .outbound("http://", &web_id)
            .outbound("tcp://", &ledger_id)
            .start()
            .await;
        let (web_entry, ledger_entry) = (caller.outbounds()[0], caller.outbounds()[1]);
        nginx.serve("page", noise(4096));
        let _ = pgbench(ledger_entry, &["-i", "-q", "-s", "1"]).run().await.succeeded();
        let mut before = Vec::new();
        for proxy in [&caller, &web, &ledger] {
            before.push(proxy.rotations().await);
        }
        let url = format!("http://{web_entry}/files/page");
        let (seconds, limit) = (lasts.as_secs().to_string(), lasts * 2);
        let hey = |options: &[&str]| {
            let hey = Client::new("hey").args(["-z", &format!("{seconds}s")]).args(options);
            hey.args([&url]).limit(limit).start()
        };
        let bench = |options: &[&str]| {
            pgbench(ledger_entry, &["-n", "-T", &seconds]).args(options).limit(limit).start()
        };
        let flood = Client::new("wrk").args([
            "-t",
            "1",
            "-c",
            "1",
            "--timeout",
            "30s",
            "-d",
            &format!("{seconds}s"),
            &url,
        ]);
        Self {
            kept: hey(&["-c", "4", "-q", "25"]),
            new: hey(&["-c", "2", "-q", "10", "-disable-keepalive"]),
            flood: flood.limit(limit).start(),
            transactions: bench(&["-c", "4", "-j", "2", "-R", "200"]),
            reconnecting: bench(&["-S", "-C", "-c", "1", "-R", "10"]),
            session: psql_script(ledger_entry, &session_script(lasts)).limit(limit).start(),
            caller,
            web,
            ledger,
            before,
            _apps: (nginx, postgres),
        }
    }

    fn ends(&self) -> [(&str, &Proxy); 3] {
        [("caller", &self.caller), ("web", &self.web), ("ledger", &self.ledger)]
    }

    /// Everything that was begun before is there still, and ends without a failure; no connection was cut.
    async fn lost_nothing(self) {
        let busy = [&self.session, &self.transactions, &self.flood].map(Running::is_finished);
        assert_eq!(busy, [false; 3], "all that happened during the load");
        for ((name, proxy), before) in self.ends().iter().zip(&self.before) {
            measured(&format!("rotations of {name} under load"), proxy.rotations().await - before);
            let metrics = proxy.metrics().await;
            for reason in [
                "policy_lost",
                "revoked_identity",
                "revoked_instance",
                "revoked_certificate",
                "revoked_key",
                "lapsed",
                "trust_removed",
                "error",
            ] {
                let closed = metrics.count("signet_connections_closed_total", &[("reason", reason)]);
                assert_eq!(closed, 0, "{name} closed {closed} connections with {reason}");
            }
        }
        let Self { kept, new, flood, transactions, reconnecting, session, .. } = self;
        measured("requests on kept connections, 0 failed", hey_without_failures(kept.finish().await));
        measured("requests on new connections, 0 failed", hey_without_failures(new.finish().await));
        measured("requests of wrk, 0 failed", wrk_without_failures(flood.finish().await));
        measured(
            "pgbench transactions, 4 clients, 0 failed",
            pgbench_without_failures(transactions.finish().await),
        );
        measured("pgbench -C transactions, 0 failed", pgbench_without_failures(reconnecting.finish().await));
        let session = session.finish().await.succeeded();
        let backends: Vec<&str> = session.stdout.split_whitespace().collect();
        assert!(
            backends.len() > 2 && backends.iter().all(|id| *id == backends[0]),
            "one connection throughout"
        );
        measured("statements of one psql session that lived through all of it", backends.len());
    }
}

/// The line in which `openssl s_client` tells who signed the leaf that a listener presents.
async fn presented_issuer(listener: SocketAddr) -> String {
    let seen = Client::new("openssl").args(["s_client", "-connect", &listener.to_string()]).run().await;
    seen.stdout.lines().find(|line| line.starts_with("issuer=")).unwrap_or_default().to_owned()
}

/// One connection that asks the server for its process id, again and again, as long as the load lasts.
fn session_script(lasts: Duration) -> String {
    const STATEMENT: &str = "select pg_backend_pid();\nselect pg_sleep(0.1) \\g /dev/null\n";
    STATEMENT.repeat(lasts.as_secs() as usize * 10)
}
