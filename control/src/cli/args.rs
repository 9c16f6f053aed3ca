//! The verbs and their arguments.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jiff::Timestamp;

use super::connect::Target;
use crate::duration::Span;
use crate::registry::OwnerLabel;
use crate::roles::{Role, Scope, Subject};

/// Operate a Signet mesh: workloads, join tickets, policy, identities, revocation, audit.
#[derive(Debug, Parser)]
#[command(name = "signet", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// Where control is: `unix:PATH`, or `HOST:PORT` with the credentials of `signet login`
    #[arg(
        long,
        global = true,
        value_name = "TARGET",
        env = "SIGNET_CONTROL",
        default_value = "unix:signet-data/admin.sock"
    )]
    pub(super) control: Target,
    /// Directory with the credentials of `signet login` [default: ~/.config/signet]
    #[arg(long, global = true, value_name = "DIR", env = "SIGNET_CREDENTIALS")]
    pub(super) credentials: Option<PathBuf>,
    /// For people or for scripts
    #[arg(long, short, global = true, value_enum, default_value = "table")]
    pub(super) output: Format,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  signet workload create spiffe://mesh.local/orders --owner shop-team --purpose 'order service'
  signet token create spiffe://mesh.local/orders
  signet apply -f mesh/
  signet identities
  signet revoke spiffe://mesh.local/orders --reason 'key leaked'

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 control unreachable, 4 no such thing, 5 not permitted.
`signet diff` is as diff(1): 1 there are differences, 2 wrong usage or failed.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    /// A table with all that is known
    Wide,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the mesh at a glance
    Status,
    /// Register workloads and decide whether they get identities
    #[command(subcommand)]
    Workload(WorkloadVerb),
    /// Apply documents of workloads and policies: all, or none with the places of the mistakes
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(Apply),
    /// Show what `apply` would change; nothing is changed
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(Diff),
    /// Print documents of what is there, to be kept and applied again
    #[command(
        after_help = "Examples:\n  signet export > mesh.yaml\n  signet export --kind workload --owner-label shop-repo"
    )]
    Export(Export),
    /// Check documents without control
    #[command(after_help = "Examples:\n  signet validate -f mesh/\n  signet export | signet validate -f -")]
    Validate(Validate),
    /// Make join tickets
    #[command(subcommand)]
    Token(TokenVerb),
    /// Apply and ask about policy
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// List who holds an identity now: the newest SVID of every instance
    #[command(
        after_help = "Examples:\n  signet identities\n  signet identities spiffe://mesh.local/orders --all -o json"
    )]
    Identities(IdentitiesQuery),
    /// Take an identity, one of its instances, or a certificate out of the mesh, at once
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(RevokeWhat),
    /// Show what happened, copy the record of it, and verify that it is intact
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Show and rotate the certificate authorities
    #[command(subcommand)]
    Ca(CaVerb),
    /// Print the trust bundle
    #[command(after_help = "Examples:\n  signet bundle > bundle.pem\n  signet bundle --format jwks")]
    Bundle {
        /// PEM certificates, or a SPIFFE bundle in JWKS
        #[arg(long, value_enum, default_value = "pem")]
        format: BundleFormat,
    },
    /// Say who may do what: viewer, operator, approver or admin, on everything or a subtree
    #[command(subcommand)]
    Role(RoleVerb),
    /// Redeem a join ticket for an operator's own SVID
    #[command(after_help = LOGIN_EXAMPLES)]
    Login(Login),
    /// Print a completion script
    #[command(
        after_help = "Examples:\n  signet completion bash > /etc/bash_completion.d/signet\n  signet completion zsh > ~/.zfunc/_signet"
    )]
    Completion {
        /// For which shell
        shell: Shell,
    },
}

const APPLY_EXAMPLES: &str = "\
Examples:
  signet apply -f mesh/                                   # every .yaml and .yml in it, and below
  signet apply -f mesh/ --owner-label shop-repo --prune   # and take away what is not there any more
  kustomize build . | signet apply -f -

A document that another label manages is not touched, unless with `--take-over`. A workload that is pruned is
retired, for good; a policy is deleted.";

const DIFF_EXAMPLES: &str = "\
Examples:
  signet diff -f mesh/ --owner-label shop-repo --prune
  signet diff -f mesh/ -o json | jq '.changes[] | select(.action != \"unchanged\")'

Exit codes, as of diff(1): 0 no difference, 1 differences, 2 wrong usage or failed; 3 and 5 as elsewhere.";

const REVOKE_EXAMPLES: &str = "\
Examples:
  signet revoke spiffe://mesh.local/orders --reason 'host compromised'
  signet revoke --instance 4f1f0c61a2b34c5d8e9fa0b1c2d3e4f5 --reason 'one replica misbehaves'
  signet revoke --serial 5a:01:... --reason 'key leaked'";

const LOGIN_EXAMPLES: &str = "\
Examples:
  signet login \"$(cat ticket)\"
  SIGNET_CONTROL=control.prod.example:8443 signet status

The operator's workload needs a role: `signet role grant operator spiffe://...` on control's machine.";

#[derive(Debug, Subcommand)]
pub(super) enum WorkloadVerb {
    /// Register a workload
    #[command(
        after_help = "Example:\n  signet workload create spiffe://mesh.local/orders --owner shop-team --purpose 'order service' --ttl 1h"
    )]
    Create {
        /// Its SPIFFE ID, or a template such as `spiffe://mesh.local/ns/{namespace}`
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        fields: Box<WorkloadFields>,
    },
    /// List all workloads
    List,
    /// Stop giving it SVIDs and close its connections; `resume` undoes it
    Suspend(StatusChange),
    /// Give it SVIDs again
    Resume(StatusChange),
    /// End it for good
    Retire(StatusChange),
}

/// What is said about a workload beside its name; as in its document.
#[derive(Debug, Args)]
pub(super) struct WorkloadFields {
    /// Who answers for it: a team
    #[arg(long, value_name = "TEAM")]
    pub(super) owner: String,
    /// How the team is reached
    #[arg(long)]
    pub(super) contact: Option<String>,
    /// What it is for
    #[arg(long)]
    pub(super) purpose: String,
    /// Where it runs, as people call it: `production`
    #[arg(long, value_name = "WORD")]
    pub(super) environment: Option<String>,
    /// What has to be proven to get its identity; may be repeated [default: only join tickets give it]
    #[arg(long = "selector", value_name = "ATTESTOR:KEY:VALUE")]
    pub(super) selectors: Vec<String>,
    /// Usual life of its SVIDs [default: control's]
    #[arg(long, value_name = "DURATION")]
    pub(super) ttl: Option<Span>,
    /// Shortest life that may be asked for [default: control's]
    #[arg(long, value_name = "DURATION")]
    pub(super) ttl_min: Option<Span>,
    /// Longest life that may be asked for [default: control's]
    #[arg(long, value_name = "DURATION")]
    pub(super) ttl_max: Option<Span>,
    /// A DNS name that its SVIDs may carry; may be repeated
    #[arg(long = "dns", value_name = "NAME")]
    pub(super) dns: Vec<String>,
    /// From then on it gets no SVID, in RFC 3339: `2027-01-31T00:00:00Z`
    #[arg(long, value_name = "TIME")]
    pub(super) until: Option<Timestamp>,
    /// Who has to agree to each new instance
    #[arg(long, value_enum, default_value = "none", value_name = "APPROVERS")]
    pub(super) approval: Approvers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Approvers {
    None,
    One,
    Two,
}

/// Where documents are, and who manages them.
#[derive(Debug, Args)]
pub(super) struct Documents {
    /// A file, a directory, or `-` for standard input; may be repeated
    #[arg(long = "file", short = 'f', value_name = "PATH", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Who manages these documents, such as the repository that they are in
    #[arg(long, value_name = "LABEL", default_value = "default")]
    pub(super) owner_label: OwnerLabel,
    /// Take away what carries the label and is not in these files
    #[arg(long)]
    pub(super) prune: bool,
    /// Also if that is more than half of it
    #[arg(long, requires = "prune")]
    pub(super) prune_all: bool,
    /// Also change documents that another label manages, and manage them from then on
    #[arg(long)]
    pub(super) take_over: bool,
}

#[derive(Debug, Args)]
pub(super) struct Apply {
    #[command(flatten)]
    pub(super) documents: Documents,
    /// Refuse if documents have changed after this revision, which `signet diff` shows
    #[arg(long, value_name = "REVISION")]
    pub(super) expected_revision: Option<u64>,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct Diff {
    #[command(flatten)]
    pub(super) documents: Documents,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// Only documents of this kind
    #[arg(long = "kind", value_enum)]
    pub(super) kinds: Vec<DocumentKind>,
    /// Only what this label manages
    #[arg(long, value_name = "LABEL")]
    pub(super) owner_label: Option<OwnerLabel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DocumentKind {
    Workload,
    Policy,
}

#[derive(Debug, Args)]
pub(super) struct Validate {
    /// A file, a directory, or `-` for standard input; may be repeated
    #[arg(long = "file", short = 'f', value_name = "PATH", required = true)]
    pub(super) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct StatusChange {
    /// Its SPIFFE ID, or a template
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) wait: Wait,
}

/// Whether to wait until connected proxies have a change in force.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Wait {
    /// Do not wait until the connected proxies have it in force
    #[arg(long)]
    pub(super) no_wait: bool,
    /// How long to wait for them
    #[arg(long, value_name = "DURATION", default_value = "10s", conflicts_with = "no_wait")]
    pub(super) timeout: Span,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenVerb {
    /// Make a join ticket: one use, one workload; printed alone, shown once
    #[command(
        after_help = "Example:\n  signet-proxy run --join \"$(signet token create spiffe://mesh.local/orders)\" ..."
    )]
    Create {
        /// The workload that may join with it
        #[arg(value_name = "ID")]
        id: String,
        /// How long it can be redeemed
        #[arg(long, value_name = "DURATION", default_value = "10m")]
        ttl: Span,
    },
    /// Print where control is and by which root it is known, for those who prove otherwise who they are: no secret,
    /// good for any number of them
    #[command(
        after_help = "Examples:\n  signet-proxy run --join \"$(signet token introduction)\" --attest jwt=kubernetes:/var/run/secrets/tokens/signet ...\n  signet-proxy run --join \"$(signet token introduction)\" --attest x509=devices:device.pem:device.key ..."
    )]
    Introduction,
}

#[derive(Debug, Subcommand)]
pub(super) enum PolicyVerb {
    /// Apply a file of policy documents: all, or none with the place of the mistake
    #[command(
        after_help = "Examples:\n  signet policy apply -f policy.yaml\n  kustomize build . | signet policy apply -f -"
    )]
    Apply {
        /// YAML stream of documents; `-` reads standard input
        #[arg(long, short, value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
    /// List all documents
    List,
    /// Print one document as YAML-compatible JSON
    Show {
        /// Its name
        name: String,
    },
    /// Delete one document: what only it allowed is denied
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Check a file without control
    Validate {
        /// YAML stream of documents; `-` reads standard input
        #[arg(long, short, value_name = "FILE")]
        file: PathBuf,
    },
    /// Say what would be decided, and why
    #[command(
        after_help = "Example:\n  signet policy explain spiffe://mesh.local/web spiffe://mesh.local/orders --port 8080 --method GET --path /cart"
    )]
    Explain {
        /// Who calls
        source: String,
        /// Who is called
        destination: String,
        /// The app's port
        #[arg(long)]
        port: u16,
        /// HTTP method; without it the connection is opaque
        #[arg(long, requires = "path")]
        method: Option<String>,
        /// HTTP path, without query
        #[arg(long, requires = "method")]
        path: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct IdentitiesQuery {
    /// Only this SPIFFE ID
    #[arg(value_name = "ID")]
    pub(super) id: Option<String>,
    /// Also revoked, lapsed and expired ones
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["id", "instance", "serial"])]
pub(super) struct RevokeWhat {
    /// A whole identity, with all its instances
    #[arg(value_name = "ID")]
    pub(super) id: Option<String>,
    /// One attested instance, as `signet identities` shows it
    #[arg(long)]
    pub(super) instance: Option<String>,
    /// One certificate, and with it the instance that holds it
    #[arg(long)]
    pub(super) serial: Option<String>,
    /// Why, for the audit
    #[arg(long)]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditVerb {
    /// List the newest events
    #[command(
        after_help = "Examples:\n  signet audit list --limit 20\n  signet audit list --subject spiffe://mesh.local/orders"
    )]
    List {
        /// The newest so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only events about this (a SPIFFE ID or a policy's name)
        #[arg(long)]
        subject: Option<String>,
    },
    /// Show the newest events, a line each, and those that come
    #[command(
        after_help = "Examples:\n  signet audit tail --follow\n  signet audit tail --follow -o json | jq .actor"
    )]
    Tail {
        /// Go on with events as they happen
        #[arg(long, short)]
        follow: bool,
        /// The newest so many to begin with
        #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
        lines: u32,
    },
    /// Print events and their signed checkpoints as lines of JSON, to be verified anywhere
    #[command(after_help = "Example:\n  signet audit export > events.jsonl && signet audit key > audit.pem")]
    Export {
        /// Only events after this one
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
    },
    /// Recompute the chain of hashes and check it against the signed checkpoints
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(AuditVerify),
    /// Print the public key that checkpoints are signed with
    Key,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  signet audit verify
  signet audit verify --checkpoints /mnt/other-machine/audit.jsonl --key audit.pem
  signet audit verify --file events.jsonl --key audit.pem

With --file nothing is asked of control. Without --key, control is believed which key is its own: keep a copy of what
`signet audit key` prints elsewhere. Exit code 1: the record is broken; the first bad event is named.";

#[derive(Debug, Args)]
pub(super) struct AuditVerify {
    /// Checkpoints that were kept elsewhere, as lines of JSON; events among them are passed over
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoints: Option<PathBuf>,
    /// The public key that `signet audit key` printed
    #[arg(long, value_name = "PEM")]
    pub(super) key: Option<PathBuf>,
    /// A copy to verify instead of control's record: what `signet audit export` or a sink wrote
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Show root and intermediate
    Status,
    /// Sign with a new intermediate from now on; SVIDs that the old one signed stay valid
    RotateIntermediate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BundleFormat {
    Pem,
    Jwks,
}

#[derive(Debug, Subcommand)]
pub(super) enum RoleVerb {
    /// Give a role: nobody gives more than they have
    #[command(after_help = ROLE_EXAMPLES)]
    Grant(RoleOf),
    /// Take it back: it counts from the next call on
    Withdraw(RoleOf),
    /// List who has which role on what
    List,
}

const ROLE_EXAMPLES: &str = "\
Roles:
  viewer    reads
  operator  reads and changes
  approver  reads and approves
  admin     all of that; also grants and withdraws roles, and rotates

Examples:
  signet role grant operator spiffe://mesh.local/people/ada --on 'spiffe://mesh.local/shop/*'
  signet role grant viewer unix:uid=1000";

#[derive(Debug, Args)]
pub(super) struct RoleOf {
    /// viewer, operator, approver or admin
    pub(super) role: Role,
    /// A workload's SPIFFE ID, or `unix:uid=N` for a user of control's machine
    pub(super) subject: Subject,
    /// One SPIFFE ID, all below one (`spiffe://.../*`), or everything
    #[arg(long, value_name = "SCOPE", default_value = "everything")]
    pub(super) on: Scope,
}

#[derive(Debug, Args)]
pub(super) struct Login {
    /// The join ticket, as `signet token create` prints it; `-` reads standard input
    pub(super) ticket: String,
    /// Where to write svid.pem, key.pem and bundle.pem [default: ~/.config/signet]
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

/// The completion script of a shell.
pub(super) fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "signet", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_of_the_contract_parse() {
        for line in [
            "signet status",
            "signet workload create spiffe://m/o --owner a --purpose b --ttl 1h",
            "signet workload create spiffe://m/o --owner a --purpose b --contact c --environment test --selector a:k:v --selector a:k:w --ttl-min 5m --ttl-max 1d --dns a.b --until 2027-01-31T00:00:00Z --approval two",
            "signet workload list -o json",
            "signet workload list -o wide",
            "signet apply -f mesh -f more.yaml -f - --owner-label shop-repo --prune --prune-all --take-over --no-wait",
            "signet apply -f mesh --expected-revision 7",
            "signet diff -f mesh --prune",
            "signet export --kind workload --kind policy --owner-label shop-repo",
            "signet validate -f mesh",
            "signet workload suspend spiffe://m/o",
            "signet workload resume spiffe://m/o",
            "signet workload retire spiffe://m/o --reason x",
            "signet token create spiffe://m/o --ttl 10m",
            "signet token introduction",
            "signet policy apply -f p.yaml --no-wait",
            "signet policy list",
            "signet policy show x",
            "signet policy delete x",
            "signet policy validate -f p.yaml",
            "signet policy explain spiffe://m/a spiffe://m/b --port 80 --method GET --path /",
            "signet identities --all spiffe://m/o",
            "signet revoke spiffe://m/o --reason x",
            "signet revoke --instance 00 --reason x --no-wait",
            "signet revoke --serial 00 --reason x",
            "signet audit list --limit 5 --subject s",
            "signet audit tail --follow -n 0",
            "signet audit export --after 7",
            "signet audit verify",
            "signet audit verify --checkpoints c.jsonl --key k.pem --file e.jsonl",
            "signet audit key",
            "signet ca status",
            "signet ca rotate-intermediate",
            "signet bundle --format jwks",
            "signet role grant viewer spiffe://m/o",
            "signet role grant operator unix:uid=1000 --on spiffe://m/a/*",
            "signet role withdraw approver spiffe://m/o --on spiffe://m/a",
            "signet role withdraw admin spiffe://m/o --on everything",
            "signet role list -o json",
            "signet login signet-join-v1.x --dir d",
            "signet completion bash",
            "signet --control unix:/run/x.sock status",
            "signet status --control localhost:8443",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "signet",
            "signet audit",
            "signet audit --verify",
            "signet revoke --reason x",
            "signet revoke spiffe://m/o",
            "signet revoke spiffe://m/o --serial 00 --reason x",
            "signet workload create spiffe://m/o --owner a",
            "signet policy explain spiffe://m/a spiffe://m/b",
            "signet policy explain spiffe://m/a spiffe://m/b --port 80 --method GET",
            "signet token create spiffe://m/o --ttl soon",
            "signet token introduction spiffe://m/o",
            "signet --control nowhere status",
            "signet apply",
            "signet apply -f mesh --owner-label Shop",
            "signet apply -f mesh --prune-all",
            "signet export --kind role",
            "signet workload create spiffe://m/o --owner a --purpose b --until tomorrow",
            "signet role grant spiffe://m/o",
            "signet role grant root spiffe://m/o",
            "signet role grant admin ada",
            "signet role grant admin spiffe://m/o --on spiffe://m/*/a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
