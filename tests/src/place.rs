//! Where an app runs: on loopback beside the test, or in a pod, where it listens on every address as apps in
//! containers do.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::client::Client;
use crate::http::{self, Reply};
use crate::pods::Pod;
use crate::sockets::free_address;

/// Loopback or a pod.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Beside the test.
    Loopback,
    /// In that pod.
    Pod(&'a Pod),
}

/// Where an app listens, and how it is called.
#[derive(Debug, Clone, Copy)]
pub struct Seat {
    /// For its configuration.
    pub listen: SocketAddr,
    /// For its callers.
    pub address: SocketAddr,
}

impl From<SocketAddr> for Seat {
    fn from(address: SocketAddr) -> Self {
        Self { listen: address, address }
    }
}

impl Seat {
    /// The address to listen on, with `all` for every address: how that is said differs.
    #[must_use]
    pub fn host(&self, all: &str) -> String {
        let ip = self.listen.ip();
        if ip.is_unspecified() { all.to_owned() } else { ip.to_string() }
    }
}

impl Place<'_> {
    /// A free port on loopback, or `port` in the pod, where nobody else is.
    #[must_use]
    pub fn seat(self, port: u16) -> Seat {
        match self {
            Self::Loopback => free_address().into(),
            Self::Pod(pod) => Seat { listen: pod.any(port), address: pod.at(port) },
        }
    }

    /// A program that will run there, as that user and group; as ourselves without.
    #[must_use]
    pub fn command(self, program: &Path, user: Option<(u32, u32)>) -> Command {
        let mut command = Command::new(program);
        match (self, user) {
            (Self::Pod(pod), user) => return pod.wrap(&command, user.map_or(0, |(user, _)| user)),
            (Self::Loopback, Some((user, group))) => command.uid(user).gid(group),
            (Self::Loopback, None) => &mut command,
        };
        command
    }

    /// `client` there, as root in a pod: what the harness itself asks is not captured.
    #[must_use]
    pub fn client(self, client: Client) -> Client {
        match self {
            Self::Loopback => client,
            Self::Pod(pod) => client.in_pod(pod, 0),
        }
    }

    /// GET from there.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(self, address: SocketAddr, path: &str) -> io::Result<Reply> {
        match self {
            Self::Loopback => http::request(address, path).await,
            Self::Pod(pod) => pod.get(address, path).await,
        }
    }
}
