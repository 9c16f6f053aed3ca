//! A `signet-proxy` process: joined to control, or with the `files` identity source.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::binaries;
use crate::client::file;
use crate::clock::Clock;
use crate::http::Reply;
use crate::logs::{field, is_access, is_message};
use crate::metrics::{Metrics, scrape};
use crate::pki::SvidFiles;
use crate::place::Place;
use crate::pods::Pod;
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// In a pod, whose loopback is its own, metrics and health are where they are by default.
const METRICS_PORT: u16 = 15020;

/// A proxy that will be started. All its ports are chosen by the system, except in a pod.
#[derive(Debug)]
pub struct ProxyBuilder {
    wrapper: Vec<String>,
    program: PathBuf,
    pod: Option<Pod>,
    user: u32,
    arguments: Vec<String>,
    inbounds: usize,
    outbounds: usize,
    directory: TempDir,
    clock: Option<Clock>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    /// The process.
    pub process: Process,
    /// Where `/metrics`, `/livez` and `/readyz` are.
    pub admin: SocketAddr,
    inbound: Vec<SocketAddr>,
    outbound: Vec<SocketAddr>,
    builder: ProxyBuilder,
}

impl ProxyBuilder {
    /// A proxy that joins with `ticket`. The ticket is handed over in a file: arguments are for everybody to
    /// see.
    #[must_use]
    pub fn joining(ticket: &str) -> Self {
        let mut builder = Self::bare();
        let path = file(builder.directory.path(), "ticket", ticket);
        builder.option("--join-file", path.display());
        builder
    }

    /// A proxy that proves itself to the control of an introduction, such as by `jwt=ci:/path/token`.
    #[must_use]
    pub fn attesting(introduction: &str, proof: &str) -> Self {
        let mut builder = Self::bare();
        builder.option("--join", introduction);
        builder.option("--attest", proof);
        builder
    }

    /// A proxy that reads its identity, its bundle and its policy from files.
    #[must_use]
    pub fn with_files(svid: &SvidFiles, bundle: &Path, policy: &Path) -> Self {
        let mut builder = Self::bare();
        builder.option("--svid-file", svid.svid.display());
        builder.option("--key-file", svid.key.display());
        builder.option("--bundle-file", bundle.display());
        builder.option("--policy-file", policy.display());
        builder
    }

    /// A proxy without any identity source.
    #[must_use]
    pub fn bare() -> Self {
        let directory =
            tempfile::Builder::new().prefix("signet-proxy-").tempdir().expect("a temporary directory");
        let program = binaries().proxy.clone();
        Self {
            wrapper: Vec::new(),
            program,
            pod: None,
            user: 0,
            arguments: Vec::new(),
            inbounds: 0,
            outbounds: 0,
            directory,
            clock: None,
        }
    }

    /// Takes a TOML configuration file, which asks for that many inbound and outbound listeners.
    #[must_use]
    pub fn config(mut self, toml: &str, inbounds: usize, outbounds: usize) -> Self {
        let path = file(self.directory.path(), "proxy.toml", toml);
        self.option("--config", path.display());
        self.inbounds += inbounds;
        self.outbounds += outbounds;
        self
    }

    /// Accepts mutual TLS and forwards to `app`; `scheme` is `http://`, `tcp://`, or empty to have it detected.
    #[must_use]
    pub fn inbound(mut self, scheme: &str, app: SocketAddr) -> Self {
        self.option("--inbound", format!("127.0.0.1:0={scheme}{app}"));
        self.inbounds += 1;
        self
    }

    /// Accepts the app's connections and forwards them to `peer`, a SPIFFE ID with or without `@IP:PORT`.
    #[must_use]
    pub fn outbound(mut self, scheme: &str, peer: &str) -> Self {
        self.option("--outbound", format!("{scheme}127.0.0.1:0={peer}"));
        self.outbounds += 1;
        self
    }

    /// Accepts the app's requests for tunnels (HTTP CONNECT).
    #[must_use]
    pub fn connect(mut self) -> Self {
        self.option("--outbound", "127.0.0.1:0=connect");
        self.outbounds += 1;
        self
    }

    /// Any option of `signet-proxy run`. Ports that it opens are not waited for.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.option(name, value);
        self
    }

    /// Runs by that clock.
    #[must_use]
    pub fn by(mut self, clock: &Clock) -> Self {
        self.clock = Some(clock.clone());
        self
    }

    /// Runs in `pod`, as root.
    #[must_use]
    pub fn in_pod(mut self, pod: &Pod) -> Self {
        self.pod = Some(pod.clone());
        self
    }

    /// Runs as an ordinary user that may administer the network of its pod, from a program that it may read.
    ///
    /// # Panics
    /// When its directory cannot be given away; that needs root.
    #[must_use]
    pub fn as_user(mut self, user: u32, program: &Path) -> Self {
        chown(self.directory.path(), Some(user), Some(user)).expect("root may give it away");
        self.user = user;
        self.program = program.to_owned();
        self
    }

    /// How long it waits for open connections on SIGTERM.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: &str) -> Self {
        self.option("--drain-timeout", timeout);
        self
    }

    /// Runs it under another program that replaces itself with it, such as `prlimit --nofile=96`.
    #[must_use]
    pub fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(self) -> Proxy {
        let mut proxy = self.start_unready().await;
        proxy.become_ready().await;
        proxy
    }

    /// Starts it and waits only until its health can be asked.
    ///
    /// # Panics
    /// When it does not get that far.
    pub async fn start_unready(self) -> Proxy {
        let process = self.process();
        let admin = addresses(&process, "metrics", 1).await[0];
        Proxy { process, admin, inbound: Vec::new(), outbound: Vec::new(), builder: self }
    }

    /// Starts it in the expectation that it refuses to run: its exit code, and all that it said.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn refuses_to_run(self) -> (i32, String) {
        let mut process = self.process();
        let status = process.exit(PATIENCE).await;
        (status.code().unwrap_or(-1), process.logs().text())
    }

    fn process(&self) -> Process {
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(tool(wrapper));
                command.args(arguments).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.current_dir(self.directory.path()).arg("run").args(&self.arguments);
        let port = if self.pod.is_some() { METRICS_PORT } else { 0 };
        command.args(["--metrics-listen", &format!("127.0.0.1:{port}"), "--log-format", "json"]);
        if !self.arguments.iter().any(|argument| argument == "--admin-listen") {
            command.args(["--admin-listen", "127.0.0.1:0"]);
        }
        if !self.arguments.iter().any(|argument| argument == "--drain-grace") {
            // Nobody else calls when a test is over.
            command.args(["--drain-grace", "0s"]);
        }
        if let Some(clock) = &self.clock {
            clock.drive(&mut command);
        }
        if let Some(pod) = &self.pod {
            // What a socket needs to be transparent.
            let privileges = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"];
            command = pod.wrap_with(&command, self.user, &privileges);
        }
        Process::start("signet-proxy", command)
    }

    fn option(&mut self, name: &str, value: impl std::fmt::Display) {
        self.arguments.extend([name.to_owned(), value.to_string()]);
    }
}

impl Proxy {
    /// Waits for `/readyz` and learns the ports.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn become_ready(&mut self) {
        let (inbounds, outbounds) = (self.builder.inbounds, self.builder.outbounds);
        self.inbound = addresses(&self.process, "inbound", inbounds).await;
        self.outbound = addresses(&self.process, "outbound", outbounds).await;
        let (admin, place, logs) = (self.admin, self.place(), self.process.logs());
        eventually("the proxy is ready", PATIENCE, async || match place.get(admin, "/readyz").await {
            Ok(reply) if reply.status == 200 => Ok(()),
            other => Err(format!("{other:?}; newest lines:\n{}", logs.tail(10))),
        })
        .await;
    }

    /// Where its admin listener is.
    ///
    /// # Panics
    /// When it has none.
    pub async fn operated_at(&self) -> SocketAddr {
        addresses(&self.process, "admin", 1).await[0]
    }

    /// The first port for mutual TLS.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        self.inbound[0]
    }

    /// All ports for mutual TLS, in the order they were asked for.
    #[must_use]
    pub fn inbounds(&self) -> &[SocketAddr] {
        &self.inbound
    }

    /// The first port for the app beside it.
    #[must_use]
    pub fn outbound(&self) -> SocketAddr {
        self.outbound[0]
    }

    /// All ports for the app beside it, in the order they were asked for.
    #[must_use]
    pub fn outbounds(&self) -> &[SocketAddr] {
        &self.outbound
    }

    /// `/readyz` as it is now.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn readyz(&self) -> Reply {
        self.place().get(self.admin, "/readyz").await.expect("/readyz answers")
    }

    /// `/metrics` as they are now.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> Metrics {
        scrape(self.place(), self.admin).await
    }

    /// Where its admin listener is.
    pub async fn operators(&self) -> SocketAddr {
        addresses(&self.process, "admin", 1).await[0]
    }

    /// What its admin listener answers, as JSON.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ask(&self, path: &str) -> Value {
        let at = self.operators().await;
        let reply = self.place().get(at, path).await.expect("the admin listener answers");
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", reply.body))
    }

    fn place(&self) -> Place<'_> {
        self.builder.pod.as_ref().map_or(Place::Loopback, Place::Pod)
    }

    /// Starts it once more, as it was started; with `--upgrade-socket` the new process takes over.
    #[must_use]
    pub fn start_again(&self) -> Process {
        self.builder.process()
    }

    /// The same with one more option.
    #[must_use]
    pub fn start_again_with(&mut self, name: &str, value: &str) -> Process {
        let length = self.builder.arguments.len();
        self.builder.option(name, value);
        let process = self.builder.process();
        self.builder.arguments.truncate(length);
        process
    }

    /// Starts it again after its process ended, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn restart(&mut self) {
        self.process = self.start_again();
        self.admin = addresses(&self.process, "metrics", 1).await[0];
        self.become_ready().await;
    }

    /// Has a new process take over; returns the one that ran until then, which ends when its last connection does.
    ///
    /// # Panics
    /// When it does not.
    pub async fn upgrade(&mut self) -> Process {
        self.process.expect_end();
        let next = self.start_again();
        next.wait_for_log("it takes over", |event| is_message(event, "took over from the running proxy"))
            .await;
        std::mem::replace(&mut self.process, next)
    }

    /// Successful rotations of its SVID so far.
    pub async fn rotations(&self) -> u64 {
        self.metrics().await.count("signet_svid_rotations_total", &[("result", "success")])
    }

    /// Waits for `more` successful rotations after `since`.
    ///
    /// # Panics
    /// When there are not that many `within` that time.
    pub async fn rotates(&self, since: u64, more: u64, within: Duration) {
        eventually("the SVID rotates", within, async || match self.rotations().await.saturating_sub(since) {
            seen if seen >= more => Ok(()),
            seen => {
                Err(format!("{seen} of {more} rotations; newest lines:\n{}", self.process.logs().tail(5)))
            }
        })
        .await;
    }

    /// Waits until the counter `name` with `labels` is `expected`, and stays there for what is in flight.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], expected: u64) {
        let what = format!("{name}{labels:?} is {expected}");
        eventually(&what, PATIENCE, async || match self.metrics().await.count(name, labels) {
            seen if seen == expected => Ok(()),
            seen => Err(seen.to_string()),
        })
        .await;
    }

    /// The first line of its access log with these fields.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn access(&self, fields: &[(&str, &str)]) -> Value {
        self.accesses(1, fields).await.swap_remove(0)
    }

    /// The first line of its access log after `mark` with these fields.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn access_since(&self, mark: u64, fields: &[(&str, &str)]) -> Value {
        let what = format!("access log with {fields:?}");
        self.process.wait_for_logs(mark, 1, &what, |event| is_access(event, fields)).await.swap_remove(0)
    }

    /// The first `count` lines of its access log with these fields.
    ///
    /// # Panics
    /// When there are fewer in time.
    pub async fn accesses(&self, count: usize, fields: &[(&str, &str)]) -> Vec<Value> {
        self.process
            .wait_for_logs(0, count, &format!("access log with {fields:?}"), |event| is_access(event, fields))
            .await
    }
}

async fn addresses(process: &Process, direction: &str, count: usize) -> Vec<SocketAddr> {
    if count == 0 {
        return Vec::new();
    }
    let what = format!("listening, direction={direction}");
    let lines = process
        .wait_for_logs(0, count, &what, |event| {
            is_message(event, "listening") && field(event, "direction") == direction
        })
        .await;
    lines
        .iter()
        .map(|line| {
            field(line, "address").parse().unwrap_or_else(|error| panic!("address in {line}: {error}"))
        })
        .collect()
}
