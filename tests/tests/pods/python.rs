//! Programs of `tests/peers` in a pod.

use std::net::SocketAddr;
use std::process::Command;

use signet_tests::client::Client;
pub(crate) use signet_tests::peers::python;
use signet_tests::peers::{PYTHON, script};
use signet_tests::pods::{APP_USER, Pod};
use signet_tests::process::Process;
use signet_tests::{PATIENCE, eventually};

/// A client that talks until it is cut.
pub(crate) fn websocket_client(pod: &Pod, server: SocketAddr) -> Process {
    let mut command = Command::new(PYTHON);
    command.arg(script("websocket.py")).args(["talk", &server.to_string()]);
    Process::start("websocket.py", pod.wrap(&command, APP_USER))
}

pub(crate) async fn python_server(pod: &Pod, name: &str, arguments: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new(PYTHON);
    command.arg(script(name)).args(arguments).arg(pod.any(8080).to_string());
    let process = Process::start(name, pod.wrap(&command, 0));
    listens(pod, pod.at(8080)).await;
    (process, pod.at(8080))
}

pub(crate) async fn listens(pod: &Pod, address: SocketAddr) {
    let target = format!("TCP:{address}");
    eventually("the app listens", PATIENCE, async || {
        let tried = Client::new("socat").args(["-u", "/dev/null", &target]).in_pod(pod, 0).run().await;
        if tried.status.success() { Ok(()) } else { Err(tried.stderr) }
    })
    .await;
}

pub(crate) async fn said(client: &Process, words: &str) {
    eventually(words, PATIENCE, async || {
        let said = client.logs().text();
        if said.contains(words) { Ok(()) } else { Err(said) }
    })
    .await;
}
