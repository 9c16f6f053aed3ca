//! Taking it away.

use clap::Args;

use super::Wait;

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["id", "instance", "serial"])]
pub(in crate::cli) struct RevokeWhat {
    /// A whole identity, with all its instances
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    /// One attested instance, as `signet identities` shows it
    #[arg(long)]
    pub(in crate::cli) instance: Option<String>,
    /// One certificate, and with it the instance that holds it
    #[arg(long)]
    pub(in crate::cli) serial: Option<String>,
    /// Why, for the audit
    #[arg(long)]
    pub(in crate::cli) reason: String,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}
