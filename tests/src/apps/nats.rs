//! NATS, whose server speaks first and whose messages go both ways at any time.

use std::net::SocketAddr;
use std::path::Path;

use crate::client::Client;
use crate::place::Place;
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// A running NATS server, in memory only.
#[derive(Debug)]
pub struct Nats {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Nats {
    /// Starts it on loopback and waits until it carries messages.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback).await
    }

    /// As [`Nats::start`], there; in a pod on port 4222.
    ///
    /// # Panics
    /// When it does not carry messages.
    pub async fn start_at(place: Place<'_>) -> Self {
        let seat = place.seat(4222);
        let mut command = place.command(&tool("nats-server"), None);
        command.args(["--addr", &seat.host("::"), "--port", &seat.listen.port().to_string()]);
        let process = Process::start("nats-server", command);
        eventually("NATS carries messages", PATIENCE, async || {
            let answer = place.client(nats(seat.address, 1)).run().await;
            if answer.status.success() { Ok(()) } else { Err(answer.stderr) }
        })
        .await;
        Self { address: seat.address, _process: process }
    }
}

/// Subscribes and publishes that many messages on one connection with the C client of NATS; says how many
/// came back, in order and whole.
#[must_use]
pub fn nats(address: SocketAddr, messages: usize) -> Client {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/nats.py");
    // Debian's, for which the library is there.
    Client::at(Path::new("/usr/bin/python3")).arg(script).args([address.to_string(), messages.to_string()])
}
