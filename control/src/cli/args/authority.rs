//! The bundle, roles, and an operator's own SVID.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::roles::{Role, Scope, Subject};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum BundleFormat {
    Pem,
    Jwks,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RoleVerb {
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
pub(in crate::cli) struct RoleOf {
    /// viewer, operator, approver or admin
    pub(in crate::cli) role: Role,
    /// A workload's SPIFFE ID, or `unix:uid=N` for a user of control's machine
    pub(in crate::cli) subject: Subject,
    /// One SPIFFE ID, all below one (`spiffe://.../*`), or everything
    #[arg(long, value_name = "SCOPE", default_value = "everything")]
    pub(in crate::cli) on: Scope,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Login {
    /// The join ticket, as `signet token create` prints it; `-` reads standard input
    pub(in crate::cli) ticket: String,
    /// Where to write svid.pem, key.pem and bundle.pem [default: ~/.config/signet]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) dir: Option<PathBuf>,
}
