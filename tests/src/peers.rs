//! Programs of `peers/`, in Python: gRPC and WebSocket by implementations that we did not write.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::net::TcpStream;

use crate::client::Client;
use crate::process::Process;
use crate::sockets::free_address;
use crate::{PATIENCE, eventually};

/// Debian's, which has Debian's modules.
pub const PYTHON: &str = "/usr/bin/python3";

/// Where the program `name` is.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// A client that is run to its end.
#[must_use]
pub fn python(name: &str, arguments: &[&str]) -> Client {
    Client::at(Path::new(PYTHON)).arg(script(name)).args(arguments)
}

/// A server on loopback, once it listens.
///
/// # Panics
/// When it does not.
pub async fn python_server(name: &str, arguments: &[&str]) -> (Process, SocketAddr) {
    let address = free_address();
    let mut command = Command::new(PYTHON);
    command.arg(script(name)).args(arguments).arg(address.to_string());
    let process = Process::start(name, command);
    eventually(name, PATIENCE, async || TcpStream::connect(address).await.map_err(|error| error.to_string()))
        .await;
    (process, address)
}

/// A client that goes on until it is cut, once it said that it has talked.
///
/// # Panics
/// When it does not.
pub async fn talking(name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(PYTHON);
    command.arg(script(name)).args(arguments);
    let client = Process::start(name, command);
    eventually("the client has talked", PATIENCE, async || {
        let said = client.logs().text();
        if said.contains("talked") { Ok(()) } else { Err(said) }
    })
    .await;
    client
}
