//! Instances: each attested proxy, and who holds an identity now.

use serde_json::Value;
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{self, Instance, ListInstancesRequest};
use tonic::transport::Channel;

use super::column::{Column, Field};
use super::{List, Order};
use crate::cli::args::{IdentitiesQuery, InstancesQuery};
use crate::cli::error::CliError;
use crate::time;

/// Those that a query asks for.
pub(in crate::cli) struct Instances(ListInstancesRequest);

/// The same, as holders of identities.
pub(in crate::cli) struct Identities(ListInstancesRequest);

impl From<&InstancesQuery> for Instances {
    fn from(query: &InstancesQuery) -> Self {
        Self(ListInstancesRequest {
            page: None,
            id: query.id.clone().unwrap_or_default(),
            owner: query.owner.clone().unwrap_or_default(),
            status: query.status.clone(),
            expires_before: query.expiring_within.map(|span| time::to_proto(span.ahead())),
            unseen_since: query.unseen_for.map(|span| time::to_proto(span.ago())),
        })
    }
}

impl From<&IdentitiesQuery> for Identities {
    fn from(query: &IdentitiesQuery) -> Self {
        let live = || ["active", "departed"].map(str::to_owned).to_vec();
        let status = if query.all || !query.status.is_empty() { query.status.clone() } else { live() };
        let id = query.named.as_ref().or(query.id.as_ref());
        Self(ListInstancesRequest {
            page: None,
            id: id.cloned().unwrap_or_default(),
            owner: query.owner.clone().unwrap_or_default(),
            status,
            expires_before: query.expiring_within.map(|span| time::to_proto(span.ahead())),
            unseen_since: None,
        })
    }
}

const BY_ID: Order = Order { name: "id", column: "spiffe id", descending: false };

impl List for Instances {
    type Row = Instance;

    const COLUMNS: &'static [Column<Instance>] = &[
        Column::new("spiffe id", "spiffe_id", |row| Field::Text(row.spiffe_id.clone())),
        Column::new("instance", "instance", |row| Field::Text(row.instance.clone())),
        Column::new("status", "status", |row| Field::Word(row.status.clone())),
        Column::new("connected", "connected", |row| Field::Flag(row.connected)),
        Column::new("last seen", "last_seen", |row| Field::time(row.last_seen.as_ref())),
        Column::new("expires", "expires_at", |row| Field::time(row.not_after.as_ref())),
        Column::new("address", "address", |row| Field::Text(row.address.clone())),
        Column::new("version", "version", |row| Field::Text(row.version.clone())),
        Column::new("attested by", "attested_by", |row| Field::Text(row.attested_by.clone())),
        Column::wide("attested", "attested_at", |row| Field::time(row.attested_at.as_ref())),
        Column::wide("evidence", "evidence", |row| {
            let json = serde_json::from_str(&row.evidence).unwrap_or(Value::Null);
            Field::Both(row.evidence.clone(), json)
        }),
        Column::wide("replica", "replica", |row| Field::Text(row.replica.clone())),
        Column::wide("owner", "owner", |row| Field::Text(row.owner.clone())),
        Column::wide("contact", "contact", |row| Field::Text(row.contact.clone())),
        Column::wide("purpose", "purpose", |row| Field::Text(row.purpose.clone())),
        Column::wide("renewals", "renewals", |row| Field::Count(row.renewals)),
        Column::wide("serial", "serial", |row| Field::Text(row.serial.clone())),
        Column::hidden("not before", "not_before", |row| Field::time(row.not_before.as_ref())),
    ];

    fn orders(&self) -> Vec<Order> {
        vec![BY_ID]
    }

    fn key(row: &Instance) -> String {
        row.instance.clone()
    }

    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<Instance>, String), CliError> {
        one(&self.0, client, page).await
    }
}

impl List for Identities {
    type Row = Instance;

    const COLUMNS: &'static [Column<Instance>] = &[
        Column::new("spiffe id", "spiffe_id", |row| Field::Text(row.spiffe_id.clone())),
        Column::new("owner", "owner", |row| Field::Text(row.owner.clone())),
        Column::new("status", "status", |row| Field::Word(row.status.clone())),
        Column::new("expires", "expires_at", |row| Field::time(row.not_after.as_ref())),
        Column::new("renewals", "renewals", |row| Field::Count(row.renewals)),
        Column::new("connected", "connected", |row| Field::Flag(row.connected)),
        Column::new("address", "address", |row| Field::Text(row.address.clone())),
        Column::new("instance", "instance", |row| Field::Text(row.instance.clone())),
        Column::new("serial", "serial", |row| Field::Text(row.serial.clone())),
        Column::wide("contact", "contact", |row| Field::Text(row.contact.clone())),
        Column::wide("purpose", "purpose", |row| Field::Text(row.purpose.clone())),
        Column::wide("attested", "attested_at", |row| Field::time(row.attested_at.as_ref())),
        Column::wide("last seen", "last_seen", |row| Field::time(row.last_seen.as_ref())),
        Column::wide("version", "version", |row| Field::Text(row.version.clone())),
        Column::hidden("not before", "not_before", |row| Field::time(row.not_before.as_ref())),
    ];

    fn orders(&self) -> Vec<Order> {
        vec![BY_ID]
    }

    fn key(row: &Instance) -> String {
        row.instance.clone()
    }

    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<Instance>, String), CliError> {
        one(&self.0, client, page).await
    }
}

async fn one(
    asked: &ListInstancesRequest,
    client: &mut AdminClient<Channel>,
    page: v1::Page,
) -> Result<(Vec<Instance>, String), CliError> {
    let request = ListInstancesRequest { page: Some(page), ..asked.clone() };
    let answer = client.list_instances(request).await?.into_inner();
    Ok((answer.instances, answer.next))
}
