//! The command line: its verbs, and each setting as flag, environment variable and key of the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use signet_proto::spiffe::TrustDomain;

use crate::audit::SinkAddress;
use crate::ca::{KeyCurve, KeyPlace, SealPlace};
use crate::crl::ListsUrl;
use crate::duration::Span;
use crate::issue::KeyAlgorithm;
use crate::telemetry::log::LogFormat;

/// The Signet control service.
#[derive(Debug, Parser)]
#[command(name = "signet-control", version, about, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
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

const EXAMPLES: &str = "\
Examples:
  signet-control run
  signet-control run --trust-domain prod.example --grpc-listen 0.0.0.0:8443 --advertise control.prod.example:8443
  signet-control run --config /etc/signet/control.toml

Every flag is also a key of the file (`grpc-listen = \"0.0.0.0:8443\"`) and an environment variable
(`SIGNET_GRPC_LISTEN`). Flags win over the environment, the environment over the file. Tables are in the file only:

  [attestors.cluster]                    # proofs of who asks, besides join tickets
  kind = \"jwt\"
  profile = \"kubernetes\"
  issuer = \"https://kubernetes.default.svc\"
  audience = [\"signet\"]

  [ca.upstream]                          # a CA above: Vault or OpenBao has the root, and signs intermediates
  kind = \"vault\"
  url = \"https://vault.example:8200\"
  mount = \"pki\"
  token-file = \"/run/secrets/vault-token\"";

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
pub(super) struct Given {
    /// TOML file with the same keys as the flags
    #[arg(long, value_name = "FILE", env = "SIGNET_CONFIG")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// Each setting as it was given somewhere, or not.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Where everything durable is: database, sealed keys [default: signet-data]
    #[arg(long, value_name = "DIR", env = "SIGNET_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// `sqlite`: in the data directory. `postgres://USER@HOST:PORT/DATABASE`: shared by several replicas, which
    /// then need the same seal key [default: sqlite]
    #[arg(long, value_name = "WHERE", env = "SIGNET_STORE", hide_env_values = true)]
    pub(super) store: Option<String>,
    /// PEM file with the authority of the PostgreSQL server's certificate; turns TLS on
    #[arg(long, value_name = "FILE", env = "SIGNET_STORE_CA_FILE")]
    pub(super) store_ca_file: Option<PathBuf>,
    /// File with the password for PostgreSQL, so that it stands in no command line
    #[arg(long, value_name = "FILE", env = "SIGNET_STORE_PASSWORD_FILE")]
    pub(super) store_password_file: Option<PathBuf>,
    /// Trust domain of this mesh, fixed at the first start [default: mesh.local]
    #[arg(long, value_name = "NAME", env = "SIGNET_TRUST_DOMAIN")]
    pub(super) trust_domain: Option<TrustDomain>,
    /// Where proxies connect (gRPC over mutual TLS) [default: 127.0.0.1:8443]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_GRPC_LISTEN")]
    pub(super) grpc_listen: Option<SocketAddr>,
    /// Metrics, health, bundle and keys of JWT-SVIDs (plain HTTP) [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_HTTP_LISTEN")]
    pub(super) http_listen: Option<SocketAddr>,
    /// Where anybody can read the trust bundle (profile https_web) and the keys of JWT-SVIDs over HTTPS, with the
    /// certificate of --https-certificate
    /// [default: nowhere]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_HTTPS_LISTEN")]
    pub(super) https_listen: Option<SocketAddr>,
    /// PEM file with the certificate chain for --https-listen, read again when it changes
    #[arg(long, value_name = "FILE", env = "SIGNET_HTTPS_CERTIFICATE")]
    pub(super) https_certificate: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", env = "SIGNET_HTTPS_KEY")]
    pub(super) https_key: Option<PathBuf>,
    /// Where federated trust domains can read the bundle, shown control's own SVID (profile https_spiffe)
    /// [default: nowhere]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_FEDERATION_LISTEN")]
    pub(super) federation_listen: Option<SocketAddr>,
    /// Address that join tickets name, several times for several [default: the gRPC listener's]
    #[arg(long, value_name = "HOST:PORT", env = "SIGNET_ADVERTISE", value_delimiter = ',')]
    pub(super) advertise: Option<Vec<String>>,
    /// Local socket for operators [default: DATA-DIR/admin.sock]
    #[arg(long, value_name = "PATH", env = "SIGNET_ADMIN_SOCKET")]
    pub(super) admin_socket: Option<PathBuf>,
    /// Local user who may do what operators do, besides root and control's own; several times for several.
    /// Needs --admin-socket where they can reach it: the data directory is closed to others
    #[arg(long, value_name = "UID", env = "SIGNET_ADMIN_UID", value_delimiter = ',')]
    pub(super) admin_uid: Option<Vec<u32>>,
    /// Life of SVIDs unless a workload has its own [default: 1h]
    #[arg(long, value_name = "DURATION", env = "SIGNET_DEFAULT_TTL")]
    pub(super) default_ttl: Option<Span>,
    /// Shortest life of SVIDs that a workload may have [default: 60s]
    #[arg(long, value_name = "DURATION", env = "SIGNET_MIN_TTL")]
    pub(super) min_ttl: Option<Span>,
    /// Life of roots; the next one is made when a quarter of it is left [default: 3650d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_ROOT_TTL")]
    pub(super) root_ttl: Option<Span>,
    /// Life of intermediates; replaced at half of it [default: 30d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_INTERMEDIATE_TTL")]
    pub(super) intermediate_ttl: Option<Span>,
    /// Longest life of JWT-SVIDs [default: 5m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_JWT_TTL")]
    pub(super) jwt_ttl: Option<Span>,
    /// How long one key signs JWT-SVIDs; the next one is published ahead [default: 7d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_JWT_KEY_TTL")]
    pub(super) jwt_key_ttl: Option<Span>,
    /// Where others find the keys of JWT-SVIDs (OpenID Connect discovery): `https://HOST[:PORT][/PATH]`. Tokens name it
    /// as their issuer
    #[arg(long, value_name = "URL", env = "SIGNET_OIDC_ISSUER")]
    pub(super) oidc_issuer: Option<String>,
    /// File with 32 random bytes that seal the signing keys, made if absent [default: DATA-DIR/seal.key]
    #[arg(long, value_name = "FILE", env = "SIGNET_SEAL_KEY_FILE")]
    pub(super) seal_key_file: Option<PathBuf>,
    /// The same elsewhere than in a file: `keyring:NAME` in the kernel, or `passphrase:FILE` to derive it from
    #[arg(long, value_name = "PLACE", env = "SIGNET_SEAL_KEY")]
    pub(super) seal_key: Option<SealPlace>,
    /// Where keys of authorities are made: `sealed` in the store, or in a PKCS#11 token by its URI (RFC 7512),
    /// `pkcs11:token=LABEL?module-path=/path.so&pin-source=/file`. More places after it: where keys may be still
    /// [default: sealed]
    #[arg(long, value_name = "PLACE", env = "SIGNET_CA_KEY")]
    pub(super) ca_key: Option<Vec<KeyPlace>>,
    /// Kind of new keys of authorities [default: p256]
    #[arg(long, value_enum, env = "SIGNET_CA_KEY_ALGORITHM")]
    pub(super) ca_key_algorithm: Option<KeyCurve>,
    /// How log lines look [default: text]
    #[arg(long, value_enum, env = "SIGNET_LOG_FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// How often the audit is signed, if anything happened; after 1000 events at the latest [default: 1m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_AUDIT_CHECKPOINT_EVERY")]
    pub(super) audit_checkpoint_every: Option<Span>,
    /// Where others find `/crl` of --http-listen, such as `http://pki.example/crl`: SVIDs name it, for those who
    /// look whether they are revoked
    #[arg(long, value_name = "URL", env = "SIGNET_CRL_URL")]
    pub(super) crl_url: Option<ListsUrl>,
    /// How often revocation lists are made, if anything was revoked [default: 1m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_CRL_EVERY")]
    pub(super) crl_every: Option<Span>,
    /// Where copies of the audit go: `file:/path` or `https://collector/path`, several times for several
    #[arg(long, value_name = "URL", env = "SIGNET_AUDIT_SINK", value_delimiter = ',')]
    pub(super) audit_sink: Option<Vec<SinkAddress>>,
    /// How long it is known who talked to whom, after the last time [default: 30d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_CONNECTIONS_KEPT")]
    pub(super) connections_kept: Option<Span>,
    /// How long a request for an SVID waits for approval, where a workload needs it [default: 1d]
    #[arg(long, value_name = "DURATION", env = "SIGNET_REQUEST_TTL")]
    pub(super) request_ttl: Option<Span>,
    /// Most identities that one template gives [default: 20000]
    #[arg(long, value_name = "COUNT", env = "SIGNET_TEMPLATE_LIMIT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) template_limit: Option<u64>,
    /// Most SVIDs that one identity gets in an hour; 0: any number [default: 10000]
    #[arg(long, value_name = "COUNT", env = "SIGNET_ISSUANCE_QUOTA")]
    pub(super) issuance_quota: Option<u64>,
    /// Kinds of keys that get an SVID: p256, p384, ed25519, and rsa, of 2048 to 4096 bits
    /// [default: p256,p384,ed25519]
    #[arg(long, value_name = "KINDS", env = "SIGNET_KEY_ALGORITHMS", value_delimiter = ',')]
    pub(super) key_algorithms: Option<Vec<KeyAlgorithm>>,
    /// Proofs of who asks besides join tokens, by name: tables, so only in the file
    #[arg(skip)]
    pub(super) attestors: Option<toml::Table>,
    /// The CA above ours: a table, so only in the file
    #[arg(skip)]
    pub(super) ca: Option<toml::Table>,
}

impl Settings {
    /// As given here, and otherwise there.
    pub(super) fn or(self, file: Option<&Self>) -> Self {
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
            ca: self.ca.or_else(|| file.ca.clone()),
            request_ttl: self.request_ttl.or(file.request_ttl),
            key_algorithms: self.key_algorithms.or_else(|| file.key_algorithms.clone()),
        }
    }
}
