//! From the store's types to messages.

use std::time::Duration;

use signet_proto::v1;
use tonic::Status;

use crate::audit::AuditEvent;
use crate::ca::Certified;
use crate::inventory::PlaintextPort;
use crate::publish::WatcherInfo;
use crate::store::model::{IssuedIdentity, ManagedMesh, Mutation, Policy};
use crate::visible::is_hidden;
use crate::{hex, time};

const MAX_FILE_NAME: usize = 256;

pub(super) fn authority(signer: &Certified) -> Result<v1::Authority, Status> {
    let serial = signer.serial().map_err(|error| Status::internal(error.to_string()))?;
    Ok(v1::Authority {
        subject: signer.subject().to_owned(),
        serial: hex::encode(&serial),
        sha256: hex::encode(&signer.sha256()),
        not_before: Some(time::to_proto(signer.not_before())),
        not_after: Some(time::to_proto(signer.not_after())),
    })
}

pub(super) fn mutation(mutation: Mutation) -> v1::MutationResponse {
    v1::MutationResponse {
        revision: mutation.commit.revision,
        committed_at: Some(time::to_proto(mutation.commit.at)),
        effects: mutation.effects,
    }
}

pub(super) fn mesh(settings: ManagedMesh) -> v1::GetMeshResponse {
    let ManagedMesh { document, applied_at, applied_by, revision, managed_by } = settings;
    v1::GetMeshResponse {
        document,
        applied_at: Some(time::to_proto(applied_at)),
        applied_by,
        revision,
        managed_by: managed_by.map(|label| label.to_string()).unwrap_or_default(),
        plaintext: Vec::new(),
    }
}

pub(super) fn plaintext_port(found: &PlaintextPort) -> v1::PlaintextPort {
    v1::PlaintextPort {
        workload: found.workload.to_string(),
        port: found.port.into(),
        callers: found.callers,
        last_at: Some(time::to_proto(found.last_at)),
    }
}

pub(super) fn policy(policy: Policy) -> v1::Policy {
    v1::Policy {
        name: policy.name,
        target: policy.target,
        document: policy.document,
        applied_at: Some(time::to_proto(policy.applied_at)),
        applied_by: policy.applied_by,
    }
}

pub(super) fn identity(identity: IssuedIdentity, watcher: Option<&WatcherInfo>) -> v1::IssuedIdentity {
    v1::IssuedIdentity {
        spiffe_id: identity.spiffe_id.to_string(),
        owner: identity.owner,
        purpose: identity.purpose,
        instance: identity.instance.to_string(),
        serial: hex::encode(&identity.serial),
        not_before: Some(time::to_proto(identity.not_before)),
        not_after: Some(time::to_proto(identity.not_after)),
        status: identity.status.to_owned(),
        attested_at: Some(time::to_proto(identity.attested_at)),
        renewals: identity.renewals,
        connected: watcher.is_some(),
        address: watcher.map(|watcher| watcher.address.clone()).unwrap_or_default(),
        version: watcher.map_or(identity.version, |watcher| watcher.version.clone()),
    }
}

pub(super) fn event(event: AuditEvent) -> v1::AuditEvent {
    v1::AuditEvent {
        sequence: event.sequence,
        at: Some(time::to_proto(event.at)),
        actor: event.actor,
        action: event.action,
        subject: event.subject,
        detail: event.detail,
        hash: hex::encode(&event.hash),
    }
}

/// An optional duration of a request.
pub(super) fn duration(
    field: &'static str,
    message: Option<&prost_types::Duration>,
) -> Result<Option<Duration>, Status> {
    match message {
        None => Ok(None),
        Some(_) => time::duration_from_proto(message)
            .map(Some)
            .ok_or_else(|| Status::invalid_argument(format!("{field}: expected a positive duration"))),
    }
}

/// A file name for messages only: never opened here.
pub(super) fn file_name(name: &str) -> &str {
    if name.is_empty() || name.len() > MAX_FILE_NAME || name.chars().any(is_hidden) { "policy" } else { name }
}
