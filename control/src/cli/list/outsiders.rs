//! Addresses without identity that call workloads, or are called by them: what was seen last first.

use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{self, ListOutsidersRequest, ListedOutsider};
use tonic::transport::Channel;

use super::column::{Column, Field};
use super::{List, Order};
use crate::cli::args::ConnectionsQuery;
use crate::cli::error::CliError;
use crate::inventory::Way;
use crate::time;

/// Those that a query asks for.
pub(in crate::cli) struct Outsiders(ListOutsidersRequest);

impl Outsiders {
    /// `None` if the query is about peers.
    pub(in crate::cli) fn asked(query: &ConnectionsQuery) -> Option<Self> {
        let (way, end) = match (query.plaintext, query.passthrough) {
            (true, _) => (Way::Plaintext, &query.destination),
            (false, true) => (Way::Passthrough, &query.source),
            (false, false) => return None,
        };
        Some(Self(ListOutsidersRequest {
            page: None,
            way: way.as_str().to_owned(),
            workload: end.as_ref().or(query.id.as_ref()).cloned().unwrap_or_default(),
            port: query.port.unwrap_or_default().into(),
            since: query.since.map(|span| time::to_proto(span.ago())),
        }))
    }
}

impl List for Outsiders {
    type Row = ListedOutsider;

    const COLUMNS: &'static [Column<ListedOutsider>] = &[
        Column::new("workload", "workload", |row| Field::Text(row.workload.clone())),
        Column::new("address", "address", |row| Field::Text(row.address.clone())),
        Column::new("port", "port", |row| Field::Count(row.port.into())),
        Column::new("protocol", "protocol", |row| Field::Text(row.protocol.clone())),
        Column::new("last", "last_at", |row| Field::time(row.last_at.as_ref())),
        Column::new("connections", "connections", |row| Field::Count(row.connections)),
        Column::new("requests", "requests", |row| Field::Count(row.requests)),
        Column::new("in", "bytes_in", |row| Field::Bytes(row.bytes_in)),
        Column::new("out", "bytes_out", |row| Field::Bytes(row.bytes_out)),
        Column::new("denied", "denied", |row| Field::Count(row.denied)),
        Column::wide("first", "first_at", |row| Field::time(row.first_at.as_ref())),
    ];

    fn orders(&self) -> Vec<Order> {
        vec![Order { name: "last", column: "last", descending: true }]
    }

    fn key(row: &ListedOutsider) -> String {
        format!("{} {} {}", row.workload, row.address, row.port)
    }

    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<ListedOutsider>, String), CliError> {
        let request = ListOutsidersRequest { page: Some(page), ..self.0.clone() };
        let answer = client.list_outsiders(request).await?.into_inner();
        Ok((answer.outsiders, answer.next))
    }
}
