//! Workloads and their join tickets.

use serde_json::{Value, json};
use signet_proto::v1::{
    CreateTokenRequest, CreateWorkloadRequest, GetIntroductionRequest, ListWorkloadsRequest,
    SetWorkloadStatusRequest, Workload, WorkloadStatus,
};

use super::applied;
use crate::cli::args::{StatusChange, TokenVerb, WorkloadVerb};
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
        WorkloadVerb::Create { id, owner, purpose, ttl } => {
            create(
                session,
                output,
                CreateWorkloadRequest {
                    spiffe_id: id,
                    owner,
                    purpose,
                    ttl: ttl.map(|ttl| time::duration_to_proto(ttl.0)),
                },
            )
            .await
        }
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

async fn create(session: &Session, output: Output, request: CreateWorkloadRequest) -> Result<(), CliError> {
    let workload = session.admin().await?.create_workload(request).await?.into_inner();
    output.print(&object(&workload), || {
        format!(
            "{} registered; its SVIDs live {}\nnext: signet token create {}\n",
            workload.spiffe_id,
            duration::rough(ttl(&workload).0),
            workload.spiffe_id
        )
    })
}

async fn list(session: &Session, output: Output) -> Result<(), CliError> {
    let workloads =
        session.admin().await?.list_workloads(ListWorkloadsRequest {}).await?.into_inner().workloads;
    let json: Value = workloads.iter().map(object).collect();
    output.print(&json, || {
        let rows = workloads.iter().map(|workload| {
            vec![
                cell(&workload.spiffe_id),
                standing(status(workload)),
                cell(ttl(workload).to_string()),
                cell(&workload.owner),
                cell(&workload.purpose),
            ]
        });
        output::table(&["spiffe id", "status", "ttl", "owner", "purpose"], rows)
    })
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
        "ttl_seconds": ttl(workload).0.as_secs(),
        "status": status(workload),
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
