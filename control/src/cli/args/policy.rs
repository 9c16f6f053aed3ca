//! Policy documents, and what they decide.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Wait;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MeshVerb {
    /// Show the settings of the mesh: strict or permissive, where, and what becomes of unknown destinations
    #[command(after_help = "Examples:\n  signet mesh show\n  signet export --kind mesh > mesh.yaml")]
    Show,
    /// Delete the document of the mesh: it is strict then, and callers in plaintext are cut
    #[command(
        after_help = "Example:\n  signet export --kind mesh > mesh.yaml   # to come back\n  signet mesh delete"
    )]
    Delete {
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum PolicyVerb {
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
    /// As `signet explain`
    #[command(hide = true)]
    Explain(Explain),
}

/// A call that may never have been made.
#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    /// Who calls; `plaintext` for a caller without TLS
    pub(in crate::cli) source: String,
    /// Who is called
    pub(in crate::cli) destination: String,
    /// The app's port
    #[arg(long)]
    pub(in crate::cli) port: u16,
    /// HTTP method; without it the connection is opaque
    #[arg(long, requires = "path")]
    pub(in crate::cli) method: Option<String>,
    /// HTTP path, as the client sends it
    #[arg(long, requires = "method")]
    pub(in crate::cli) path: Option<String>,
    /// Host of the request
    #[arg(long, requires = "method")]
    pub(in crate::cli) host: Option<String>,
    /// Header of the request; may be repeated
    #[arg(long, value_name = "NAME: VALUE", requires = "method")]
    pub(in crate::cli) header: Vec<String>,
    /// Address of the caller, as the deciding proxy sees it
    #[arg(long, value_name = "IP")]
    pub(in crate::cli) address: Option<IpAddr>,
}
