//! Who has to agree to new instances, and stopping issuance.

use clap::{Args, Subcommand};

use super::Approvers;
use crate::roles::Scope;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RequestsVerb {
    /// List those that wait
    #[command(
        after_help = "Examples:\n  signet requests list\n  signet requests list spiffe://mesh.local/vault --all -o json"
    )]
    List {
        /// Only this SPIFFE ID
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Also those that are decided and used, or over
        #[arg(long)]
        all: bool,
    },
    /// Show one with all that is known of it
    #[command(after_help = "Example:\n  signet requests show 0f3a5c7e9b1d2f46")]
    Show {
        /// As `list` shows it
        #[arg(value_name = "REQUEST")]
        id: String,
    },
    /// Agree to one: for just its signing request
    #[command(after_help = APPROVE_EXAMPLES)]
    Approve {
        /// As `list` shows it
        #[arg(value_name = "REQUEST")]
        id: String,
        /// The SHA-256 of the signing request that you mean: refused if it is another [default: the one that is there]
        #[arg(long, value_name = "HEX")]
        csr_sha256: Option<String>,
        /// Why, for the audit
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Refuse one for good: the join ticket that it came with is worthless from then on
    #[command(
        after_help = "Example:\n  signet requests deny 0f3a5c7e9b1d2f46 --reason 'nobody here started it'"
    )]
    Deny {
        /// As `list` shows it
        #[arg(value_name = "REQUEST")]
        id: String,
        /// Why, for the audit and for who asks
        #[arg(long)]
        reason: String,
    },
    /// Say how many have to agree to each new instance of a subtree, beside what each workload says
    #[command(after_help = REQUIRE_EXAMPLES)]
    Require {
        /// How many; `none` takes the rule away
        #[arg(value_enum)]
        approvers: Approvers,
        /// One SPIFFE ID, all below one (`spiffe://.../*`), or everything
        #[arg(long, value_name = "SCOPE")]
        on: Scope,
        /// Why, for the audit
        #[arg(long)]
        reason: String,
    },
    /// List these rules
    Rules,
}

const APPROVE_EXAMPLES: &str = "\
Examples:
  signet requests approve 0f3a5c7e9b1d2f46 --reason 'rollout of Tuesday'
  signet requests approve 0f3a5c7e9b1d2f46 --csr-sha256 9c1185a5c5e9fc54612808977ee8f548b2258d31...

It takes the role approver on the identity. Nobody approves for themselves: not the identity that asks, not who made
its join ticket, not who declared its workload last, and of two approvers none twice.";

const REQUIRE_EXAMPLES: &str = "\
Examples:
  signet requests require two --on 'spiffe://mesh.local/prod/*' --reason 'four eyes in production'
  signet requests require none --on 'spiffe://mesh.local/prod/*' --reason 'moved to the documents'

Of several rules and what the workload itself says, the strictest counts. What is approved and runs renews as before.";

#[derive(Debug, Args)]
pub(in crate::cli) struct FreezeWhat {
    #[command(subcommand)]
    pub(in crate::cli) verb: Option<FreezeVerb>,
    /// One SPIFFE ID, all below one (`spiffe://.../*`), or everything
    #[arg(long, value_name = "SCOPE", default_value = "everything")]
    pub(in crate::cli) on: Scope,
    /// Renewals too: what runs there ends with the SVIDs that it has
    #[arg(long)]
    pub(in crate::cli) renewals: bool,
    /// Why, for the audit and for who is refused
    #[arg(long, required = true)]
    pub(in crate::cli) reason: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FreezeVerb {
    /// Show where issuance is stopped, and why
    List,
}
