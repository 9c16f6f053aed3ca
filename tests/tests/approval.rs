//! New instances that wait for people: held, approved by two, denied; and a freeze. Real proxies, real operators.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;

use serde_json::Value;
use signet_tests::client::{Client, Finished};
use signet_tests::mesh::{Mesh, id, rows, signet};
use signet_tests::proxy::ProxyBuilder;
use signet_tests::sockets::free_address;
use signet_tests::{PATIENCE, eventually};

/// Somebody with an SVID of their own and the role approver on the vault.
struct Person {
    id: String,
    control: String,
    credentials: PathBuf,
}

impl Person {
    async fn new(mesh: &Mesh, name: &str) -> Self {
        let id = id(&format!("/people/{name}"));
        mesh.workload(&id).await;
        let vault = signet_tests::mesh::id("/vault/*");
        let _ = mesh.signet(&["role", "grant", "approver", &id, "--on", &vault]).await.succeeded();
        let credentials = mesh.directory().join(name);
        let person = Self { id: id.clone(), control: mesh.grpc.to_string(), credentials };
        let ticket = mesh.ticket(&id).await;
        let directory = person.credentials.display().to_string();
        let _ = signet().args(["login", &ticket, "--dir", &directory]).run().await.succeeded();
        person
    }

    fn command(&self, arguments: &[&str]) -> Client {
        signet()
            .env("SIGNET_CONTROL", &self.control)
            .env("SIGNET_CREDENTIALS", &self.credentials)
            .args(arguments)
    }

    async fn says(&self, arguments: &[&str]) -> Finished {
        self.command(arguments).run().await
    }
}

/// The one request that waits.
async fn waiting(mesh: &Mesh) -> Value {
    eventually("a request waits", PATIENCE, async || {
        let waiting = rows(mesh.json(&["requests", "list"]).await);
        waiting
            .into_iter()
            .find(|request| request["state"] == "pending")
            .ok_or_else(|| "none waits".to_owned())
    })
    .await
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_else(|| panic!("`{name}` in {object}"))
}

async fn proxy(mesh: &Mesh, id: &str) -> ProxyBuilder {
    mesh.proxy(id).await.inbound("tcp://", free_address())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_waits_for_two_people_is_told_of_a_denial_and_waits_out_a_freeze() {
    let mesh = Mesh::start().await;
    let (ada, bob) = (Person::new(&mesh, "ada").await, Person::new(&mesh, "bob").await);
    let (vault, subtree) = (id("/vault/main"), id("/vault/*"));
    mesh.workload(&vault).await;
    let rule = ["requests", "require", "two", "--on", &subtree, "--reason", "four eyes"];
    let _ = mesh.signet(&rule).await.succeeded();

    let mut waits = proxy(&mesh, &vault).await.start_unready().await;
    let request = waiting(&mesh).await;
    let (name, csr) = (text(&request, "request"), text(&request, "csr_sha256"));
    assert_eq!((&request["needed"], text(&request, "proof")), (&2.into(), "join_token"), "{request}");
    let shown = ada.says(&["requests", "list"]).await.succeeded();
    assert!(shown.stdout.contains(name) && shown.stdout.contains("0/2"), "a table: {}", shown.stdout);

    let approve = ["requests", "approve", name, "--reason", "rollout"];
    let mine = mesh.signet(&approve).await;
    assert_eq!(mine.code(), 1, "root made its ticket: {}", mine.all());
    assert!(mine.stderr.contains("made the join token"), "{}", mine.all());
    let _ = ada.says(&approve).await.succeeded();
    let twice = ada.says(&approve).await;
    assert!(twice.code() == 1 && twice.stderr.contains("approved it already"), "{}", twice.all());
    let other = "00".repeat(32);
    let unseen = bob.says(&["requests", "approve", name, "--csr-sha256", &other]).await;
    assert!(unseen.code() == 1 && unseen.stderr.contains(csr), "{}", unseen.all());
    let _ = bob.says(&["requests", "approve", name, "--csr-sha256", csr]).await.succeeded();
    waits.become_ready().await;
    let events = rows(mesh.json(&["audit", "list", "--subject", &vault]).await);
    let issued = events.iter().find(|event| event["action"] == "svid.issued").expect("it is in the audit");
    let detail = issued["detail"].to_string();
    for person in [&ada, &bob] {
        assert!(detail.contains(&person.id), "{} approved: {detail}", person.id);
    }

    let mut denied = proxy(&mesh, &vault).await.start_unready().await;
    let request = waiting(&mesh).await;
    denied.process.expect_end();
    let deny = ["requests", "deny", text(&request, "request"), "--reason", "nobody here started it"];
    let _ = bob.says(&deny).await.succeeded();
    let status = denied.process.exit(PATIENCE).await;
    assert!(!status.success(), "{status}");
    let said = denied.process.logs().text();
    assert!(said.contains("denied for good: nobody here started it"), "{said}");

    let cart = id("/shop/cart");
    mesh.workload(&cart).await;
    let _ = mesh.signet(&["freeze", "--reason", "incident 4711"]).await.succeeded();
    let mut frozen = proxy(&mesh, &cart).await.start_unready().await;
    let held = |event: &Value| event.to_string().contains("frozen on everything: incident 4711");
    let _ = frozen.process.wait_for_log("that it is frozen", held).await;
    let status = mesh.json(&["status"]).await;
    assert_eq!(status["frozen"].as_array().map(Vec::len), Some(1), "{status}");
    let _ = mesh.signet(&["unfreeze", "--reason", "over"]).await.succeeded();
    frozen.become_ready().await;
    mesh.verify_audit().await;
}
