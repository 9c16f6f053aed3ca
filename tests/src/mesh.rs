//! A mesh of one test: a control service on a data directory of its own, and the operators' command line
//! against it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::binaries;
use crate::client::{Client, Finished, file};
use crate::logs::{field, is_message};
use crate::place::{Place, Seat};
use crate::pods::Pod;
use crate::process::Process;
use crate::proxy::{Proxy, ProxyBuilder};
use crate::{PATIENCE, eventually};

/// The trust domain of every mesh.
pub const TRUST_DOMAIN: &str = "mesh.test";

/// A control service and what it keeps on disk.
#[derive(Debug)]
pub struct Mesh {
    /// The gRPC listener.
    pub grpc: SocketAddr,
    /// The HTTP listener: health and metrics of control.
    pub http: SocketAddr,
    /// The running control service.
    pub control: Process,
    directory: TempDir,
    options: Vec<String>,
    pod: Option<Pod>,
}

/// `spiffe://mesh.test` and the path.
#[must_use]
pub fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

impl Mesh {
    /// Starts control on an empty data directory, with lives of SVIDs down to two seconds allowed.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Mesh::start`], with more options of `signet-control run`.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with(options: &[&str]) -> Self {
        let directory =
            tempfile::Builder::new().prefix("signet-mesh-").tempdir().expect("a temporary directory");
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let any = Seat::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        let (control, grpc, http) = run_control(directory.path(), Place::Loopback, any, any, &options).await;
        Self { grpc, http, control, directory, options, pod: None }
    }

    /// As [`Mesh::start`], in `pod`, at the address by which proxies in other pods reach it.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_in(pod: &Pod) -> Self {
        let directory =
            tempfile::Builder::new().prefix("signet-mesh-").tempdir().expect("a temporary directory");
        let place = Place::Pod(pod);
        let (grpc, http) = (place.seat(8443), place.seat(8080));
        let options = vec!["--advertise".to_owned(), grpc.address.to_string()];
        let (control, ..) = run_control(directory.path(), place, grpc, http, &options).await;
        let pod = Some(pod.clone());
        Self { grpc: grpc.address, http: http.address, control, directory, options, pod }
    }

    /// SIGKILL: control has no time to finish anything.
    pub async fn kill_control(&mut self) {
        self.control.kill().await;
    }

    /// Starts control again on the same data and the same ports.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart_control(&mut self) {
        let place = self.pod.as_ref().map_or(Place::Loopback, Place::Pod);
        let (grpc, http) = (Seat::from(self.grpc), Seat::from(self.http));
        let (control, ..) = run_control(self.directory.path(), place, grpc, http, &self.options).await;
        self.control = control;
    }

    /// Where control keeps everything.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory for files of this test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `signet` with these arguments, over the admin socket.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Client {
        let socket = format!("unix:{}", self.data().join("admin.sock").display());
        signet().env("SIGNET_CONTROL", socket).args(arguments)
    }

    /// Runs [`Mesh::command`] whatever comes of it.
    pub async fn signet(&self, arguments: &[&str]) -> Finished {
        self.command(arguments).run().await
    }

    /// Runs it with `--output json`; it must succeed, and answer JSON.
    ///
    /// # Panics
    /// When it does not.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let finished = self.command(arguments).args(["--output", "json"]).run().await.succeeded();
        parse_json(&finished)
    }

    /// Registers a workload with control's usual life of SVIDs.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn workload(&self, id: &str) {
        self.workload_with(id, &[]).await;
    }

    /// Registers a workload whose SVIDs live for `ttl`, such as `4s`.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn short_lived_workload(&self, id: &str, ttl: &str) {
        self.workload_with(id, &["--ttl", ttl]).await;
    }

    async fn workload_with(&self, id: &str, more: &[&str]) {
        let create = ["workload", "create", id, "--owner", "team-tests", "--purpose", "end-to-end test"];
        let _ = self.command(&create).args(more).run().await.succeeded();
    }

    /// A join ticket for a workload: the only thing on standard output.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn ticket(&self, id: &str) -> String {
        let finished = self.signet(&["token", "create", id]).await.succeeded();
        let ticket = finished.stdout.trim().to_owned();
        assert!(ticket.starts_with("signet-join-v1."), "not a ticket alone: {}", finished.stdout);
        ticket
    }

    /// Applies policy documents and waits until every connected proxy has them in force.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn policy(&self, yaml: &str) -> Value {
        let path = self.policy_file(yaml);
        self.json(&["policy", "apply", "-f", &path.display().to_string()]).await
    }

    /// Writes policy documents to a file for `signet policy apply -f`.
    #[must_use]
    pub fn policy_file(&self, yaml: &str) -> PathBuf {
        file(self.directory.path(), "policy.yaml", yaml)
    }

    /// A proxy for a registered workload, with a join ticket of its own.
    pub async fn proxy(&self, id: &str) -> ProxyBuilder {
        let ticket = self.ticket(id).await;
        ProxyBuilder::joining(&ticket)
    }

    /// Registers both workloads and starts a proxy beside each: `source`'s outbound leads to `destination`'s
    /// inbound, which leads to `app`. `scheme` is `http://`, `tcp://` or empty to have it detected.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn pair(&self, source: &str, destination: &str, scheme: &str, app: SocketAddr) -> Pair {
        self.workload(source).await;
        self.workload(destination).await;
        self.proxies(source, destination, scheme, app).await
    }

    /// As [`Mesh::pair`], for workloads that are registered already.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn proxies(&self, source: &str, destination: &str, scheme: &str, app: SocketAddr) -> Pair {
        let server = self.proxy(destination).await.inbound(scheme, app).start().await;
        let caller = self.proxy(source).await.outbound(scheme, destination).start().await;
        Pair { caller, server }
    }

    /// The newest SVID of every instance that control lists, ended ones included.
    ///
    /// # Panics
    /// When control does not answer.
    pub async fn identities(&self) -> Vec<Value> {
        rows(self.json(&["identities", "--all"]).await)
    }

    /// Checks the hash chain of the audit record with `signet audit verify`.
    ///
    /// # Panics
    /// When it does not hold.
    pub async fn verify_audit(&self) {
        let _ = self.signet(&["audit", "verify"]).await.succeeded();
    }
}

/// A proxy beside a caller, and one beside the app that it calls.
#[derive(Debug)]
pub struct Pair {
    /// Beside the caller.
    pub caller: Proxy,
    /// Beside the app.
    pub server: Proxy,
}

impl Pair {
    /// Where clients connect to reach the app.
    #[must_use]
    pub fn entry(&self) -> SocketAddr {
        self.caller.outbound()
    }
}

/// `signet` without anything set.
#[must_use]
pub fn signet() -> Client {
    Client::at(&binaries().signet)
}

/// The JSON on standard output.
///
/// # Panics
/// When it is not JSON.
#[must_use]
pub fn parse_json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("not JSON ({error}): {}", finished.stdout))
}

/// The rows of a list that `signet --output json` printed.
///
/// # Panics
/// When it is not a list.
#[must_use]
pub fn rows(list: Value) -> Vec<Value> {
    match list {
        Value::Array(rows) => rows,
        other => panic!("not a list: {other}"),
    }
}

/// A policy document that lets `from` reach everything of `target`.
#[must_use]
pub fn allow(name: &str, target: &str, from: &[&str]) -> String {
    let from = from.join(", ");
    format!(
        "kind: Policy\nname: {name}\ntarget: {target}\nrules:\n  - name: callers\n    allow: {{ from: [{from}] }}\n"
    )
}

async fn run_control(
    directory: &Path,
    place: Place<'_>,
    grpc: Seat,
    http: Seat,
    options: &[String],
) -> (Process, SocketAddr, SocketAddr) {
    let mut command = place.command(&binaries().control, None);
    command.current_dir(directory).arg("run").arg("--data-dir").arg(directory.join("data"));
    command.args(["--trust-domain", TRUST_DOMAIN, "--min-ttl", "2s", "--log-format", "json"]);
    command.args(["--grpc-listen", &grpc.listen.to_string(), "--http-listen", &http.listen.to_string()]);
    command.args(options);
    let control = Process::start("signet-control", command);
    let listening = control.wait_for_log("listening", |event| is_message(event, "listening")).await;
    let address = |name: &str, seat: Seat| -> SocketAddr {
        let listens: SocketAddr =
            field(&listening, name).parse().unwrap_or_else(|error| panic!("{name} in {listening}: {error}"));
        SocketAddr::new(seat.address.ip(), listens.port())
    };
    let (grpc, http) = (address("grpc", grpc), address("http", http));
    eventually("control is ready", PATIENCE, async || match place.get(http, "/readyz").await {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    (control, grpc, http)
}
