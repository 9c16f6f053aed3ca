//! One proxy in front of an app, its identity from files, so that the test is the authority: of it, of its
//! callers, and of peers that we did not write. The policy lets the whole trust domain in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{Client, curl, file};
use crate::logs::field;
use crate::mesh::allow;
use crate::pki::{Authority, Svid, SvidFiles};
use crate::proxy::{Proxy, ProxyBuilder};

/// The counter of what did not get through the handshake.
pub const FAILURES: &str = "signet_handshake_failures_total";
/// The labels of [`FAILURES`] at an inbound port.
pub const INBOUND: (&str, &str) = ("direction", "inbound");

const DOMAIN: &str = "door.test";

/// Everything that such a proxy needs, before it is started.
#[derive(Debug)]
pub struct Frame {
    /// Signs the proxy's SVID and everybody else's.
    pub authority: Authority,
    /// Its root.
    pub bundle: PathBuf,
    /// The policy in force; rewriting it changes the policy.
    pub policy: PathBuf,
    /// The proxy's own SVID.
    pub server: SvidFiles,
    /// An SVID of `/client`.
    pub client: SvidFiles,
    svid: Svid,
    directory: TempDir,
}

/// The proxy at work.
#[derive(Debug)]
pub struct Door {
    /// The authority and the files.
    pub frame: Frame,
    /// The proxy.
    pub proxy: Proxy,
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl Frame {
    /// An authority, an SVID for the proxy (`/server`) and one for a caller (`/client`).
    ///
    /// # Panics
    /// When there is no room for files.
    #[must_use]
    pub fn new() -> Self {
        let authority = Authority::new(DOMAIN);
        let directory = tempfile::Builder::new().prefix("signet-door-").tempdir().expect("room for files");
        let server = authority.id("/server");
        let policy = allow("door", &server, &[&format!("\"{}\"", authority.id("/*"))]);
        let policy = file(directory.path(), "policy.yaml", policy);
        let bundle = authority.write_bundle(directory.path());
        let server = authority.svid(&server).write(directory.path(), "server");
        let svid = authority.svid(&authority.id("/client"));
        let client = svid.write(directory.path(), "client");
        Self { authority, bundle, policy, server, client, svid, directory }
    }

    /// The proxy, still without listeners.
    #[must_use]
    pub fn proxy(&self) -> ProxyBuilder {
        ProxyBuilder::with_files(&self.server, &self.bundle, &self.policy)
    }

    /// The proxy of `/client`, for calls to others: it lets nobody in.
    #[must_use]
    pub fn caller_proxy(&self) -> ProxyBuilder {
        ProxyBuilder::with_files(&self.client, &self.bundle, &self.policy)
    }

    /// The credentials of `/client`.
    #[must_use]
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// Where files of this test go.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Door {
    /// A proxy in front of `app`, which speaks `scheme` (see [`ProxyBuilder::inbound`]).
    pub async fn open(scheme: &str, app: SocketAddr) -> Self {
        Self::open_with(|proxy| proxy.inbound(scheme, app)).await
    }

    /// A proxy with the listeners and options that `build` gives it.
    pub async fn open_with(build: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let frame = Frame::new();
        let proxy = build(frame.proxy()).start().await;
        Self { frame, proxy }
    }

    /// curl with the credentials of `/client` from `source`, one of the loopback addresses: `GET path` at the
    /// first inbound port.
    #[must_use]
    pub fn honest_client(&self, source: &str, path: &str) -> Client {
        let SvidFiles { svid, key, .. } = &self.frame.client;
        curl()
            .args(["--insecure", "--include", "--http1.1", "--interface", source, "--cert"])
            .arg(svid)
            .arg("--key")
            .arg(key)
            .arg(format!("https://{}{path}", self.proxy.inbound()))
            .limit(Duration::from_secs(20))
    }

    /// A proper caller is served, whatever happened before.
    ///
    /// # Panics
    /// When it is not.
    pub async fn is_unharmed(&self) {
        let answer = self.honest_client("127.0.0.2", "/").run().await.succeeded();
        assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    }

    /// Handshakes that failed so far for `reason`, or for any.
    pub async fn failures(&self, reason: Option<&str>) -> u64 {
        let labels: Vec<_> = [INBOUND].into_iter().chain(reason.map(|reason| ("reason", reason))).collect();
        self.proxy.metrics().await.count(FAILURES, &labels)
    }

    /// Close reason and detail of the next line of the access log after `mark`, for the connection from
    /// `source`.
    pub async fn ending(&self, mark: u64, source: SocketAddr) -> (String, String) {
        let remote = source.to_string();
        let line =
            self.proxy.access_since(mark, &[("remote", remote.as_str()), ("kind", "connection")]).await;
        (field(&line, "close_reason"), field(&line, "detail"))
    }
}
