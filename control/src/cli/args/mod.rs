//! The verbs and their arguments: one file per group, as in `verbs`.

mod audit;
mod authority;
mod ca;
mod documents;
mod federation;
mod identities;
mod inventory;
mod policy;
mod requests;
mod workload;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(super) use audit::{AuditVerb, AuditVerify};
pub(super) use authority::{BundleFormat, Login, RoleOf, RoleVerb};
pub(super) use ca::{CaVerb, Compromised};
pub(super) use documents::{Apply, Diff, DocumentKind, Documents, Export, Validate};
pub(super) use federation::{FederationVerb, NewFederation};
pub(super) use identities::{RevokeWhat, Rotation, StatusChange};
pub(super) use inventory::{
    CertificatesQuery, ConnectionsQuery, IdentitiesQuery, InstancesQuery, Listing, WorkloadsQuery,
};
pub(super) use policy::{Explain, MeshVerb, PolicyVerb};
pub(super) use requests::{FreezeVerb, FreezeWhat, RequestsVerb};
pub(super) use workload::{Approvers, TokenVerb, WorkloadFields, WorkloadVerb};

use super::connect::Target;
use crate::duration::Span;
use crate::roles::Scope;

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

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 control unreachable, 4 no such thing, 5 not permitted,
6 done, but not everybody has said so: proxies that were to be cut off or to renew could not be reached.
`signet diff` is as diff(1): 1 there are differences, 2 wrong usage or failed.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    /// A table with all that is known
    Wide,
    Json,
    /// Of lists: all columns, times in full
    Csv,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the mesh at a glance
    Status,
    /// Register workloads and decide whether they get identities
    #[command(subcommand)]
    Workload(WorkloadVerb),
    /// Apply documents of workloads, policies, services and the mesh: all, or none with the places of the mistakes
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
    /// Look at what holds for the whole mesh, or take it away; `apply` changes it
    #[command(subcommand)]
    Mesh(MeshVerb),
    /// Say what would be decided about a call, by which rule, and why
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Explain),
    /// List who holds an identity now: the newest SVID of every instance
    #[command(
        after_help = "Examples:\n  signet identities\n  signet identities spiffe://mesh.local/orders --all -o json"
    )]
    Identities(IdentitiesQuery),
    /// List certificates: whose, until when, revoked by what, when last seen in use
    #[command(after_help = CERTIFICATES_EXAMPLES)]
    Certificates(CertificatesQuery),
    /// List attested proxies: how they proved themselves, where they are, when they were heard of
    #[command(
        after_help = "Examples:\n  signet instances --status lapsed\n  signet instances --id 'spiffe://mesh.local/shop/*' --unseen-for 5m -o wide"
    )]
    Instances(InstancesQuery),
    /// List who talks to whom: how much, when last, what was denied and by which rule
    #[command(after_help = CONNECTIONS_EXAMPLES)]
    Connections(ConnectionsQuery),
    /// List workloads and templates
    #[command(
        after_help = "Examples:\n  signet workloads --owner shop-team\n  signet workloads --status suspended -o csv"
    )]
    Workloads(WorkloadsQuery),
    /// Take out of the mesh, at once: an identity, a subtree, a team, an instance, a certificate, a key, or all that an
    /// intermediate signed
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(RevokeWhat),
    /// Stop giving a workload SVIDs and close its connections; `resume` undoes it
    #[command(after_help = "Example:\n  signet suspend spiffe://mesh.local/orders --reason 'incident 4711'")]
    Suspend(StatusChange),
    /// Give a workload SVIDs again, after `suspend` or `revoke`
    #[command(
        after_help = "Example:\n  signet resume spiffe://mesh.local/orders --reason 'incident 4711 is over'"
    )]
    Resume(StatusChange),
    /// End a workload for good: its name is never used again
    #[command(
        after_help = "Example:\n  signet retire spiffe://mesh.local/orders --reason 'replaced by carts'"
    )]
    Retire(StatusChange),
    /// Have SVIDs renewed now; nothing is closed by it
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(Rotation),
    /// Show what happened, copy the record of it, and verify that it is intact
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Show and rotate the certificate authorities
    #[command(subcommand)]
    Ca(CaVerb),
    /// Believe identities of other trust domains, each by the bundle that it serves
    #[command(subcommand)]
    Federation(FederationVerb),
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
    /// Decide about new instances that wait for approval
    #[command(subcommand)]
    Requests(RequestsVerb),
    /// Stop issuance to new instances, everywhere or on a subtree; or show where it is stopped
    #[command(after_help = FREEZE_EXAMPLES, args_conflicts_with_subcommands = true)]
    Freeze(FreezeWhat),
    /// Let it go on
    #[command(
        after_help = "Example:\n  signet unfreeze --on 'spiffe://mesh.local/shop/*' --reason 'keys replaced'"
    )]
    Unfreeze {
        /// Where it was stopped, exactly as `signet freeze list` shows it
        #[arg(long, value_name = "SCOPE", default_value = "everything")]
        on: Scope,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
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

impl Verb {
    /// Whether it shows a list, of rows that are alike.
    pub(super) fn is_list(&self) -> bool {
        matches!(
            self,
            Self::Identities(_)
                | Self::Certificates(_)
                | Self::Instances(_)
                | Self::Connections(_)
                | Self::Workloads(_)
                | Self::Workload(WorkloadVerb::List)
        )
    }
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

const CERTIFICATES_EXAMPLES: &str = "\
Examples:
  signet certificates                                  # the next one to expire first
  signet certificates --expiring-within 1h --status valid
  signet certificates --unused-for 1d --owner shop-team
  signet certificates --id 'spiffe://mesh.local/shop/*' --all --sort last-seen -o wide
  signet certificates -o csv > certificates.csv";

const CONNECTIONS_EXAMPLES: &str = "\
Examples:
  signet connections --denied                          # who was denied, and by what
  signet connections --destination spiffe://mesh.local/db --sort bytes_in --reverse
  signet connections --id spiffe://mesh.local/orders --since 1h --watch
  signet connections --plaintext --since 1d            # who has to move before the mesh is strict
  signet connections -o json | jq '.[] | select(.unreached > 0)'";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  signet explain spiffe://mesh.local/web spiffe://mesh.local/orders --port 8080 --method GET --path /cart
  signet explain spiffe://mesh.local/web spiffe://mesh.local/db --port 5432 --address 10.1.2.3
  signet explain plaintext spiffe://mesh.local/db --port 5432   # a caller without TLS
  signet explain spiffe://mesh.local/web spiffe://mesh.local/carts --port 8080 --method POST \\
    --path /shop.v1.Carts/AddItem --header 'content-type: application/grpc'";

const REVOKE_EXAMPLES: &str = "\
Examples:
  signet revoke spiffe://mesh.local/orders --reason 'host compromised'
  signet revoke --instance 4f1f0c61a2b34c5d8e9fa0b1c2d3e4f5 --reason 'one replica misbehaves'
  signet revoke --serial 5a:01:... --reason 'key leaked'
  signet revoke --key leaked.pem --reason 'found in a log'              # whoever has it, by file or SHA-256
  signet revoke 'spiffe://mesh.local/batch/*' --reason 'cluster lost'   # everything below
  signet revoke --owner batch-team --reason 'accounts stolen'
  signet revoke --issuer 7f:03:... --reason 'its key leaked'            # whoever has not renewed since

It waits until each proxy has said how many connections it cut. Exit code 6: some could not be reached, and are named;
they learn of it before anything else when they are back.";

const ROTATE_EXAMPLES: &str = "\
Examples:
  signet rotate --now spiffe://mesh.local/orders --reason 'key may have leaked'
  signet rotate --now 'spiffe://mesh.local/shop/*' --reason 'drill'
  signet rotate --now everything --timeout 2m --reason 'new intermediate'

Where many are meant, each chooses a moment of its own: 200 in a second. Exit code 6: some have not renewed.";

const FREEZE_EXAMPLES: &str = "\
Examples:
  signet freeze --on 'spiffe://mesh.local/shop/*' --reason 'incident 4711'
  signet freeze --reason 'nothing new until we know more'
  signet freeze list

What runs goes on and renews, unless `--renewals` is said: then it ends with the SVIDs that it has.";

const LOGIN_EXAMPLES: &str = "\
Examples:
  signet login \"$(cat ticket)\"
  SIGNET_CONTROL=control.prod.example:8443 signet status

The operator's workload needs a role: `signet role grant operator spiffe://...` on control's machine.";

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
            "signet federation create p.example --url https://p.example/bundle --ca-file ca.pem --no-wait",
            "signet federation create spiffe://p.example --url https://p/b --endpoint-id spiffe://p.example/c --bundle -",
            "signet federation list -o json",
            "signet federation show p.example",
            "signet federation refresh p.example --bundle b.jwks",
            "signet federation delete p.example",
            "signet workload create spiffe://m/o --owner a --purpose b --ttl 1h",
            "signet workload create spiffe://m/o --owner a --purpose b --contact c --environment test --selector a:k:v --selector a:k:w --ttl-min 5m --ttl-max 1d --dns a.b --until 2027-01-31T00:00:00Z --approval two",
            "signet workload list -o json",
            "signet workload list -o wide",
            "signet apply -f mesh -f more.yaml -f - --owner-label shop-repo --prune --prune-all --take-over --no-wait",
            "signet apply -f mesh --expected-revision 7",
            "signet diff -f mesh --prune",
            "signet export --kind workload --kind policy --owner-label shop-repo",
            "signet validate -f mesh",
            "signet suspend spiffe://m/o",
            "signet resume spiffe://m/o",
            "signet retire spiffe://m/o --reason x",
            "signet rotate --now everything --reason x --timeout 1m",
            "signet rotate spiffe://m/o/* --now --reason x --no-wait",
            "signet token create spiffe://m/o --ttl 10m",
            "signet token introduction",
            "signet policy apply -f p.yaml --no-wait",
            "signet policy list",
            "signet policy show x",
            "signet policy delete x",
            "signet policy validate -f p.yaml",
            "signet mesh show",
            "signet mesh delete --no-wait",
            "signet explain plaintext spiffe://m/b --port 80",
            "signet explain spiffe://m/a spiffe://m/b --port 80 --method GET --path / --host h --header a:b --address ::1",
            "signet policy explain spiffe://m/a spiffe://m/b --port 80 --method GET --path /",
            "signet identities --all spiffe://m/o",
            "signet identities --id spiffe://m/* --status active,departed --expiring-within 1h --sort owner",
            "signet certificates --expiring-within 1h --status valid --unused-for 7d --sort last-seen --reverse",
            "signet certificates --serial 00 --all --limit 5 -o csv",
            "signet instances --owner a --unseen-for 5m --watch -o json",
            "signet connections --source spiffe://m/a --destination spiffe://m/* --port 5432 --denied --since 1h",
            "signet workloads --owner a --id spiffe://m/a/* -o wide",
            "signet revoke spiffe://m/o --reason x",
            "signet revoke --instance 00 --reason x --no-wait",
            "signet revoke --serial 00 --reason x",
            "signet revoke spiffe://m/o/* --reason x",
            "signet revoke --owner o --reason x",
            "signet revoke --issuer 00 --reason x",
            "signet revoke --key 0000000000000000000000000000000000000000000000000000000000000000 --reason x",
            "signet audit list --limit 5 --subject s",
            "signet audit tail --follow -n 0",
            "signet audit export --after 7",
            "signet audit verify",
            "signet audit verify --checkpoints c.jsonl --key k.pem --file e.jsonl",
            "signet audit key",
            "signet ca status",
            "signet ca rotate-intermediate",
            "signet ca prepare root",
            "signet ca activate 00ff --timeout 5s",
            "signet ca activate root --force",
            "signet ca compromised root --within 5m --reason x",
            "signet ca retire intermediate --no-wait",
            "signet bundle --format jwks",
            "signet role grant viewer spiffe://m/o",
            "signet role grant operator unix:uid=1000 --on spiffe://m/a/*",
            "signet role withdraw approver spiffe://m/o --on spiffe://m/a",
            "signet role withdraw admin spiffe://m/o --on everything",
            "signet role list -o json",
            "signet requests list",
            "signet requests list spiffe://m/o --all -o json",
            "signet requests show 0011223344556677",
            "signet requests approve 0011223344556677 --csr-sha256 00 --reason x",
            "signet requests deny 0011223344556677 --reason x",
            "signet requests require two --on spiffe://m/prod/* --reason x",
            "signet requests rules",
            "signet freeze --on spiffe://m/prod/* --renewals --reason x",
            "signet freeze --reason x",
            "signet freeze list",
            "signet unfreeze --reason x",
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
            "signet revoke spiffe://m/o/*/p --reason x",
            "signet revoke --key 00 --reason x",
            "signet revoke --owner o --issuer 00 --reason x",
            "signet rotate spiffe://m/o --reason x",
            "signet rotate --now --reason x",
            "signet revoke spiffe://m/o --serial 00 --reason x",
            "signet workload create spiffe://m/o --owner a",
            "signet explain spiffe://m/a spiffe://m/b",
            "signet explain spiffe://m/a spiffe://m/b --port 80 --host h",
            "signet policy explain spiffe://m/a spiffe://m/b",
            "signet policy explain spiffe://m/a spiffe://m/b --port 80 --method GET",
            "signet token create spiffe://m/o --ttl soon",
            "signet token introduction spiffe://m/o",
            "signet --control nowhere status",
            "signet requests deny 0011223344556677",
            "signet requests require two --reason x",
            "signet freeze",
            "signet freeze list --reason x",
            "signet apply",
            "signet apply -f mesh --owner-label Shop",
            "signet apply -f mesh --prune-all",
            "signet export --kind role",
            "signet workload create spiffe://m/o --owner a --purpose b --until tomorrow",
            "signet role grant spiffe://m/o",
            "signet identities spiffe://m/o --id spiffe://m/o",
            "signet certificates --expiring-within soon",
            "signet connections --port 70000",
            "signet workloads --id spiffe://m",
            "signet role grant root spiffe://m/o",
            "signet role grant admin ada",
            "signet role grant admin spiffe://m/o --on spiffe://m/*/a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
