//! A control service: a child process on ports of its own, restarted on the same ones; and ways to talk to it.

pub(crate) mod connection;
mod metrics;
mod operator;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Process, Usage};
pub(crate) use metrics::Scrape;
pub(crate) use operator::Operator;

const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Nothing lapses while a run lasts.
const TTL: &str = "24h";

/// A running control service.
pub(crate) struct Control {
    /// Where proxies connect.
    pub(crate) grpc: SocketAddr,
    /// Health and metrics.
    pub(crate) http: SocketAddr,
    process: Process,
    program: PathBuf,
    trust_domain: &'static str,
    directory: PathBuf,
    store: Option<String>,
}

impl Control {
    /// Starts `program` with everything it keeps in `directory`, and waits until it is ready.
    pub(crate) async fn start(
        program: &Path,
        trust_domain: &'static str,
        directory: &Path,
        store: Option<String>,
    ) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let process = spawn(program, trust_domain, directory, store.as_deref(), any, any)?;
        let mut control = Self {
            grpc: any,
            http: any,
            process,
            program: program.to_owned(),
            trust_domain,
            directory: directory.to_owned(),
            store,
        };
        control.await_listening(0).await?;
        control.await_ready().await?;
        Ok(control)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.process.end().await
    }

    /// After it ended: on the same data and ports. Returns when it listens.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let known = fs::metadata(log_path(&self.directory))?.len();
        let store = self.store.as_deref();
        self.process = spawn(&self.program, self.trust_domain, &self.directory, store, self.grpc, self.http)?;
        self.await_listening(usize::try_from(known)?).await
    }

    /// The operators' door.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("data/admin.sock")
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    pub(crate) async fn scrape(&self) -> Result<Scrape> {
        Scrape::of(self.http).await
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        self.process.tail()
    }

    async fn await_listening(&mut self, from: usize) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let log = fs::read(log_path(&self.directory))?;
            let text = String::from_utf8_lossy(log.get(from..).unwrap_or_default());
            if let Some((grpc, http)) = text.lines().find_map(listening) {
                (self.grpc, self.http) = (grpc, http);
                return Ok(());
            }
            self.process.require_alive()?;
            if Instant::now() > deadline {
                bail!("control does not listen within {START:?}:\n{}", self.tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let (status, body) = metrics::get(self.http, "/readyz").await?;
            if status == 200 {
                return Ok(());
            }
            self.process.require_alive()?;
            if Instant::now() > deadline {
                bail!("control is not ready within {START:?}: {body}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn spawn(
    program: &Path,
    trust_domain: &str,
    directory: &Path,
    store: Option<&str>,
    grpc: SocketAddr,
    http: SocketAddr,
) -> Result<Process> {
    let mut command = Command::new(program);
    command.current_dir(directory).arg("run").arg("--data-dir").arg(directory.join("data"));
    command.args(["--trust-domain", trust_domain, "--default-ttl", TTL, "--log-format", "json"]);
    command.args(["--issuance-quota", "0"]);
    command.args(["--grpc-listen", &grpc.to_string(), "--http-listen", &http.to_string()]);
    if let Some(store) = store {
        command.args(["--store", store]);
    }
    Process::start("signet-control", command, &log_path(directory), Signal::KILL)
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("control.log")
}

/// The addresses in control's line `listening`.
fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let record: Value = serde_json::from_str(line).ok()?;
    let fields = record.get("fields")?;
    (fields.get("message")? == "listening").then_some(())?;
    let address = |name: &str| fields.get(name)?.as_str()?.parse().ok();
    Some((address("grpc")?, address("http")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_line_that_has_them() {
        let line = r#"{"fields":{"message":"listening","grpc":"127.0.0.1:8443","http":"127.0.0.1:8080"}}"#;
        let (grpc, http) = listening(line).unwrap();
        assert_eq!((grpc.port(), http.port()), (8443, 8080));
        assert_eq!(listening(r#"{"fields":{"message":"instance attested"}}"#), None);
        assert_eq!(listening("{"), None);
    }
}
