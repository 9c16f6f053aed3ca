//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Deserialize;
use signet_proto::spiffe::SpiffeId;

use super::attach::Attach;
use super::attest::Attest;
use super::effective::Given;
use super::listeners::{Inbound, Outbound, Route};
use super::values::{
    AdminEntrance, Cidr, CollectorAddress, Count, CrlExpired, Entrance, Grace, Label, ProcessId, Ratio,
    SocketPath, Timeout, Unknown,
};
use crate::capture::rules::Mode;
use crate::cli::check::CheckArguments;
use crate::cli::client::AskArguments;
use crate::cli::tap::TapArguments;
use crate::mesh::sealed::KeyPlace;
use crate::telemetry::log::Format;
use crate::workload_api::CallerRule;

/// Signet's sidecar: mutual TLS and authorization by identity for one workload.
#[derive(Debug, Parser)]
#[command(name = "signet-proxy", version, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// Those of this process. Ends it when they are wrong or ask for help.
    #[must_use]
    pub fn read() -> Self {
        Self::try_read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Those of a command line.
    ///
    /// # Errors
    /// When they are wrong, or ask for help.
    pub fn try_read<T: Into<OsString> + Clone>(
        line: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(line)?;
        let mut arguments = Self::from_arg_matches(&matches)?;
        if let Some((name, matches)) = matches.subcommand()
            && let Some(command) = command.find_subcommand(name)
        {
            match &mut arguments.command {
                Command::Run(run) => run.given = Given::of(command, matches),
                Command::Check(check) => check.run.given = Given::of(command, matches),
                _ => {}
            }
        }
        Ok(arguments)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Run(Box<RunArguments>),
    /// Wait until a proxy is ready, for whatever must start after it
    Wait(WaitArguments),
    /// Look over the configuration and the machine, and say how to put right what is wrong
    Check(Box<CheckArguments>),
    /// Show connections and requests of a running proxy as they come
    Tap(Box<TapArguments>),
    /// Ask a running proxy, or have it do something
    Admin(AskArguments),
    /// Turn this network namespace's connections to the proxy (nftables)
    #[command(subcommand)]
    Capture(Capture),
}

/// Who waits, and for how long.
#[derive(Debug, Args)]
#[command(after_help = WAIT_EXAMPLES)]
pub struct WaitArguments {
    /// Where the proxy tells its health: its `metrics-listen`, or unix:PATH
    #[arg(
        long,
        value_name = "IP:PORT|unix:PATH",
        default_value = "127.0.0.1:15020",
        env = "SIGNET_METRICS_LISTEN"
    )]
    pub health: Entrance,

    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub timeout: Timeout,

    /// Program to run in place of this one once the proxy is ready, with its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// What to do with the rules of a network namespace.
#[derive(Debug, Subcommand)]
pub enum Capture {
    /// Install the rules, or replace those that are installed
    Install(Box<InstallArguments>),
    /// Remove the rules; nothing is left of them
    Remove,
    /// Check that the rules are there and as they were installed (exit code 0 if so, 1 if not)
    Check,
}

/// What is captured.
#[derive(Debug, Args)]
#[command(after_help = CAPTURE_EXAMPLES)]
pub struct InstallArguments {
    /// User id that the proxy runs as: its own connections are not captured
    #[arg(long, value_name = "UID", required = true)]
    pub proxy_uid: Vec<u32>,

    /// Where the proxy takes connections of the app (`--outbound PORT=original`)
    #[arg(long, value_name = "PORT", default_value = "15001", value_parser = clap::value_parser!(u16).range(1..))]
    pub outbound_port: u16,

    /// Where the proxy takes connections to the app (`--inbound PORT=original`)
    #[arg(long, value_name = "PORT", default_value = "15006", value_parser = clap::value_parser!(u16).range(1..))]
    pub inbound_port: u16,

    /// How connections to the app are turned; tproxy needs CAP_NET_ADMIN or CAP_NET_RAW in the proxy
    #[arg(long, value_name = "MODE", default_value = "redirect")]
    pub inbound_mode: Mode,

    /// Connections of the app to this port are left alone
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub exclude_outbound_port: Vec<u16>,

    /// Connections of the app to these addresses are left alone
    #[arg(long, value_name = "CIDR")]
    pub exclude_outbound_cidr: Vec<Cidr>,

    /// Connections to this port of the app are left alone: the proxy's port for peers, health checks
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub exclude_inbound_port: Vec<u16>,

    /// Connections from these addresses are left alone
    #[arg(long, value_name = "CIDR")]
    pub exclude_inbound_cidr: Vec<Cidr>,

    /// Connections of this user are left alone
    #[arg(long, value_name = "UID")]
    pub exclude_uid: Vec<u32>,

    /// Print the rules and install nothing
    #[arg(long)]
    pub dry_run: bool,
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

    /// Where the values came from.
    #[arg(skip)]
    pub given: Given,
}

/// Keys that are spelled alike as flag and in the file.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Keys {
    /// Accept mutual TLS on [IP:]PORT for the app at IP:PORT; http:// or tcp:// declares what the app speaks;
    /// `original` stands for where a captured connection was going. From addresses in
    /// ,proxy-protocol-from=CIDR a PROXY protocol header must come first
    #[arg(long, value_name = "[IP:]PORT=[http://|tcp://]IP:PORT|original")]
    pub inbound: Vec<Inbound>,

    /// Accept the app on IP:PORT or unix:PATH for the peer with that SPIFFE ID; :PORT chooses among its apps,
    /// @HOST:PORT says where it listens, by address or DNS name. `original`: for whom a captured connection was meant; `connect`: for whom
    /// the app asks with HTTP CONNECT
    #[arg(
        long,
        value_name = "[http://|tcp://]IP:PORT|unix:PATH=spiffe://ID[:PORT][@HOST:PORT]|original|connect"
    )]
    pub outbound: Vec<Outbound>,

    /// Who is behind a destination that the app uses, besides the endpoints that control knows
    #[arg(long = "route", value_name = "[http://|tcp://]HOST:PORT=spiffe://ID[:PORT][@HOST:PORT]")]
    pub route: Vec<Route>,

    /// Send a JWT-SVID (`authorization: Bearer`) with each HTTP request to that peer, for AUDIENCE as its app checks it.
    /// The app's own `authorization` stays, unless ,replace
    #[arg(long, value_name = "spiffe://ID=AUDIENCE[,replace]")]
    pub attach_token: Vec<Attach>,

    /// What becomes of captured connections whose destination is no known peer [default: refuse]
    #[arg(long, value_name = "RULE", env = "SIGNET_UNKNOWN_DESTINATIONS")]
    pub unknown_destinations: Option<Unknown>,

    /// Connections at once, in each direction [default: 10000]
    #[arg(long, value_name = "COUNT", env = "SIGNET_MAX_CONNECTIONS")]
    pub max_connections: Option<Count>,

    /// Inbound connections of one identity at once [default: 5000]
    #[arg(long, value_name = "COUNT", env = "SIGNET_MAX_CONNECTIONS_PER_IDENTITY")]
    pub max_connections_per_identity: Option<Count>,

    /// Where this proxy runs, such as `eu-1/a`: endpoints of the same locality, or else of the same region, are
    /// preferred
    #[arg(long, value_name = "REGION[/ZONE]", env = "SIGNET_LOCALITY")]
    pub locality: Option<Label>,

    /// DNS servers for peers that are named by DNS [default: those of the system]
    #[arg(long, value_name = "IP:PORT")]
    pub dns_server: Vec<SocketAddr>,

    /// Join ticket, as printed by `signet token create`; with --attest also an introduction, as printed by
    /// `signet token introduction`
    #[arg(long, value_name = "TICKET", env = "SIGNET_JOIN", hide_env_values = true)]
    pub join: Option<String>,

    /// File with the join ticket, so that it does not show in the process list
    #[arg(long, value_name = "FILE", env = "SIGNET_JOIN_FILE")]
    pub join_file: Option<PathBuf>,

    /// Join with a token in FILE, or with the key of a certificate of another CA, instead of a ticket's secret. The
    /// files are read anew each time; ATTESTOR is the name in control's configuration
    #[arg(long, value_name = "jwt=ATTESTOR:FILE|x509=ATTESTOR:CHAIN:KEY", env = "SIGNET_ATTEST")]
    pub attest: Option<Attest>,

    /// The identity that is wanted, where what is proven fits several or a Workload API gives several [default: the
    /// one that fits, or the first]
    #[arg(long, value_name = "ID", env = "SIGNET_SPIFFE_ID")]
    pub spiffe_id: Option<SpiffeId>,

    /// Life of the SVIDs, within the bounds of the workload [default: the workload's usual one]
    #[arg(long, value_name = "DURATION", env = "SIGNET_SVID_TTL")]
    pub svid_ttl: Option<Timeout>,

    /// PEM chain of an SVID that something else keeps fresh, leaf first
    #[arg(long, value_name = "FILE", env = "SIGNET_SVID_FILE")]
    pub svid_file: Option<PathBuf>,

    /// PEM private key of that SVID
    #[arg(long, value_name = "FILE", env = "SIGNET_KEY_FILE")]
    pub key_file: Option<PathBuf>,

    /// PEM authorities of its trust domain
    #[arg(long, value_name = "FILE", env = "SIGNET_BUNDLE_FILE")]
    pub bundle_file: Option<PathBuf>,

    /// SVID and bundles from a SPIFFE Workload API, such as that of SPIRE's agent; followed as they rotate
    #[arg(long, value_name = "unix:PATH", env = "SIGNET_SVID_SOCKET")]
    pub svid_socket: Option<SocketPath>,

    /// Revocation lists of other authorities (CRLs: PEM or DER), or a folder with them (*.crl, *.pem, *.der); watched,
    /// symlink swaps included. Each is for the trust domain whose authority signed it
    #[arg(long, value_name = "FILE|FOLDER")]
    pub crl_file: Vec<PathBuf>,

    /// What becomes of new peers whose issuer's revocation list is past its nextUpdate: `refuse` them, or `use` what
    /// the list says [default: refuse]
    #[arg(long, value_name = "RULE", env = "SIGNET_CRL_EXPIRED")]
    pub crl_expired: Option<CrlExpired>,

    /// YAML policy documents, with an SVID from files or a socket; without, nobody may call
    #[arg(long, value_name = "FILE", env = "SIGNET_POLICY_FILE")]
    pub policy_file: Option<PathBuf>,

    /// Metrics and health [default: 127.0.0.1:15020]
    #[arg(long, value_name = "IP:PORT", env = "SIGNET_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,

    /// For operators of this machine (`GET /` lists what there is): a loopback address, a unix socket, or `none`
    /// [default: 127.0.0.1:15021]
    #[arg(long, value_name = "IP:PORT|unix:PATH|none", env = "SIGNET_ADMIN_LISTEN")]
    pub admin_listen: Option<AdminEntrance>,

    /// Serve the SPIFFE Workload API and Envoy's SDS to apps that do their own TLS
    #[arg(long, value_name = "unix:PATH", env = "SIGNET_WORKLOAD_API_LISTEN")]
    pub workload_api_listen: Option<SocketPath>,

    /// Who may ask there, by user and group of the process: for an SVID with its key, or for bundles only
    #[arg(long, value_name = "uid=UID|gid=GID[,gives=bundles]")]
    pub workload_api_caller: Vec<CallerRule>,

    /// Collector that takes spans (OTLP over gRPC); without, nothing is traced
    #[arg(long, value_name = "http[s]://HOST:PORT", env = "SIGNET_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<CollectorAddress>,

    /// Authorities (PEM) of which one vouches for a collector at https:// [default: those of this machine]
    #[arg(long, value_name = "FILE", env = "SIGNET_OTLP_ROOTS")]
    pub otlp_roots: Option<PathBuf>,

    /// How many of the requests and connections that come without a trace begin one [default: 0.1]
    #[arg(long, value_name = "RATIO", env = "SIGNET_TRACE_SAMPLE")]
    pub trace_sample: Option<Ratio>,

    /// How long new connections are still taken in after SIGTERM, for callers who have not heard of it [default: 5s]
    #[arg(long, value_name = "DURATION", env = "SIGNET_DRAIN_GRACE")]
    pub drain_grace: Option<Grace>,

    /// How long connections may take to end after that [default: 30s]
    #[arg(long, value_name = "DURATION", env = "SIGNET_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<Timeout>,

    /// End when this process has ended, as when it is the job that this proxy is for
    #[arg(long, value_name = "PID", env = "SIGNET_EXIT_WITH_PID")]
    pub exit_with_pid: Option<ProcessId>,

    /// Let whoever reaches the admin listener end this proxy (`POST /quit`), as a job does that is done
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        env = "SIGNET_ALLOW_QUIT"
    )]
    pub allow_quit: Option<bool>,

    /// Let whoever reaches the admin listener take CPU and heap profiles of this proxy (`/profile/cpu`, `/profile/heap`)
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        env = "SIGNET_PROFILES"
    )]
    pub profiles: Option<bool>,

    /// Where a new process of this proxy takes over the listeners of the running one, without a call lost
    #[arg(long, value_name = "PATH", env = "SIGNET_UPGRADE_SOCKET")]
    pub upgrade_socket: Option<PathBuf>,

    /// How long connections may stay with a process that another one took over from [default: 10m]
    #[arg(long, value_name = "DURATION", env = "SIGNET_UPGRADE_DRAIN_TIMEOUT")]
    pub upgrade_drain_timeout: Option<Timeout>,

    /// Keep a sealed copy of the SVID and of what control said last, to start with while control is down
    #[arg(long, value_name = "FILE", env = "SIGNET_STATE_FILE")]
    pub state_file: Option<PathBuf>,

    /// The key that seals it: a file of 32 random bytes, or a key in the kernel
    #[arg(long, value_name = "FILE|keyring:NAME", env = "SIGNET_STATE_KEY")]
    pub state_key: Option<KeyPlace>,

    /// How long nothing may move on an open connection [default: 24h]
    #[arg(long, value_name = "DURATION", env = "SIGNET_IDLE_TIMEOUT")]
    pub idle_timeout: Option<Timeout>,

    /// How old a connection may become before it takes no more requests, give or take a tenth [default: any age]
    #[arg(long, value_name = "DURATION", env = "SIGNET_MAX_CONNECTION_AGE")]
    pub max_connection_age: Option<Timeout>,

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
            route: if self.route.is_empty() { other.route } else { self.route },
            attach_token: if self.attach_token.is_empty() { other.attach_token } else { self.attach_token },
            unknown_destinations: self.unknown_destinations.or(other.unknown_destinations),
            max_connections: self.max_connections.or(other.max_connections),
            max_connections_per_identity: self
                .max_connections_per_identity
                .or(other.max_connections_per_identity),
            locality: self.locality.or(other.locality),
            dns_server: if self.dns_server.is_empty() { other.dns_server } else { self.dns_server },
            join: self.join.or(other.join),
            join_file: self.join_file.or(other.join_file),
            attest: self.attest.or(other.attest),
            spiffe_id: self.spiffe_id.or(other.spiffe_id),
            svid_ttl: self.svid_ttl.or(other.svid_ttl),
            svid_file: self.svid_file.or(other.svid_file),
            key_file: self.key_file.or(other.key_file),
            bundle_file: self.bundle_file.or(other.bundle_file),
            svid_socket: self.svid_socket.or(other.svid_socket),
            crl_file: if self.crl_file.is_empty() { other.crl_file } else { self.crl_file },
            crl_expired: self.crl_expired.or(other.crl_expired),
            policy_file: self.policy_file.or(other.policy_file),
            metrics_listen: self.metrics_listen.or(other.metrics_listen),
            admin_listen: self.admin_listen.or(other.admin_listen),
            workload_api_listen: self.workload_api_listen.or(other.workload_api_listen),
            workload_api_caller: if self.workload_api_caller.is_empty() {
                other.workload_api_caller
            } else {
                self.workload_api_caller
            },
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
            otlp_roots: self.otlp_roots.or(other.otlp_roots),
            trace_sample: self.trace_sample.or(other.trace_sample),
            drain_grace: self.drain_grace.or(other.drain_grace),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            exit_with_pid: self.exit_with_pid.or(other.exit_with_pid),
            allow_quit: self.allow_quit.or(other.allow_quit),
            profiles: self.profiles.or(other.profiles),
            state_file: self.state_file.or(other.state_file),
            state_key: self.state_key.or(other.state_key),
            upgrade_socket: self.upgrade_socket.or(other.upgrade_socket),
            upgrade_drain_timeout: self.upgrade_drain_timeout.or(other.upgrade_drain_timeout),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            max_connection_age: self.max_connection_age.or(other.max_connection_age),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  Join with a ticket; peers reach the app on port 8080, the app reaches orders on 127.0.0.1:7001:
    signet-proxy run --join-file ticket --inbound 15443=127.0.0.1:8080 \\
      --outbound 127.0.0.1:7001=spiffe://prod.example/orders

  Join with the token that Kubernetes puts beside the app (`signet token introduction > introduction`, no secret):
    signet-proxy run --join-file introduction --inbound 15443=127.0.0.1:8080 \\
      --attest jwt=kubernetes:/var/run/secrets/tokens/signet

  Join with a device's certificate and its key:
    signet-proxy run --join-file introduction --attest x509=devices:device.pem:device.key \\
      --inbound 15443=127.0.0.1:8080

  The same from a file:
    signet-proxy run --config proxy.toml

  PostgreSQL behind the proxy, its protocol declared:
    signet-proxy run --join-file ticket --inbound 15443=tcp://127.0.0.1:5432

  Everything that a pod's app calls, captured (see `signet-proxy capture install --help`):
    signet-proxy run --join-file ticket --inbound 15443=127.0.0.1:8080 --inbound 15006=original \\
      --outbound 15001=original --route db.internal:5432=spiffe://prod.example/db

  For apps that know an HTTP proxy, and for those that use a unix socket:
    signet-proxy run --join-file ticket --outbound 127.0.0.1:15002=connect \\
      --outbound unix:/run/app/orders.sock=spiffe://prod.example/orders

  A peer that is not ours, found by DNS and known by its identity:
    signet-proxy run --join-file ticket --outbound 127.0.0.1:7002=spiffe://partner.example/api@api.partner.example:443

  An API behind a peer that takes bearer tokens; the app sends none:
    signet-proxy run --join-file ticket --outbound http://127.0.0.1:7003=spiffe://prod.example/billing \\
      --attach-token spiffe://prod.example/billing=https://billing.example

  For an app that does its own TLS with SPIFFE's libraries, or an Envoy (SPIFFE_ENDPOINT_SOCKET, SDS):
    signet-proxy run --join-file ticket --inbound 15443=127.0.0.1:8080 \\
      --workload-api-listen unix:/run/signet/workload.sock --workload-api-caller uid=1000

  With certificates that something else rotates on disk:
    signet-proxy run --svid-file tls/svid.pem --key-file tls/key.pem --bundle-file tls/bundle.pem \\
      --policy-file policy.yaml --inbound 15443=127.0.0.1:8080

  A partner's revocation lists, which something else fetches into a folder:
    signet-proxy run --join-file ticket --inbound 15443=127.0.0.1:8080 --crl-file /etc/signet/crls

  Beside a job that ends by itself:
    job & signet-proxy run --join-file ticket --outbound 127.0.0.1:7001=spiffe://prod.example/orders \\
      --exit-with-pid $!

Logs go to standard error; SIGNET_LOG=debug (or info,access=off) changes what is logged.";

const WAIT_EXAMPLES: &str = "\
Examples:
  Start an app once its proxy is ready:
    signet-proxy wait && exec orders
    signet-proxy wait --timeout 2m -- orders --port 8080

  A proxy whose health is elsewhere:
    signet-proxy wait --health 127.0.0.1:9020

Exit codes: 0 ready, 1 not ready in time (what is missing is told), 2 wrong options, 127 the program cannot be run.";

const CAPTURE_EXAMPLES: &str = "\
Examples:
  In a pod whose proxy runs as user 15443, with its port for peers and its health port left alone:
    signet-proxy capture install --proxy-uid 15443 --exclude-inbound-port 15443 --exclude-inbound-port 15020

  Not the database outside of the mesh:
    signet-proxy capture install --proxy-uid 15443 --exclude-outbound-cidr 10.20.0.0/16

  What would be installed:
    signet-proxy capture install --proxy-uid 15443 --dry-run

Acts on the network namespace that it runs in; needs CAP_NET_ADMIN and the program `nft` (package nftables).
Connections of the app are always captured by redirect. What is open already is left as it is.

Exit codes: 0 done, 1 absent or altered (check), 2 wrong options, 3 the rules can be neither read nor changed.";
