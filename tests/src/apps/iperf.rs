//! iperf3: one connection for what it says about the test, another for the bytes, in either direction.

use std::net::SocketAddr;

use crate::client::{Client, Finished};
use crate::mesh::parse_json;
use crate::place::Place;
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// A running iperf3 server.
#[derive(Debug)]
pub struct Iperf {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Iperf {
    /// Starts it on loopback and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback).await
    }

    /// As [`Iperf::start`], there; in a pod on port 5201.
    ///
    /// # Panics
    /// When it does not listen.
    pub async fn start_at(place: Place<'_>) -> Self {
        let seat = place.seat(5201);
        let mut command = place.command(&tool("iperf3"), None);
        command.args(["--server", "--forceflush", "--port", &seat.listen.port().to_string()]);
        let process = Process::start("iperf3", command);
        eventually("iperf3 listens", PATIENCE, async || {
            let said = process.logs().text();
            if said.contains("Server listening on") { Ok(()) } else { Err(said) }
        })
        .await;
        Self { address: seat.address, _process: process }
    }
}

/// An iperf3 client that moves `megabytes`: to the server, or with `--reverse` among `more` from it.
#[must_use]
pub fn iperf(address: SocketAddr, megabytes: u64, more: &[&str]) -> Client {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    Client::new("iperf3")
        .args(["--client", &host, "--port", &port, "--bytes", &format!("{megabytes}M"), "--json"])
        .args(more)
}

/// Bytes that arrived, and gigabits per second, as the receiver counted them.
///
/// # Panics
/// When the run failed.
#[must_use]
pub fn iperf_received(finished: Finished) -> (u64, f64) {
    let finished = finished.succeeded();
    let report = parse_json(&finished);
    let received = &report["end"]["sum_received"];
    let bytes = received["bytes"].as_u64().unwrap_or_else(|| panic!("no bytes in {report}"));
    (bytes, received["bits_per_second"].as_f64().unwrap_or_default() / 1e9)
}
