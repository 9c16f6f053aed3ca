//! A mesh whose root is in Vault: what it signs, when it does not, and when it should not be believed. Vault is a process
//! that speaks its documented API, and is not Vault's own program, which no package registry has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use signet_tests::apps::Nginx;
use signet_tests::binaries::binaries;
use signet_tests::client::{Client, Finished, file};
use signet_tests::mesh::{Mesh, Pair, Store, TRUST_DOMAIN, allow, id};
use signet_tests::report::{hey_without_failures, measured};
use signet_tests::vault::Vault;
use signet_tests::{PATIENCE, eventually};

/// The shortest there is: replaced after half a minute.
const SHORT: [&str; 4] = ["--intermediate-ttl", "60s", "--root-ttl", "4m"];
/// From the begin of an intermediate to the next one, on a busy machine.
const REPLACED: Duration = Duration::from_secs(75);

#[tokio::test(flavor = "multi_thread")]
async fn intermediates_below_vault_replace_themselves_under_load() {
    let vault = Vault::start().await;
    let mesh = Mesh::on(Store::Sqlite).config(&vault.settings_with_token()).options(&SHORT).start().await;
    let nginx = Nginx::start().await;
    let pair = pair(&mesh, &nginx).await;
    let first = mesh.json(&["ca", "status"]).await;
    assert_eq!(first["root"]["subject"], "Root 1", "the mesh began with Vault's root: {first}");
    let next = next_of(&mesh, "intermediate").await;
    assert!(
        next.contains("replaced by https://") && next.contains("/v1/pki/root/sign-intermediate"),
        "{next}"
    );

    let load = load(pair.entry(), "45s").start();
    let mut current = first.clone();
    for _ in 0..2 {
        current = replaced(&mesh, &current).await;
    }
    assert_eq!(first["root"]["sha256"], current["root"]["sha256"]);
    for proxy in [&pair.caller, &pair.server] {
        proxy.rotates(0, 1, PATIENCE).await;
    }
    measured("requests through two replacements", hey_without_failures(load.finish().await));
    answers(pair.entry()).await;
    assert_eq!(vault.signed(200), 3, "{}", vault.log());
    let metrics = mesh.metrics().await;
    assert_eq!(metrics.count("signet_control_upstream_requests_total", &[("result", "signed")]), 3);
    assert_eq!(metrics.count("signet_control_authority_awaited", &[]), 0);
    assert!(!mesh.control.logs().text().contains(&vault.token()), "the token is in the log");
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_vault_and_an_ended_token_are_told_of_and_waited_out() {
    let vault = Vault::start().await;
    let mut mesh = Mesh::on(Store::Sqlite).config(&vault.settings_with_token()).options(&SHORT).start().await;
    let nginx = Nginx::start().await;
    let pair = pair(&mesh, &nginx).await;
    let first = mesh.json(&["ca", "status"]).await;

    let _ = vault.write("sys/seal", &json!({})).await;
    let refused = mesh.signet(&["ca", "rotate-intermediate"]).await;
    told(&refused, "answered 503 Service Unavailable `Vault is sealed`: it is sealed or has no leader");
    // It is needed for the next intermediate only.
    mesh.kill_control().await;
    mesh.restart_control().await;
    eventually("it is told", REPLACED, async || {
        let (ready, status) = (mesh.readiness().await, mesh.signet(&["status"]).await.all());
        let says = "the upstream has given no intermediate for";
        let is_told = ready.0 == 200 && ready.1.contains(says) && status.contains("the one of now lasts for");
        if is_told && !ready.1.contains("https://") { Ok(()) } else { Err(format!("{ready:?} {status}")) }
    })
    .await;
    let next = next_of(&mesh, "intermediate").await;
    assert!(
        next.contains("signs until 2") && next.contains("`Vault is sealed`") && next.contains("asked again"),
        "{next}"
    );
    eventually("it is measured", PATIENCE, async || {
        match mesh.metrics().await.count("signet_control_authority_awaited", &[]) {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    assert_eq!(first["intermediate"]["sha256"], mesh.json(&["ca", "status"]).await["intermediate"]["sha256"]);
    answers(pair.entry()).await;
    let _ = vault.write("sys/unseal", &json!({})).await;
    let second = replaced(&mesh, &first).await;

    vault.revoke_token().await;
    let refused = mesh.signet(&["ca", "rotate-intermediate"]).await;
    told(
        &refused,
        "answered 403 Forbidden `2 errors occurred: * permission denied * invalid token`: the token has ended, or its policy",
    );
    assert!(!refused.all().contains(&vault.token()), "{}", refused.all());
    eventually("it is asked in vain", REPLACED, async || {
        let next = next_of(&mesh, "intermediate").await;
        if next.contains("403 Forbidden") { Ok(()) } else { Err(next) }
    })
    .await;
    vault.renew_token("1h").await;
    let _ = replaced(&mesh, &second).await;
    answers(pair.entry()).await;
    assert_eq!(mesh.readiness().await, (200, "ready\n".to_owned()));
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_what_was_asked_for_change_nothing() {
    let mut vault = Vault::start().await;
    let mesh = Mesh::on(Store::Sqlite).config(&vault.settings_with_token()).start().await;
    let nginx = Nginx::start().await;
    let pair = pair(&mesh, &nginx).await;
    let first = mesh.json(&["ca", "status"]).await;
    for (how, says) in [
        ("key", "the intermediate is for another key"),
        ("path", "the root has a path length of 0"),
        ("swapped", "chain: the intermediate"),
        ("elsewhere", "redirect, which is not followed"),
        ("endless", "or broke off"),
        ("hangs", "no complete answer in time"),
    ] {
        vault.is_hostile(how);
        told(&mesh.signet(&["ca", "rotate-intermediate"]).await, says);
        let now = mesh.json(&["ca", "status"]).await;
        assert_eq!(
            first["authorities"].as_array().map(Vec::len),
            now["authorities"].as_array().map(Vec::len),
            "{how}"
        );
        assert_eq!(first["intermediate"]["sha256"], now["intermediate"]["sha256"], "{how}");
    }
    let taken = eventually("the endless answer is cut", PATIENCE, async || {
        let log = vault.log();
        let line = log
            .lines()
            .find_map(|line| line.strip_prefix("endless: ")?.split(' ').next()?.parse::<u64>().ok());
        line.ok_or_else(|| log.clone())
    })
    .await;
    measured("bytes of an endless answer that were taken", taken);
    assert!(taken < 16 * 1024 * 1024, "{taken}");
    answers(pair.entry()).await;

    vault.is_hostile("");
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let last = mesh.json(&["ca", "status"]).await;
    assert_ne!(first["intermediate"]["sha256"], last["intermediate"]["sha256"]);
    vault.stop().await;
    told(&mesh.signet(&["ca", "rotate-intermediate"]).await, "cannot connect to 127.0.0.1");
    answers(pair.entry()).await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_of_vault_is_announced_and_then_signs_by_itself() {
    let vault = Vault::start().await;
    let options = ["--default-ttl", "8s", "--root-ttl", "4m", "--intermediate-ttl", "60s"];
    let mesh = Mesh::on(Store::Sqlite).config(&vault.settings_with_token()).options(&options).start().await;
    let nginx = Nginx::start().await;
    let pair = pair(&mesh, &nginx).await;
    let first = mesh.json(&["ca", "status"]).await;
    told(&mesh.signet(&["ca", "prepare", "root"]).await, "it signs with the root of now");

    let load = load(pair.entry(), "20s").start();
    vault.rotate_root("second").await;
    told(&mesh.signet(&["ca", "rotate-intermediate"]).await, "it signs with another root now");
    eventually("the other root signs", PATIENCE, async || {
        let now = mesh.json(&["ca", "status"]).await;
        if now["root"]["subject"] == "second" { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    eventually("nobody needs the first one", REPLACED, async || {
        let now = mesh.json(&["ca", "status"]).await;
        let root = now["authorities"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["sha256"] == first["root"]["sha256"]);
        if root.is_some_and(|root| root["phase"] == "removed") { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    measured("requests through another root", hey_without_failures(load.finish().await));
    answers(pair.entry()).await;

    // Somebody may have the key of an intermediate.
    let before = mesh.json(&["ca", "status"]).await;
    let stolen = ["ca", "compromised", "intermediate", "--within", "10s", "--reason", "a test"];
    let _ = mesh.signet(&stolen).await.succeeded();
    let after = mesh.json(&["ca", "status"]).await;
    assert_ne!(before["intermediate"]["sha256"], after["intermediate"]["sha256"]);
    eventually("nobody is believed by it", PATIENCE, async || {
        let now = mesh.json(&["ca", "status"]).await;
        let is_removed =
            |one: &Value| one["sha256"] == before["intermediate"]["sha256"] && one["phase"] == "removed";
        if now["authorities"].as_array().unwrap().iter().any(is_removed) {
            Ok(())
        } else {
            Err(now.to_string())
        }
    })
    .await;
    answers(pair.entry()).await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mesh_with_a_root_of_its_own_moves_below_vault_and_logs_in_as_a_role_or_a_pod() {
    let vault = Vault::start().await;
    let mut mesh = Mesh::on(Store::Postgres).replicas(2).options(&["--default-ttl", "8s"]).start().await;
    let nginx = Nginx::start().await;
    let pair = pair(&mesh, &nginx).await;
    let first = mesh.json(&["ca", "status"]).await;
    let role =
        json!({ "role_id": "signet", "secret_id": "of-the-role", "path": "pki/root/sign-intermediate" });
    let _ = vault.write("auth/approle/role/signet", &role).await;
    let pod = json!({ "jwt": "of.the.pod", "path": "pki/issuer/first/sign-intermediate" });
    let _ = vault.write("auth/kubernetes/role/mesh", &pod).await;
    let secret = file(mesh.directory(), "secret", "of-the-role\n").display().to_string();
    let settings =
        vault.settings(&format!("approle = {{ role-id = \"signet\", secret-id-file = \"{secret}\" }}"));
    let with =
        |mesh: &Mesh, settings: &str| file(mesh.directory(), "upstream.toml", settings).display().to_string();
    let seal = mesh
        .data()
        .parent()
        .and_then(|replica| replica.parent())
        .unwrap()
        .join("seal.key")
        .display()
        .to_string();
    let advertised: Vec<String> = mesh.replicas.iter().map(|replica| replica.grpc.to_string()).collect();
    let restart = async |mesh: &mut Mesh, config: &str| {
        let options = [
            "--default-ttl",
            "8s",
            "--root-ttl",
            "4m",
            "--intermediate-ttl",
            "60s",
            "--config",
            config,
            "--seal-key-file",
            &seal,
            "--advertise",
            &advertised.join(","),
        ];
        for replica in &mut mesh.replicas {
            replica.options(&options);
            replica.kill_control().await;
        }
        mesh.restart_all_at_once().await;
    };
    let config = with(&mesh, &settings);
    restart(&mut mesh, &config).await;
    eventually("Vault's root signs", PATIENCE, async || {
        let now = mesh.json(&["ca", "status"]).await;
        if now["root"]["subject"] == "Root 1" { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
    answers(pair.entry()).await;
    assert_eq!(vault.signed(200), 1, "one replica asks: {}", vault.log());
    eventually("the mesh's own root is over", REPLACED, async || {
        let now = mesh.json(&["ca", "status"]).await;
        let root = now["authorities"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["sha256"] == first["root"]["sha256"]);
        if root.is_some_and(|root| root["phase"] == "removed") { Ok(()) } else { Err(now.to_string()) }
    })
    .await;

    let token = file(mesh.directory(), "pod", "of.the.pod").display().to_string();
    let settings = vault.settings(&format!(
        "issuer = \"first\"\nkubernetes = {{ role = \"mesh\", token-file = \"{token}\" }}"
    ));
    let config = with(&mesh, &settings);
    restart(&mut mesh, &config).await;
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let _ = file(mesh.directory(), "pod", "of.another");
    told(&mesh.signet(&["ca", "rotate-intermediate"]).await, "/v1/auth/kubernetes/login: answered 403");
    answers(pair.entry()).await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_mesh_waits_for_the_root_that_it_is_to_have() {
    let mut vault = Vault::start().await;
    let directory = tempfile::Builder::new().prefix("signet-new-").tempdir().unwrap();
    let config = file(directory.path(), "control.toml", vault.settings_with_token()).display().to_string();
    let data = directory.path().join("data").display().to_string();
    let start = || {
        let run = [
            "run",
            "--trust-domain",
            TRUST_DOMAIN,
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ];
        Client::at(&binaries().control).args(run).args(["--data-dir", &data, "--config", &config])
    };
    let _ = vault.write("sys/seal", &json!({})).await;
    let sealed = start().run().await;
    told(&sealed, "`Vault is sealed`");
    told(&sealed, "A new mesh begins with the root of its upstream, so control starts when that has signed");
    let _ = vault.write("sys/unseal", &json!({})).await;
    vault.is_hostile("key");
    told(&start().run().await, "the intermediate is for another key");
    vault.is_hostile("");
    let bundle = vault.path("ca.pem");
    std::fs::rename(&bundle, vault.path("away.pem")).unwrap();
    told(&start().run().await, "ca.pem: No such file");
    std::fs::rename(vault.path("away.pem"), bundle).unwrap();
    vault.stop().await;
    told(&start().run().await, "cannot connect to 127.0.0.1");
}

async fn pair(mesh: &Mesh, nginx: &Nginx) -> Pair {
    let (caller, server) = (id("/frontend"), id("/web"));
    let pair = mesh.pair(&caller, &server, "http://", nginx.address).await;
    mesh.policy(&allow("web", &server, &[&caller])).await;
    nginx.serve("page", b"hello");
    pair
}

async fn answers(entry: SocketAddr) {
    let url = format!("http://{entry}/files/page");
    let _ = Client::new("curl").args(["--fail", "--silent", "--noproxy", "*", &url]).run().await.succeeded();
}

/// Twenty requests a second, each on a connection of its own every now and then.
fn load(entry: SocketAddr, lasts: &str) -> Client {
    let url = format!("http://{entry}/files/page");
    Client::new("hey").args(["-z", lasts, "-c", "4", "-q", "20", "-disable-keepalive", &url]).limit(REPLACED)
}

fn told(finished: &Finished, says: &str) {
    assert!(finished.code() != 0 && finished.all().contains(says), "{says}: {}", finished.all());
}

/// Waits until another intermediate signs.
async fn replaced(mesh: &Mesh, before: &Value) -> Value {
    eventually("another intermediate signs", REPLACED, async || {
        let now = mesh.json(&["ca", "status"]).await;
        if now["intermediate"]["sha256"] == before["intermediate"]["sha256"] {
            Err(now.to_string())
        } else {
            Ok(now)
        }
    })
    .await
}

/// What comes next for the one that signs.
async fn next_of(mesh: &Mesh, kind: &str) -> String {
    let status = mesh.json(&["ca", "status"]).await;
    let signs = |one: &&Value| one["kind"] == kind && one["phase"] == "active";
    status["authorities"].as_array().unwrap().iter().find(signs).unwrap()["next"].as_str().unwrap().to_owned()
}
