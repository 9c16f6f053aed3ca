//! Revocation lists of authorities that are not ours, made by `openssl ca` and by Signet's own control, and read by
//! proxies from files: whom they name is cut and stays out, the others notice nothing, and a list that cannot be used
//! changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use signet_tests::apps::{RequestApp, TcpEcho};
use signet_tests::client::{Client, curl, file};
use signet_tests::clock::Clock;
use signet_tests::crl::{ListMaker, put};
use signet_tests::door::{FAILURES, Frame, INBOUND};
use signet_tests::logs::{field, is_access};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::pki::{Authority, Svid, SvidFiles};
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::sockets::EchoConnection;
use signet_tests::{PATIENCE, eventually};
use tokio::time::Instant;

/// From the new list in its place to the end of a connection (invariant 5).
const CUT_WITHIN: Duration = Duration::from_secs(1);
const INTAKE: &str = "signet_crl_intake_total";
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: door.test\r\nConnection: close\r\n\r\n";
const REVOKED: (&str, &str) = ("reason", "revoked_certificate");

/// A proxy in front of an echo and a web server that reads the lists of its callers' authority, and two callers.
struct Scene {
    frame: Frame,
    lists: ListMaker,
    folder: PathBuf,
    server: Proxy,
    gone: Svid,
    stays: Svid,
    echo: TcpEcho,
    app: RequestApp,
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_new_list_names_is_cut_within_a_second_and_the_others_are_not() {
    let scene = Scene::start(|proxy| proxy).await;
    let (leaving, staying) = (scene.caller("/gone").await, scene.caller("/stays").await);
    let mut cut = EchoConnection::open(leaving.outbound()).await;
    let mut kept = EchoConnection::open(staying.outbound()).await;

    scene.lists.revoke(&scene.gone.leaf_pem).await;
    let list = scene.lists.list(&[]).await;
    let replaced = Instant::now();
    let _ = put(&scene.folder, "leaves.pem", list);

    let ended = tokio::time::timeout(PATIENCE, cut.closed()).await.expect("it is cut");
    let took = ended - replaced;
    println!("cut {} ms after the list was replaced", took.as_millis());
    assert!(took < CUT_WITHIN, "{took:?}");
    kept.ping().await.expect("whom no list names stays");
    let closed = [("direction", "inbound"), ("close_reason", "revoked_certificate")];
    let _ = scene.server.access(&closed).await;
    scene.server.counts("signet_connections_closed_total", &[INBOUND, REVOKED], 1).await;
    assert_eq!(scene.server.process.logs().events(|event| is_access(event, &closed)).len(), 1, "said once");

    assert!(!scene.gets_in(&scene.gone).await, "and comes back neither from there");
    scene.server.counts(FAILURES, &[INBOUND, REVOKED], 1).await;
    let _ = EchoConnection::open(staying.outbound()).await;

    // In the other direction, too: who calls holds whom it reached against the lists.
    let root = ListMaker::of(scene.frame.authority.root_pem());
    root.revoke(&scene.frame.authority.issuer_pem().0).await;
    let _ = put(&scene.folder, "root.crl", root.list_der(&[]).await);
    tokio::time::timeout(CUT_WITHIN, kept.closed()).await.expect("its issuer was revoked by the root");
    assert!(!scene.gets_in(&scene.stays).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn callee_that_a_list_names_is_called_no_more() {
    let scene = Scene::start(|proxy| proxy).await;
    let caller = scene.caller_with("/stays", |proxy| proxy.with("--crl-file", scene.folder.display())).await;
    let mut connection = EchoConnection::open(caller.outbound()).await;
    let server = fs::read_to_string(&scene.frame.server.svid).expect("the SVID of the proxy");
    let end = server.find("-----END").expect("PEM") + 26;

    scene.lists.revoke(&server[..end]).await;
    let _ = put(&scene.folder, "leaves.pem", scene.lists.list(&[]).await);

    tokio::time::timeout(CUT_WITHIN, connection.closed()).await.expect("it is cut");
    let labels = [("direction", "outbound"), REVOKED];
    eventually("a call to it is refused", PATIENCE, async || {
        let _ = signet_tests::sockets::send_and_read(caller.outbound(), b"x\n", CUT_WITHIN).await;
        let metrics = caller.metrics().await;
        match metrics.count(FAILURES, &labels) {
            0 => Err(caller.process.logs().tail(5)),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_kubernetes_swaps_are_taken() {
    let authority_folder = tempfile::tempdir().expect("a temporary directory");
    let mount = authority_folder.path().to_owned();
    let scene = Scene::start_in(
        &mount,
        |proxy| proxy,
        |folder, list| {
            let version = folder.join("..2026_01");
            fs::create_dir(&version).expect("a new version");
            let _ = file(&version, "leaves.pem", list);
            symlink("..2026_01", folder.join("..data")).expect("a new link");
            symlink("..data/leaves.pem", folder.join("leaves.pem")).expect("a new link");
        },
    )
    .await;
    assert!(scene.gets_in(&scene.gone).await);

    scene.lists.revoke(&scene.gone.leaf_pem).await;
    let version = mount.join("..2026_02");
    fs::create_dir(&version).expect("a new version");
    let _ = file(&version, "leaves.pem", scene.lists.list(&[]).await);
    symlink("..2026_02", mount.join("..data_tmp")).expect("a new link");
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("an atomic swap");
    fs::remove_dir_all(mount.join("..2026_01")).expect("the old version goes away");

    scene.takes(2).await;
    assert!(!scene.gets_in(&scene.gone).await);
    assert!(scene.gets_in(&scene.stays).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_that_cannot_be_used_changes_nothing_and_is_counted_by_its_reason() {
    let scene = Scene::start(|proxy| proxy).await;
    scene.lists.revoke(&scene.gone.leaf_pem).await;
    scene.lists.number("20");
    let good = scene.lists.list_der(&[]).await;
    let _ = put(&scene.folder, "leaves.pem", &good);
    scene.takes(2).await;
    assert!(!scene.gets_in(&scene.gone).await);

    // It would let everybody in again.
    let other = ListMaker::of(scene.frame.authority.issuer_pem());
    let made = async |number: &str, options: &[&str]| {
        other.number(number);
        other.list_der(options).await
    };
    let mut forged = made("30", &[]).await;
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("an error page", b"<html>502 Bad Gateway</html>".to_vec(), "malformed"),
        ("half of a list", good[..good.len() / 2].to_vec(), "malformed"),
        ("nothing", Vec::new(), "malformed"),
        ("an older list", made("1f", &[]).await, "older"),
        ("another list of the same number", made("20", &[]).await, "older"),
        ("a list whose signature was altered", forged, "signature"),
        ("a delta", made("31", &["-crlexts", "delta"]).await, "delta"),
        ("a list of some certificates", made("32", &["-crlexts", "part"]).await, "partial"),
        ("an indirect list", made("33", &["-crlexts", "indirect"]).await, "partial"),
        (
            "something critical that nobody knows",
            made("34", &["-crlexts", "unknown"]).await,
            "critical_extension",
        ),
        (
            "a list of tomorrow",
            made("35", &["-crl_lastupdate", "20400101000000Z", "-crl_nextupdate", "20400201000000Z"]).await,
            "future",
        ),
    ];
    for (case, list, reason) in cases {
        let count = async || scene.server.metrics().await.count(INTAKE, &[("result", reason)]);
        let before = count().await;
        let mark = scene.server.process.logs().mark();
        let _ = put(&scene.folder, "leaves.pem", &list);
        eventually(&format!("{case} is refused as {reason}"), PATIENCE, async || match count().await {
            now if now == before + 1 => Ok(()),
            now => Err(format!("{before} before, {now} now; {}", scene.server.process.logs().tail(3))),
        })
        .await;
        let said = scene
            .server
            .process
            .wait_for_logs(mark, 1, case, |event| !field(event, "error").is_empty())
            .await;
        println!("{case}: {}", field(&said[0], "error"));
        assert!(!scene.gets_in(&scene.gone).await, "{case}: the list before stays in force");
        assert!(scene.gets_in(&scene.stays).await, "{case}: and the others come in");
    }
    // Whoever has the same name and another key says nothing about whom our authority certified.
    let stranger = ListMaker::of(Authority::new("door.test").issuer_pem());
    stranger.number("40");
    let _ = put(&scene.folder, "leaves.pem", stranger.list(&[]).await);
    scene.takes(3).await;
    assert!(!scene.gets_in(&scene.gone).await);
    // A file that is gone takes nothing back.
    fs::remove_file(scene.folder.join("leaves.pem")).expect("it was there");
    assert!(!scene.gets_in(&scene.gone).await);

    // At last one that is newer and good: whom it does not name may come again.
    let _ = put(&scene.folder, "leaves.pem", made("50", &[]).await);
    scene.takes(4).await;
    assert!(scene.gets_in(&scene.gone).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_does_not_start_with_a_list_that_it_cannot_use() {
    let frame = Frame::new();
    let lists = ListMaker::of(frame.authority.root_pem());
    let echo = TcpEcho::start().await;
    let tomorrow = ["-crl_lastupdate", "20400101000000Z", "-crl_nextupdate", "20400201000000Z"];
    for (name, list, said) in [
        ("page.crl", b"<html>".to_vec(), "page.crl"),
        ("delta.crl", lists.list_der(&["-crlexts", "delta"]).await, "delta list"),
        ("tomorrow.crl", lists.list_der(&tomorrow).await, "from the future"),
    ] {
        let path = file(frame.directory(), name, list);
        let proxy = frame.proxy().inbound("tcp://", echo.address).with("--crl-file", path.display());
        let (code, log) = proxy.refuses_to_run().await;
        assert!(code == 1 && log.contains("crl-file") && log.contains(said), "{name}: {code}: {log}");
    }

    // Another authority could be meant: nobody of this one gets in, and it is said.
    let mut forged = lists.list_der(&[]).await;
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    let path = file(frame.directory(), "forged.crl", forged);
    let proxy =
        frame.proxy().inbound("tcp://", echo.address).with("--crl-file", path.display()).start().await;
    assert_eq!(proxy.metrics().await.count(INTAKE, &[("result", "signature")]), 1);
    let ready = proxy.readyz().await.body;
    assert!(ready.contains("warning: ") && ready.contains("new peers are refused"), "{ready}");
}

#[tokio::test(flavor = "multi_thread")]
async fn list_past_its_next_update_is_announced_refuses_who_comes_and_cuts_nobody() {
    let clock = Clock::default();
    let scene = Scene::start(|proxy| proxy.by(&clock)).await;
    let using = scene.frame.proxy().inbound("tcp://", scene.echo.address);
    let using = using.inbound("http://", scene.app.address).by(&clock);
    let using = using.with("--crl-file", scene.folder.display()).with("--crl-expired", "use").start().await;
    scene.lists.revoke(&scene.gone.leaf_pem).await;
    let _ = put(&scene.folder, "leaves.pem", scene.lists.list(&["-crlsec", "1200"]).await);
    scene.takes(2).await;
    let caller = scene.caller("/stays").await;
    let mut open = EchoConnection::open(caller.outbound()).await;
    let ready = async || scene.server.readyz().await.body;
    assert_eq!(ready().await, "ready\n");
    let ends = scene.server.metrics().await.sum("signet_crl_expiry_timestamp_seconds", &[]);
    assert!(ends > 0.0, "{ends}");

    clock.set_ahead(Duration::from_secs(1000));
    let says = async |what: &str| {
        eventually(what, PATIENCE, async || match ready().await {
            body if body.contains(what) => Ok(()),
            body => Err(body),
        })
        .await;
    };
    says("ends soon").await;
    let _ = scene
        .server
        .process
        .wait_for_log("a warning", |event| field(event, "message").contains("ends soon"))
        .await;
    assert!(scene.gets_in(&scene.stays).await, "until then it is as good as ever");

    clock.set_ahead(Duration::from_secs(1300));
    says("past its nextUpdate").await;
    assert!(!scene.gets_in(&scene.stays).await);
    let expired = [INBOUND, ("reason", "crl_expired")];
    scene.server.counts(FAILURES, &expired, 1).await;
    open.ping().await.expect("what is open stays open");
    eventually("the list is counted as expired", PATIENCE, async || {
        match scene.server.metrics().await.sum("signet_crl_lists", &[("state", "expired")]) {
            1.0 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    assert!(reaches(&scene.frame, &using, &scene.stays).await, "whoever is told to use it does");
    assert!(!reaches(&scene.frame, &using, &scene.gone).await, "and whom it names stays out");

    let _ = put(&scene.folder, "leaves.pem", scene.lists.list(&["-crldays", "7"]).await);
    scene.takes(3).await;
    assert!(scene.gets_in(&scene.stays).await);
    assert!(!scene.gets_in(&scene.gone).await);
    open.ping().await.expect("and is open still");
}

/// A proxy with certificates of a mesh in files, and no connection to its control: it learns from the lists that control
/// publishes.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_signets_own_control_are_read() {
    let mesh = Mesh::start_with(&["--crl-url", "http://pki.mesh.test:8080/crl", "--crl-every", "1s"]).await;
    let app = RequestApp::start().await;
    let folder = mesh.directory().join("lists");
    fs::create_dir(&folder).expect("a new folder");
    for name in ["door", "gone", "stays"] {
        mesh.workload(&id(&format!("/{name}"))).await;
        let credentials = mesh.directory().join(name).display().to_string();
        let ticket = mesh.ticket(&id(&format!("/{name}"))).await;
        let _ = mesh.signet(&["login", &ticket, "--dir", &credentials]).await.succeeded();
    }
    let of = |name: &str, part: &str| mesh.directory().join(name).join(part);
    let svid = fs::read_to_string(of("gone", "svid.pem")).expect("written by login");
    let (leaf, above) = svid.split_at(svid.find("-----END").expect("PEM") + 26);
    let leaf = file(mesh.directory(), "leaf.pem", leaf);
    let chain = file(mesh.directory(), "chain.pem", above);
    let shown =
        Client::new("openssl").args(["x509", "-noout", "-text", "-serial", "-in"]).arg(&leaf).run().await;
    let list =
        shown.stdout.lines().find_map(|line| line.trim().strip_prefix("URI:http://pki.mesh.test:8080/crl/"));
    let list = list.expect("a distribution point").to_owned();
    let serial =
        shown.stdout.lines().find_map(|line| line.strip_prefix("serial=")).expect("a serial").to_lowercase();
    let fetched = async || {
        let url = format!("http://{}/crl/{list}", mesh.http);
        curl().arg("--fail").arg(url).run().await.succeeded().bytes
    };
    let before = fetched().await;
    let _ = put(&folder, "leaves.crl", &before);
    let policy =
        file(mesh.directory(), "policy.yaml", allow("door", &id("/door"), &[&id("/gone"), &id("/stays")]));
    let server = ProxyBuilder::bare()
        .with("--svid-file", of("door", "svid.pem").display())
        .with("--key-file", of("door", "key.pem").display())
        .with("--bundle-file", of("door", "bundle.pem").display())
        .with("--policy-file", policy.display())
        .with("--crl-file", folder.display())
        .inbound("http://", app.address)
        .start()
        .await;
    let ask = async |name: &str| {
        let files = SvidFiles { svid: of(name, "svid.pem"), chain: chain.clone(), key: of(name, "key.pem") };
        asked(server.inbound(), &files, &of(name, "bundle.pem")).await
    };
    assert!(ask("gone").await && ask("stays").await);

    let _ = mesh.signet(&["revoke", "--serial", &serial, "--reason", "key leaked"]).await.succeeded();
    assert!(ask("gone").await, "nobody told the proxy yet");
    let after = eventually("a list that names it", PATIENCE, async || match fetched().await {
        list if list != before && list.len() > before.len() => Ok(list),
        list => Err(format!("{} bytes", list.len())),
    })
    .await;
    let _ = put(&folder, "leaves.crl", after);
    server.counts(INTAKE, &[("result", "taken")], 2).await;
    assert!(!ask("gone").await);
    assert!(ask("stays").await);
}

impl Scene {
    async fn start(build: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        Self::start_in(&folder, build, |folder, list| {
            let _ = put(folder, "leaves.pem", list);
        })
        .await
    }

    /// With the first list where `place` puts it.
    async fn start_in(
        folder: &Path,
        build: impl FnOnce(ProxyBuilder) -> ProxyBuilder,
        place: impl FnOnce(&Path, String),
    ) -> Self {
        let (frame, echo, app) = (Frame::new(), TcpEcho::start().await, RequestApp::start().await);
        let lists = ListMaker::of(frame.authority.issuer_pem());
        place(folder, lists.list(&[]).await);
        let server = frame.proxy().inbound("tcp://", echo.address).inbound("http://", app.address);
        let server = build(server.with("--crl-file", folder.display())).start().await;
        let [gone, stays] = ["/gone", "/stays"].map(|path| frame.authority.svid(&frame.authority.id(path)));
        let scene = Self { frame, lists, folder: folder.to_owned(), server, gone, stays, echo, app };
        scene.takes(1).await;
        scene
    }

    async fn caller(&self, path: &str) -> Proxy {
        self.caller_with(path, |proxy| proxy).await
    }

    /// The proxy of a caller.
    async fn caller_with(&self, path: &str, build: impl FnOnce(ProxyBuilder) -> ProxyBuilder) -> Proxy {
        let svid = if path == "/gone" { &self.gone } else { &self.stays };
        let files = svid.write(self.frame.directory(), &path.replace('/', "caller-"));
        let server = format!("{}@{}", self.frame.authority.id("/server"), self.server.inbound());
        let proxy = ProxyBuilder::with_files(&files, &self.frame.bundle, &self.frame.policy);
        build(proxy.outbound("tcp://", &server)).start().await
    }

    /// Waits until that many lists were taken.
    async fn takes(&self, count: u64) {
        self.server.counts(INTAKE, &[("result", "taken")], count).await;
    }

    async fn gets_in(&self, svid: &Svid) -> bool {
        reaches(&self.frame, &self.server, svid).await
    }
}

/// Whether the web server answers `openssl` with these credentials.
async fn reaches(frame: &Frame, proxy: &Proxy, svid: &Svid) -> bool {
    let files = svid.write(frame.directory(), "visitor");
    asked(proxy.inbounds()[1], &files, &frame.bundle).await
}

async fn asked(address: SocketAddr, files: &SvidFiles, bundle: &Path) -> bool {
    let answer = Client::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-quiet", "-ign_eof", "-CAfile"])
        .arg(bundle)
        .arg("-cert")
        .arg(&files.svid)
        .arg("-key")
        .arg(&files.key)
        .arg("-cert_chain")
        .arg(&files.chain)
        .input(REQUEST)
        .run()
        .await;
    answer.stdout.starts_with("HTTP/1.1 200")
}
