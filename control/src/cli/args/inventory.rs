//! What there is, and who talks to whom: filters, order and form of the lists.

use clap::Args;
use signet_proto::policy::Pattern;

use crate::duration::Span;

/// How a list is shown.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct Listing {
    /// Sort by this column, as the head of the table names it: `last-seen`
    #[arg(long, value_name = "COLUMN")]
    pub(in crate::cli) sort: Option<String>,
    /// The other way round
    #[arg(long)]
    pub(in crate::cli) reverse: bool,
    /// At most so many rows [default: 500 in tables, all in JSON and CSV]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) limit: Option<usize>,
    /// Go on: draw the table anew when something changed; in JSON a line for each row that did. Ends with Ctrl-C
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct IdentitiesQuery {
    /// Only this SPIFFE ID, or all below one: `spiffe://mesh.local/shop/*`
    #[arg(value_name = "ID", conflicts_with = "id")]
    pub(in crate::cli) named: Option<String>,
    /// The same
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    /// Also revoked, lapsed and expired ones
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Only workloads of this team
    #[arg(long, value_name = "TEAM")]
    pub(in crate::cli) owner: Option<String>,
    /// Only such: active, departed, revoked, lapsed, expired; may be repeated
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(in crate::cli) status: Vec<String>,
    /// Only if the SVID ends within this time
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) expiring_within: Option<Span>,
    #[command(flatten)]
    pub(in crate::cli) listing: Listing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CertificatesQuery {
    /// Only of this SPIFFE ID, or of all below one: `spiffe://mesh.local/shop/*`
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    /// Also those that have ended
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Only of workloads of this team
    #[arg(long, value_name = "TEAM")]
    pub(in crate::cli) owner: Option<String>,
    /// Only such: valid, superseded, revoked, expired, lapsed; may be repeated
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(in crate::cli) status: Vec<String>,
    /// Only those that end within this time
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) expiring_within: Option<Span>,
    /// Only those that nobody saw in use for this long
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) unused_for: Option<Span>,
    /// Only those of this instance
    #[arg(long, value_name = "INSTANCE")]
    pub(in crate::cli) instance: Option<String>,
    /// Only the one with this serial
    #[arg(long, value_name = "HEX")]
    pub(in crate::cli) serial: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) listing: Listing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InstancesQuery {
    /// Only of this SPIFFE ID, or of all below one: `spiffe://mesh.local/shop/*`
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    /// Only of workloads of this team
    #[arg(long, value_name = "TEAM")]
    pub(in crate::cli) owner: Option<String>,
    /// Only such: active, departed, revoked, lapsed, expired; may be repeated
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(in crate::cli) status: Vec<String>,
    /// Only if the SVID ends within this time
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) expiring_within: Option<Span>,
    /// Only those that nothing was heard of for this long
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) unseen_for: Option<Span>,
    #[command(flatten)]
    pub(in crate::cli) listing: Listing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ConnectionsQuery {
    /// Only from this SPIFFE ID, or all below one
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) source: Option<String>,
    /// Only to this SPIFFE ID, or all below one
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) destination: Option<String>,
    /// Only with this one, or one below it, at either end
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    /// Only to this port of the app
    #[arg(long)]
    pub(in crate::cli) port: Option<u16>,
    /// Only where something was denied, or could not be reached
    #[arg(long)]
    pub(in crate::cli) denied: bool,
    /// Instead: who calls without TLS, by address, where the mesh takes that
    #[arg(long, conflicts_with_all = ["passthrough", "denied", "source"])]
    pub(in crate::cli) plaintext: bool,
    /// Instead: unknown destinations that workloads call, by address
    #[arg(long, conflicts_with_all = ["denied", "destination"])]
    pub(in crate::cli) passthrough: bool,
    /// Only what was seen within this time
    #[arg(long, value_name = "DURATION")]
    pub(in crate::cli) since: Option<Span>,
    #[command(flatten)]
    pub(in crate::cli) listing: Listing,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WorkloadsQuery {
    /// Only this SPIFFE ID, or all below one: `spiffe://mesh.local/shop/*`
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) id: Option<Pattern>,
    /// Only those of this team
    #[arg(long, value_name = "TEAM")]
    pub(in crate::cli) owner: Option<String>,
    /// Only such: active, suspended, retired; may be repeated
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(in crate::cli) status: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) listing: Listing,
}
