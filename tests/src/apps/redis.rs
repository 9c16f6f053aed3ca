//! Redis, in memory only.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::shared_directory;
use crate::client::redis;
use crate::process::Process;
use crate::sockets::free_address;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Redis {
    /// Starts it and waits until it answers PONG.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        let address = free_address();
        let directory = shared_directory("signet-redis-");
        let mut command = Command::new(tool("redis-server"));
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
        command.args(["--appendonly", "no", "--dir"]).arg(directory.path());
        let process = Process::start("redis-server", command);
        eventually("Redis answers", PATIENCE, async || {
            let answer = redis("redis-cli", address).args(["ping"]).run().await;
            if answer.stdout.trim() == "PONG" { Ok(()) } else { Err(answer.all()) }
        })
        .await;
        Self { address, _process: process, _directory: directory }
    }
}
