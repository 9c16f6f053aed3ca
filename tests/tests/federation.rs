//! Two trust domains, each with a control service and proxies of its own, that believe each other's identities.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use signet_tests::apps::{Nginx, TcpEcho};
use signet_tests::client::file;
use signet_tests::mesh::{Mesh, Store, allow};
use signet_tests::proxy::Proxy;
use signet_tests::sockets::{EchoConnection, free_address};
use signet_tests::{PATIENCE, eventually, http};
use tokio::task::JoinHandle;

/// Short, so that a root is needed by nobody soon after another one signs.
const LIFE: &str = "8s";
/// Until all that hangs on an old root has ended.
const RETIRED: Duration = Duration::from_secs(60);

/// One of the two.
struct Side {
    domain: &'static str,
    mesh: Mesh,
    /// Where its bundle is served.
    url: String,
}

/// The proxies of one side.
struct Proxies {
    server: Proxy,
    near: Proxy,
    _apps: (Nginx, TcpEcho),
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_of_another_domain_are_believed_while_roots_change_and_until_it_is_forgotten() {
    let ((web, authority), spiffe) = tokio::join!(web_side("web.test"), spiffe_side("spiffe.test"));
    federate(&web, &authority, &spiffe).await;
    let (one, two) = tokio::join!(Proxies::start(&web, &spiffe), Proxies::start(&spiffe, &web));
    let (from_one, from_two) = tokio::join!(two.called_by(&web, &spiffe), one.called_by(&spiffe, &web));
    let mut at_home = EchoConnection::open(two.near.outbound()).await;

    // Each changes its root under the other's eyes.
    let (mut loads, mut held) = (Vec::new(), Vec::new());
    for caller in [&from_one, &from_two] {
        loads.push(Load::begin(caller.outbounds()[0], caller.outbounds()[1]));
        held.push(EchoConnection::open(caller.outbounds()[1]).await);
    }
    let before = [roots(&web, &spiffe).await, roots(&spiffe, &web).await];
    tokio::join!(change_root(&web, &spiffe), change_root(&spiffe, &web));
    let after = [roots(&web, &spiffe).await, roots(&spiffe, &web).await];
    assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    for load in loads {
        load.lost_nothing().await;
    }
    for connection in &mut held {
        connection.ping().await.expect("a connection that an old root vouched for is as good as before");
    }

    // One of the two forgets the other: what it shared with it ends at once, and nothing else does.
    let forgotten = spiffe.mesh.json(&["federation", "delete", web.domain]).await;
    assert!(forgotten["connections_cut"].as_u64().is_some_and(|cut| cut >= 2), "{forgotten}");
    for connection in &mut held {
        tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is cut");
    }
    let cut = two.server.access(&[("direction", "inbound"), ("close_reason", "trust_removed")]).await;
    assert!(cut.to_string().contains(&web.id("/far")), "{cut}");
    at_home.ping().await.expect("what is at home stays");
    let refused = http::request(from_one.outbounds()[0], "/identity").await;
    assert!(refused.as_ref().map_or(true, |reply| reply.status >= 500), "{refused:?}");
    eventually("it is a stranger at the door", PATIENCE, async || {
        let unknown = [("reason", "unknown_trust_domain")];
        let refused = two.server.metrics().await.count("signet_handshake_failures_total", &unknown);
        if refused > 0 { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
    let _ = EchoConnection::open(two.near.outbound()).await;
    for side in [&web, &spiffe] {
        side.mesh.verify_audit().await;
    }
}

/// A mesh that serves its bundle with a certificate of the web, and the file with who vouches for that.
async fn web_side(domain: &'static str) -> (Side, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("it signs itself");
    let path = |name: &str, text: String| file(directory.path(), name, text).display().to_string();
    let (chain, secret) = (path("tls.crt", certificate.pem()), path("tls.key", key.serialize_pem()));
    let at = free_address();
    let listen = at.to_string();
    let options = ["--default-ttl", LIFE, "--https-listen", &listen];
    let options = [&options[..], &["--https-certificate", &chain, "--https-key", &secret]].concat();
    let mesh = Mesh::on(Store::Sqlite).of(domain).options(&options).start().await;
    // Control has read them; the file with the authority is the test's own.
    let authority = file(mesh.directory(), "web.pem", certificate.pem()).display().to_string();
    (Side { domain, mesh, url: format!("https://localhost:{}/bundle", at.port()) }, authority)
}

/// A mesh that serves its bundle with control's own SVID.
async fn spiffe_side(domain: &'static str) -> Side {
    let at = free_address();
    let listen = at.to_string();
    let options = ["--default-ttl", LIFE, "--federation-listen", &listen];
    let mesh = Mesh::on(Store::Sqlite).of(domain).options(&options).start().await;
    Side { domain, mesh, url: format!("https://{at}/bundle") }
}

async fn federate(web: &Side, authority: &str, spiffe: &Side) {
    let create = ["federation", "create", web.domain, "--url", &web.url, "--ca-file", authority];
    let _ = spiffe.mesh.signet(&create).await.succeeded();
    let bundle = spiffe.mesh.signet(&["bundle", "--format", "jwks"]).await.succeeded().stdout;
    let bundle = file(web.mesh.directory(), "spiffe.jwks", bundle).display().to_string();
    let endpoint = spiffe.id("/signet/control");
    let create = ["federation", "create", spiffe.domain, "--url", &spiffe.url, "--endpoint-id", &endpoint];
    let without = web.mesh.signet(&create).await;
    assert!(without.code() == 1 && without.all().contains("--bundle FILE"), "{}", without.all());
    let create = [&create[..], &["--bundle", &bundle]].concat();
    let _ = web.mesh.signet(&create).await.succeeded();
}

/// A root is made, signs, and takes the place of the one before; the other side is told at each step.
async fn change_root(side: &Side, other: &Side) {
    let _ = side.mesh.signet(&["ca", "prepare", "root"]).await.succeeded();
    tell(other, side).await;
    let _ = side.mesh.signet(&["ca", "activate", "root"]).await.succeeded();
    eventually("nothing needs the old root", RETIRED, async || {
        let retired = side.mesh.signet(&["ca", "retire", "root"]).await;
        if retired.code() == 0 { Ok(()) } else { Err(retired.all()) }
    })
    .await;
    tell(other, side).await;
}

async fn tell(side: &Side, about: &Side) {
    let _ = side.mesh.signet(&["federation", "refresh", about.domain]).await.succeeded();
}

/// By which roots one side believes the other.
async fn roots(side: &Side, other: &Side) -> Value {
    let mut shown = side.mesh.json(&["federation", "show", other.domain]).await;
    assert_eq!(shown["bundle"], "current", "{shown}");
    assert_eq!(shown["roots"].as_array().map(Vec::len), Some(1), "{shown}");
    shown["roots"].take()
}

impl Side {
    fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.domain)
    }
}

impl Proxies {
    /// `/web` with two apps, that takes calls of `/near` at home and of the other side's `/far`; and `/near`.
    async fn start(side: &Side, other: &Side) -> Self {
        let (nginx, echo) = tokio::join!(Nginx::start(), TcpEcho::start());
        let [web, near, far] = ["/web", "/near", "/far"].map(|path| side.id(path));
        for workload in [&web, &near, &far] {
            side.mesh.short_lived_workload(workload, LIFE).await;
        }
        side.mesh.policy(&allow("web", &web, &[&near, &other.id("/far")])).await;
        let server = side.mesh.proxy(&web).await.inbound("http://", nginx.address);
        let server = server.inbound("tcp://", echo.address).start().await;
        let to_echo = format!("{web}@{}", server.inbounds()[1]);
        let near = side.mesh.proxy(&near).await.outbound("tcp://", &to_echo).start().await;
        Self { server, near, _apps: (nginx, echo) }
    }

    /// `/far` of another side, which calls both apps of `/web` of this one.
    async fn called_by(&self, other: &Side, side: &Side) -> Proxy {
        let to = |inbound: usize| format!("{}@{}", side.id("/web"), self.server.inbounds()[inbound]);
        let far = other.mesh.proxy(&other.id("/far")).await;
        far.outbound("http://", &to(0)).outbound("tcp://", &to(1)).start().await
    }
}

/// New requests and connections, one after the other.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u64, Vec<String>)>,
}

impl Load {
    fn begin(http: SocketAddr, echo: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut answered, mut failures) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                match http::request(http, "/identity").await {
                    Ok(reply) if reply.status == 200 => answered += 1,
                    other => failures.push(format!("{other:?}")),
                }
                let mut connection = EchoConnection::open(echo).await;
                match connection.ping().await {
                    Ok(()) => answered += 1,
                    Err(error) => failures.push(error.to_string()),
                }
            }
            (answered, failures)
        });
        Self { stop, task }
    }

    async fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, failures) = self.task.await.expect("every connection opened");
        assert!(failures.is_empty() && answered > 20, "{answered} answered, {failures:?}");
    }
}
