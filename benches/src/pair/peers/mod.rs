//! Whose pairs are measured, how each is configured, and a running pair.

mod envoy;
mod haproxy;
mod nginx;
mod signet;
mod stunnel;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::credentials::Credentials;
use super::mesh::Tickets;
use super::{Plan, tool};
use crate::process::{Process, cpu_with_children, memory_with_children};

/// Who carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Peer {
    /// Nobody: the load goes to the app.
    None,
    /// Two `signet-proxy`.
    Signet,
    /// Two Envoys.
    Envoy,
    /// Two haproxys.
    Haproxy,
    /// Two nginxes.
    Nginx,
    /// Two stunnels: bytes only.
    Stunnel,
}

/// What a route is configured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    /// HTTP/1.1, with a rule on method and path.
    Http1,
    /// HTTP/2, likewise.
    Http2,
    /// Bytes, with a rule on who calls.
    Tcp,
}

/// One way through the pair.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) carries: Carries,
    /// Where the outbound proxy takes plaintext.
    pub(super) entrance: SocketAddr,
    /// Where the inbound proxy takes mutual TLS.
    pub(super) middle: SocketAddr,
    pub(super) app: SocketAddr,
}

/// What a pair is configured with.
pub(super) struct Setup<'a> {
    /// Its own, empty.
    pub(super) directory: &'a Path,
    pub(super) credentials: &'a Credentials,
    pub(super) programs: &'a Programs,
    pub(super) routes: &'a [Route],
    /// For Signet only.
    pub(super) tickets: Option<&'a Tickets>,
    /// Connections at once, at most.
    pub(super) connections: usize,
    /// Whether TLS sessions may be resumed by those who do so unasked.
    pub(super) resume: bool,
}

/// Where the programs are of those who take part.
#[derive(Debug, Clone, Default)]
pub(super) struct Programs(Vec<(Peer, PathBuf)>);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Outbound,
    Inbound,
}

/// Two running proxies.
pub(super) struct Pair {
    inbound: Process,
    outbound: Process,
}

impl Peer {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no proxy",
            Self::Signet => "Signet",
            Self::Envoy => "Envoy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Stunnel => "stunnel",
        }
    }

    fn command(self, setup: &Setup<'_>, side: Side) -> Result<Command> {
        match self {
            Self::None | Self::Signet => signet::command(setup, side),
            Self::Envoy => envoy::command(setup, side),
            Self::Haproxy => haproxy::command(setup, side),
            Self::Nginx => nginx::command(setup, side),
            Self::Stunnel => stunnel::command(setup, side),
        }
    }

    /// What ends it for sure, its children included.
    fn last_signal(self) -> Signal {
        // The master ends its worker.
        if self == Self::Nginx { Signal::TERM } else { Signal::KILL }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Programs {
    /// Finds those of `plan`.
    pub(super) fn find(plan: &Plan) -> Result<Self> {
        let mut found = Vec::new();
        for &peer in &plan.peers {
            found.push((
                peer,
                match peer {
                    Peer::None => continue,
                    Peer::Signet => plan.signet.clone().context("no signet-proxy")?.0,
                    Peer::Envoy => tool::envoy()?,
                    Peer::Haproxy => tool::find("haproxy")?,
                    Peer::Nginx => tool::find("nginx")?,
                    Peer::Stunnel => tool::find("stunnel4")?,
                },
            ));
        }
        Ok(Self(found))
    }

    /// That of `peer`.
    pub(super) fn of(&self, peer: Peer) -> Result<&Path> {
        let found = self.0.iter().find(|(of, _)| *of == peer);
        found.map(|(_, path)| path.as_path()).with_context(|| format!("{peer} takes no part"))
    }

    /// Its version, as it says itself.
    pub(super) async fn version(&self, peer: Peer) -> Result<String> {
        let argument = match peer {
            Peer::None | Peer::Signet | Peer::Envoy => "--version",
            Peer::Haproxy | Peer::Nginx => "-v",
            Peer::Stunnel => "-version",
        };
        tool::version(self.of(peer)?, argument).await
    }
}

impl Pair {
    /// Starts both; none for nobody.
    pub(super) fn start(peer: Peer, setup: &Setup<'_>) -> Result<Option<Self>> {
        if peer == Peer::None {
            return Ok(None);
        }
        let start = |side: Side| -> Result<Process> {
            let mut command = peer.command(setup, side)?;
            command.current_dir(setup.directory);
            let log = setup.directory.join(format!("{}.log", side.name()));
            Process::start(peer.name(), command, &log, peer.last_signal())
        };
        Ok(Some(Self { inbound: start(Side::Inbound)?, outbound: start(Side::Outbound)? }))
    }

    pub(super) fn cpu(&self) -> Result<Duration> {
        Ok(cpu_with_children(self.inbound.id())? + cpu_with_children(self.outbound.id())?)
    }

    pub(super) fn memory(&self) -> Result<u64> {
        Ok(memory_with_children(self.inbound.id())? + memory_with_children(self.outbound.id())?)
    }

    pub(super) fn require_alive(&mut self) -> Result<()> {
        self.inbound.require_alive()?;
        self.outbound.require_alive()
    }

    /// The end of both logs.
    pub(super) fn tail(&self) -> String {
        format!("inbound: {}\noutbound: {}", self.inbound.tail(), self.outbound.tail())
    }
}

impl Setup<'_> {
    /// Writes a configuration, and says where.
    fn write(&self, name: &str, side: Side, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(format!("{}.{name}", side.name()));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

#[cfg(test)]
mod tests;
