//! Tokens of an OpenID provider, over the life of its keys.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use signet_tests::apps::RequestApp;
use signet_tests::client::{curl_get, file};
use signet_tests::eventually;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::oidc::{AUDIENCE, Provider};
use signet_tests::proxy::{Proxy, ProxyBuilder};

use crate::{believes, mesh_with, refusal, registration};

/// Control looks for a key that it does not know at most every 30 s, and proxies try again every so often.
const NEXT_FETCH: Duration = Duration::from_secs(75);

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_provider_makes_a_workload_and_only_the_one_it_names() {
    let frame = Frame::new().await;
    let (mesh, app) = (&frame.mesh, RequestApp::start().await);
    let (web, batch, frontend) = (id("/web"), id("/batch"), id("/frontend"));
    mesh.apply(
        &[
            registration(&web, &["ci:repository:shop/web"]),
            registration(&batch, &["ci:repository:shop/batch"]),
        ]
        .join("---\n"),
    )
    .await;
    mesh.workload(&frontend).await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;

    let token = frame.token("web", &json!({"repository": "shop/web"})).await;
    let server = frame.proxy(&token).await.inbound("http://", app.address).start().await;
    let joined = joined(&server).await;
    assert_eq!(joined["fields"]["id"], web.as_str());
    let caller = mesh.proxy(&frontend).await.outbound("http://", &web).start().await;
    let answer = curl_get(caller.outbound(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);

    let token = frame.token("elsewhere", &json!({"repository": "shop/elsewhere"})).await;
    let refused = refusal(&mesh.introduction().await, &frame.proof(&token)).await;
    assert!(!refused.contains("shop/"), "nobody learns what is registered: {refused}");
    let issued = mesh.events().await;
    let issued =
        issued.iter().find(|event| event["action"] == "svid.issued" && event["subject"] == web.as_str());
    let detail = issued.expect("the issuance is in the audit")["detail"].to_string();
    assert!(detail.contains("ci"), "with what proved it: {detail}");
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_goes_on_renewing_when_its_token_and_the_provider_are_gone() {
    let mut frame = Frame::new().await;
    let web = id("/web");
    let short = registration(&web, &["ci:repository:shop/web"]) + "ttl: { default: 4s }\n";
    frame.mesh.apply(&short).await;
    let token = frame.token("web", &json!({"repository": "shop/web"})).await;
    let app = RequestApp::start().await;
    let proxy = frame.proxy(&token).await.inbound("http://", app.address).start().await;

    frame.provider.stop().await;
    std::fs::remove_file(token).expect("it was written");

    proxy.rotates(proxy.rotations().await, 3, signet_tests::PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_while_proxies_join_and_a_withdrawn_one_is_not_believed() {
    let mut frame = Frame::new().await;
    let web = id("/web");
    frame.mesh.apply(&registration(&web, &["ci:repository:shop/web"])).await;
    let claims = json!({"repository": "shop/web"});
    let app = RequestApp::start().await;
    let before = frame.token("before", &claims).await;
    let _first = frame.proxy(&before).await.inbound("http://", app.address).start().await;

    frame.provider.rotate("second").await;
    let after = frame.token("after", &claims).await;
    let second = frame.proxy(&after).await.inbound("http://", app.address).start_unready().await;
    becomes_ready(&second).await;
    let _third = frame.proxy(&before).await.inbound("http://", app.address).start().await;

    // Nobody asks the provider again before its keys are stale; a control that starts has to.
    frame.provider.withdraw("first");
    frame.mesh.kill_control().await;
    frame.mesh.restart_control().await;
    let introduction = frame.mesh.introduction().await;
    let refused = refusal(&introduction, &frame.proof(&before)).await;
    assert!(!refused.contains("first"), "nobody learns which keys there are: {refused}");
    let _fourth = frame.proxy(&after).await.inbound("http://", app.address).start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_starts_without_the_provider_and_believes_its_tokens_once_it_is_there() {
    let mut frame = Frame::new().await;
    frame.mesh.apply(&registration(&id("/web"), &["ci:repository:shop/web"])).await;
    let token = frame.token("web", &json!({"repository": "shop/web"})).await;
    frame.provider.stop().await;
    frame.mesh.kill_control().await;
    frame.mesh.restart_control().await;
    let app = RequestApp::start().await;

    let proxy = frame.proxy(&token).await.inbound("http://", app.address).start_unready().await;
    let waits =
        |event: &Value| event["fields"].to_string().contains("keys of the token's issuer are not there");
    proxy.process.wait_for_log("no key, no belief", waits).await;
    frame.provider.start_again().await;

    becomes_ready(&proxy).await;
}

/// A provider, and a mesh that believes it.
struct Frame {
    mesh: Mesh,
    provider: Provider,
}

impl Frame {
    async fn new() -> Self {
        let provider = Provider::start().await;
        Self { mesh: mesh_with(&believes(&provider)).await, provider }
    }

    /// A token with these claims, in a file.
    async fn token(&self, name: &str, claims: &Value) -> PathBuf {
        let token = self.provider.id_token(AUDIENCE, claims).await;
        file(self.mesh.directory(), &format!("{name}.jwt"), token)
    }

    fn proof(&self, token: &std::path::Path) -> String {
        format!("jwt=ci:{}", token.display())
    }

    async fn proxy(&self, token: &std::path::Path) -> ProxyBuilder {
        ProxyBuilder::attesting(&self.mesh.introduction().await, &self.proof(token))
    }
}

async fn joined(proxy: &Proxy) -> Value {
    proxy.process.wait_for_log("joined", |event| event["fields"]["message"] == "joined the mesh").await
}

async fn becomes_ready(proxy: &Proxy) {
    eventually("the proxy joins by trying again", NEXT_FETCH, async || match proxy.readyz().await.status {
        200 => Ok(()),
        status => Err(format!("{status}; {}", proxy.process.logs().tail(3))),
    })
    .await;
}
