//! Other trust domains whose identities are believed.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use signet_proto::spiffe::{SpiffeId, TrustDomain};

use super::Wait;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FederationVerb {
    /// Believe the identities of another trust domain, by the bundle that it serves
    #[command(after_help = CREATE_EXAMPLES)]
    Create(NewFederation),
    /// List them, and how it stands with their bundles
    List,
    /// Show one with all that is known of it
    #[command(after_help = "Example:\n  signet federation show partner.example")]
    Show {
        /// As `list` shows it
        #[arg(value_name = "TRUST-DOMAIN")]
        trust_domain: Domain,
    },
    /// Fetch a bundle now, or take the one in a file in its place
    #[command(after_help = REFRESH_EXAMPLES)]
    Refresh {
        /// As `list` shows it
        #[arg(value_name = "TRUST-DOMAIN")]
        trust_domain: Domain,
        /// SPIFFE JWKS or PEM, from its operators: taken as it is, also if its sequence went back; `-`: standard input
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Believe nobody of it any more, and close the connections with its identities
    #[command(after_help = "Example:\n  signet federation delete partner.example")]
    Delete {
        /// As `list` shows it
        #[arg(value_name = "TRUST-DOMAIN")]
        trust_domain: Domain,
        #[command(flatten)]
        wait: Wait,
    },
}

/// A trust domain, by its name or its SPIFFE ID.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Domain(pub(in crate::cli) TrustDomain);

impl std::str::FromStr for Domain {
    type Err = signet_proto::spiffe::SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("spiffe://").unwrap_or(text).parse().map(Self)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NewFederation {
    /// Its name, such as `partner.example`
    #[arg(value_name = "TRUST-DOMAIN")]
    pub(in crate::cli) trust_domain: Domain,
    /// Where its bundle is served: https://HOST[:PORT]/PATH
    #[arg(long)]
    pub(in crate::cli) url: String,
    /// Who answers there (profile https_spiffe); without it a web server does, known by its host name (https_web)
    #[arg(long, value_name = "SPIFFE-ID")]
    pub(in crate::cli) endpoint_id: Option<SpiffeId>,
    /// PEM file of who vouches for the web server [default: the authorities that control's system believes]
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint_id")]
    pub(in crate::cli) ca_file: Option<PathBuf>,
    /// Its bundle to begin with, SPIFFE JWKS or PEM, from its operators; `-`: standard input
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) bundle: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

const CREATE_EXAMPLES: &str = "\
Examples:
  signet federation create partner.example --url https://mesh.partner.example/bundle
  signet federation create partner.example --url https://10.1.2.3:8444/bundle \\
    --endpoint-id spiffe://partner.example/signet/control --bundle partner.jwks

The other side serves its bundle with `--https-listen` or `--federation-listen` of signet-control, or any SPIFFE bundle
endpoint; `signet bundle --format jwks` there prints the file. Federate on both sides if both are to call.
Policies say what its identities may: from: [spiffe://partner.example/shop].";

const REFRESH_EXAMPLES: &str = "\
Examples:
  signet federation refresh partner.example
  signet federation refresh partner.example --bundle partner.jwks   # its endpoint is not believed any more";
