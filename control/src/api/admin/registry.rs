//! Workloads and documents, from messages and to messages.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use std::time::SystemTime;

use signet_proto::v1;
use tonic::Status;

use super::messages;
use crate::registry::{
    Application, Applied, Approval, Change, Declaration, File, MAX_DNS_NAMES, MAX_SELECTORS, Mistake, Owner,
    OwnerLabel, Parts, PlanOptions, RegistryError, Ttl, environment, parse_name, text,
};
use crate::store::model::{Registered, WorkloadStatus};
use crate::time;

/// What is to be registered.
pub(super) fn declaration(request: &v1::CreateWorkloadRequest) -> Result<Declaration, RegistryError> {
    let approval = match request.approval() {
        v1::WorkloadApproval::Unspecified | v1::WorkloadApproval::None => Approval::None,
        v1::WorkloadApproval::One => Approval::One,
        v1::WorkloadApproval::Two => Approval::Two,
    };
    let said = |text: &str| !text.is_empty();
    Ok(Declaration {
        name: parse_name(&request.spiffe_id)?,
        owner: Owner {
            team: text("owner", &request.owner)?,
            contact: said(&request.contact).then(|| text("contact", &request.contact)).transpose()?,
        },
        purpose: text("purpose", &request.purpose)?,
        environment: said(&request.environment).then(|| environment(&request.environment)).transpose()?,
        selectors: set("selectors", &request.selectors, MAX_SELECTORS)?,
        ttl: Ttl {
            default: life("ttl", request.ttl.as_ref())?,
            min: life("ttl_min", request.ttl_min.as_ref())?,
            max: life("ttl_max", request.ttl_max.as_ref())?,
        },
        dns: set("dns", &request.dns, MAX_DNS_NAMES)?,
        status: WorkloadStatus::Active,
        until: until(request.until.as_ref())?,
        approval,
    })
}

fn life(
    field: &'static str,
    message: Option<&prost_types::Duration>,
) -> Result<Option<std::time::Duration>, Mistake> {
    let Some(_) = message else { return Ok(None) };
    match time::duration_from_proto(message) {
        Some(life) => Ok(Some(life)),
        None => Err(Mistake { field, message: "expected a positive duration".into() }),
    }
}

fn until(message: Option<&prost_types::Timestamp>) -> Result<Option<SystemTime>, Mistake> {
    let Some(message) = message else { return Ok(None) };
    match SystemTime::try_from(*message) {
        Ok(at) if at >= SystemTime::UNIX_EPOCH => Ok(Some(time::from_millis(time::to_millis(at)))),
        _ => Err(Mistake { field: "until", message: "expected a time after 1970".into() }),
    }
}

fn set<T>(field: &'static str, texts: &[String], most: usize) -> Result<BTreeSet<T>, Mistake>
where
    T: FromStr<Err: Display> + Ord,
{
    if texts.len() > most {
        return Err(Mistake { field, message: format!("expected at most {most}, found {}", texts.len()) });
    }
    let parse = |text: &String| {
        text.parse().map_err(|error| Mistake { field, message: format!("`{text}`: {error}") })
    };
    texts.iter().map(parse).collect()
}

pub(super) fn workload(registered: Registered) -> v1::Workload {
    let Registered { declaration, template, managed_by, held, created_at, revision } = registered;
    let Declaration { name, owner, purpose, environment, selectors, ttl, dns, status, until, approval } =
        declaration;
    let status = match status {
        WorkloadStatus::Active => v1::WorkloadStatus::Active,
        WorkloadStatus::Suspended => v1::WorkloadStatus::Suspended,
        WorkloadStatus::Retired => v1::WorkloadStatus::Retired,
    };
    let approval = match approval {
        Approval::None => v1::WorkloadApproval::None,
        Approval::One => v1::WorkloadApproval::One,
        Approval::Two => v1::WorkloadApproval::Two,
    };
    v1::Workload {
        spiffe_id: name.to_string(),
        owner: owner.team,
        purpose,
        ttl: ttl.default.map(time::duration_to_proto),
        status: status.into(),
        created_at: Some(time::to_proto(created_at)),
        revision,
        contact: owner.contact.unwrap_or_default(),
        environment: environment.unwrap_or_default(),
        selectors: selectors.iter().map(ToString::to_string).collect(),
        ttl_min: ttl.min.map(time::duration_to_proto),
        ttl_max: ttl.max.map(time::duration_to_proto),
        dns: dns.iter().map(ToString::to_string).collect(),
        until: until.map(time::to_proto),
        approval: approval.into(),
        managed_by: managed_by.map(|label| label.to_string()).unwrap_or_default(),
        template: template.map(|template| template.to_string()).unwrap_or_default(),
        held,
    }
}

/// What is to be applied.
pub(super) fn application(request: v1::ApplyRequest) -> Result<Application, Status> {
    let v1::ApplyRequest { files, owner_label, prune, prune_all, take_over, dry_run, expected_revision } =
        request;
    let file = |file: v1::apply_request::File| File {
        name: messages::file_name(&file.name).to_owned(),
        yaml: file.yaml,
    };
    Ok(Application {
        files: files.into_iter().map(file).collect(),
        parts: Parts::ALL,
        label: label(&owner_label)?.unwrap_or_else(OwnerLabel::unnamed),
        options: PlanOptions { prune, prune_all, take_over },
        dry_run,
        expected_revision: (expected_revision != 0).then_some(expected_revision),
    })
}

/// Policies of one file, by whoever does not say who manages them.
pub(super) fn policies_alone(file: &str, yaml: String) -> Application {
    Application {
        files: vec![File { name: messages::file_name(file).to_owned(), yaml }],
        parts: Parts::POLICIES,
        label: OwnerLabel::unnamed(),
        options: PlanOptions::default(),
        dry_run: false,
        expected_revision: None,
    }
}

pub(super) fn applied(applied: Applied) -> v1::ApplyResponse {
    v1::ApplyResponse {
        revision: applied.revision,
        committed_at: applied.committed_at(),
        refused: applied.plan.refused.iter().map(ToString::to_string).collect(),
        warnings: applied.plan.warnings,
        changes: applied.plan.changes.into_iter().map(change).collect(),
    }
}

fn change(change: Change) -> v1::Change {
    let (file, line) = change.place.map(|(file, line)| (file.to_string(), line)).unwrap_or_default();
    let field = |field: crate::registry::FieldChange| v1::FieldChange {
        field: field.field,
        before: field.before,
        after: field.after,
    };
    v1::Change {
        kind: change.kind.as_str().to_owned(),
        name: change.name,
        action: change.action.as_str().to_owned(),
        fields: change.fields.into_iter().map(field).collect(),
        file,
        line: u32::try_from(line).unwrap_or(u32::MAX),
    }
}

/// What is to be written out.
pub(super) fn export(request: &v1::ExportRequest) -> Result<(Parts, Option<OwnerLabel>), Status> {
    let all = request.kinds.is_empty();
    let mut parts = Parts { workloads: all, policies: all, mesh: all, services: all };
    for kind in &request.kinds {
        match kind.as_str() {
            "workload" => parts.workloads = true,
            "policy" => parts.policies = true,
            "mesh" => parts.mesh = true,
            "service" => parts.services = true,
            _ => {
                return Err(Status::invalid_argument(
                    "kinds: expected `workload`, `policy`, `service` or `mesh`",
                ));
            }
        }
    }
    Ok((parts, label(&request.owner_label)?))
}

fn label(text: &str) -> Result<Option<OwnerLabel>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| Status::invalid_argument(format!("owner_label: {error}")))
}
