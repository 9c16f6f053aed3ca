//! Flags, environment and file, made into types once. Flags win over the environment, which wins over the
//! file. What is left is valid: nothing is looked up or parsed again later.

mod args;
mod file;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use signet_proto::ticket::JoinTicket;

pub use args::{Arguments, Command, Keys, RunArguments};
pub use file::FileError;
pub use values::{Inbound, Outbound, Protocol};

use crate::identity::files::Files;
use crate::telemetry::log::Format;

/// Everything that `signet-proxy run` needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where the SVID comes from.
    pub source: Source,
    /// Listeners for peers.
    pub inbound: Vec<Inbound>,
    /// Listeners for our app.
    pub outbound: Vec<Outbound>,
    /// Metrics and health.
    pub metrics_listen: SocketAddr,
    /// How long connections may take to end on shutdown.
    pub drain_timeout: Duration,
    /// How long nothing may move on an open connection.
    pub idle_timeout: Duration,
    /// How the log looks.
    pub log_format: Format,
}

/// Where the SVID comes from.
#[derive(Debug)]
pub enum Source {
    /// From control, by a join ticket.
    Control(JoinTicket),
    /// From files that something else keeps.
    Files(Files),
}

/// Why the configuration cannot be used. Each names the key and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file named by a key cannot be read.
    #[error("`{key}`: cannot read {path}: {error}")]
    Read {
        /// The key that names it.
        key: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The ticket.
    #[error("`{key}`: {error}")]
    Ticket {
        /// `join` or `join-file`.
        key: &'static str,
        /// Why.
        error: signet_proto::ticket::TicketError,
    },
    /// No identity source.
    #[error(
        "no identity source: expected `join` or `join-file` (a ticket of `signet token create`), or `svid-file`, `key-file` and `bundle-file`"
    )]
    NoSource,
    /// Both identity sources.
    #[error("two identity sources: `{0}` and `{1}` exclude each other")]
    TwoSources(&'static str, &'static str),
    /// Not all three files.
    #[error("`{0}` is missing: `svid-file`, `key-file` and `bundle-file` go together")]
    MissingFile(&'static str),
    /// Nothing to do.
    #[error("no listener: expected at least one `inbound` or `outbound`")]
    NoListener,
    /// Without control nobody tells where a peer is.
    #[error(
        "outbound listener {listen}: with an SVID from files, `address` must say where `{peer}` listens (flag: {listen}={peer}@IP:PORT)"
    )]
    NoAddress {
        /// The listener.
        listen: SocketAddr,
        /// Its peer.
        peer: String,
    },
    /// Two listeners on one address.
    #[error("two listeners on {0}: every listener needs an address of its own")]
    SameAddress(SocketAddr),
    /// A policy file that would not be used.
    #[error("`policy-file` goes with `svid-file`: with `join`, policy comes from control")]
    PolicyFile,
}

impl Config {
    /// Brings flags, environment and file together.
    ///
    /// # Errors
    /// When something is missing, contradictory or unreadable.
    pub fn load(arguments: RunArguments) -> Result<Self, ConfigError> {
        let file = match &arguments.config {
            Some(path) => file::read(path)?,
            None => Keys::default(),
        };
        let keys = arguments.keys.or(file);
        let (inbound, outbound) = (&keys.inbound, &keys.outbound);
        if inbound.is_empty() && outbound.is_empty() {
            return Err(ConfigError::NoListener);
        }
        let metrics_listen = keys.metrics_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 15020)));
        let listeners = inbound.iter().map(|listener| listener.listen.0);
        let listeners =
            listeners.chain(outbound.iter().map(|listener| listener.listen)).chain([metrics_listen]);
        let mut taken = std::collections::BTreeSet::new();
        for address in listeners.filter(|address| address.port() != 0) {
            if !taken.insert(address) {
                return Err(ConfigError::SameAddress(address));
            }
        }
        let source = source(&keys)?;
        if matches!(source, Source::Files(_)) {
            if let Some(listener) = outbound.iter().find(|listener| listener.address.is_none()) {
                return Err(ConfigError::NoAddress {
                    listen: listener.listen,
                    peer: listener.peer.to_string(),
                });
            }
        } else if keys.policy_file.is_some() {
            return Err(ConfigError::PolicyFile);
        }
        Ok(Self {
            source,
            inbound: keys.inbound,
            outbound: keys.outbound,
            metrics_listen,
            drain_timeout: keys.drain_timeout.map_or(Duration::from_secs(30), |timeout| timeout.0),
            idle_timeout: keys.idle_timeout.map_or(Duration::from_secs(24 * 3600), |timeout| timeout.0),
            log_format: keys.log_format.unwrap_or_default(),
        })
    }
}

fn source(keys: &Keys) -> Result<Source, ConfigError> {
    let ticket = match (&keys.join, &keys.join_file) {
        (Some(_), Some(_)) => return Err(ConfigError::TwoSources("join", "join-file")),
        (Some(ticket), None) => Some(("join", ticket.clone())),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(path);
            let text =
                read.map_err(|error| ConfigError::Read { key: "join-file", path: path.clone(), error })?;
            Some(("join-file", text))
        }
        (None, None) => None,
    };
    let files =
        [("svid-file", &keys.svid_file), ("key-file", &keys.key_file), ("bundle-file", &keys.bundle_file)];
    let given = files.iter().find(|(_, path)| path.is_some()).map(|(name, _)| *name);
    match (ticket, given) {
        (None, None) => Err(ConfigError::NoSource),
        (Some((ticket, _)), Some(file)) => Err(ConfigError::TwoSources(ticket, file)),
        (Some((key, text)), None) => {
            Ok(Source::Control(text.parse().map_err(|error| ConfigError::Ticket { key, error })?))
        }
        (None, Some(_)) => {
            let path = |name, path: &Option<PathBuf>| path.clone().ok_or(ConfigError::MissingFile(name));
            Ok(Source::Files(Files {
                svid: path("svid-file", &keys.svid_file)?,
                key: path("key-file", &keys.key_file)?,
                bundle: path("bundle-file", &keys.bundle_file)?,
                policy: keys.policy_file.clone(),
            }))
        }
    }
}

#[cfg(test)]
mod tests;
