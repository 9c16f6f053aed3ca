//! Workloads and their join tickets.

use serde_json::json;
use signet_proto::v1::{
    CreateTokenRequest, CreateWorkloadRequest, GetIntroductionRequest, Workload, WorkloadApproval,
};

use crate::cli::args::{Approvers, Listing, TokenVerb, WorkloadFields, WorkloadVerb};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::list::{self, WORKLOAD_COLUMNS, Workloads};
use crate::cli::output::{self, Output};
use crate::duration::{self, Span};
use crate::time;

pub(in crate::cli) async fn run(
    verb: WorkloadVerb,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    match verb {
        WorkloadVerb::Create { id, fields } => create(session, output, request(id, *fields)).await,
        WorkloadVerb::List => list::run(&Workloads::default(), &Listing::default(), session, output).await,
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
    output.print(&list::object(WORKLOAD_COLUMNS, &workload), || {
        let life = duration::rough(ttl(&workload).0);
        format!("{} registered; its SVIDs live {life}\n{next}", workload.spiffe_id)
    })
}

fn ttl(workload: &Workload) -> Span {
    Span(time::duration_from_proto(workload.ttl.as_ref()).unwrap_or_default())
}
