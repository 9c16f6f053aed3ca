//! Policy documents, and what they decide.

use std::path::PathBuf;

use clap::Subcommand;

use super::Wait;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MeshVerb {
    /// Show the settings of the mesh: strict or permissive, where, and what becomes of unknown destinations
    #[command(after_help = "Examples:\n  signet mesh show\n  signet export --kind mesh > mesh.yaml")]
    Show,
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
