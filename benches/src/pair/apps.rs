//! The apps of one cell: our own in a process of theirs, and an iperf3 that receives. Both end with the cell.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::service::Addresses;
use super::tool;
use crate::process::Process;

/// The hidden option of the benchmark that makes it serve.
pub(super) const SERVE: &str = "--serve";
const START: Duration = Duration::from_secs(10);

/// Running apps.
pub(super) struct Apps {
    pub(super) addresses: Addresses,
    _ours: Child,
}

/// A running iperf3 that others send to.
pub(super) struct Iperf {
    pub(super) address: SocketAddr,
    _process: Process,
}

impl Apps {
    pub(super) async fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the apps")?;
        let output = child.stdout.take().context("the apps say nothing")?;
        let mut line = String::new();
        timeout(START, BufReader::new(output).read_line(&mut line))
            .await
            .context("the apps say nothing")??;
        let addresses = serde_json::from_str(&line).with_context(|| format!("the apps say {line:?}"))?;
        Ok(Self { addresses, _ours: child })
    }
}

impl Iperf {
    pub(super) fn start(address: SocketAddr, directory: &Path) -> Result<Self> {
        let mut command = std::process::Command::new(tool::find("iperf3")?);
        command.args([
            "--server",
            "--bind",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ]);
        let process = Process::start("iperf3", command, &directory.join("iperf3.log"), Signal::KILL)?;
        Ok(Self { address, _process: process })
    }
}
