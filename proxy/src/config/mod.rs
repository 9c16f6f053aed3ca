//! Flags, environment and file, made into types once. Flags win over the environment, which wins over the
//! file. What is left is valid: nothing is looked up or parsed again later.

mod args;
mod attach;
mod attest;
mod effective;
mod file;
mod listeners;
mod living;
mod source;
mod values;
mod workload_api;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use signet_proto::locality::Locality;
use signet_proto::spiffe::{SpiffeId, TrustDomain};

pub use args::{Arguments, Capture, Command, InstallArguments, Keys, RunArguments, WaitArguments};
pub use attach::Attach;
pub use attest::Attest;
pub use effective::{Effective, Given, Origin, Setting};
pub use file::FileError;
pub use listeners::{App, Destination, Inbound, Outbound, Place, Route};
pub use living::{Living, Sealing};
pub use source::Source;
pub use values::{AdminEntrance, Cidr, Entrance, Protocol, Requested, Statement, Timeout, Unknown};

pub use workload_api::AppSocket;

use crate::crl::CrlFiles;
use crate::mesh::sealed::StateError;
use crate::telemetry::log::Format;
use crate::telemetry::traces::{Collector, CollectorError};
use source::source;
use values::{CollectorAddress, Ratio};

/// Everything that `signet-proxy run` needs to know.
#[derive(Debug)]
pub struct Config {
    /// Where the SVID comes from.
    pub source: Source,
    /// Revocation lists of other authorities.
    pub crls: Option<CrlFiles>,
    /// Listeners for peers.
    pub inbound: Vec<Inbound>,
    /// Listeners for our app.
    pub outbound: Vec<Outbound>,
    /// Who is behind the destinations that our app uses.
    pub routes: Vec<Route>,
    /// Peers that are sent a token with each request.
    pub attached: Vec<Attach>,
    /// What becomes of other destinations.
    pub unknown_destinations: Option<Unknown>,
    /// Where this proxy runs.
    pub locality: Option<Locality>,
    /// Whom to ask for the names of peers; nobody: as the system does.
    pub dns_servers: Vec<SocketAddr>,
    /// Connections at once, in each direction.
    pub max_connections: usize,
    /// Inbound connections of one identity at once.
    pub max_connections_per_identity: usize,
    /// Metrics and health.
    pub metrics_listen: SocketAddr,
    /// Where spans go, and how many traces begin here.
    pub traces: Option<(Collector, f64)>,
    /// For operators of this machine.
    pub admin_listen: Option<Entrance>,
    /// For apps that do their own TLS.
    pub workload_api: Option<AppSocket>,
    /// How it starts and ends beside its app.
    pub living: Living,
    /// How long nothing may move on an open connection.
    pub idle_timeout: Duration,
    /// How old a connection may become before it takes no more requests; any age when absent.
    pub max_connection_age: Option<Duration>,
    /// How the log looks.
    pub log_format: Format,
    /// All of it as it was written, and where.
    pub effective: Effective,
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
    /// The key of the sealed copy.
    #[error(transparent)]
    State(#[from] StateError),
    /// The collector of spans.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// The ticket.
    #[error("`{key}`: {error}")]
    Ticket {
        /// `join` or `join-file`.
        key: &'static str,
        /// Why.
        error: signet_proto::ticket::TicketError,
    },
    /// An introduction, and nothing to prove.
    #[error(
        "`{0}`: an introduction proves nothing: set `attest` (jwt=ATTESTOR:FILE or x509=ATTESTOR:CHAIN.pem:KEY.pem) as well, or use a ticket of `signet token create`"
    )]
    NoProof(&'static str),
    /// A key that only goes with another one.
    #[error("`{key}` goes with {with}")]
    Alone {
        /// Which.
        key: &'static str,
        /// What is missing, and where it comes from.
        with: &'static str,
    },
    /// The wanted identity is of another mesh.
    #[error("`spiffe-id`: `{found}` is not of trust domain `{expected}`, which the ticket is for")]
    OtherDomain {
        /// What is wanted.
        found: SpiffeId,
        /// The ticket's.
        expected: TrustDomain,
    },
    /// A life that no SVID can have.
    #[error("`svid-ttl`: an SVID lives for at least a second, found {found:?}")]
    Life {
        /// What was asked for.
        found: Duration,
    },
    /// No identity source.
    #[error(
        "no identity source: expected `join` or `join-file` (a ticket of `signet token create`, or an introduction of `signet token introduction` with `attest`), `svid-file`, `key-file` and `bundle-file`, or `svid-socket`"
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
        "{listen}: without control, `address` must say where `{peer}` listens (flag: {listen}={peer}@HOST:PORT)"
    )]
    NoAddress {
        /// The listener, or the route's destination.
        listen: String,
        /// Its peer.
        peer: String,
    },
    /// Two listeners on one address.
    #[error("two listeners on {0}: every listener needs an address of its own")]
    SameAddress(Entrance),
    /// Two routes for one destination.
    #[error("two routes for {0}: which peer is it?")]
    SameRoute(Requested),
    /// Two tokens for the requests to one peer.
    #[error("two `attach-token` for {0}: which is it?")]
    SameToken(SpiffeId),
    /// Routes that nothing uses.
    #[error("`route` goes with an outbound listener whose destination is `original` or `connect`")]
    UnusedRoute,
    /// A listener that leads to another one of ours.
    #[error("{from} leads to {to}, which is this proxy's own listener")]
    Loop {
        /// The listener.
        from: Entrance,
        /// Where it leads.
        to: SocketAddr,
    },
    /// More rules than are looked at.
    #[error(
        "`workload-api-caller`: {found} rules, expected at most {allowed}; use one group for several users"
    )]
    TooManyRules {
        /// How many there are.
        found: usize,
        /// How many are looked at.
        allowed: usize,
    },
    /// A policy file that would not be used.
    #[error("`policy-file` goes with `svid-file` or `svid-socket`: with `join`, policy comes from control")]
    PolicyFile,
}

impl Config {
    /// Brings flags, environment and file together.
    ///
    /// # Errors
    /// When something is missing, contradictory or unreadable.
    pub fn load(arguments: RunArguments) -> Result<Self, ConfigError> {
        let (file, table) = match &arguments.config {
            Some(path) => file::read(path).map(|(keys, table)| (keys, Some(table)))?,
            None => (Keys::default(), None),
        };
        let written = arguments.config.as_deref().zip(table.as_ref());
        let effective = Effective::new(&arguments.given, written);
        let keys = arguments.keys.or(file);
        let (inbound, outbound) = (&keys.inbound, &keys.outbound);
        if inbound.is_empty() && outbound.is_empty() {
            return Err(ConfigError::NoListener);
        }
        let metrics_listen = keys.metrics_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 15020)));
        let AdminEntrance(admin_listen) = keys.admin_listen.clone().unwrap_or_default();
        distinct(&keys, metrics_listen, admin_listen.as_ref())?;
        without_loops(&keys, metrics_listen, admin_listen.as_ref())?;
        let living = Living::of(&keys)?;
        let traces = traces(&keys)?;
        let source = source(&keys)?;
        let workload_api = AppSocket::of(&keys, &source)?;
        let attached = attach::attached(&keys, &source)?;
        let crls = crls(&keys)?;
        if source.joining().is_none() {
            all_addressed(&keys)?;
        } else if keys.policy_file.is_some() {
            return Err(ConfigError::PolicyFile);
        }
        Ok(Self {
            source,
            crls,
            inbound: keys.inbound,
            outbound: keys.outbound,
            routes: keys.route,
            attached,
            unknown_destinations: keys.unknown_destinations,
            locality: keys.locality.map(|label| label.0),
            dns_servers: keys.dns_server,
            max_connections: keys.max_connections.map_or(10_000, |count| count.0),
            max_connections_per_identity: keys.max_connections_per_identity.map_or(5_000, |count| count.0),
            workload_api,
            traces,
            metrics_listen,
            admin_listen,
            living,
            max_connection_age: keys.max_connection_age.map(|timeout| timeout.0),
            idle_timeout: keys.idle_timeout.map_or(Duration::from_secs(24 * 3600), |timeout| timeout.0),
            log_format: keys.log_format.unwrap_or_default(),
            effective,
        })
    }
}

fn crls(keys: &Keys) -> Result<Option<CrlFiles>, ConfigError> {
    if keys.crl_file.is_empty() {
        return match keys.crl_expired {
            None => Ok(None),
            Some(_) => {
                let with = "`crl-file`: without a list none ends";
                Err(ConfigError::Alone { key: "crl-expired", with })
            }
        };
    }
    let expired = keys.crl_expired.map(Into::into).unwrap_or_default();
    Ok(Some(CrlFiles { places: keys.crl_file.clone(), expired }))
}

fn traces(keys: &Keys) -> Result<Option<(Collector, f64)>, ConfigError> {
    let Some(CollectorAddress { tls, place }) = &keys.otlp_endpoint else {
        let with = "`otlp-endpoint`: without a collector nothing is traced";
        let alone = |key| Err(ConfigError::Alone { key, with });
        return match (&keys.trace_sample, &keys.otlp_roots) {
            (None, None) => Ok(None),
            (Some(_), _) => alone("trace-sample"),
            (None, Some(_)) => alone("otlp-roots"),
        };
    };
    let collector = match (tls, &keys.otlp_roots) {
        (false, None) => Collector::in_the_clear(&place.host, place.port)?,
        (false, Some(_)) => {
            let with = "an `otlp-endpoint` at https://: nobody proves itself at http://";
            return Err(ConfigError::Alone { key: "otlp-roots", with });
        }
        (true, None) => Collector::proven(&place.host, place.port, None)?,
        (true, Some(path)) => {
            let read = |error| ConfigError::Read { key: "otlp-roots", path: path.clone(), error };
            Collector::proven(&place.host, place.port, Some(&std::fs::read(path).map_err(read)?))?
        }
    };
    Ok(Some((collector, keys.trace_sample.map_or(0.1, |Ratio(ratio)| ratio))))
}

fn distinct(keys: &Keys, metrics: SocketAddr, admin: Option<&Entrance>) -> Result<(), ConfigError> {
    let mut listeners = BTreeSet::from([Entrance::Tcp(metrics)]);
    let apps = keys.workload_api_listen.as_ref().map(|listen| Entrance::Unix(listen.0.clone()));
    for listen in entrances(keys)
        .chain(admin)
        .chain(&apps)
        .filter(|entrance| entrance.address().is_none_or(|a| a.port() != 0))
    {
        if !listeners.insert(listen.clone()) {
            return Err(ConfigError::SameAddress(listen.clone()));
        }
    }
    let mut routes = HashSet::new();
    for Route { destination, .. } in &keys.route {
        if !routes.insert(destination) {
            return Err(ConfigError::SameRoute(destination.clone()));
        }
    }
    let fixed = |listener: &Outbound| matches!(listener.destination, Destination::Peer(..));
    if !keys.route.is_empty() && keys.outbound.iter().all(fixed) {
        return Err(ConfigError::UnusedRoute);
    }
    Ok(())
}

/// What can be seen in the configuration; the rest is refused connection by connection.
fn without_loops(keys: &Keys, metrics: SocketAddr, admin: Option<&Entrance>) -> Result<(), ConfigError> {
    let own = |to: SocketAddr| {
        entrances(keys).chain(admin).filter_map(Entrance::address).chain([metrics]).any(|address| {
            address.port() == to.port()
                && (address.ip() == to.ip() || (address.ip().is_unspecified() && to.ip().is_loopback()))
        })
    };
    for listener in &keys.inbound {
        if let App::At(app) = listener.forward
            && own(app)
        {
            return Err(ConfigError::Loop { from: listener.listen.clone(), to: app });
        }
    }
    Ok(())
}

/// Without control nobody tells where a peer is.
fn all_addressed(keys: &Keys) -> Result<(), ConfigError> {
    let listeners = keys.outbound.iter().filter_map(|listener| match &listener.destination {
        Destination::Peer(peer, place) => Some((listener.listen.to_string(), peer, place)),
        Destination::Original | Destination::Connect => None,
    });
    let routes = keys.route.iter().map(|route| (route.destination.to_string(), &route.peer, &route.place));
    match listeners.chain(routes).find(|(_, _, place)| place.address.is_none()) {
        Some((listen, peer, _)) => Err(ConfigError::NoAddress { listen, peer: peer.to_string() }),
        None => Ok(()),
    }
}

fn entrances(keys: &Keys) -> impl Iterator<Item = &Entrance> {
    let inbound = keys.inbound.iter().map(|listener| &listener.listen);
    inbound.chain(keys.outbound.iter().map(|listener| &listener.listen))
}

#[cfg(test)]
mod tests;
