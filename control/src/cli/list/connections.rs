//! Connections: what was seen last first; what was refused last, if that is asked for.

use serde_json::{Value, json};
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{self, Connection, ListConnectionsRequest, Refusal};
use tonic::transport::Channel;

use super::column::{Column, Field};
use super::{List, Order};
use crate::cli::args::ConnectionsQuery;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::time;

/// Those that a query asks for.
pub(in crate::cli) struct Connections(ListConnectionsRequest);

impl From<&ConnectionsQuery> for Connections {
    fn from(query: &ConnectionsQuery) -> Self {
        Self(ListConnectionsRequest {
            page: None,
            source: query.source.clone().unwrap_or_default(),
            destination: query.destination.clone().unwrap_or_default(),
            id: query.id.clone().unwrap_or_default(),
            port: query.port.unwrap_or_default().into(),
            refused: query.denied,
            since: query.since.map(|span| time::to_proto(span.ago())),
        })
    }
}

impl List for Connections {
    type Row = Connection;

    const COLUMNS: &'static [Column<Connection>] = &[
        Column::new("source", "source", |row| Field::Text(row.source.clone())),
        Column::new("destination", "destination", |row| Field::Text(row.destination.clone())),
        Column::new("port", "port", |row| Field::Count(row.port.into())),
        Column::new("protocol", "protocol", |row| Field::Text(row.protocol.clone())),
        Column::new("last", "last_at", |row| Field::time(row.last_at.as_ref())),
        Column::new("connections", "connections", |row| Field::Count(row.connections)),
        Column::new("requests", "requests", |row| Field::Count(row.requests)),
        Column::new("in", "bytes_in", |row| Field::Bytes(row.bytes_in)),
        Column::new("out", "bytes_out", |row| Field::Bytes(row.bytes_out)),
        Column::new("denied", "denied", |row| Field::Count(row.denied)),
        Column::new("unreached", "unreached", |row| Field::Count(row.unreached)),
        Column::new("by", "refusals", |row| {
            let text = row.refusals.iter().map(told).collect::<Vec<_>>().join(", ");
            Field::Both(text, row.refusals.iter().map(refusal).collect())
        }),
        Column::wide("first", "first_at", |row| Field::time(row.first_at.as_ref())),
        Column::wide("refused", "refused_at", |row| Field::time(row.refused_at.as_ref())),
    ];

    fn orders(&self) -> Vec<Order> {
        let newest = |name, column| Order { name, column, descending: true };
        let by = |name, column| Order { name, column, descending: false };
        let mut orders = vec![
            newest("last", "last"),
            newest("refused", "refused"),
            by("destination", "destination"),
            by("source", "source"),
        ];
        // Found by what is asked for.
        let first = match &self.0 {
            ListConnectionsRequest { destination, .. } if !destination.is_empty() => "destination",
            ListConnectionsRequest { source, .. } if !source.is_empty() => "source",
            ListConnectionsRequest { refused: true, .. } => "refused",
            _ => "last",
        };
        orders.sort_by_key(|order| order.name != first);
        orders
    }

    fn key(row: &Connection) -> String {
        format!("{} {} {}", row.source, row.destination, row.port)
    }

    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<Connection>, String), CliError> {
        let request = ListConnectionsRequest { page: Some(page), ..self.0.clone() };
        let answer = client.list_connections(request).await?.into_inner();
        Ok((answer.connections, answer.next))
    }
}

/// `12 denied: orders/no-batch (denied_by_rule)`.
fn told(refusal: &Refusal) -> String {
    let Refusal { kind, policy, rule, reason, count, .. } = refusal;
    match (policy.as_str(), rule.as_str()) {
        ("", _) => format!("{count} {kind}: {reason}"),
        (policy, "") => format!("{count} {kind}: {policy} ({reason})"),
        (policy, rule) => format!("{count} {kind}: {policy}/{rule} ({reason})"),
    }
}

fn refusal(refusal: &Refusal) -> Value {
    json!({
        "kind": refusal.kind,
        "policy": refusal.policy,
        "rule": refusal.rule,
        "reason": refusal.reason,
        "count": refusal.count,
        "last_at": output::instant(refusal.last_at.as_ref()),
    })
}
