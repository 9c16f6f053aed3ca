//! Ways to a proxy's own ports for whoever is in the pod, or outside of it: what it opens for its app is only for
//! the app, and what nobody may reach has no other name.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signet_tests::apps::Nginx;
use signet_tests::binaries::binaries;
use signet_tests::client::{Client, curl, file};
use signet_tests::door::Frame;
use signet_tests::mesh::{Mesh, id};
use signet_tests::place::Place;
use signet_tests::pods::{Family, Network, Pod};
use signet_tests::process::Process;
use signet_tests::report::measured;
use signet_tests::{PATIENCE, eventually};

use crate::captured::{Inside, Pods};

/// For HTTP CONNECT.
const CONNECT: u16 = 15010;
const METRICS: u16 = 15020;

/// A proxy of `identity` with these options alone, for what the builder decides by itself. The metrics must be
/// on loopback, too.
pub(crate) async fn joined(mesh: &Mesh, identity: &str, pod: &Pod, options: &[&str]) -> Process {
    let name = identity.rsplit('/').next().unwrap();
    let ticket = file(mesh.directory(), &format!("ticket-{name}"), mesh.ticket(identity).await);
    let mut command = Command::new(&binaries().proxy);
    command
        .args(["run", "--log-format", "json", "--admin-listen", "none", "--join-file"])
        .arg(ticket)
        .args(options);
    let process = Process::start("signet-proxy", pod.wrap(&command, 0));
    let metrics = options.iter().skip_while(|option| **option != "--metrics-listen").nth(1);
    let port = metrics.and_then(|address| address.parse::<SocketAddr>().ok()).unwrap().port();
    eventually("the proxy is ready", PATIENCE, async || {
        match pod.get(([127, 0, 0, 1], port).into(), "/readyz").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}\n{}", process.logs().tail(10))),
        }
    })
    .await;
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_for_the_app_is_not_for_other_pods() {
    let pods = Pods::new(Family::Dual);
    let nginx = Nginx::start_at(Place::Pod(&pods.outside)).await;
    let mesh = Mesh::start_in(pods.network.hub()).await;
    mesh.workload(&id("/frontend")).await;
    let _caller = mesh
        .proxy(&id("/frontend"))
        .await
        .in_pod(&pods.caller)
        .with("--outbound", format!("{CONNECT}=connect"))
        .with("--unknown-destinations", "passthrough")
        .start()
        .await;
    let url = format!("http://{}/charge/1", nginx.address);
    let through = async |from: &Pod, proxy: SocketAddr| {
        let proxy = format!("http://{proxy}");
        curl().args(["--noproxy", "", "--proxytunnel", "--proxy", &proxy, &url]).inside(from).run().await
    };

    for loopback in [format!("127.0.0.1:{CONNECT}"), format!("[::1]:{CONNECT}")] {
        let answer = through(&pods.caller, loopback.parse().unwrap()).await.succeeded();
        assert_eq!(answer.stdout, "GET /charge/1", "by {loopback}");
    }
    for address in [pods.caller.at(CONNECT), (pods.caller.ipv6(), CONNECT).into()] {
        for from in [&pods.outside, &pods.app, &pods.caller] {
            let refused = through(from, address).await;
            assert_eq!(refused.code(), 7, "{from} by {address}: {}", refused.all());
            assert!(
                refused.stderr.contains("refused") || refused.stderr.contains("connect"),
                "{}",
                refused.all()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_metrics_nor_control_have_an_address_by_which_they_are_strangers() {
    let network = Network::new(Family::Dual);
    let (hub, outside) = (network.hub(), network.pod("outside"));
    let nginx = Nginx::start_at(Place::Pod(&outside)).await;
    let mesh = Mesh::start_in(hub).await;
    mesh.workload(&id("/frontend")).await;
    // Beside control, so that it has other addresses than the one by which it is known.
    let (metrics, connect) = (format!("[::]:{METRICS}"), format!("{CONNECT}=connect"));
    let options =
        ["--metrics-listen", &metrics, "--outbound", &connect, "--unknown-destinations", "passthrough"];
    let _proxy = joined(&mesh, &id("/frontend"), hub, &options).await;
    let link_local = link_local(hub, "br0").await;
    let index = hub.run("ip", &["-o", "link", "show", "br0"]).await.stdout;
    let index = index.split(':').next().unwrap().trim();

    let hosts = [
        format!("[{link_local}%br0]"),
        format!("[{link_local}%25br0]"),
        format!("[{link_local}%{index}]"),
        format!("[{link_local}%25{index}]"),
        format!("[{link_local}]"),
        format!("{link_local}%br0"),
        "127.0.0.1".into(),
        "127.8.8.8".into(),
        "localhost".into(),
        "0.0.0.0".into(),
        "[::1]".into(),
        "[::]".into(),
        hub.ip().to_string(),
        format!("[{}]", hub.ipv6()),
        format!("[::ffff:{}]", hub.ip()),
        "[::ffff:127.0.0.1]".into(),
    ];
    for port in [METRICS, CONNECT, mesh.grpc.port()] {
        for host in &hosts {
            let answer = asked_for(hub, &format!("{host}:{port}")).await;
            assert!(
                answer.starts_with("HTTP/1.1 403 ") || answer.starts_with("HTTP/1.1 400 "),
                "{host}:{port}: {answer}"
            );
        }
    }

    // They would have been reached there, and strangers are.
    let metrics = format!("http://[{link_local}%25br0]:{METRICS}/metrics");
    let answer = curl().arg(metrics).in_pod(hub, 0).run().await.succeeded().stdout;
    assert!(answer.contains("signet_") && !answer.contains("signet_passthrough_total "), "{answer}");
    let answer = asked_for(hub, &nginx.address.to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Its address there, once it is nobody else's.
async fn link_local(pod: &Pod, interface: &str) -> String {
    let list = ["-6", "-o", "address", "show", "dev", interface, "scope", "link", "-tentative"];
    eventually("a link-local address", PATIENCE, async || {
        let listing = pod.run("ip", &list).await.stdout;
        let address = listing.split_whitespace().find_map(|word| word.strip_suffix("/64"));
        address.map(str::to_owned).ok_or(listing)
    })
    .await
}

/// What the CONNECT listener says to that authority.
async fn asked_for(pod: &Pod, authority: &str) -> String {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let proxy = format!("TCP:127.0.0.1:{CONNECT}");
    Client::new("socat").args(["-t", "2", "-", &proxy]).input(request).in_pod(pod, 0).run().await.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_for_the_app_is_nobody_elses_at_any_time() {
    const ROUNDS: usize = 10;
    let frame = Frame::new();
    let path = frame.directory().join("app.sock");
    let outbound = format!("unix:{}={}@127.0.0.1:1", path.display(), frame.authority.id("/server"));
    let mut seen_unfinished = 0;
    for _ in 0..ROUNDS {
        let watch = Watch::start(&path);
        let proxy = frame.caller_proxy().with("--outbound", &outbound).wrapped(&[
            "bash",
            "-c",
            "umask 0; exec \"$@\"",
            "bash",
        ]);
        let proxy = proxy.start().await;
        let modes = watch.end();
        assert!(modes.contains(&"660".to_owned()), "its user and its group call in the end: {modes:?}");
        assert!(modes.iter().all(|mode| mode.ends_with('0')), "nobody else, at no time: {modes:?}");
        seen_unfinished += usize::from(modes.len() > 1);
        drop(proxy);
        assert!(!path.exists(), "it takes its socket along");
    }
    measured("sockets seen between their making and their opening", format!("{seen_unfinished} of {ROUNDS}"));
}

/// The modes that a path has had, in octal, as somebody sees them who does nothing else than look.
struct Watch {
    over: Arc<AtomicBool>,
    looking: thread::JoinHandle<Vec<String>>,
}

impl Watch {
    fn start(path: &Path) -> Self {
        let (over, path) = (Arc::new(AtomicBool::new(false)), path.to_owned());
        let end = Arc::clone(&over);
        let looking = thread::spawn(move || {
            let mut modes = Vec::new();
            loop {
                let last = end.load(Ordering::Relaxed);
                if let Ok(there) = std::fs::symlink_metadata(&path) {
                    let mode = format!("{:o}", there.permissions().mode() & 0o777);
                    if modes.last() != Some(&mode) {
                        modes.push(mode);
                    }
                }
                if last {
                    break modes;
                }
            }
        });
        Self { over, looking }
    }

    fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.looking.join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_place_of_a_socket_is_not_followed() {
    let frame = Frame::new();
    let secret = file(frame.directory(), "secret", "of somebody else");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let (nothing, dead) = (frame.directory().join("nothing"), frame.directory().join("dead.sock"));
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let path = frame.directory().join("app.sock");
    let outbound = format!("unix:{}={}@127.0.0.1:1", path.display(), frame.authority.id("/server"));
    for target in [&secret, &nothing, &dead] {
        symlink(target, &path).unwrap();
        let (code, said) = frame.caller_proxy().with("--outbound", &outbound).refuses_to_run().await;
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("app.sock"), "it says what is in its way: {said}");
        assert_eq!(std::fs::read_link(&path).unwrap(), *target, "what is there is left alone");
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(&secret).unwrap(), b"of somebody else");
    assert!(!nothing.exists() && dead.exists());
}
