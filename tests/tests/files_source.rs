//! Certificates from another authority, in files that something else replaces: by renaming, or the way
//! Kubernetes swaps a mounted secret.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use signet_tests::apps::TcpEcho;
use signet_tests::client::file;
use signet_tests::mesh::allow;
use signet_tests::metrics::Metrics;
use signet_tests::pki::{Authority, Svid, SvidFiles};
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::sockets::EchoConnection;
use signet_tests::tls::presented_leaf;
use signet_tests::{PATIENCE, eventually};
use tempfile::TempDir;

const DOMAIN: &str = "files.test";

/// Two proxies whose certificates come from files; the server's are what a test replaces.
struct Pair {
    authority: Authority,
    server: Proxy,
    caller: Proxy,
    directory: TempDir,
    current: Svid,
    _echo: TcpEcho,
}

#[tokio::test(flavor = "multi_thread")]
async fn files_replaced_by_rename_are_taken_over_and_connections_stay() {
    let mut pair = Pair::with(|authority, directory| {
        let svid = authority.svid(&authority.id("/server"));
        let files = svid.write(directory, "server");
        let bundle = authority.write_bundle(directory);
        (svid, files, bundle)
    })
    .await;
    let mut connection = EchoConnection::open(pair.caller.outbound()).await;
    let before = pair.server.rotations().await;

    for round in 1..=3 {
        let next = pair.authority.svid(&pair.authority.id("/server"));
        replace(pair.directory.path(), "server.key", &next.key_pem);
        replace(pair.directory.path(), "server.pem", &next.svid_pem());
        pair.presents(&next).await;
        pair.current = next;
        connection.ping().await.expect("the old connection lives on");
        EchoConnection::open(pair.caller.outbound()).await.ping().await.expect("new ones work");
        pair.server.rotates(before, round, PATIENCE).await;
    }
    pair.server.counts("signet_connections_closed_total", &[("reason", "error")], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubernetes_style_swap_is_taken_over_and_connections_stay() {
    let mut pair = Pair::with(|authority, directory| {
        let svid = authority.svid(&authority.id("/server"));
        mount(directory, "..2024_01", &svid, authority);
        symlink("..2024_01", directory.join("..data")).expect("a new link");
        for name in ["svid.pem", "key.pem", "bundle.pem"] {
            symlink(Path::new("..data").join(name), directory.join(name)).expect("a new link");
        }
        let files = SvidFiles {
            svid: directory.join("svid.pem"),
            chain: directory.join("svid.pem"),
            key: directory.join("key.pem"),
        };
        (svid, files, directory.join("bundle.pem"))
    })
    .await;
    let mut connection = EchoConnection::open(pair.caller.outbound()).await;

    for (previous, version) in [("..2024_01", "..2024_02"), ("..2024_02", "..2024_03")] {
        let next = pair.authority.svid(&pair.authority.id("/server"));
        let directory = pair.directory.path();
        mount(directory, version, &next, &pair.authority);
        symlink(version, directory.join("..data_tmp")).expect("a new link");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("an atomic swap");
        fs::remove_dir_all(directory.join(previous)).expect("the old version goes away");
        pair.presents(&next).await;
        pair.current = next;
        connection.ping().await.expect("the old connection lives on");
        EchoConnection::open(pair.caller.outbound()).await.ping().await.expect("new ones work");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_keeps_the_last_good_svid_and_is_counted() {
    let mut pair = Pair::with(|authority, directory| {
        let svid = authority.svid(&authority.id("/server"));
        let files = svid.write(directory, "server");
        let bundle = authority.write_bundle(directory);
        (svid, files, bundle)
    })
    .await;
    let mut connection = EchoConnection::open(pair.caller.outbound()).await;
    let authority = &pair.authority;
    let other_key = authority.svid(&authority.id("/server"));
    let stranger = Authority::new("elsewhere.test");
    let expired = authority
        .svid_with(&authority.id("/server"), |svid| signet_tests::pki::valid_between(svid, -7200, -3600));
    let broken = [
        ("garbage", "certainly not PEM".to_owned()),
        ("nothing", String::new()),
        ("half a certificate", pair.current.svid_pem()[..200].to_owned()),
        ("a certificate for another key", other_key.svid_pem()),
        ("a certificate of another authority", stranger.svid(&stranger.id("/server")).svid_pem()),
        ("an expired certificate", expired.svid_pem()),
    ];

    for (case, pem) in broken {
        let failed = failures(&pair.server.metrics().await);
        replace(pair.directory.path(), "server.pem", &pem);
        eventually(&format!("{case} is counted as a failed rotation"), PATIENCE, async || {
            match failures(&pair.server.metrics().await) {
                now if now > failed => Ok(()),
                now => Err(format!("{now}; {}", pair.server.process.logs().tail(3))),
            }
        })
        .await;
        assert_eq!(pair.presented().await, pair.current.leaf_der, "{case}: the last good SVID stays");
        assert_eq!(pair.server.readyz().await.status, 200, "{case}: and the proxy is ready");
        connection.ping().await.expect("connections live on");
        EchoConnection::open(pair.caller.outbound()).await.ping().await.expect("new ones work");
    }

    let next = pair.authority.svid(&pair.authority.id("/server"));
    replace(pair.directory.path(), "server.key", &next.key_pem);
    replace(pair.directory.path(), "server.pem", &next.svid_pem());
    pair.presents(&next).await;
    pair.current = next;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_leaves_the_bundle_is_trusted_no_more() {
    let pair = Pair::with(|authority, directory| {
        let svid = authority.svid(&authority.id("/server"));
        let files = svid.write(directory, "server");
        let bundle = authority.write_bundle(directory);
        (svid, files, bundle)
    })
    .await;
    let mut connection = EchoConnection::open(pair.caller.outbound()).await;

    // The server moves to a new authority of the same domain; its caller does not.
    let successor = Authority::new(DOMAIN);
    let next = successor.svid(&successor.id("/server"));
    replace(pair.directory.path(), "server.key", &next.key_pem);
    replace(pair.directory.path(), "server.pem", &next.svid_pem());
    replace(pair.directory.path(), &format!("{DOMAIN}.bundle.pem"), &successor.bundle_pem());

    tokio::time::timeout(PATIENCE, connection.closed())
        .await
        .expect("what rested on the old authority is closed");
    pair.server.access(&[("direction", "inbound"), ("close_reason", "trust_removed")]).await;
}

impl Pair {
    async fn with(prepare: impl FnOnce(&Authority, &Path) -> (Svid, SvidFiles, PathBuf)) -> Self {
        let authority = Authority::new(DOMAIN);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = tempfile::tempdir_in(directory.path()).expect("a temporary directory").keep();
        let echo = TcpEcho::start().await;
        let (server_id, client_id) = (authority.id("/server"), authority.id("/client"));
        let (current, files, bundle) = prepare(&authority, directory.path());
        let policy = file(&own, "policy.yaml", allow("server", &server_id, &[&client_id]));
        let server =
            ProxyBuilder::with_files(&files, &bundle, &policy).inbound("tcp://", echo.address).start().await;
        let client_files = authority.svid(&client_id).write(&own, "client");
        let client_bundle = authority.write_bundle(&own);
        let caller = ProxyBuilder::with_files(&client_files, &client_bundle, &policy)
            .outbound("tcp://", &format!("{server_id}@{}", server.inbound()))
            .start()
            .await;
        Self { authority, server, caller, directory, current, _echo: echo }
    }

    async fn presented(&self) -> Vec<u8> {
        let visitor = self.authority.svid(&self.authority.id("/visitor"));
        presented_leaf(self.server.inbound(), &visitor).await
    }

    /// Waits until the server presents the leaf of `svid`.
    async fn presents(&self, svid: &Svid) {
        eventually("the new leaf is presented", PATIENCE, async || {
            if self.presented().await == svid.leaf_der {
                Ok(())
            } else {
                Err(self.server.process.logs().tail(3))
            }
        })
        .await;
    }
}

/// One version of a mounted secret.
fn mount(directory: &Path, version: &str, svid: &Svid, authority: &Authority) {
    let version = directory.join(version);
    fs::create_dir(&version).expect("a new version");
    let _ = file(&version, "svid.pem", svid.svid_pem());
    let _ = file(&version, "key.pem", &svid.key_pem);
    let _ = file(&version, "bundle.pem", authority.bundle_pem());
}

/// Writes beside, then renames over: nobody ever reads half a file.
fn replace(directory: &Path, name: &str, text: &str) {
    let beside = file(directory, &format!("{name}.new"), text);
    fs::rename(beside, directory.join(name)).expect("an atomic replacement");
}

fn failures(metrics: &Metrics) -> u64 {
    let all = metrics.count("signet_svid_rotations_total", &[]);
    all - metrics.count("signet_svid_rotations_total", &[("result", "success")])
}
