//! Settings: flags win over environment, environment over file, file over defaults. Put together and
//! validated once, into types; what is wrong names its key, where it was set, and what was expected.

mod attestors;
mod file;
mod jwt;
mod store;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Deserialize;
use signet_proto::spiffe::TrustDomain;

use crate::audit::SinkAddress;
use crate::ca::{CaKeys, KeyCurve, KeyPlace, Lives, SealPlace};
use crate::crl::ListsUrl;
use crate::duration::Span;
use crate::issue::{DEFAULT_REQUEST_TTL, IssueSettings, JwtSettings, KeyAlgorithm, KeyAlgorithms};
use crate::recover::Recovery;
use crate::registry::{self, TtlBounds};
use crate::store::{Limits, Location, LocationError, MAX_REQUEST_TTL};
use crate::telemetry::log::LogFormat;

pub use attestors::{AttestorConfig, TableError};
pub use file::FileError;

/// The Signet control service.
#[derive(Debug, Parser)]
#[command(name = "signet-control", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the service.
    #[command(after_help = EXAMPLES)]
    Run {
        /// Start although the store lacks audit events that were there before: revocations made since are lost
        #[arg(long)]
        accept_older_store: bool,
        #[command(flatten)]
        run: Given,
    },
    /// Bring the store's schema up to date. An empty store needs none: `run` fills it.
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate {
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        run: Given,
    },
    /// Write the whole store into a file, while control runs. The seal key is not in it: keep it elsewhere.
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup {
        /// File to write; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        run: Given,
    },
    /// Fill an empty store from a backup, of this engine or the other.
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore {
        /// What `signet-control backup` wrote
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        #[command(flatten)]
        run: Given,
    },
    /// Seal the keys in the store with another seal key, while no control runs.
    #[command(after_help = RESEAL_EXAMPLES)]
    Reseal {
        /// The other seal key: a file, made if absent, `keyring:NAME`, or `passphrase:FILE`
        #[arg(long, value_name = "PLACE")]
        to: SealPlace,
        #[command(flatten)]
        run: Given,
    },
    /// After a disaster: say what is lost and what works still, do what is safe, and say what is left to do. Control
    /// must not run.
    #[command(after_help = RECOVER_EXAMPLES)]
    Recover {
        /// Make another root in the place of one that has ended: all proxies have to join anew
        #[arg(long)]
        new_root: bool,
        /// Where registry and policy are written if the signing keys cannot be opened
        /// [default: DATA-DIR/recovered.yaml]
        #[arg(long, value_name = "FILE")]
        documents: Option<PathBuf>,
        #[command(flatten)]
        run: Given,
    },
}

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

const EXAMPLES: &str = "\
Examples:
  signet-control run
  signet-control run --trust-domain prod.example --grpc-listen 0.0.0.0:8443 --advertise control.prod.example:8443
  signet-control run --config /etc/signet/control.toml

Every flag is also a key of the file (`grpc-listen = \"0.0.0.0:8443\"`) and an environment variable
(`SIGNET_GRPC_LISTEN`). Flags win over the environment, the environment over the file.";

const MIGRATE_EXAMPLES: &str = "\
Examples:
  signet-control migrate --dry-run
  signet-control migrate --config /etc/signet/control.toml

Each step leaves what the version before needs: replicas may be replaced one after the other.";

const BACKUP_EXAMPLES: &str = "\
Examples:
  signet-control backup --out signet-$(date +%F).backup
  signet-control backup --config /etc/signet/control.toml --out /backup/signet.backup";

const RESTORE_EXAMPLES: &str = "\
Examples:
  signet-control restore --from signet.backup --data-dir new-data
  signet-control restore --from signet.backup --store postgres://signet@localhost/signet

Put the seal key of the store that was backed up where `--seal-key-file` says before control is run on it.
What was revoked after the backup was taken is not revoked in the restored store: revoke it again.";

const RESEAL_EXAMPLES: &str = "\
Examples:
  signet-control reseal --to /etc/signet/seal-2.key
  signet-control reseal --config /etc/signet/control.toml --to passphrase:/run/secrets/signet
  signet-control reseal --seal-key keyring:signet --to keyring:signet-2

`--seal-key` and `--seal-key-file` say where the key is now, as for `run`. All keys are sealed anew in one commit; told
again after a kill, it goes on or says that it was done. Stop all replicas first, then run them with the other key.
Whoever has the old seal key can open old backups: destroy those too, or rotate the root and the intermediate.";

const RECOVER_EXAMPLES: &str = "\
Examples:
  signet-control recover
  signet-control recover --config /etc/signet/control.toml
  signet-control recover --new-root        # only if the root has ended, and the clock is right

Exit code 0: control can be run. 1: something is missing that only you can bring; what and how is said.";

#[derive(Debug, Args)]
struct Given {
    /// TOML file with the same keys as the flags
    #[arg(long, value_name = "FILE", env = "SIGNET_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Each setting as it was given somewhere, or not.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Settings {
    /// Where everything durable is: database, sealed keys [default: signet-data]
    #[arg(long, value_name = "DIR", env = "SIGNET_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// `sqlite`: in the data directory. `postgres://USER@HOST:PORT/DATABASE`: shared by several replicas, which
    /// then need the same seal key [default: sqlite]
    #[arg(long, value_name = "WHERE", env = "SIGNET_STORE", hide_env_values = true)]
    store: Option<String>,
    /// PEM file with the authority of the PostgreSQL server's certificate; turns TLS on
    #[arg(long, value_name = "FILE", env = "SIGNET_STORE_CA_FILE")]
    store_ca_file: Option<PathBuf>,
    /// File with the password for PostgreSQL, so that it stands in no command line
    #[arg(long, value_name = "FILE", env = "SIGNET_STORE_PASSWORD_FILE")]
    store_password_file: Option<PathBuf>,
    /// Trust domain of this mesh, fixed at the first start [default: mesh.local]
    #[arg(long, value_name = "NAME", env = "SIGNET_TRUST_DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// Where proxies connect (gRPC over mutual TLS) [default: 127.0.0.1:8443]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_GRPC_LISTEN")]
    grpc_listen: Option<SocketAddr>,
    /// Metrics, health, bundle and keys of JWT-SVIDs (plain HTTP) [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// Where anybody can read the trust bundle (profile https_web) and the keys of JWT-SVIDs over HTTPS, with the
    /// certificate of --https-certificate
    /// [default: nowhere]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_HTTPS_LISTEN")]
    https_listen: Option<SocketAddr>,
    /// PEM file with the certificate chain for --https-listen, read again when it changes
    #[arg(long, value_name = "FILE", env = "SIGNET_HTTPS_CERTIFICATE")]
    https_certificate: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", env = "SIGNET_HTTPS_KEY")]
    https_key: Option<PathBuf>,
    /// Where federated trust domains can read the bundle, shown control's own SVID (profile https_spiffe)
    /// [default: nowhere]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_FEDERATION_LISTEN")]
    federation_listen: Option<SocketAddr>,
    /// Address that join tickets name, several times for several [default: the gRPC listener's]
    #[arg(long, value_name = "HOST:PORT", env = "SIGNET_ADVERTISE", value_delimiter = ',')]
    advertise: Option<Vec<String>>,
    /// Local socket for operators [default: DATA-DIR/admin.sock]
    #[arg(long, value_name = "PATH", env = "SIGNET_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,
    /// Local user who may do what operators do, besides root and control's own; several times for several.
    /// Needs --admin-socket where they can reach it: the data directory is closed to others
    #[arg(long, value_name = "UID", env = "SIGNET_ADMIN_UID", value_delimiter = ',')]
    admin_uid: Option<Vec<u32>>,
    /// Life of SVIDs unless a workload has its own [default: 1h]
    #[arg(long, value_name = "DURATION", env = "SIGNET_DEFAULT_TTL")]
    default_ttl: Option<Span>,
    /// Shortest life of SVIDs that a workload may have [default: 60s]
    #[arg(long, value_name = "DURATION", env = "SIGNET_MIN_TTL")]
    min_ttl: Option<Span>,
    /// Life of roots; the next one is made when a quarter of it is left [default: 3650d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_ROOT_TTL")]
    root_ttl: Option<Span>,
    /// Life of intermediates; replaced at half of it [default: 30d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_INTERMEDIATE_TTL")]
    intermediate_ttl: Option<Span>,
    /// Longest life of JWT-SVIDs [default: 5m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_JWT_TTL")]
    jwt_ttl: Option<Span>,
    /// How long one key signs JWT-SVIDs; the next one is published ahead [default: 7d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_JWT_KEY_TTL")]
    jwt_key_ttl: Option<Span>,
    /// Where others find the keys of JWT-SVIDs (OpenID Connect discovery): `https://HOST[:PORT][/PATH]`. Tokens name it
    /// as their issuer
    #[arg(long, value_name = "URL", env = "SIGNET_OIDC_ISSUER")]
    oidc_issuer: Option<String>,
    /// File with 32 random bytes that seal the signing keys, made if absent [default: DATA-DIR/seal.key]
    #[arg(long, value_name = "FILE", env = "SIGNET_SEAL_KEY_FILE")]
    seal_key_file: Option<PathBuf>,
    /// The same elsewhere than in a file: `keyring:NAME` in the kernel, or `passphrase:FILE` to derive it from
    #[arg(long, value_name = "PLACE", env = "SIGNET_SEAL_KEY")]
    seal_key: Option<SealPlace>,
    /// Where keys of authorities are made: `sealed` in the store, or in a PKCS#11 token by its URI (RFC 7512),
    /// `pkcs11:token=LABEL?module-path=/path.so&pin-source=/file`. More places after it: where keys may be still
    /// [default: sealed]
    #[arg(long, value_name = "PLACE", env = "SIGNET_CA_KEY")]
    ca_key: Option<Vec<KeyPlace>>,
    /// Kind of new keys of authorities [default: p256]
    #[arg(long, value_enum, env = "SIGNET_CA_KEY_ALGORITHM")]
    ca_key_algorithm: Option<KeyCurve>,
    /// How log lines look [default: text]
    #[arg(long, value_enum, env = "SIGNET_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// How often the audit is signed, if anything happened; after 1000 events at the latest [default: 1m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_AUDIT_CHECKPOINT_EVERY")]
    audit_checkpoint_every: Option<Span>,
    /// Where others find `/crl` of --http-listen, such as `http://pki.example/crl`: SVIDs name it, for those who
    /// look whether they are revoked
    #[arg(long, value_name = "URL", env = "SIGNET_CRL_URL")]
    crl_url: Option<ListsUrl>,
    /// How often revocation lists are made, if anything was revoked [default: 1m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_CRL_EVERY")]
    crl_every: Option<Span>,
    /// Where copies of the audit go: `file:/path` or `https://collector/path`, several times for several
    #[arg(long, value_name = "URL", env = "SIGNET_AUDIT_SINK", value_delimiter = ',')]
    audit_sink: Option<Vec<SinkAddress>>,
    /// How long it is known who talked to whom, after the last time [default: 30d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_CONNECTIONS_KEPT")]
    connections_kept: Option<Span>,
    /// How long a request for an SVID waits for approval, where a workload needs it [default: 1d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_REQUEST_TTL")]
    request_ttl: Option<Span>,
    /// Most identities that one template gives [default: 20000]
    #[arg(long, value_name = "COUNT", env = "SIGNET_TEMPLATE_LIMIT", value_parser = clap::value_parser!(u64).range(1..))]
    template_limit: Option<u64>,
    /// Most SVIDs that one identity gets in an hour; 0: any number [default: 10000]
    #[arg(long, value_name = "COUNT", env = "SIGNET_ISSUANCE_QUOTA")]
    issuance_quota: Option<u64>,
    /// Kinds of keys that get an SVID: p256, p384, ed25519, and rsa, of 2048 to 4096 bits
    /// [default: p256,p384,ed25519]
    #[arg(long, value_name = "KINDS", env = "SIGNET_KEY_ALGORITHMS", value_delimiter = ',')]
    key_algorithms: Option<Vec<KeyAlgorithm>>,
    /// Proofs of who asks besides join tokens, by name: tables, so only in the file
    #[arg(skip)]
    attestors: Option<toml::Table>,
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

impl Settings {
    fn or(self, file: Option<&Self>) -> Self {
        let Some(file) = file else { return self };
        Self {
            data_dir: self.data_dir.or_else(|| file.data_dir.clone()),
            store: self.store.or_else(|| file.store.clone()),
            store_ca_file: self.store_ca_file.or_else(|| file.store_ca_file.clone()),
            store_password_file: self.store_password_file.or_else(|| file.store_password_file.clone()),
            trust_domain: self.trust_domain.or_else(|| file.trust_domain.clone()),
            grpc_listen: self.grpc_listen.or(file.grpc_listen),
            http_listen: self.http_listen.or(file.http_listen),
            https_listen: self.https_listen.or(file.https_listen),
            https_certificate: self.https_certificate.or_else(|| file.https_certificate.clone()),
            https_key: self.https_key.or_else(|| file.https_key.clone()),
            federation_listen: self.federation_listen.or(file.federation_listen),
            advertise: self.advertise.or_else(|| file.advertise.clone()),
            admin_socket: self.admin_socket.or_else(|| file.admin_socket.clone()),
            admin_uid: self.admin_uid.or_else(|| file.admin_uid.clone()),
            default_ttl: self.default_ttl.or(file.default_ttl),
            min_ttl: self.min_ttl.or(file.min_ttl),
            root_ttl: self.root_ttl.or(file.root_ttl),
            intermediate_ttl: self.intermediate_ttl.or(file.intermediate_ttl),
            jwt_ttl: self.jwt_ttl.or(file.jwt_ttl),
            jwt_key_ttl: self.jwt_key_ttl.or(file.jwt_key_ttl),
            oidc_issuer: self.oidc_issuer.or_else(|| file.oidc_issuer.clone()),
            seal_key_file: self.seal_key_file.or_else(|| file.seal_key_file.clone()),
            seal_key: self.seal_key.or_else(|| file.seal_key.clone()),
            ca_key: self.ca_key.or_else(|| file.ca_key.clone()),
            ca_key_algorithm: self.ca_key_algorithm.or(file.ca_key_algorithm),
            log_format: self.log_format.or(file.log_format),
            audit_checkpoint_every: self.audit_checkpoint_every.or(file.audit_checkpoint_every),
            crl_url: self.crl_url.or_else(|| file.crl_url.clone()),
            crl_every: self.crl_every.or(file.crl_every),
            audit_sink: self.audit_sink.or_else(|| file.audit_sink.clone()),
            connections_kept: self.connections_kept.or(file.connections_kept),
            template_limit: self.template_limit.or(file.template_limit),
            issuance_quota: self.issuance_quota.or(file.issuance_quota),
            attestors: self.attestors.or_else(|| file.attestors.clone()),
            request_ttl: self.request_ttl.or(file.request_ttl),
            key_algorithms: self.key_algorithms.or_else(|| file.key_algorithms.clone()),
        }
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
        attestors::read(tables.unwrap_or_default()).map_err(|error| {
            let error = error.below("attestors");
            let (path, line) = match self.file {
                Some((path, file)) => (path.to_owned(), file.line_of_path(&error.path)),
                None => (PathBuf::new(), 1),
            };
            let key = format!("{}: ", error.path.join("."));
            ConfigError::File(FileError::Content { path, line, key, message: error.message })
        })
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
