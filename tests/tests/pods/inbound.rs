//! Whoever calls the app's own port from outside the pod meets the proxy, which asks for mutual TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use signet_tests::apps::Nginx;
use signet_tests::binaries::{Copy, binaries};
use signet_tests::client::{Client, Finished, file};
use signet_tests::mesh::allow;
use signet_tests::pki::Authority;
use signet_tests::place::Place;
use signet_tests::pods::Family;
use signet_tests::proxy::{Proxy, ProxyBuilder};
use tempfile::TempDir;

use crate::captured::{
    INBOUND, MUTUAL_TLS, OUTBOUND, Pods, assert_no_answer, capture, install, opened, page, text,
};
use crate::python::python;

const REQUEST: &str = "GET /identity HTTP/1.1\r\nHost: pods.test\r\nConnection: close\r\n\r\n";

/// A captured pod whose proxy has its identity from files, so that the test can sign for its callers.
struct Door {
    pods: Pods,
    nginx: Nginx,
    proxy: Proxy,
    authority: Authority,
    bundle: PathBuf,
    directory: TempDir,
}

impl Door {
    async fn open(family: Family, mode: &str, unprivileged: bool) -> Self {
        const PROXY_USER: u32 = 15443;
        let pods = Pods::new(family);
        let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
        let authority = Authority::new("pods.test");
        let directory = tempfile::tempdir().unwrap();
        let bundle = authority.write_bundle(directory.path());
        let server = authority.id("/server");
        let policy =
            file(directory.path(), "policy.yaml", allow("web", &server, &[&authority.id("/client")]));
        let files = authority.svid(&server).write(directory.path(), "server");
        let mut builder = ProxyBuilder::with_files(&files, &bundle, &policy).in_pod(&pods.app);
        let program = Copy::of(&binaries().proxy);
        if unprivileged {
            for path in [&files.svid, &files.key, &bundle, &policy, &directory.path().to_path_buf()] {
                std::os::unix::fs::chown(path, Some(PROXY_USER), Some(PROXY_USER)).unwrap();
            }
            builder = builder.as_user(PROXY_USER, &program.path);
        }
        let proxy = builder
            .with("--inbound", format!("{MUTUAL_TLS}={}", nginx.address))
            .with("--inbound", format!("{INBOUND}=original"))
            .with("--outbound", format!("{OUTBOUND}=original"))
            .start()
            .await;
        let user = if unprivileged { PROXY_USER } else { 0 }.to_string();
        let excluded = MUTUAL_TLS.to_string();
        let options = ["--proxy-uid", &user, "--inbound-mode", mode, "--exclude-inbound-port", &excluded];
        install(&pods.app, &options).await;
        Self { pods, nginx, proxy, authority, bundle, directory }
    }

    /// Another proxy in place of the one that ended, under another program.
    async fn proxy_again(&mut self, wrapper: &[&str]) {
        let server = self.authority.svid(&self.authority.id("/server"));
        let files = server.write(self.directory.path(), "server-again");
        self.proxy =
            ProxyBuilder::with_files(&files, &self.bundle, &self.directory.path().join("policy.yaml"))
                .in_pod(&self.pods.app)
                .wrapped(wrapper)
                .with("--inbound", format!("{MUTUAL_TLS}={}", self.nginx.address))
                .with("--inbound", format!("{INBOUND}=original"))
                .start()
                .await;
    }

    /// The app's own port, in both families.
    fn apps(&self) -> [SocketAddr; 2] {
        let port = self.nginx.address.port();
        [self.pods.app.at(port), (self.pods.app.ipv6(), port).into()]
    }

    /// A plain request from outside is refused before there is a connection.
    async fn is_closed(&self, when: &str) {
        const REFUSED: i32 = 7;
        for app in self.apps() {
            let plain = page(&self.pods.outside, app, "/identity").await;
            assert_eq!(plain, Err(REFUSED), "{when}, by {app}");
        }
    }

    /// SYNs from outside that the app answered although an ACK went ahead of each.
    async fn answered_after_an_ack(&self) -> u32 {
        const TRIES: &str = "20000";
        let (from, app) = (self.pods.outside.ip().to_string(), self.nginx.address);
        let attack = python("ahead.py", &[&from, &app.ip().to_string(), &app.port().to_string(), TRIES]);
        let said = attack.in_pod(&self.pods.outside, 0).run().await.succeeded().stdout;
        said.trim().parse().unwrap()
    }

    /// A request over mutual TLS from outside to that port of the pod, as the holder of that identity.
    async fn ask(&self, path: &str, port: u16) -> Finished {
        let files = self.authority.svid(&self.authority.id(path)).write(self.directory.path(), "caller");
        let address = self.pods.app.at(port).to_string();
        Client::new("openssl")
            .args(["s_client", "-connect", &address, "-verify_return_error", "-quiet", "-ign_eof", "-CAfile"])
            .arg(&self.bundle)
            .arg("-cert")
            .arg(&files.svid)
            .arg("-key")
            .arg(&files.key)
            .arg("-cert_chain")
            .arg(&files.chain)
            .input(REQUEST)
            .in_pod(&self.pods.outside, 0)
            .run()
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_mutual_tls_gets_to_the_app_by_redirect() {
    only_mutual_tls(&Door::open(Family::V4, "redirect", false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_mutual_tls_gets_to_the_app_by_tproxy() {
    only_mutual_tls(&Door::open(Family::V4, "tproxy", false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_mutual_tls_gets_to_the_app_over_ipv6_by_redirect() {
    only_mutual_tls(&Door::open(Family::V6, "redirect", false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_mutual_tls_gets_to_the_app_over_ipv6_by_tproxy() {
    only_mutual_tls(&Door::open(Family::V6, "tproxy", false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_mutual_tls_gets_to_the_app_by_tproxy_of_an_ordinary_user() {
    only_mutual_tls(&Door::open(Family::Dual, "tproxy", true).await).await;
}

async fn only_mutual_tls(door: &Door) {
    let app = door.nginx.address;
    let plain = page(&door.pods.outside, app, "/identity").await;
    assert_no_answer(&plain, "plain HTTP from outside");
    door.proxy.access(&[("direction", "inbound"), ("close_reason", "handshake_failed")]).await;

    // By the app's own port, which is captured, and by the proxy's.
    for port in [app.port(), MUTUAL_TLS] {
        let answer = door.ask("/client", port).await;
        assert!(answer.stdout.starts_with("HTTP/1.1 200"), "port {port}: {}", answer.all());
        let client = door.authority.id("/client");
        assert!(answer.stdout.ends_with(&format!(";URI={client}")), "port {port}: {}", answer.all());
        let allowed = [("source", client.as_str()), ("verdict", "allow"), ("path", "/identity")];
        let line = &door.proxy.accesses(1, &allowed).await[0];
        assert_eq!(text(line, "port"), app.port().to_string(), "the port of the policy is the app's: {line}");
        let answer = door.ask("/stranger", port).await;
        assert!(answer.stdout.starts_with("HTTP/1.1 403"), "port {port}: {}", answer.all());
    }

    // Nobody gets at the proxy itself this way, nor at the metrics that it keeps for the pod.
    let before = opened(&door.proxy, "inbound").await;
    for port in [OUTBOUND, INBOUND, 15020] {
        let answer = door.ask("/client", port).await;
        assert!(!answer.stdout.contains("HTTP/1.1 2"), "port {port}: {}", answer.all());
        assert!(!answer.stdout.contains("signet_"), "port {port}: {}", answer.all());
    }
    let seen = opened(&door.proxy, "inbound").await - before;
    assert!(seen <= 3, "{seen} connections for 3 tries");

    // The pod talks to itself as if there were no proxy.
    let own = page(&door.pods.app, app, "/charge/own").await;
    assert_eq!(own.as_deref(), Ok("GET /charge/own"));
    let loopback = ([127, 0, 0, 1], app.port()).into();
    let own = page(&door.pods.app, loopback, "/charge/own").await;
    assert_eq!(own.as_deref(), Ok("GET /charge/own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gets_past_the_redirection_ends_before_the_app() {
    let door = Door::open(Family::Dual, "redirect", false).await;
    let app = door.nginx.address.port();
    let captured = door.ask("/client", app).await;
    assert!(captured.stdout.starts_with("HTTP/1.1 200"), "{}", captured.all());

    let chain = ["inet", "signet", "inbound"];
    let listing = [&["--handle", "list", "chain"][..], &chain].concat();
    let listing = door.pods.app.run("nft", &listing).await.stdout;
    let rule = listing.lines().find(|line| line.contains("comment \"captured\"")).expect("the rule");
    let (_, handle) = rule.rsplit_once("# handle ").expect("a handle");
    door.pods.app.run("nft", &[&["delete", "rule"][..], &chain, &["handle", handle]].concat()).await;

    let check = capture(&door.pods.app, "check").run().await;
    assert!(check.code() == 1 && check.all().contains("inbound: captured"), "{}", check.all());
    let before = opened(&door.proxy, "inbound").await;
    door.is_closed("without the rule").await;
    assert_eq!(opened(&door.proxy, "inbound").await, before, "nothing led to the proxy");
    let answer = door.ask("/client", MUTUAL_TLS).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_ahead_of_a_connection_does_not_open_the_app() {
    for mode in ["redirect", "tproxy"] {
        let mut door = Door::open(Family::Dual, mode, false).await;
        // Nobody but the app answers now.
        door.proxy.process.kill().await;
        assert_eq!(door.answered_after_an_ack().await, 0, "{mode}");
        if mode == "redirect" {
            // It is the guard that stops it.
            door.pods.app.run("nft", &["flush", "chain", "inet", "signet", "guard"]).await;
            assert_ne!(door.answered_after_an_ack().await, 0, "the attack is one");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_that_can_take_it_nothing_gets_in_by_tproxy() {
    let mut door = Door::open(Family::Dual, "tproxy", false).await;
    let app = door.nginx.address.port();
    door.proxy.process.kill().await;
    door.is_closed("without a proxy").await;

    door.proxy_again(&[]).await;
    for address in door.apps() {
        assert_no_answer(&page(&door.pods.outside, address, "/identity").await, "with a proxy again");
    }
    let answer = door.ask("/client", app).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());

    door.proxy.process.kill().await;
    door.proxy_again(&["setpriv", "--inh-caps=-all", "--bounding-set=-net_admin,-net_raw"]).await;
    door.proxy
        .process
        .wait_for_log("what it lacks", |event| event.to_string().contains("without CAP_NET_ADMIN"))
        .await;
    door.is_closed("with a proxy that may not take it").await;
    let answer = door.ask("/client", app).await;
    assert!(!answer.stdout.contains("HTTP/1.1"), "{}", answer.all());
    let answer = door.ask("/client", MUTUAL_TLS).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
}
