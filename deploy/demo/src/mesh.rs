//! The mesh: control, and three workloads with a proxy each. All on loopback, every port free.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::binaries::Binaries;
use crate::http;
use crate::operator::Operator;
use crate::process::Process;

/// Who talks with whom.
pub(crate) const PICTURE: &str = r"  shop  --> proxy ==HTTP==> proxy --> orders     orders, whatever shop asks
  shop  --> proxy ==TCP===> proxy --> batch      one connection that stays open
  batch --> proxy ==HTTP==> proxy --> orders     reports only";

/// The trust domain of the demo.
pub(crate) const TRUST_DOMAIN: &str = "demo.mesh";
/// How long an SVID of the demo lives. Renewed at half of it.
pub(crate) const SVID_TTL: &str = "6s";
/// From start to listening or ready.
const START: Duration = Duration::from_secs(20);
/// Between two questions for readiness.
const PROBE: Duration = Duration::from_millis(20);

/// Everything that runs. Processes end with it, whatever happened.
pub(crate) struct Mesh {
    directory: PathBuf,
    binaries: Binaries,
    control: Option<Control>,
    workloads: Vec<Workload>,
}

/// The control service and how to reach it.
pub(crate) struct Control {
    process: Process,
    /// For operators.
    pub(crate) operator: Operator,
    /// Where proxies connect.
    pub(crate) grpc: SocketAddr,
    /// Metrics and health.
    pub(crate) http: SocketAddr,
}

/// One workload: its app, if it serves anything, and its proxy.
pub(crate) struct Workload {
    /// The last segment of its SPIFFE ID.
    pub(crate) name: &'static str,
    /// Its proxy.
    pub(crate) proxy: Process,
    /// Where its app listens, for its own proxy only.
    pub(crate) app: Option<SocketAddr>,
    /// Where its proxy accepts mutual TLS.
    pub(crate) inbound: Option<SocketAddr>,
    /// Where its app reaches its peers, in the order of the plan.
    outbound: Vec<(&'static str, SocketAddr)>,
    /// Metrics and health of its proxy.
    pub(crate) metrics: SocketAddr,
    /// What its proxy was started with.
    pub(crate) arguments: String,
    app_process: Option<Process>,
}

/// What a workload is to be.
pub(crate) struct Plan {
    /// The last segment of its SPIFFE ID.
    pub(crate) name: &'static str,
    /// For the inventory: who answers for it.
    pub(crate) owner: &'static str,
    /// For the inventory: what it is there for.
    pub(crate) purpose: &'static str,
    /// The app behind it, as a subcommand of `signet-demo app`, and how the proxy is to speak to it.
    pub(crate) app: Option<(&'static str, &'static str)>,
    /// The peers it calls, and how.
    pub(crate) calls: &'static [(&'static str, &'static str)],
}

/// The SPIFFE ID of a workload of the demo.
pub(crate) fn id(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{name}")
}

impl Mesh {
    /// Nothing runs yet. Data and logs go to `directory`.
    pub(crate) fn new(directory: &Path, binaries: Binaries) -> Self {
        Self { directory: directory.to_owned(), binaries, control: None, workloads: Vec::new() }
    }

    /// Where data, logs and the files of the demo are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts control on its embedded store and waits until it listens.
    pub(crate) async fn start_control(&mut self) -> Result<()> {
        let socket = self.directory.join("admin.sock");
        let arguments = words(&[
            "run",
            "--data-dir",
            &self.directory.join("control").display().to_string(),
            "--trust-domain",
            TRUST_DOMAIN,
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--admin-socket",
            &socket.display().to_string(),
            "--min-ttl",
            "2s",
            "--log-format",
            "json",
        ]);
        let process = Process::start("control", &self.binaries.control, &arguments, &self.directory)?;
        let (grpc, http) = process
            .await_record("listening", START, |record| {
                Some((listening(record, "grpc")?, listening(record, "http")?))
            })
            .await?;
        let operator = Operator::new(&self.binaries.signet, &socket);
        await_ready(&process, http).await?;
        self.control = Some(Control { process, operator, grpc, http });
        Ok(())
    }

    /// Starts the app and the proxy of `plan`, which joins with `ticket`, and waits until it is ready.
    pub(crate) async fn start_workload(&mut self, plan: &Plan, ticket: &str) -> Result<&Workload> {
        let (app_process, app) = match plan.app {
            Some((app, _)) => {
                let arguments = words(&["app", app]);
                let process = Process::start(
                    &format!("{}-app", plan.name),
                    &self.binaries.demo,
                    &arguments,
                    &self.directory,
                )?;
                let address =
                    process.await_record("listening", START, |record| listening(record, "address")).await?;
                (Some(process), Some(address))
            }
            None => (None, None),
        };
        let ticket_file = self.directory.join(format!("{}.ticket", plan.name));
        write_private(&ticket_file, ticket)?;
        let mut arguments = words(&["run", "--log-format", "json"]);
        arguments.extend(words(&["--metrics-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]));
        arguments.extend(["--join-file".to_owned(), ticket_file.display().to_string()]);
        if let (Some((_, protocol)), Some(app)) = (plan.app, app) {
            arguments.extend(["--inbound".to_owned(), format!("127.0.0.1:0={protocol}{app}")]);
        }
        for (peer, protocol) in plan.calls {
            arguments.extend(["--outbound".to_owned(), format!("{protocol}127.0.0.1:0={}", id(peer))]);
        }
        let shown = arguments.join(" ").replace(&format!("{}/", self.directory.display()), "");
        let name = format!("{}-proxy", plan.name);
        let proxy = Process::start(&name, &self.binaries.proxy, &arguments, &self.directory)?;

        let inbound = match plan.app {
            Some(_) => Some(nth_listener(&proxy, "inbound", 0).await?),
            None => None,
        };
        let mut outbound = Vec::new();
        for (place, (peer, _)) in plan.calls.iter().enumerate() {
            outbound.push((*peer, nth_listener(&proxy, "outbound", place).await?));
        }
        let metrics = nth_listener(&proxy, "metrics", 0).await?;
        await_ready(&proxy, metrics).await?;
        let name = plan.name;
        let arguments = shown;
        self.workloads.push(Workload {
            name,
            proxy,
            app,
            inbound,
            outbound,
            metrics,
            arguments,
            app_process,
        });
        self.workload(plan.name)
    }

    /// The control service.
    pub(crate) fn control(&self) -> Result<&Control> {
        self.control.as_ref().context("control has not been started")
    }

    /// The operator's command line.
    pub(crate) fn operator(&self) -> Result<&Operator> {
        Ok(&self.control()?.operator)
    }

    /// The workload called `name`.
    pub(crate) fn workload(&self, name: &str) -> Result<&Workload> {
        self.workloads
            .iter()
            .find(|workload| workload.name == name)
            .with_context(|| format!("no workload {name}"))
    }

    /// Every workload, in the order of their start.
    pub(crate) fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The port behind `name`'s proxy: the one policies speak of.
    pub(crate) fn app_port(&self, name: &str) -> Result<u16> {
        Ok(self.workload(name)?.app.with_context(|| format!("{name} serves nothing"))?.port())
    }

    /// Ends every process, callers first.
    pub(crate) async fn end(&mut self) {
        while let Some(mut workload) = self.workloads.pop() {
            workload.proxy.end().await;
            if let Some(app) = &mut workload.app_process {
                app.end().await;
            }
        }
        if let Some(mut control) = self.control.take() {
            control.process.end().await;
        }
    }

    /// What to try, and the command for it.
    pub(crate) fn invitation(&self) -> Vec<(&'static str, String)> {
        let (Ok(control), Ok(shop), Ok(orders)) =
            (self.control(), self.workload("shop"), self.workload("orders"))
        else {
            return Vec::new();
        };
        let signet = self.binaries.signet.parent().unwrap_or(Path::new(".")).display().to_string();
        let at = format!("export PATH={signet}:$PATH SIGNET_CONTROL={}", control.operator.control());
        let mut commands = vec![
            ("where `signet` is, and where control is", at),
            ("who has which certificate, and until when", "signet identities".to_owned()),
            ("what happened", "signet audit list --limit 20".to_owned()),
        ];
        if let Ok(outbound) = shop.outbound("orders") {
            commands.push(("call orders as shop", format!("curl -i http://{outbound}/orders/17")));
            commands.push(("a path that no rule allows", format!("curl -i http://{outbound}/admin")));
        }
        if let Ok(port) = self.app_port("orders") {
            let explain = format!("signet explain {} {} --port {port}", id("batch"), id("orders"));
            commands.push(("why batch may not", format!("{explain} --method GET --path /orders/17")));
        }
        commands.extend([
            ("what is measured", format!("curl -s http://{}/metrics | grep ^signet_", orders.metrics)),
            ("one line for each request", format!("tail -f {}", orders.proxy.log_path().display())),
            ("cut shop off, then call orders again", format!("signet revoke {} --reason trying", id("shop"))),
        ]);
        commands
    }
}

impl Workload {
    /// Where this workload's app reaches `peer`.
    pub(crate) fn outbound(&self, peer: &str) -> Result<SocketAddr> {
        let found = self.outbound.iter().find(|(name, _)| *name == peer);
        Ok(found.with_context(|| format!("{} does not call {peer}", self.name))?.1)
    }
}

/// Waits until `/readyz` answers 200; otherwise says what it said last.
async fn await_ready(process: &Process, health: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + START;
    loop {
        let answer = http::Client::new(health).get("/readyz").await;
        let why = match answer {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => format!("{} {}", answer.status, answer.body.trim_end()),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            return Err(process.trouble(format!("{} is not ready: {why}", process.name())));
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// The address of the listener at `place` among those of one direction, in the order they were asked for.
async fn nth_listener(proxy: &Process, direction: &str, place: usize) -> Result<SocketAddr> {
    let what = format!("listening ({direction} {place})");
    let wanted = |record: &Value| {
        (record.pointer("/fields/direction")?.as_str()? == direction).then(|| listening(record, "address"))?
    };
    let deadline = Instant::now() + START;
    loop {
        proxy.await_record(&what, START, wanted).await?;
        if let Some(address) = proxy.records(wanted).get(place) {
            return Ok(*address);
        }
        if Instant::now() > deadline {
            return Err(proxy.trouble(format!("{} did not log {what}", proxy.name())));
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// The address in `field` of a `listening` record.
fn listening(record: &Value, field: &str) -> Option<SocketAddr> {
    let fields = record.get("fields")?;
    (fields.get("message")? == "listening").then_some(())?;
    fields.get(field)?.as_str()?.parse().ok()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A ticket is a secret until it is used.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{text}").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_listening_record_gives_an_address() {
        let record = json!({"fields": {"message": "listening", "grpc": "127.0.0.1:8443"}});
        assert_eq!(listening(&record, "grpc"), "127.0.0.1:8443".parse().ok());
        assert_eq!(listening(&record, "http"), None);
        let other = json!({"fields": {"message": "connected", "grpc": "127.0.0.1:8443"}});
        assert_eq!(listening(&other, "grpc"), None);
    }
}
