//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use super::values::{Inbound, Outbound, Timeout};
use crate::telemetry::log::Format;

/// Signet's sidecar: mutual TLS and authorization by identity for one workload.
#[derive(Debug, Parser)]
#[command(name = "signet-proxy", version, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Run(Box<RunArguments>),
}

/// Run the proxy.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArguments {
    /// TOML file with the same keys as the flags; flags win
    #[arg(long, value_name = "FILE", env = "SIGNET_CONFIG")]
    pub config: Option<PathBuf>,

    /// All other keys.
    #[command(flatten)]
    pub keys: Keys,
}

/// Keys that are spelled alike as flag and in the file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Keys {
    /// Accept mutual TLS on [IP:]PORT for the app at IP:PORT; http:// or tcp:// declares what the app speaks
    #[arg(long, value_name = "[IP:]PORT=[http://|tcp://]IP:PORT")]
    pub inbound: Vec<Inbound>,

    /// Accept the app on IP:PORT for the peer with that SPIFFE ID; :PORT chooses among its apps, @IP:PORT says
    /// where it listens
    #[arg(long, value_name = "[http://|tcp://]IP:PORT=spiffe://ID[:PORT][@IP:PORT]")]
    pub outbound: Vec<Outbound>,

    /// Join ticket, as printed by `signet token create`
    #[arg(long, value_name = "TICKET", env = "SIGNET_JOIN", hide_env_values = true)]
    pub join: Option<String>,

    /// File with the join ticket, so that it does not show in the process list
    #[arg(long, value_name = "FILE", env = "SIGNET_JOIN_FILE")]
    pub join_file: Option<PathBuf>,

    /// PEM chain of an SVID that something else keeps fresh, leaf first
    #[arg(long, value_name = "FILE", env = "SIGNET_SVID_FILE")]
    pub svid_file: Option<PathBuf>,

    /// PEM private key of that SVID
    #[arg(long, value_name = "FILE", env = "SIGNET_KEY_FILE")]
    pub key_file: Option<PathBuf>,

    /// PEM authorities of its trust domain
    #[arg(long, value_name = "FILE", env = "SIGNET_BUNDLE_FILE")]
    pub bundle_file: Option<PathBuf>,

    /// YAML policy documents, with an SVID from files; without, nobody may call
    #[arg(long, value_name = "FILE", env = "SIGNET_POLICY_FILE")]
    pub policy_file: Option<PathBuf>,

    /// Metrics and health [default: 127.0.0.1:15020]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,

    /// How long connections may take to end on SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", env = "SIGNET_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<Timeout>,

    /// How long nothing may move on an open connection [default: 24h]
    #[arg(long, value_name = "DURATION", env = "SIGNET_IDLE_TIMEOUT")]
    pub idle_timeout: Option<Timeout>,

    /// text for people, json for collectors [default: text]
    #[arg(long, value_name = "FORMAT", env = "SIGNET_LOG_FORMAT")]
    pub log_format: Option<Format>,
}

impl Keys {
    /// These where given, otherwise those.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            inbound: if self.inbound.is_empty() { other.inbound } else { self.inbound },
            outbound: if self.outbound.is_empty() { other.outbound } else { self.outbound },
            join: self.join.or(other.join),
            join_file: self.join_file.or(other.join_file),
            svid_file: self.svid_file.or(other.svid_file),
            key_file: self.key_file.or(other.key_file),
            bundle_file: self.bundle_file.or(other.bundle_file),
            policy_file: self.policy_file.or(other.policy_file),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  Join with a ticket; peers reach the app on port 8080, the app reaches orders on 127.0.0.1:7001:
    signet-proxy run --join-file ticket --inbound 15443=127.0.0.1:8080 \\
      --outbound 127.0.0.1:7001=spiffe://prod.example/orders

  The same from a file:
    signet-proxy run --config proxy.toml

  PostgreSQL behind the proxy, its protocol declared:
    signet-proxy run --join-file ticket --inbound 15443=tcp://127.0.0.1:5432

  With certificates that something else rotates on disk:
    signet-proxy run --svid-file tls/svid.pem --key-file tls/key.pem --bundle-file tls/bundle.pem \\
      --policy-file policy.yaml --inbound 15443=127.0.0.1:8080

Logs go to standard error; SIGNET_LOG=debug (or info,access=off) changes what is logged.";
