//! One control service: a process with a data directory of its own, and the operators' command line against
//! it. Of several that share a database, each is a replica.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;
use signet_proto::ticket::JoinTicket;

use crate::binaries::binaries;
use crate::client::{Client, Finished, file};
use crate::clock::Clock;
use crate::logs::{field, is_message};
use crate::mesh::{Pair, parse_json, rows, signet};
use crate::metrics::{Metrics, scrape};
use crate::place::{Place, Seat};
use crate::pods::Pod;
use crate::process::Process;
use crate::proxy::ProxyBuilder;
use crate::{PATIENCE, eventually};

/// A control service and what it keeps on disk.
#[derive(Debug)]
pub struct Control {
    /// The gRPC listener.
    pub grpc: SocketAddr,
    /// The HTTP listener: health and metrics of control.
    pub http: SocketAddr,
    /// The running control service.
    pub control: Process,
    pub(crate) setting: Setting,
}

/// How a control service is started, every time.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// For files of the test.
    pub(crate) directory: PathBuf,
    /// For control's.
    pub(crate) data: PathBuf,
    pub(crate) trust_domain: String,
    pub(crate) grpc: Seat,
    pub(crate) http: Seat,
    pub(crate) pod: Option<Pod>,
    /// Where the store is, unless it is in the data directory.
    pub(crate) store: Option<String>,
    pub(crate) options: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) clock: Option<Clock>,
}

impl Control {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(setting: Setting) -> Self {
        let control = Self::start_unready(setting).await;
        control.is_ready().await;
        control
    }

    /// Starts it and waits only until it listens.
    async fn start_unready(mut setting: Setting) -> Self {
        let control = setting.run();
        let listening = control.wait_for_log("listening", |event| is_message(event, "listening")).await;
        let address = |name: &str, seat: Seat| -> SocketAddr {
            let listens: SocketAddr = field(&listening, name)
                .parse()
                .unwrap_or_else(|error| panic!("{name} in {listening}: {error}"));
            SocketAddr::new(seat.address.ip(), listens.port())
        };
        let (grpc, http) = (address("grpc", setting.grpc), address("http", setting.http));
        // Whoever knew its ports knows them after a restart.
        setting.grpc.listen.set_port(grpc.port());
        setting.http.listen.set_port(http.port());
        Self { grpc, http, control, setting }
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
        *self = Self::start(self.setting.clone()).await;
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn is_ready(&self) {
        let logs = self.control.logs();
        eventually("control is ready", PATIENCE, async || match self.readyz().await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}; newest lines:\n{}", logs.tail(5))),
        })
        .await;
    }

    /// The status of `/readyz` as it is now.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn readyz(&self) -> std::io::Result<u16> {
        Ok(self.place().get(self.http, "/readyz").await?.status)
    }

    /// What `/readyz` says now, and its status.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn readiness(&self) -> (u16, String) {
        let reply = self.place().get(self.http, "/readyz").await.expect("/readyz answers");
        (reply.status, reply.body)
    }

    /// `/metrics` of this one.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> Metrics {
        scrape(self.place(), self.http).await
    }

    /// Proxies whose stream ends here.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn streams(&self) -> u64 {
        self.metrics().await.count("signet_control_streams", &[])
    }

    /// Where control keeps everything, or, with a database elsewhere, what it keeps here.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.setting.data.clone()
    }

    /// The directory for files of this test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.setting.directory
    }

    /// The socket for operators on this machine, in whatever namespace they are.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.data().join("admin.sock")
    }

    /// `signet` with these arguments, over the admin socket.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Client {
        let socket = format!("unix:{}", self.admin_socket().display());
        signet().env("SIGNET_CONTROL", socket).args(arguments)
    }

    /// Runs [`Control::command`] whatever comes of it.
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
        let _ = self.create_workload(id).args(more).run().await.succeeded();
    }

    /// What registers a workload, to be run by the test.
    #[must_use]
    pub fn create_workload(&self, id: &str) -> Client {
        self.command(&["workload", "create", id, "--owner", "team-tests", "--purpose", "end-to-end test"])
    }

    /// Applies registry documents.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn apply(&self, yaml: &str) {
        let path = file(self.directory(), "registry.yaml", yaml).display().to_string();
        let _ = self.signet(&["apply", "-f", &path]).await.succeeded();
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

    /// As [`Control::ticket`], leading to `replica` alone.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn ticket_to(&self, id: &str, replica: &Self) -> String {
        let mut ticket = JoinTicket::from_str(&self.ticket(id).await).expect("control made it");
        ticket.control = vec![replica.grpc.to_string()];
        ticket.to_string()
    }

    /// What a workload that proves itself otherwise than by a ticket needs to know of control.
    ///
    /// # Panics
    /// When control refuses.
    pub async fn introduction(&self) -> String {
        self.signet(&["token", "introduction"]).await.succeeded().stdout.trim().to_owned()
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
        file(self.directory(), "policy.yaml", yaml)
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

    /// As [`Control::pair`], for workloads that are registered already.
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

    /// The newest audit events, at most 10,000.
    ///
    /// # Panics
    /// When control does not answer.
    pub async fn events(&self) -> Vec<Value> {
        rows(self.json(&["audit", "list", "--limit", "10000"]).await)
    }

    /// Checks the hash chain of the audit record.
    ///
    /// # Panics
    /// When it does not hold.
    pub async fn verify_audit(&self) {
        let _ = self.signet(&["audit", "verify"]).await.succeeded();
    }

    /// `signet-control run` as it is always started, by a test that expects it to refuse.
    #[must_use]
    pub fn attempt(&self) -> Client {
        let client = self.clocked(Client::at(&binaries().control)).within(&self.setting.directory);
        let named = |client: Client, (name, value): &(String, String)| client.env(name, value);
        let client = self.setting.environment.iter().fold(client, named);
        self.place().client(client.args(self.setting.arguments()))
    }

    /// Another verb of `signet-control`, on the same data directory and store.
    #[must_use]
    pub fn upkeep(&self, arguments: &[&str]) -> Client {
        let client =
            Client::at(&binaries().control).args(arguments).arg("--data-dir").arg(&self.setting.data);
        let named = |client: Client, (name, value): &(String, String)| client.env(name, value);
        let client = self.setting.environment.iter().fold(self.clocked(client), named);
        self.place().client(client.args(self.setting.store.iter().flat_map(|url| ["--store", url])))
    }

    /// Has control run by that clock, from the next time on.
    pub fn runs_by(&mut self, clock: &Clock) {
        self.setting.clock = Some(clock.clone());
    }

    /// Has control start with these options instead of those of the test before, from the next time on.
    pub fn options(&mut self, options: &[&str]) {
        self.setting.options = options.iter().map(ToString::to_string).collect();
    }

    /// Starts control again, this once with one more option.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart_control_with(&mut self, option: &str) {
        let mut setting = self.setting.clone();
        setting.options.push(option.to_owned());
        let Self { grpc, http, control, .. } = Self::start(setting).await;
        (self.grpc, self.http, self.control) = (grpc, http, control);
    }

    /// By the clock that it runs by.
    fn clocked(&self, client: Client) -> Client {
        let variables = self.setting.clock.iter().flat_map(Clock::variables);
        variables.fold(client, |client, (name, value)| client.env(name, value))
    }

    fn place(&self) -> Place<'_> {
        self.setting.pod.as_ref().map_or(Place::Loopback, Place::Pod)
    }
}

impl Setting {
    fn run(&self) -> Process {
        let place = self.pod.as_ref().map_or(Place::Loopback, Place::Pod);
        let mut command = place.command(&binaries().control, None);
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        command.current_dir(&self.directory).args(self.arguments()).envs(environment);
        if let Some(clock) = &self.clock {
            clock.drive(&mut command);
        }
        Process::start("signet-control", command)
    }

    fn arguments(&self) -> Vec<String> {
        let (data, grpc, http) = (self.data.display(), self.grpc.listen, self.http.listen);
        let mut arguments = vec!["run".to_owned()];
        for (name, value) in [
            ("--data-dir", data.to_string()),
            ("--trust-domain", self.trust_domain.clone()),
            ("--min-ttl", "2s".to_owned()),
            ("--log-format", "json".to_owned()),
            ("--grpc-listen", grpc.to_string()),
            ("--http-listen", http.to_string()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        if let Some(url) = &self.store {
            arguments.extend(["--store".to_owned(), url.clone()]);
        }
        arguments.extend(self.options.iter().cloned());
        arguments
    }
}

/// Starts several at the same moment and waits until all of them are ready.
pub(crate) async fn start_at_once(settings: Vec<Setting>) -> Vec<Control> {
    futures_util::future::join_all(settings.into_iter().map(Control::start)).await
}
