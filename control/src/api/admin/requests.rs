//! ListRequests, ApproveRequest, DenyRequest: who may is decided in the commit, where it is known whose request it is.

use signet_proto::v1;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::reason;
use crate::roles::{Operator, Sight};
use crate::store::model::Mutation;
use crate::store::{Decision, HeldId, HeldRequest, HeldState, Verdict};
use crate::time;

pub(super) async fn list(
    rooms: &Rooms,
    request: v1::ListRequestsRequest,
    sight: &Sight,
) -> Result<v1::ListRequestsResponse, Status> {
    let v1::ListRequestsRequest { spiffe_id, all, id } = request;
    let requests = if id.is_empty() {
        let whose = match spiffe_id.as_str() {
            "" => None,
            whose => Some(rooms.registry.parse(whose).map_err(|error| error.to_status())?),
        };
        rooms.store.held_requests(whose, all).await
    } else {
        rooms.store.held_request(held_id(&id)?).await.map(|request| vec![request])
    };
    let requests = requests.map_err(|error| error.to_status())?;
    let seen = requests.into_iter().filter(|request| sight.sees_identity(&request.spiffe_id));
    Ok(v1::ListRequestsResponse { requests: seen.map(message).collect() })
}

pub(super) async fn approve(
    rooms: &Rooms,
    request: v1::ApproveRequestRequest,
    operator: Operator,
) -> Result<Mutation, Status> {
    let v1::ApproveRequestRequest { id, csr_sha256, reason: why } = request;
    let meant: [u8; 32] = csr_sha256.try_into().map_err(|_| {
        Status::invalid_argument("csr_sha256: expected 32 bytes, as `signet requests show` shows them")
    })?;
    let id = held_id(&id)?;
    let why = if why.is_empty() { why } else { reason(&why)? };
    let decided = rooms.store.decide_request(id, Verdict::Approve, Some(meant), why, operator).await;
    decided.map_err(|error| error.to_status())
}

pub(super) async fn deny(
    rooms: &Rooms,
    request: v1::DenyRequestRequest,
    operator: Operator,
) -> Result<Mutation, Status> {
    let v1::DenyRequestRequest { id, reason: why } = request;
    let (id, why) = (held_id(&id)?, reason(&why)?);
    let decided = rooms.store.decide_request(id, Verdict::Deny, None, why, operator).await;
    decided.map_err(|error| error.to_status())
}

fn held_id(text: &str) -> Result<HeldId, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("id: {error}")))
}

fn message(request: HeldRequest) -> v1::HeldRequest {
    let state = match request.state {
        HeldState::Pending => v1::RequestState::Pending,
        HeldState::Approved => v1::RequestState::Approved,
        HeldState::Denied => v1::RequestState::Denied,
        HeldState::Expired => v1::RequestState::Expired,
        HeldState::Used => v1::RequestState::Used,
    };
    let decision = |decision: Decision| v1::Decision {
        actor: decision.actor,
        approved: decision.verdict == Verdict::Approve,
        reason: decision.reason,
        at: Some(time::to_proto(decision.at)),
    };
    v1::HeldRequest {
        id: request.id.to_string(),
        spiffe_id: request.spiffe_id.to_string(),
        csr_sha256: request.csr_sha256.to_vec(),
        spki_sha256: request.spki_sha256.to_vec(),
        proof: request.proof,
        evidence: request.evidence,
        address: request.address,
        version: request.version,
        token_created_by: request.token_by.unwrap_or_default(),
        state: state.into(),
        needed: request.needed,
        decisions: request.decisions.into_iter().map(decision).collect(),
        created_at: Some(time::to_proto(request.created_at)),
        expires_at: Some(time::to_proto(request.expires_at)),
    }
}
