//! The audit: reading, copying and verifying it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AuditVerb {
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
pub(in crate::cli) struct AuditVerify {
    /// Checkpoints that were kept elsewhere, as lines of JSON; events among them are passed over
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) checkpoints: Option<PathBuf>,
    /// The public key that `signet audit key` printed
    #[arg(long, value_name = "PEM")]
    pub(in crate::cli) key: Option<PathBuf>,
    /// A copy to verify instead of control's record: what `signet audit export` or a sink wrote
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) file: Option<PathBuf>,
}
