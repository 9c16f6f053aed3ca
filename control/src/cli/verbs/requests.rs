//! New instances that wait for approval, and the rules about who has to wait.

use comfy_table::Cell;
use serde_json::{Value, json};
use signet_proto::v1::restriction::What;
use signet_proto::v1::{
    ApproveRequestRequest, Decision, DenyRequestRequest, HeldRequest, ListRequestsRequest,
    ListRestrictionsRequest, RequestState, RequireApprovalRequest, WorkloadApproval,
};

use super::applied::{self, Expect};
use crate::cli::args::{Approvers, RequestsVerb};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell, standing};
use crate::{hex, time};

/// Enough of a hash to tell two apart.
const SHORT: usize = 16;

pub(in crate::cli) async fn run(
    verb: RequestsVerb,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let decided = match verb {
        RequestsVerb::List { id, all } => {
            let request = ListRequestsRequest { spiffe_id: id.unwrap_or_default(), all, id: String::new() };
            let requests = client.list_requests(request).await?.into_inner().requests;
            let json: Value = requests.iter().map(object).collect();
            return output.print(&json, || table(&requests, output));
        }
        RequestsVerb::Show { id } => {
            let request = find(session, id).await?;
            return output.print(&object(&request), || facts(&request));
        }
        RequestsVerb::Approve { id, csr_sha256, reason } => {
            let csr_sha256 = match csr_sha256 {
                Some(meant) => hex::decode(&meant).filter(|hash| hash.len() == 32).ok_or_else(|| {
                    CliError::failed(format!(
                        "--csr-sha256: expected 64 hex digits, as `signet requests show {id}` prints them"
                    ))
                })?,
                None => find(session, id.clone()).await?.csr_sha256,
            };
            if !output.is_json() {
                output::print(&format!("signing request with SHA-256 {}\n", hex::encode(&csr_sha256)))?;
            }
            client.approve_request(ApproveRequestRequest { id, csr_sha256, reason }).await?
        }
        RequestsVerb::Deny { id, reason } => client.deny_request(DenyRequestRequest { id, reason }).await?,
        RequestsVerb::Require { approvers, on, reason } => {
            let approval = match approvers {
                Approvers::None => WorkloadApproval::None,
                Approvers::One => WorkloadApproval::One,
                Approvers::Two => WorkloadApproval::Two,
            };
            let request = RequireApprovalRequest { scope: on.to_string(), approval: approval.into(), reason };
            client.require_approval(request).await?
        }
        RequestsVerb::Rules => return rules(session, output).await,
    };
    // Proxies are not concerned: there is nothing to wait for.
    applied::report(decided.into_inner().into(), None, Expect::Connected, &mut client, output).await
}

async fn find(session: &Session, id: String) -> Result<HeldRequest, CliError> {
    let request = ListRequestsRequest { spiffe_id: String::new(), all: true, id: id.clone() };
    let found = session.admin().await?.list_requests(request).await?.into_inner().requests;
    found.into_iter().next().ok_or_else(|| {
        CliError::not_permitted(format!("request `{id}` is of an identity that your roles do not reach"))
    })
}

async fn rules(session: &Session, output: Output) -> Result<(), CliError> {
    let answer = session.admin().await?.list_restrictions(ListRestrictionsRequest {}).await?.into_inner();
    let rules = || {
        answer.restrictions.iter().filter_map(|restriction| match restriction.what {
            Some(What::Approval(approval)) => Some((restriction, approvers(approval))),
            _ => None,
        })
    };
    let json: Value = rules()
        .map(|(restriction, approvers)| {
            json!({
                "scope": restriction.scope,
                "approval": approvers,
                "reason": restriction.reason,
                "set_by": restriction.set_by,
                "set_at": output::instant(restriction.set_at.as_ref()),
            })
        })
        .collect();
    output.print(&json, || {
        let now = time::now();
        let rows = rules().map(|(restriction, approvers)| {
            vec![
                cell(&restriction.scope),
                cell(approvers),
                cell(output::relative(time::from_proto(restriction.set_at.as_ref()), now)),
                cell(&restriction.set_by),
                cell(&restriction.reason),
            ]
        });
        output::table(&["on", "approvers", "since", "by", "reason"], rows)
    })
}

fn approvers(approval: i32) -> &'static str {
    match WorkloadApproval::try_from(approval) {
        Ok(WorkloadApproval::One) => "one",
        Ok(WorkloadApproval::Two) => "two",
        _ => "none",
    }
}

fn table(requests: &[HeldRequest], output: Output) -> String {
    let now = time::now();
    let mut header =
        vec!["request", "identity", "csr sha256", "proof", "from", "asked", "expires", "approvals", "state"];
    if output.is_wide() {
        header.extend(["ticket by", "evidence", "decided by"]);
    }
    let rows = requests.iter().map(|request| {
        let csr = hex::encode(&request.csr_sha256);
        let mut row: Vec<Cell> = vec![
            cell(&request.id),
            cell(&request.spiffe_id),
            cell(if output.is_wide() { &csr } else { csr.get(..SHORT).unwrap_or_default() }),
            cell(&request.proof),
            cell(&request.address),
            cell(output::relative(time::from_proto(request.created_at.as_ref()), now)),
            cell(output::relative(time::from_proto(request.expires_at.as_ref()), now)),
            cell(approvals(request)),
            standing(state(request)),
        ];
        if output.is_wide() {
            let by: Vec<&str> = request.decisions.iter().map(|decision| decision.actor.as_str()).collect();
            row.extend([cell(&request.token_created_by), cell(&request.evidence), cell(by.join(", "))]);
        }
        row
    });
    output::table(&header, rows)
}

fn facts(request: &HeldRequest) -> String {
    let now = time::now();
    let at = |at: Option<&prost_types::Timestamp>| {
        let at = time::from_proto(at);
        format!("{} ({})", time::rfc3339(at), output::relative(at, now))
    };
    let mut facts = vec![
        ("request", request.id.clone()),
        ("identity", request.spiffe_id.clone()),
        ("state", format!("{}, {} approvals", state(request), approvals(request))),
        ("csr sha256", hex::encode(&request.csr_sha256)),
        ("key sha256", hex::encode(&request.spki_sha256)),
        ("proof", request.proof.clone()),
        ("evidence", request.evidence.clone()),
        ("ticket made by", request.token_created_by.clone()),
        ("from", request.address.clone()),
        ("version", request.version.clone()),
        ("asked", at(request.created_at.as_ref())),
        ("expires", at(request.expires_at.as_ref())),
    ];
    facts.extend(request.decisions.iter().map(|decision| {
        let when = at(decision.at.as_ref());
        (verdict(decision), format!("by {}, {when}: {}", decision.actor, decision.reason))
    }));
    output::facts(&facts)
}

fn verdict(decision: &Decision) -> &'static str {
    if decision.approved { "approved" } else { "denied" }
}

fn approvals(request: &HeldRequest) -> String {
    let given = request.decisions.iter().filter(|decision| decision.approved).count();
    format!("{given}/{}", request.needed)
}

fn state(request: &HeldRequest) -> &'static str {
    match request.state() {
        RequestState::Pending => "pending",
        RequestState::Approved => "approved",
        RequestState::Denied => "denied",
        RequestState::Expired => "expired",
        RequestState::Used => "used",
        RequestState::Unspecified => "unknown",
    }
}

fn object(request: &HeldRequest) -> Value {
    let evidence = serde_json::from_str(&request.evidence).unwrap_or(Value::Null);
    let decisions = request.decisions.iter().map(|decision| {
        json!({
            "actor": decision.actor,
            "verdict": verdict(decision),
            "reason": decision.reason,
            "at": output::instant(decision.at.as_ref()),
        })
    });
    json!({
        "request": request.id,
        "spiffe_id": request.spiffe_id,
        "csr_sha256": hex::encode(&request.csr_sha256),
        "spki_sha256": hex::encode(&request.spki_sha256),
        "proof": request.proof,
        "evidence": evidence,
        "token_created_by": request.token_created_by,
        "address": request.address,
        "version": request.version,
        "state": state(request),
        "needed": request.needed,
        "decisions": decisions.collect::<Vec<_>>(),
        "created_at": output::instant(request.created_at.as_ref()),
        "expires_at": output::instant(request.expires_at.as_ref()),
    })
}
