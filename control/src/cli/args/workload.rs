//! Workloads and the tickets that let them join.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;

use crate::duration::Span;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WorkloadVerb {
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
}

/// What is said about a workload beside its name; as in its document.
#[derive(Debug, Args)]
pub(in crate::cli) struct WorkloadFields {
    /// Who answers for it: a team
    #[arg(long, value_name = "TEAM")]
    pub(in crate::cli) owner: String,
    /// How the team is reached
    #[arg(long)]
    pub(in crate::cli) contact: Option<String>,
    /// What it is for
    #[arg(long)]
    pub(in crate::cli) purpose: String,
    /// Where it runs, as people call it: `production`
    #[arg(long, value_name = "WORD")]
    pub(in crate::cli) environment: Option<String>,
    /// What has to be proven to get its identity; may be repeated [default: only join tickets give it]
    #[arg(long = "selector", value_name = "ATTESTOR:KEY:VALUE")]
    pub(in crate::cli) selectors: Vec<String>,
    /// Usual life of its SVIDs [default: control's]
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) ttl: Option<Span>,
    /// Shortest life that may be asked for [default: control's]
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) ttl_min: Option<Span>,
    /// Longest life that may be asked for [default: control's]
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) ttl_max: Option<Span>,
    /// A DNS name that its SVIDs may carry; may be repeated
    #[arg(long = "dns", value_name = "NAME")]
    pub(in crate::cli) dns: Vec<String>,
    /// From then on it gets no SVID, in RFC 3339: `2027-01-31T00:00:00Z`
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) until: Option<Timestamp>,
    /// Who has to agree to each new instance
    #[arg(long, value_enum, default_value = "none", value_name = "APPROVERS")]
    pub(in crate::cli) approval: Approvers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Approvers {
    None,
    One,
    Two,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TokenVerb {
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
