//! Documents: where they are, whose, and what is done with them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Wait;
use crate::registry::OwnerLabel;

/// Where documents are, and who manages them.
#[derive(Debug, Args)]
pub(in crate::cli) struct Documents {
    /// A file, a directory, or `-` for standard input; may be repeated
    #[arg(long = "file", short = 'f', value_name = "PATH", required = true)]
    pub(in crate::cli) files: Vec<PathBuf>,
    /// Who manages these documents, such as the repository that they are in
    #[arg(long, value_name = "LABEL", default_value = "default")]
    pub(in crate::cli) owner_label: OwnerLabel,
    /// Take away what carries the label and is not in these files
    #[arg(long)]
    pub(in crate::cli) prune: bool,
    /// Also if that is more than half of it
    #[arg(long, requires = "prune")]
    pub(in crate::cli) prune_all: bool,
    /// Also change documents that another label manages, and manage them from then on
    #[arg(long)]
    pub(in crate::cli) take_over: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Apply {
    #[command(flatten)]
    pub(in crate::cli) documents: Documents,
    /// Refuse if documents have changed after this revision, which `signet diff` shows
    #[arg(long, value_name = "REVISION")]
    pub(in crate::cli) expected_revision: Option<u64>,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    #[command(flatten)]
    pub(in crate::cli) documents: Documents,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// Only documents of this kind
    #[arg(long = "kind", value_enum)]
    pub(in crate::cli) kinds: Vec<DocumentKind>,
    /// Only what this label manages
    #[arg(long, value_name = "LABEL")]
    pub(in crate::cli) owner_label: Option<OwnerLabel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum DocumentKind {
    Workload,
    Policy,
    Service,
    Mesh,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Validate {
    /// A file, a directory, or `-` for standard input; may be repeated
    #[arg(long = "file", short = 'f', value_name = "PATH", required = true)]
    pub(in crate::cli) files: Vec<PathBuf>,
}
