//! The two pods, their proxies, and the rules.

use std::net::SocketAddr;

use serde_json::Value;
use signet_tests::binaries::binaries;
use signet_tests::client::{Client, curl};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::pods::{APP_USER, Family, Network, Pod};
use signet_tests::proxy::{Proxy, ProxyBuilder};

/// The first port for mutual TLS; apps after the first have the ports after it.
pub(crate) const MUTUAL_TLS: u16 = 15443;
/// Where captured connections of the app arrive.
pub(crate) const OUTBOUND: u16 = 15001;
/// Where captured connections to the app arrive.
pub(crate) const INBOUND: u16 = 15006;

/// The pods before anything is captured.
pub(crate) struct Pods {
    pub(crate) network: Network,
    pub(crate) caller: Pod,
    pub(crate) app: Pod,
    /// Without a proxy and without rules.
    pub(crate) outside: Pod,
}

/// A mesh over the pods. `/frontend` is beside the caller, `/web` beside the app.
pub(crate) struct Captured {
    pub(crate) mesh: Mesh,
    pub(crate) caller: Proxy,
    pub(crate) server: Proxy,
}

impl Pods {
    pub(crate) fn new(family: Family) -> Self {
        let network = Network::new(family);
        let (caller, app, outside) = (network.pod("caller"), network.pod("app"), network.pod("outside"));
        Self { network, caller, app, outside }
    }

    /// Captures everything for `apps`, which `/frontend` may call.
    pub(crate) async fn captured(&self, apps: &[SocketAddr]) -> Captured {
        let captured = self.proxies(apps, &[]).await;
        self.install_both(apps.len()).await;
        captured
    }

    /// Control and both proxies, with more options for the caller's; nothing is captured yet.
    pub(crate) async fn proxies(&self, apps: &[SocketAddr], options: &[(&str, &str)]) -> Captured {
        let mesh = Mesh::start_in(self.network.hub()).await;
        let (frontend, web) = (id("/frontend"), id("/web"));
        mesh.workload(&frontend).await;
        mesh.workload(&web).await;
        mesh.policy(&allow("web", &web, &[&frontend])).await;
        let mut server = mesh.proxy(&web).await.in_pod(&self.app);
        for (port, app) in (MUTUAL_TLS..).zip(apps) {
            server = server.with("--inbound", format!("{port}={app}"));
        }
        let server = server.with("--inbound", format!("{INBOUND}=original")).start().await;
        let caller = caller_proxy(mesh.proxy(&frontend).await, &self.caller, options).start().await;
        Captured { mesh, caller, server }
    }

    /// Rules in both pods, for an app with that many ports for mutual TLS.
    pub(crate) async fn install_both(&self, ports: usize) {
        let excluded: Vec<String> = (MUTUAL_TLS..).take(ports).map(|port| port.to_string()).collect();
        let mut options = vec!["--proxy-uid", "0"];
        options.extend(excluded.iter().flat_map(|port| ["--exclude-inbound-port", port]));
        install(&self.app, &options).await;
        install(&self.caller, &["--proxy-uid", "0"]).await;
    }
}

pub(crate) fn caller_proxy(builder: ProxyBuilder, pod: &Pod, options: &[(&str, &str)]) -> ProxyBuilder {
    let builder = builder.in_pod(pod).with("--outbound", format!("{OUTBOUND}=original"));
    options.iter().fold(builder, |builder, (name, value)| builder.with(name, value))
}

/// `signet-proxy capture install` with these options.
pub(crate) async fn install(pod: &Pod, options: &[&str]) {
    let _ = capture(pod, "install").args(options).run().await.succeeded();
}

/// `signet-proxy capture` in a pod, as root.
pub(crate) fn capture(pod: &Pod, verb: &str) -> Client {
    Client::at(&binaries().proxy).args(["capture", verb]).in_pod(pod, 0)
}

/// A client in a pod, as an app runs there.
pub(crate) trait Inside {
    fn inside(self, pod: &Pod) -> Client;
}

impl Inside for Client {
    fn inside(self, pod: &Pod) -> Client {
        self.in_pod(pod, APP_USER)
    }
}

/// The body of a page, by curl as an app of that pod; `Err` is curl's exit code when there was no answer.
pub(crate) async fn page(pod: &Pod, address: SocketAddr, path: &str) -> Result<String, i32> {
    page_as(pod, APP_USER, address, path).await
}

/// As [`page`], as that user.
pub(crate) async fn page_as(pod: &Pod, user: u32, address: SocketAddr, path: &str) -> Result<String, i32> {
    let url = format!("http://{address}{path}");
    let answer = curl().args(["--max-time", "15", &url]).in_pod(pod, user).run().await;
    if answer.status.success() { Ok(answer.stdout) } else { Err(answer.code()) }
}

/// Nothing answers: the connection was refused, reset or closed. A timeout would be another matter.
pub(crate) fn assert_no_answer(answer: &Result<String, i32>, what: &str) {
    /// A TLS alert is no HTTP.
    const ALERT: i32 = 1;
    const REFUSED: i32 = 7;
    const EMPTY: i32 = 52;
    /// A reset before the request was sent.
    const NOT_SENT: i32 = 55;
    const RESET: i32 = 56;
    assert!(matches!(answer, Err(ALERT | REFUSED | EMPTY | NOT_SENT | RESET)), "{what}: {answer:?}");
}

/// What nginx says when it was called through both proxies.
pub(crate) fn assert_from_frontend(identity: &str) {
    assert!(identity.ends_with(&format!(";URI={}", id("/frontend"))), "not through the proxies: {identity}");
}

/// Connections that a proxy took so far, in that direction.
pub(crate) async fn opened(proxy: &Proxy, direction: &str) -> u64 {
    proxy.metrics().await.count("signet_connections_opened_total", &[("direction", direction)])
}

/// That field of a line, as text.
pub(crate) fn text(line: &Value, field: &str) -> String {
    signet_tests::logs::field(line, field)
}
