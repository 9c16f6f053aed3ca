//! Workloads and their join tickets.

use comfy_table::Cell;
use serde_json::{Value, json};
use signet_proto::v1::{
    CreateTokenRequest, CreateWorkloadRequest, GetIntroductionRequest, ListWorkloadsRequest,
    SetWorkloadStatusRequest, Workload, WorkloadApproval, WorkloadStatus,
};

use super::applied;
use crate::cli::args::{Approvers, StatusChange, TokenVerb, WorkloadFields, WorkloadVerb};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell, standing};
use crate::duration::{self, Span};
use crate::time;

pub(in crate::cli) async fn run(
    verb: WorkloadVerb,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    match verb {
        WorkloadVerb::Create { id, fields } => create(session, output, request(id, *fields)).await,
        WorkloadVerb::List => list(session, output).await,
        WorkloadVerb::Suspend(change) => set(change, WorkloadStatus::Suspended, session, output).await,
        WorkloadVerb::Resume(change) => set(change, WorkloadStatus::Active, session, output).await,
        WorkloadVerb::Retire(change) => set(change, WorkloadStatus::Retired, session, output).await,
    }
}

pub(in crate::cli) async fn token(
    verb: TokenVerb,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let TokenVerb::Create { id, ttl } = verb else {
        let answer = session.admin().await?.get_introduction(GetIntroductionRequest {}).await?;
        let introduction = answer.into_inner().introduction;
        let json = json!({ "introduction": introduction });
        return output.print(&json, || format!("{introduction}\n"));
    };
    let request = CreateTokenRequest { spiffe_id: id.clone(), ttl: Some(time::duration_to_proto(ttl.0)) };
    let created = session.admin().await?.create_token(request).await?.into_inner();
    let json = json!({
        "ticket": created.ticket,
        "spiffe_id": id,
        "expires_at": output::instant(created.expires_at.as_ref()),
    });
    output.print(&json, || format!("{}\n", created.ticket))
}

fn request(id: String, fields: WorkloadFields) -> CreateWorkloadRequest {
    let life = |life: Option<Span>| life.map(|life| time::duration_to_proto(life.0));
    let approval = match fields.approval {
        Approvers::None => WorkloadApproval::None,
        Approvers::One => WorkloadApproval::One,
        Approvers::Two => WorkloadApproval::Two,
    };
    CreateWorkloadRequest {
        spiffe_id: id,
        owner: fields.owner,
        purpose: fields.purpose,
        ttl: life(fields.ttl),
        contact: fields.contact.unwrap_or_default(),
        environment: fields.environment.unwrap_or_default(),
        selectors: fields.selectors,
        ttl_min: life(fields.ttl_min),
        ttl_max: life(fields.ttl_max),
        dns: fields.dns,
        until: fields.until.map(|until| time::to_proto(until.into())),
        approval: approval.into(),
    }
}

async fn create(session: &Session, output: Output, request: CreateWorkloadRequest) -> Result<(), CliError> {
    let workload = session.admin().await?.create_workload(request).await?.into_inner();
    let next = match workload.spiffe_id.contains('{') {
        true => String::new(),
        false => format!("next: signet token create {}\n", workload.spiffe_id),
    };
    output.print(&object(&workload), || {
        let life = duration::rough(ttl(&workload).0);
        format!("{} registered; its SVIDs live {life}\n{next}", workload.spiffe_id)
    })
}

async fn list(session: &Session, output: Output) -> Result<(), CliError> {
    let workloads =
        session.admin().await?.list_workloads(ListWorkloadsRequest {}).await?.into_inner().workloads;
    let json: Value = workloads.iter().map(object).collect();
    output.print(&json, || {
        let mut header = vec!["spiffe id", "status", "owner", "environment", "until", "purpose"];
        if output.is_wide() {
            header.extend(WIDE);
        }
        let rows = workloads.iter().map(|workload| {
            let mut row = vec![
                cell(&workload.spiffe_id),
                standing(status(workload)),
                cell(&workload.owner),
                cell(or_none(&workload.environment)),
                cell(
                    workload
                        .until
                        .as_ref()
                        .map_or("-".into(), |at| time::rfc3339(time::from_proto(Some(at)))),
                ),
                cell(&workload.purpose),
            ];
            if output.is_wide() {
                row.extend(wide(workload));
            }
            row
        });
        output::table(&header, rows)
    })
}

const WIDE: [&str; 9] =
    ["contact", "ttl", "min", "max", "approval", "selectors", "dns", "managed by", "template"];

fn wide(workload: &Workload) -> [Cell; 9] {
    let life = |life: Option<&prost_types::Duration>| {
        cell(time::duration_from_proto(life).map_or("-".into(), |life| Span(life).to_string()))
    };
    [
        cell(or_none(&workload.contact)),
        cell(ttl(workload).to_string()),
        life(workload.ttl_min.as_ref()),
        life(workload.ttl_max.as_ref()),
        cell(approval(workload)),
        cell(or_none(&workload.selectors.join(", "))),
        cell(or_none(&workload.dns.join(", "))),
        cell(or_none(&workload.managed_by)),
        cell(or_none(&workload.template)),
    ]
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

async fn set(
    change: StatusChange,
    to: WorkloadStatus,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let StatusChange { id, reason, wait } = change;
    let request = SetWorkloadStatusRequest { spiffe_id: id, status: to.into(), reason };
    let mutation = client.set_workload_status(request).await?.into_inner();
    applied::report(mutation.into(), Some(wait), &mut client, output).await
}

fn object(workload: &Workload) -> Value {
    json!({
        "spiffe_id": workload.spiffe_id,
        "owner": workload.owner,
        "purpose": workload.purpose,
        "contact": workload.contact,
        "environment": workload.environment,
        "selectors": workload.selectors,
        "ttl_seconds": ttl(workload).0.as_secs(),
        "ttl_min_seconds": time::duration_from_proto(workload.ttl_min.as_ref()).map(|life| life.as_secs()),
        "ttl_max_seconds": time::duration_from_proto(workload.ttl_max.as_ref()).map(|life| life.as_secs()),
        "dns": workload.dns,
        "status": status(workload),
        "held": workload.held,
        "until": output::instant(workload.until.as_ref()),
        "approval": approval(workload),
        "managed_by": workload.managed_by,
        "template": workload.template,
        "created_at": output::instant(workload.created_at.as_ref()),
        "revision": workload.revision,
    })
}

fn ttl(workload: &Workload) -> Span {
    Span(time::duration_from_proto(workload.ttl.as_ref()).unwrap_or_default())
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
