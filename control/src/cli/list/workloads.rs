//! Workloads and templates, by name.

use serde_json::Value;
use signet_proto::policy::Pattern;
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{self, ListWorkloadsRequest, Workload, WorkloadApproval, WorkloadStatus};
use tonic::transport::Channel;

use super::column::{Column, Field};
use super::{List, Order};
use crate::cli::args::WorkloadsQuery;
use crate::cli::error::CliError;
use crate::duration::Span;
use crate::time;

/// Those that a query asks for.
#[derive(Default)]
pub(in crate::cli) struct Workloads {
    id: Option<Pattern>,
    owner: Option<String>,
    status: Vec<String>,
}

impl From<&WorkloadsQuery> for Workloads {
    fn from(query: &WorkloadsQuery) -> Self {
        Self { id: query.id.clone(), owner: query.owner.clone(), status: query.status.clone() }
    }
}

/// What is known of a workload.
pub(in crate::cli) const COLUMNS: &[Column<Workload>] = &[
    Column::new("spiffe id", "spiffe_id", |row| Field::Text(row.spiffe_id.clone())),
    Column::new("status", "status", |row| Field::Word(status(row).to_owned())),
    Column::new("owner", "owner", |row| Field::Text(row.owner.clone())),
    Column::new("environment", "environment", |row| Field::Text(row.environment.clone())),
    Column::new("until", "until", |row| Field::Date(row.until.as_ref().map(|at| time::from_proto(Some(at))))),
    Column::new("purpose", "purpose", |row| Field::Text(row.purpose.clone())),
    Column::wide("contact", "contact", |row| Field::Text(row.contact.clone())),
    Column::wide("ttl", "ttl_seconds", |row| life(row.ttl.as_ref())),
    Column::wide("min", "ttl_min_seconds", |row| life(row.ttl_min.as_ref())),
    Column::wide("max", "ttl_max_seconds", |row| life(row.ttl_max.as_ref())),
    Column::wide("approval", "approval", |row| Field::Text(approval(row).to_owned())),
    Column::wide("selectors", "selectors", |row| texts(&row.selectors)),
    Column::wide("dns", "dns", |row| texts(&row.dns)),
    Column::wide("managed by", "managed_by", |row| Field::Text(row.managed_by.clone())),
    Column::wide("template", "template", |row| Field::Text(row.template.clone())),
    Column::hidden("held", "held", |row| Field::Flag(row.held)),
    Column::hidden("created", "created_at", |row| Field::time(row.created_at.as_ref())),
    Column::hidden("revision", "revision", |row| Field::Count(row.revision)),
];

impl List for Workloads {
    type Row = Workload;

    const COLUMNS: &'static [Column<Workload>] = COLUMNS;

    fn orders(&self) -> Vec<Order> {
        // Of one page: nothing to turn around at control.
        vec![Order { name: "id", column: "spiffe id", descending: false }]
    }

    fn key(row: &Workload) -> String {
        row.spiffe_id.clone()
    }

    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<Workload>, String), CliError> {
        let mut workloads = client.list_workloads(ListWorkloadsRequest {}).await?.into_inner().workloads;
        workloads.retain(|workload| {
            let named = |id: &Pattern| workload.spiffe_id.parse().is_ok_and(|name| id.matches(&name));
            self.id.as_ref().is_none_or(named)
                && self.owner.as_ref().is_none_or(|owner| *owner == workload.owner)
                && (self.status.is_empty() || self.status.iter().any(|word| word == status(workload)))
        });
        if page.descending {
            workloads.reverse();
        }
        Ok((workloads, String::new()))
    }
}

fn life(life: Option<&prost_types::Duration>) -> Field {
    match time::duration_from_proto(life) {
        Some(life) => Field::Both(Span(life).to_string(), life.as_secs().into()),
        None => Field::Both(String::new(), Value::Null),
    }
}

fn texts(texts: &[String]) -> Field {
    Field::Both(texts.join(", "), texts.iter().map(String::as_str).collect())
}

fn status(workload: &Workload) -> &'static str {
    match workload.status() {
        WorkloadStatus::Active => "active",
        WorkloadStatus::Suspended => "suspended",
        WorkloadStatus::Retired => "retired",
        WorkloadStatus::Unspecified => "unknown",
    }
}

fn approval(workload: &Workload) -> &'static str {
    match workload.approval() {
        WorkloadApproval::Unspecified | WorkloadApproval::None => "none",
        WorkloadApproval::One => "one",
        WorkloadApproval::Two => "two",
    }
}
