//! Settings: flags win over environment, environment over file, file over defaults. Put together and
//! validated once, into types; what is wrong names its key, where it was set, and what was expected.

mod args;
mod attestors;
mod file;
mod jwt;
mod store;
mod upstream;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use signet_proto::spiffe::TrustDomain;

use crate::audit::SinkAddress;
use crate::ca::{CaKeys, KeyPlace, Lives, SealPlace, UpstreamConfig};
use crate::crl::ListsUrl;
use crate::duration::Span;
use crate::issue::{DEFAULT_REQUEST_TTL, IssueSettings, JwtSettings, KeyAlgorithm, KeyAlgorithms};
use crate::recover::Recovery;
use crate::registry::{self, TtlBounds};
use crate::store::{Limits, Location, LocationError, MAX_REQUEST_TTL};
use crate::telemetry::log::LogFormat;

use args::{Cli, Given, Settings, Verb};

pub use attestors::{AttestorConfig, TableError};
pub use file::FileError;

/// What this process is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Serve.
    Run,
    /// Bring the schema up to date, or say what that takes.
    Migrate {
        /// Only say.
        dry_run: bool,
    },
    /// Write the store into a file.
    Backup(PathBuf),
    /// Fill an empty store from a file.
    Restore(PathBuf),
    /// Seal all keys with the one that is there.
    Reseal(SealPlace),
    /// Find out what is lost, and what can be done.
    Recover(Recovery),
}

/// Validated settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything durable is.
    pub data_dir: PathBuf,
    /// Where the store is.
    pub store: Location,
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Where proxies connect.
    pub grpc_listen: SocketAddr,
    /// Metrics and health.
    pub http_listen: SocketAddr,
    /// Where anybody reads the bundle over HTTPS.
    pub https: Option<Https>,
    /// Where federated trust domains read it, shown control's own SVID.
    pub federation_listen: Option<SocketAddr>,
    /// What join tickets name; empty: the bound address.
    pub advertise: Vec<String>,
    /// Local socket for operators.
    pub admin_socket: PathBuf,
    /// Local users besides root and control's own.
    pub admin_uids: HashSet<u32>,
    /// Life of SVIDs.
    pub ttl: TtlBounds,
    /// Lives of roots, intermediates and keys of tokens.
    pub lives: Lives,
    /// Where the key is that seals the signing keys.
    pub seal_key: SealPlace,
    /// Keys of authorities.
    pub ca_keys: CaKeys,
    /// The CA above ours, if there is one.
    pub upstream: Option<UpstreamConfig>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How often the audit is signed.
    pub audit_checkpoint_every: Duration,
    /// Where others find revocation lists.
    pub crl_url: Option<ListsUrl>,
    /// How often those are made.
    pub crl_every: Duration,
    /// Where copies of the audit go.
    pub audit_sinks: Vec<SinkAddress>,
    /// How long edges are kept that are silent.
    pub connections_kept: Duration,
    /// What issuance is bounded by.
    pub limits: Limits,
    /// Start although the store is older than its newest checkpoint.
    pub accept_older_store: bool,
    /// Proofs of who asks besides join tokens, by name.
    pub attestors: BTreeMap<String, AttestorConfig>,
    /// What operators decide about issuance.
    pub issue: IssueSettings,
}

/// A listener with a certificate of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// Where.
    pub listen: SocketAddr,
    /// The chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line, or asked for help: printed by clap, which knows where to.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store that is named cannot be used.
    #[error("{origin}: {error}")]
    Store {
        /// Where it was set.
        origin: String,
        /// Why not.
        error: LocationError,
    },
    /// A value that does not go with the others, or is out of bounds.
    #[error("{origin}: expected {expected}, found `{found}`")]
    Value {
        /// Where it was set.
        origin: String,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// An intermediate shorter than this would be replaced more often than is sane; tests need minutes.
const MIN_INTERMEDIATE: Duration = Duration::from_secs(60);
/// What is left of a root when the next one is made has to be enough for an intermediate below it.
const INTERMEDIATES: u32 = 4;
const SHORTEST_TTL: Duration = Duration::from_secs(1);
const MAX_SINKS: usize = 8;
const MAX_KEY_PLACES: usize = 4;

impl Config {
    /// Reads command line, environment and file of this process.
    ///
    /// # Errors
    /// The first mistake.
    pub fn load() -> Result<(Task, Self), ConfigError> {
        Self::from_args(std::env::args_os())
    }

    /// The same with a given command line, the program's name first.
    ///
    /// # Errors
    /// The first mistake.
    pub fn from_args<A>(arguments: impl IntoIterator<Item = A>) -> Result<(Task, Self), ConfigError>
    where
        A: Into<OsString> + Clone,
    {
        let matches = Cli::command().try_get_matches_from(arguments)?;
        let mut accept = false;
        let (task, Given { config, settings }) = match Cli::from_arg_matches(&matches)?.verb {
            Verb::Run { accept_older_store, run } => {
                accept = accept_older_store;
                (Task::Run, run)
            }
            Verb::Migrate { dry_run, run } => (Task::Migrate { dry_run }, run),
            Verb::Backup { out, run } => (Task::Backup(out), run),
            Verb::Restore { from, run } => (Task::Restore(from), run),
            Verb::Reseal { to, run } => (Task::Reseal(to), run),
            Verb::Recover { new_root, documents, run } => {
                (Task::Recover(Recovery { new_root, documents }), run)
            }
        };
        let file = config.as_deref().map(file::read).transpose()?;
        let run = matches.subcommand().map(|(_, given)| given);
        let config = Origins { run, file: config.as_deref().zip(file.as_ref()) }
            .validate(settings.or(file.as_ref().map(|file| &file.settings)))?;
        Ok((task, Self { accept_older_store: accept, ..config }))
    }
}

/// Knows where each setting came from, to say it.
struct Origins<'a> {
    run: Option<&'a ArgMatches>,
    file: Option<(&'a Path, &'a file::File)>,
}

impl Origins<'_> {
    fn of(&self, key: &str) -> String {
        let source = self.run.and_then(|run| run.value_source(&key.replace('-', "_")));
        match source {
            Some(ValueSource::CommandLine) => format!("--{key}"),
            Some(ValueSource::EnvVariable) => format!("SIGNET_{}", key.replace('-', "_").to_uppercase()),
            _ => match self.file.and_then(|(path, file)| Some((path, file.line_of(key)?))) {
                Some((path, line)) => format!("{}:{line}: {key}", path.display()),
                None => format!("{key} (default)"),
            },
        }
    }

    fn wrong(&self, key: &str, expected: impl Into<String>, found: &dyn std::fmt::Display) -> ConfigError {
        ConfigError::Value { origin: self.of(key), expected: expected.into(), found: found.to_string() }
    }

    fn validate(&self, settings: Settings) -> Result<Config, ConfigError> {
        let day = Duration::from_secs(86_400);
        let advertise = settings.advertise.unwrap_or_default();
        for address in &advertise {
            if !is_host_port(address) {
                return Err(self.wrong("advertise", "HOST:PORT with a port from 1 to 65535", address));
            }
        }
        let grpc_listen = settings.grpc_listen.unwrap_or(([127, 0, 0, 1], 8443).into());
        if advertise.is_empty() && grpc_listen.ip().is_unspecified() {
            let expected = "one IP address, or `advertise` set to what proxies can connect to";
            return Err(self.wrong("grpc-listen", expected, &grpc_listen));
        }
        let intermediate_ttl = settings.intermediate_ttl.map_or(30 * day, |span| span.0);
        if intermediate_ttl < MIN_INTERMEDIATE || intermediate_ttl > 365 * day {
            return Err(self.wrong("intermediate-ttl", "60s to 365d", &Span(intermediate_ttl)));
        }
        let data_dir = settings.data_dir.unwrap_or_else(|| "signet-data".into());
        let admin_socket = settings.admin_socket.unwrap_or_else(|| data_dir.join("admin.sock"));
        let admin_uids: HashSet<u32> = settings.admin_uid.unwrap_or_default().into_iter().collect();
        if !admin_uids.is_empty() && admin_socket.starts_with(&data_dir) {
            let expected = "`admin-socket` outside of the data directory, which other users cannot enter";
            return Err(self.wrong("admin-uid", expected, &admin_socket.display()));
        }
        let store = self.store(
            settings.store.as_deref(),
            settings.store_ca_file.as_deref(),
            settings.store_password_file.as_deref(),
            &data_dir,
        )?;
        let jwt = self.jwt_ttl(settings.jwt_ttl)?;
        let ttl = self.ttl_bounds(settings.min_ttl, settings.default_ttl, intermediate_ttl)?;
        Ok(Config {
            store,
            ttl,
            trust_domain: match settings.trust_domain {
                Some(domain) => domain,
                None => "mesh.local".parse().map_err(|error| self.wrong("trust-domain", "a name", &error))?,
            },
            admin_socket,
            seal_key: self.seal_key(settings.seal_key, settings.seal_key_file, &data_dir)?,
            data_dir,
            grpc_listen,
            https: self.https(settings.https_listen, settings.https_certificate, settings.https_key)?,
            federation_listen: settings.federation_listen,
            http_listen: settings.http_listen.unwrap_or(([127, 0, 0, 1], 8080).into()),
            advertise,
            admin_uids,
            lives: Lives {
                root: self.root_ttl(settings.root_ttl, intermediate_ttl)?,
                intermediate: intermediate_ttl,
                jwt_key: self.jwt_key_ttl(settings.jwt_key_ttl, jwt)?,
                jwt,
            },
            ca_keys: CaKeys {
                places: self.key_places(settings.ca_key.unwrap_or_default())?,
                curve: settings.ca_key_algorithm.unwrap_or_default(),
            },
            log_format: settings.log_format.unwrap_or_default(),
            audit_checkpoint_every: self.checkpoint_every(settings.audit_checkpoint_every)?,
            crl_url: settings.crl_url,
            crl_every: self.crl_every(settings.crl_every)?,
            limits: Limits {
                template_limit: self.template_limit(settings.template_limit)?,
                issuance_quota: settings.issuance_quota.unwrap_or(Limits::default().issuance_quota),
            },
            audit_sinks: self.sinks(settings.audit_sink.unwrap_or_default())?,
            connections_kept: self.connections_kept(settings.connections_kept)?,
            accept_older_store: false,
            attestors: self.attestors(settings.attestors)?,
            upstream: self.upstream(settings.ca)?,
            issue: IssueSettings {
                ttl,
                keys: self.keys(settings.key_algorithms)?,
                request_ttl: self.request_ttl(settings.request_ttl)?,
                jwt: JwtSettings { ttl: jwt, issuer: self.oidc_issuer(settings.oidc_issuer)? },
            },
        })
    }

    /// All three of them, or none.
    fn https(
        &self,
        listen: Option<SocketAddr>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Https>, ConfigError> {
        match (listen, certificate, key) {
            (None, None, None) => Ok(None),
            (Some(listen), Some(certificate), Some(key)) => Ok(Some(Https { listen, certificate, key })),
            (Some(listen), ..) => {
                Err(self.wrong("https-listen", "`https-certificate` and `https-key` with it", &listen))
            }
            (None, Some(certificate), _) => {
                Err(self.wrong("https-certificate", "`https-listen` with it", &certificate.display()))
            }
            (None, None, Some(key)) => Err(self.wrong("https-key", "`https-listen` with it", &key.display())),
        }
    }

    fn seal_key(
        &self,
        place: Option<SealPlace>,
        file: Option<PathBuf>,
        data_dir: &Path,
    ) -> Result<SealPlace, ConfigError> {
        match (place, file) {
            (Some(place), Some(_)) => {
                Err(self.wrong("seal-key", "nothing, as `seal-key-file` is set", &place))
            }
            (Some(place), None) => Ok(place),
            (None, file) => Ok(SealPlace::File(file.unwrap_or_else(|| data_dir.join("seal.key")))),
        }
    }

    fn key_places(&self, places: Vec<KeyPlace>) -> Result<Vec<KeyPlace>, ConfigError> {
        if places.len() > MAX_KEY_PLACES {
            return Err(self.wrong("ca-key", format!("at most {MAX_KEY_PLACES}"), &places.len()));
        }
        let twice =
            places.iter().enumerate().find(|(at, place)| places.iter().take(*at).any(|one| one == *place));
        match twice {
            Some((_, place)) => Err(self.wrong("ca-key", "each place once", place)),
            None => Ok(places),
        }
    }

    fn root_ttl(&self, given: Option<Span>, intermediate: Duration) -> Result<Duration, ConfigError> {
        let year = Duration::from_secs(365 * 86_400);
        let (least, most) = (intermediate * INTERMEDIATES, 20 * year);
        let ttl = given.map_or(10 * year, |span| span.0);
        if (least..=most).contains(&ttl) {
            return Ok(ttl);
        }
        let expected = format!("{} (4 times intermediate-ttl) to {}", Span(least), Span(most));
        Err(self.wrong("root-ttl", expected, &Span(ttl)))
    }

    /// Tables come from the file only, so every mistake in them has a line.
    fn attestors(
        &self,
        tables: Option<toml::Table>,
    ) -> Result<BTreeMap<String, AttestorConfig>, ConfigError> {
        attestors::read(tables.unwrap_or_default()).map_err(|error| self.in_table(error.below("attestors")))
    }

    fn in_table(&self, error: TableError) -> ConfigError {
        let (path, line) = match self.file {
            Some((path, file)) => (path.to_owned(), file.line_of_path(&error.path)),
            None => (PathBuf::new(), 1),
        };
        let key = format!("{}: ", error.path.join("."));
        ConfigError::File(FileError::Content { path, line, key, message: error.message })
    }

    fn connections_kept(&self, kept: Option<Span>) -> Result<Duration, ConfigError> {
        let day = Duration::from_secs(86_400);
        let kept = kept.map_or(30 * day, |span| span.0);
        if kept < day || kept > 3650 * day {
            return Err(self.wrong("connections-kept", "1d to 3650d", &Span(kept)));
        }
        Ok(kept)
    }

    fn template_limit(&self, limit: Option<u64>) -> Result<u64, ConfigError> {
        match limit.unwrap_or(Limits::default().template_limit) {
            0 => Err(self.wrong("template-limit", "1 or more", &0)),
            limit => Ok(limit),
        }
    }

    fn checkpoint_every(&self, every: Option<Span>) -> Result<Duration, ConfigError> {
        let every = every.map_or(Duration::from_secs(60), |span| span.0);
        if every < Duration::from_secs(1) || every > Duration::from_secs(86_400) {
            return Err(self.wrong("audit-checkpoint-every", "1s to 1d", &Span(every)));
        }
        Ok(every)
    }

    fn crl_every(&self, every: Option<Span>) -> Result<Duration, ConfigError> {
        let every = every.map_or(Duration::from_secs(60), |span| span.0);
        if every < Duration::from_secs(1) || every > Duration::from_secs(3600) {
            return Err(self.wrong("crl-every", "1s to 1h", &Span(every)));
        }
        Ok(every)
    }

    fn keys(&self, named: Option<Vec<KeyAlgorithm>>) -> Result<KeyAlgorithms, ConfigError> {
        let Some(named) = named else { return Ok(KeyAlgorithms::default()) };
        KeyAlgorithms::new(&named)
            .ok_or_else(|| self.wrong("key-algorithms", "at least one of p256, p384, ed25519, rsa", &"none"))
    }

    fn request_ttl(&self, life: Option<Span>) -> Result<Duration, ConfigError> {
        let life = life.map_or(DEFAULT_REQUEST_TTL, |span| span.0);
        if life < SHORTEST_TTL || life > MAX_REQUEST_TTL {
            return Err(self.wrong("request-ttl", format!("1s to {}", Span(MAX_REQUEST_TTL)), &Span(life)));
        }
        Ok(life)
    }

    /// Each has a position of its own, by its address.
    fn sinks(&self, sinks: Vec<SinkAddress>) -> Result<Vec<SinkAddress>, ConfigError> {
        if sinks.len() > MAX_SINKS {
            return Err(self.wrong("audit-sink", format!("at most {MAX_SINKS}"), &sinks.len()));
        }
        let names: HashSet<String> = sinks.iter().map(ToString::to_string).collect();
        match sinks.iter().find(|_| names.len() < sinks.len()) {
            Some(first) => Err(self.wrong("audit-sink", "each address once", first)),
            None => Ok(sinks),
        }
    }

    /// An SVID must not outlive the intermediate that signs it, which signs until half of its life.
    fn ttl_bounds(
        &self,
        min: Option<Span>,
        default: Option<Span>,
        intermediate: Duration,
    ) -> Result<TtlBounds, ConfigError> {
        let max = registry::MAX_TTL.min(intermediate / 2);
        let min = min.map_or(Duration::from_secs(60).min(max), |span| span.0);
        if min < SHORTEST_TTL || min > max {
            let expected = format!("1s to {} (half of intermediate-ttl, at most 7d)", Span(max));
            return Err(self.wrong("min-ttl", expected, &Span(min)));
        }
        let default = default.map_or(Duration::from_secs(3600).clamp(min, max), |span| span.0);
        if default < min || default > max {
            let expected =
                format!("{} (min-ttl) to {} (half of intermediate-ttl, at most 7d)", Span(min), Span(max));
            return Err(self.wrong("default-ttl", expected, &Span(default)));
        }
        Ok(TtlBounds { min, default, max })
    }
}

fn is_host_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests;
