//! JWT-SVIDs, for what cannot do mutual TLS: APIs whose JWT libraries read the documents that control serves, and apps
//! that get them from their proxy, or know nothing of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::Value;
use signet_tests::apps::{RequestApp, header_values};
use signet_tests::client::{Client, Finished, curl, file};
use signet_tests::clock::Clock;
use signet_tests::logs::{field, is_message};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::peers::script;
use signet_tests::process::Process;
use signet_tests::sockets::free_address;
use signet_tests::tools::{oidc_python, spiffe_python};
use signet_tests::{PATIENCE, eventually};

const AUDIENCE: &str = "https://billing.example";
/// Tokens live this long, so that the proxy fetches another every two seconds.
const LIFE: &str = "10s";
/// Keys are kept for an eighth of this by those who read them.
const KEY: &str = "60s";

/// Where control serves its documents, as an authority that is not ours vouches for it.
struct Https {
    issuer: String,
    address: SocketAddr,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Https {
    fn new(directory: &Path) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.distinguished_name.push(DnType::CommonName, "an authority of the web");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        certificate.distinguished_name.push(DnType::CommonName, "localhost");
        certificate.use_authority_key_identifier_extension = true;
        certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let address = free_address();
        Self {
            issuer: format!("https://localhost:{}/mesh", address.port()),
            address,
            ca: file(directory, "ca.pem", authority.pem()),
            certificate: file(directory, "https.pem", certificate.pem()),
            key: file(directory, "https.key", key.serialize_pem()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_believed_by_whoever_reads_the_documents_while_their_keys_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let https = Https::new(directory.path());
    let mesh = Mesh::start_with(&[
        &format!("--oidc-issuer={}", https.issuer),
        &format!("--https-listen={}", https.address),
        &format!("--https-certificate={}", https.certificate.display()),
        &format!("--https-key={}", https.key.display()),
        &format!("--jwt-ttl={LIFE}"),
        &format!("--jwt-key-ttl={KEY}"),
    ])
    .await;
    let (orders, billing, app) = (id("/orders"), id("/billing"), RequestApp::start().await);
    mesh.workload(&orders).await;
    mesh.workload(&billing).await;
    mesh.policy(&allow("billing", &billing, &[&orders])).await;
    let server = mesh.proxy(&billing).await.inbound("http://", app.address).start().await;
    let socket = directory.path().join("workload.sock");
    let user = rustix::process::geteuid().as_raw();
    let proxy = mesh
        .proxy(&orders)
        .await
        .outbound("http://", &billing)
        .with("--attach-token", format!("{billing}={AUDIENCE}"))
        .with("--workload-api-listen", format!("unix:{}", socket.display()))
        .with("--workload-api-caller", format!("uid={user}"))
        .start()
        .await;

    let mut api = Process::start("tokens.py", reads(&socket, &https));
    let is_token = |event: &Value| is_message(event, "token");
    let first = api.wait_for_log("the first token", is_token).await;
    assert_eq!(field(&first, "sub"), orders);
    let configuration = api.wait_for_log("the documents", |event| is_message(event, "configuration")).await;
    assert_eq!(field(&configuration, "cache"), "public, max-age=7");
    assert_eq!(field(&configuration, "keys"), format!("{}/keys", https.issuer));

    let named = jose(&https, &field(&first, "token"), AUDIENCE).await.succeeded();
    assert_eq!(named.stdout.trim(), orders);
    let other = jose(&https, &field(&first, "token"), "https://other.example").await;
    assert!(other.code() != 0 && other.stderr.contains("aud"), "{}", other.all());
    let clock = Clock::default();
    clock.set_ahead(Duration::from_secs(600));
    let late = checks(&https, &field(&first, "token"), AUDIENCE).by(&clock).run().await;
    assert!(late.code() != 0 && late.stderr.to_lowercase().contains("expired"), "{}", late.all());

    // The app behind the proxy sends no secret of its own; what it sends all the same stays.
    let calls = |header: Option<&str>| {
        let url = format!("http://{}/charge", proxy.outbound());
        header.iter().fold(curl(), |curl, header| curl.args(["--header", header])).arg(url)
    };
    let sent = async |own: Option<&str>| {
        let answer = calls(own).run().await.succeeded().stdout;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
        header_values(&answer, |name| name == "authorization")
    };
    let attached = sent(None).await;
    let token = attached[0].strip_prefix("Bearer ").unwrap_or_else(|| panic!("{attached:?}"));
    assert_eq!(jose(&https, token, AUDIENCE).await.succeeded().stdout.trim(), orders);
    let own = "Basic YXBwOm93bg==";
    assert_eq!(sent(Some(&format!("authorization: {own}"))).await, [own]);
    proxy.counts("signet_requests_with_token_total", &[("result", "attached")], 1).await;
    proxy.counts("signet_requests_with_token_total", &[("result", "kept")], 1).await;

    for rotation in 1..=2 {
        let _ = mesh.signet(&["ca", "prepare", "jwt"]).await.succeeded();
        // Waits for those who may keep the keys that they read before.
        let _ = mesh.signet(&["ca", "activate", "jwt"]).await.succeeded();
        let tokens = api.wait_for_logs(0, rotation + 1, "a token of the next key", is_token).await;
        let mut keys: Vec<String> = tokens.iter().map(|token| field(token, "kid")).collect();
        keys.dedup();
        assert_eq!(keys.len(), rotation + 1, "{tokens:?}");
    }
    let status = mesh.json(&["ca", "status"]).await;
    let phases = status["authorities"].as_array().unwrap().iter().filter(|one| one["kind"] == "jwt");
    let phases: Vec<&str> = phases.map(|one| one["phase"].as_str().unwrap()).collect();
    assert_eq!(phases.iter().filter(|phase| **phase == "active").count(), 1, "{status}");
    let issued = mesh.events().await.into_iter().filter(|event| event["action"] == "jwt.issued");
    assert!(issued.count() >= 4, "each token is in the audit");

    // Whose instance is revoked gets no other.
    let apps = proxy.ask("/identity").await;
    let instance = apps["workload_api"]["svids"][0]["instance"].as_str().unwrap().to_owned();
    let revoked = ["revoke", "--instance", &instance, "--reason", "the app was broken into"];
    let _ = mesh.signet(&revoked).await.succeeded();
    let none = api.wait_for_log("no token any more", |event| is_message(event, "none")).await;
    assert!(field(&none, "error").contains("PERMISSION_DENIED"), "{none}");
    api.exit(PATIENCE).await;
    let _ = mesh.signet(&["suspend", &orders, "--reason", "it is looked into"]).await.succeeded();
    eventually("the suspended workload calls nobody", PATIENCE, async || match calls(None).run().await {
        refused if !refused.stdout.contains("Bearer") => Ok(()),
        answered => Err(answered.all()),
    })
    .await;
    for logs in [proxy.process.logs(), server.process.logs(), mesh.control.logs()] {
        assert!(!logs.text().contains("eyJ"), "no log shows a token");
    }
    mesh.verify_audit().await;
}

fn reads(socket: &Path, https: &Https) -> Command {
    let mut command = spiffe_python();
    command.arg(script("tokens.py")).arg(format!("unix://{}", socket.display()));
    command.arg(&https.issuer).arg(&https.ca);
    command
}

/// What the other library says of a token.
async fn jose(https: &Https, token: &str, audience: &str) -> Finished {
    checks(https, token, audience).run().await
}

fn checks(https: &Https, token: &str, audience: &str) -> Client {
    let mut command = oidc_python();
    command.arg(script("jose.py")).arg(&https.issuer).arg(&https.ca).arg(audience);
    Client::of(command).input(token).limit(Duration::from_secs(20))
}
