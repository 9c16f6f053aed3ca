//! Apps that do their own TLS, by the socket beside them: the SPIFFE libraries of Python and Rust, gRPC in JavaScript, buf,
//! and Envoy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use signet_tests::apps::{RequestApp, TcpEcho};
use signet_tests::binaries::workspace;
use signet_tests::client::{Client, curl, curl_get, file};
use signet_tests::envoy::{Discovers, Envoy};
use signet_tests::logs::{field, is_message};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::peers::script;
use signet_tests::process::Process;
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::report::{hey_without_failures, measured};
use signet_tests::tools::{buf, node, spiffe_python};
use signet_tests::{PATIENCE, eventually};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Source};
use tempfile::TempDir;

/// SVIDs live this long, so they rotate every two seconds.
const LIFE: &str = "4s";
const NOBODY: u32 = 65534;

#[tokio::test(flavor = "multi_thread")]
async fn app_has_what_it_had_when_its_proxy_restarts_while_control_is_down() {
    let (mut mesh, echo, place) = (Mesh::start().await, TcpEcho::start().await, Place::new());
    let orders = id("/orders");
    mesh.workload(&orders).await;
    mesh.apply(&allow("orders", &orders, &[&orders])).await;
    let key = file(place.directory.path(), "state.key", [7; 32]);
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let sealed = place.directory.path().join("state");
    let proxy = place.served_by(mesh.proxy(&orders).await.inbound("tcp://", echo.address));
    let proxy = proxy.with("--state-file", sealed.display()).with("--state-key", key.display());
    let mut proxy = proxy.start().await;
    let client = WorkloadApiClient::connect_to(endpoint(&place.socket)).await.unwrap();
    let first = client.fetch_x509_svid().await.unwrap();
    let writes = [("result", "success")];
    eventually("it is sealed", PATIENCE, async || {
        let before = std::fs::read(&sealed).unwrap_or_default();
        match before.starts_with(b"signet-state\0\0\0\x02") {
            true => Ok(()),
            false => Err(format!("{}", proxy.metrics().await.count("signet_state_writes_total", &writes))),
        }
    })
    .await;

    mesh.kill_control().await;
    proxy.process.kill().await;
    proxy.restart().await;

    let client = WorkloadApiClient::connect_to(endpoint(&place.socket)).await.unwrap();
    let again = client.fetch_x509_svid().await.expect("control is down, and the app has its SVID");
    assert_eq!(again.leaf().as_bytes(), first.leaf().as_bytes());
    let restored = [("result", "restored")];
    proxy.counts("signet_workload_svid_rotations_total", &restored, 1).await;
}

/// A place for a socket that any user may reach.
struct Place {
    socket: PathBuf,
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("signet-app-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        Self { socket: directory.path().join("workload.sock"), directory }
    }

    /// Serves this user's processes there.
    fn served_by(&self, proxy: ProxyBuilder) -> ProxyBuilder {
        let user = rustix::process::geteuid().as_raw();
        proxy
            .with("--workload-api-listen", format!("unix:{}", self.socket.display()))
            .with("--workload-api-caller", format!("uid={user}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_follow_rotations_by_libraries_we_did_not_write_until_their_instance_is_revoked() {
    let (mesh, echo, place) = (Mesh::start().await, TcpEcho::start().await, Place::new());
    let orders = id("/orders");
    mesh.short_lived_workload(&orders, LIFE).await;
    let proxy = place.served_by(mesh.proxy(&orders).await.inbound("tcp://", echo.address)).start().await;

    let mut app = Process::start("workload.py", library(&place.socket, "watch"));
    let mut other = Process::start("workload.js", javascript(&place.socket));
    let source = X509Source::builder().endpoint(endpoint(&place.socket)).build().await.unwrap();
    let first = source.svid().unwrap();
    let is_context = |event: &Value| is_message(event, "context");
    let shown = app.wait_for_logs(0, 3, "three states of the app's SVID", is_context).await;
    let different = |name: &str| {
        let mut values: Vec<String> = shown.iter().map(|context| field(context, name)).collect();
        values.sort();
        values.dedup();
        values.len()
    };
    assert!(shown.iter().all(|context| field(context, "id") == orders));
    assert_eq!((different("serial"), different("key"), different("instance")), (3, 3, 1), "{shown:?}");

    let seen = other.wait_for_logs(0, 3, "three states of the other app's SVID", is_context).await;
    assert!(seen.iter().all(|context| field(context, "id") == orders), "{seen:?}");
    let unmarked = other.wait_for_log("no header", |event| is_message(event, "unmarked")).await;
    assert_eq!(unmarked["fields"]["code"], 3, "INVALID_ARGUMENT");
    let bundles = other.wait_for_log("bundles", |event| is_message(event, "bundles")).await;
    assert_eq!(bundles["fields"]["bundles"][id("")], 1, "{bundles}");
    eventually("the source follows", PATIENCE, async || match source.svid() {
        Ok(svid) if svid.leaf().as_bytes() != first.leaf().as_bytes() => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    assert_eq!(source.svid().unwrap().spiffe_id().to_string(), orders);

    let own = proxy.ask("/identity").await;
    let instance = field(&shown[0], "instance");
    assert_ne!(own["instance"], instance.as_str(), "the app is told apart from its proxy");
    assert!(shown.iter().all(|context| own["key_sha256"] != field(context, "key").as_str()));
    let apps = &own["workload_api"];
    assert_eq!(
        (&apps["svids"][0]["instance"], &apps["svids"][0]["state"]),
        (&instance.as_str().into(), &"valid".into())
    );
    let called_by = |pid: u32| {
        let of_pid = |caller: &&Value| caller["pid"] == pid;
        apps["callers"].as_array().unwrap().iter().find(of_pid).unwrap_or_else(|| panic!("{pid}: {apps}"))
    };
    assert_eq!(called_by(app.id())["streams"]["FetchX509SVID"], 1, "{apps}");
    assert_eq!(called_by(other.id())["streams"]["FetchX509SVID"], 1, "{apps}");

    // Each call of the library once.
    let once = Client::of(library(&place.socket, "once")).run().await.succeeded();
    assert_eq!(said(&once.stdout, "svid")["answer"], orders.as_str(), "{}", once.stdout);
    assert_eq!(said(&once.stdout, "bundles")["answer"].as_array().unwrap().len(), 1, "{}", once.stdout);
    assert_eq!(
        said(&once.stdout, "jwt")["answer"].as_str().unwrap().split('.').count(),
        3,
        "{}",
        once.stdout
    );

    // Calls without the header, and of another user.
    let buf = Client::at(&buf()).args(["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--schema"]);
    let buf = buf.arg(standard()).args(["--data", "{}", "--unix-socket"]).arg(&place.socket);
    let refused = buf.arg("http://socket/SpiffeWorkloadAPI/FetchX509SVID").run().await;
    assert!(
        !refused.status.success() && refused.stderr.contains("\"invalid_argument\""),
        "{}",
        refused.all()
    );
    assert_eq!(status(call(&place.socket)).await, 3, "INVALID_ARGUMENT");
    let marked = || call(&place.socket).args(["--header", "workload.spiffe.io: true"]);
    assert_eq!(status(marked().as_user(NOBODY)).await, 7, "PERMISSION_DENIED");
    let denied = [("method", "FetchX509SVID"), ("result", "denied")];
    proxy.counts("signet_workload_api_calls_total", &denied, 1).await;

    let _ = mesh
        .signet(&["revoke", "--instance", &instance, "--reason", "the app was broken into"])
        .await
        .succeeded();
    let error = app.wait_for_log("the app is told", |event| is_message(event, "error")).await;
    assert!(field(&error, "error").contains("PERMISSION_DENIED"), "{error}");
    app.exit(PATIENCE).await;
    let error = other.wait_for_log("the other app is told", |event| is_message(event, "error")).await;
    assert_eq!(error["fields"]["code"], 7, "PERMISSION_DENIED: {error}");
    other.exit(PATIENCE).await;
    let client = WorkloadApiClient::connect_to(endpoint(&place.socket)).await.unwrap();
    let refused = client.fetch_x509_svid().await.unwrap_err();
    assert!(matches!(refused, WorkloadApiError::PermissionDenied(_)), "{refused}");
    source.shutdown().await;
    assert_eq!(status(marked()).await, 7, "and stays so");
    assert_eq!(proxy.readyz().await.status, 200, "the proxy is another instance");
    let apps = &proxy.ask("/identity").await["workload_api"];
    assert_eq!(apps["svids"][0]["state"], "refused", "{apps}");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_a_proxy_follow_rotations_under_load_by_the_socket_of_another_proxy() {
    let (mesh, app, place) = (Mesh::start().await, RequestApp::start().await, Place::new());
    let (edge, web) = (id("/edge"), id("/web"));
    mesh.short_lived_workload(&edge, LIFE).await;
    mesh.workload(&web).await;
    mesh.policy(&allow("web", &web, &[&edge])).await;
    let server = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    let beside = place.served_by(mesh.proxy(&edge).await.outbound("http://", &web)).start().await;

    let discovers = |by, authorities| Discovers { socket: &place.socket, by, authorities, peer: &web };
    let (_envoy, entries) = Envoy::default()
        .calling_with_secrets(server.inbound(), discovers("GRPC", "ROOTCA"))
        .calling_with_secrets(server.inbound(), discovers("DELTA_GRPC", "ALL"))
        .start(place.directory.path())
        .await;
    for entry in &entries {
        // Until it has its secrets it answers 503.
        eventually("Envoy has its secrets", PATIENCE, async || {
            match curl_get(*entry, "/").await.succeeded() {
                answer if answer.stdout.contains("x-forwarded-client-cert") => Ok(()),
                answer => Err(answer.all()),
            }
        })
        .await;
    }
    // A proxy that has its identity from the same socket: it calls, and is called.
    let policy = file(place.directory.path(), "policy.yaml", allow("edge", &edge, &[&web]));
    let fed = ProxyBuilder::bare()
        .with("--svid-socket", format!("unix:{}", place.socket.display()))
        .with("--policy-file", policy.display())
        .inbound("http://", app.address)
        .outbound("http://", &format!("{web}@{}", server.inbound()));
    let fed = fed.start().await;
    let caller = mesh.proxy(&web).await.outbound("http://", &format!("{edge}@{}", fed.inbound()));
    let caller = caller.start().await;
    let before = (renewals(&beside).await, taken(&fed).await);
    let hey = |entry| {
        let url = format!("http://{entry}/");
        Client::new("hey")
            .args(["-z", "8s", "-c", "2", "-q", "50", &url])
            .limit(Duration::from_secs(40))
            .start()
    };
    let loads = [
        ("Envoy", hey(entries[0])),
        ("Envoy by differences", hey(entries[1])),
        ("a proxy fed by the socket", hey(fed.outbound())),
        ("a proxy to one fed by the socket", hey(caller.outbound())),
    ];
    for (through, load) in loads {
        measured(
            &format!("requests through {through} over rotations, 0 failed"),
            hey_without_failures(load.finish().await),
        );
    }
    assert_eq!(fed.ask("/identity").await["source"], "workload_api");
    assert!(taken(&fed).await - before.1 >= 2, "the fed proxy followed");
    let rotations = renewals(&beside).await - before.0;
    measured("rotations of Envoy's SVID under load", rotations);
    assert!(rotations >= 2, "{rotations}");
    server.access(&[("source", edge.as_str()), ("verdict", "allow")]).await;
    assert_eq!(server.metrics().await.count("signet_handshake_failures_total", &[]), 0);
    let metrics = beside.metrics().await;
    let answers = |answer| metrics.count("signet_workload_api_answers_total", &[("answer", answer)]);
    assert!(answers("ack") > rotations && answers("nack") == 0, "{} {}", answers("ack"), answers("nack"));
}

async fn renewals(proxy: &Proxy) -> u64 {
    proxy.metrics().await.count("signet_workload_svid_rotations_total", &[("result", "success")])
}

/// The SVIDs that a proxy took.
async fn taken(proxy: &Proxy) -> u64 {
    proxy.metrics().await.count("signet_svid_rotations_total", &[("result", "success")])
}

fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// The definitions of the standard.
fn standard() -> PathBuf {
    workspace().join("proto/standard/spiffe/workload.proto")
}

fn javascript(socket: &Path) -> std::process::Command {
    let mut command = node();
    command.arg(script("workload.js")).arg(socket).arg(standard());
    command
}

fn library(socket: &Path, does: &str) -> std::process::Command {
    let mut command = spiffe_python();
    command.arg(script("workload.py")).arg(endpoint(socket)).arg(does);
    command
}

/// What the library said in the line with that message.
fn said(lines: &str, message: &str) -> Value {
    let mut events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.find(|event| is_message(event, message)).unwrap_or_else(|| panic!("no {message}: {lines}"))["fields"].clone()
}

/// FetchX509SVID without any library: an empty message.
fn call(socket: &Path) -> Client {
    curl()
        .args(["--http2-prior-knowledge", "--include", "--no-buffer", "--max-time", "3", "--unix-socket"])
        .arg(socket)
        .args([
            "--header",
            "content-type: application/grpc",
            "--header",
            "te: trailers",
            "--data-binary",
            "@-",
        ])
        .arg("http://socket/SpiffeWorkloadAPI/FetchX509SVID")
        .input([0; 5])
}

/// The status of a call that is refused.
async fn status(call: Client) -> u32 {
    let finished = call.run().await;
    let status = finished.stdout.lines().find_map(|line| line.strip_prefix("grpc-status: "));
    status.and_then(|code| code.trim().parse().ok()).unwrap_or_else(|| panic!("{}", finished.all()))
}
