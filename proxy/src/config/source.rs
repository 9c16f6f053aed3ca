//! Where the SVID comes from: one source, and everything that it needs.

use std::path::PathBuf;

use signet_proto::ticket::JoinTicket;

use super::ConfigError;
use super::args::Keys;
use super::values::{SocketPath, Timeout};
use crate::identity::files::{Files, IdentityFiles};
use crate::identity::socket::Socket;
use crate::identity::{Joining, Proof};

/// Where the SVID comes from.
#[derive(Debug)]
pub enum Source {
    /// From control.
    Control(Joining),
    /// From files that something else keeps.
    Files(Files),
    /// From a Workload API that something else serves; policy from a file.
    Socket(Socket, Files),
}

impl Source {
    /// Its name, for people and for `/identity`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Control(_) => "control",
            Self::Files(_) => "files",
            Self::Socket(..) => "workload_api",
        }
    }

    /// Who joins, if we do.
    #[must_use]
    pub fn joining(&self) -> Option<&Joining> {
        match self {
            Self::Control(joining) => Some(joining),
            Self::Files(_) | Self::Socket(..) => None,
        }
    }
}

pub(super) fn source(keys: &Keys) -> Result<Source, ConfigError> {
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
    if keys.spiffe_id.is_some() && keys.attest.is_none() && keys.svid_socket.is_none() {
        let with = "`attest` or `svid-socket`: otherwise a join ticket or an SVID from files says which identity it is";
        return Err(ConfigError::Alone { key: "spiffe-id", with });
    }
    if let Some(SocketPath(path)) = &keys.svid_socket {
        if let Some(other) = ticket.map(|(key, _)| key).or(given).or(keys.attest.as_ref().map(|_| "attest")) {
            return Err(ConfigError::TwoSources("svid-socket", other));
        }
        let socket = Socket { path: path.clone(), spiffe_id: keys.spiffe_id.clone() };
        return Ok(Source::Socket(socket, Files { identity: None, policy: keys.policy_file.clone() }));
    }
    match (ticket, given) {
        (None, _) if keys.attest.is_some() => {
            let with = "`join` or `join-file`: an introduction, as printed by `signet token introduction`, says \
                        where control is";
            Err(ConfigError::Alone { key: "attest", with })
        }
        (None, None) => Err(ConfigError::NoSource),
        (Some((ticket, _)), Some(file)) => Err(ConfigError::TwoSources(ticket, file)),
        (Some((key, text)), None) => {
            let ticket = text.parse().map_err(|error| ConfigError::Ticket { key, error })?;
            joining(key, ticket, keys).map(Source::Control)
        }
        (None, Some(_)) => {
            let path = |name, path: &Option<PathBuf>| path.clone().ok_or(ConfigError::MissingFile(name));
            let identity = IdentityFiles {
                svid: path("svid-file", &keys.svid_file)?,
                key: path("key-file", &keys.key_file)?,
                bundle: path("bundle-file", &keys.bundle_file)?,
            };
            Ok(Source::Files(Files { identity: Some(identity), policy: keys.policy_file.clone() }))
        }
    }
}

/// With `attest`, a ticket is only an introduction: its secret stays unspent.
fn joining(key: &'static str, ticket: JoinTicket, keys: &Keys) -> Result<Joining, ConfigError> {
    let pins = ticket.pins();
    let JoinTicket { control, trust_domain, secret, .. } = ticket;
    let proof = match (keys.attest.clone(), secret) {
        (Some(attest), _) => Proof::Attest(attest),
        (None, Some(secret)) => Proof::Ticket(secret),
        (None, None) => return Err(ConfigError::NoProof(key)),
    };
    let spiffe_id = keys.spiffe_id.clone();
    if let Some(found) = spiffe_id.clone().filter(|id| *id.trust_domain() != trust_domain) {
        return Err(ConfigError::OtherDomain { found, expected: trust_domain });
    }
    let ttl_seconds = match keys.svid_ttl {
        None => 0,
        Some(Timeout(life)) => {
            let seconds = u32::try_from(life.as_secs()).ok().filter(|seconds| *seconds > 0);
            seconds.ok_or(ConfigError::Life { found: life })?
        }
    };
    Ok(Joining { control, trust_domain, pins, proof, spiffe_id, ttl_seconds })
}
