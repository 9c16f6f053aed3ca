//! Redis, in memory only.

use std::net::SocketAddr;

use tempfile::TempDir;

use super::shared_directory;
use crate::client::redis;
use crate::place::Place;
use crate::process::Process;
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
    /// Starts it on loopback and waits until it answers PONG.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback).await
    }

    /// As [`Redis::start`], there; in a pod on port 6379.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_at(place: Place<'_>) -> Self {
        let seat = place.seat(6379);
        let directory = shared_directory("signet-redis-", None);
        let mut command = place.command(&tool("redis-server"), None);
        command.arg("--bind").args(seat.host("* -::*").split(' '));
        command.args([
            "--port",
            &seat.listen.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--protected-mode",
            "no",
            "--dir",
        ]);
        command.arg(directory.path());
        let process = Process::start("redis-server", command);
        eventually("Redis answers", PATIENCE, async || {
            let answer = place.client(redis("redis-cli", seat.address)).args(["ping"]).run().await;
            if answer.stdout.trim() == "PONG" { Ok(()) } else { Err(answer.all()) }
        })
        .await;
        Self { address: seat.address, _process: process, _directory: directory }
    }
}
