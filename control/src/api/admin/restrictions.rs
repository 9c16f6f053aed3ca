//! RequireApproval, Freeze, Unfreeze, ListRestrictions.

use signet_proto::v1;
use signet_proto::v1::restriction::What;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::{reason, scope};
use crate::registry::Approval;
use crate::roles::{Operator, Sight};
use crate::store::model::Mutation;
use crate::store::{Freeze, Restricted, Restriction, RestrictionKind};
use crate::time;

pub(super) async fn require_approval(
    rooms: &Rooms,
    request: v1::RequireApprovalRequest,
    operator: Operator,
) -> Result<Mutation, Status> {
    let approval = match request.approval() {
        v1::WorkloadApproval::None => Approval::None,
        v1::WorkloadApproval::One => Approval::One,
        v1::WorkloadApproval::Two => Approval::Two,
        v1::WorkloadApproval::Unspecified => {
            return Err(Status::invalid_argument("approval: expected none, one or two"));
        }
    };
    let (scope, why) = (scope(rooms, &request.scope)?, reason(&request.reason)?);
    let done = match approval {
        Approval::None => rooms.store.lift(scope, RestrictionKind::Approval, why, operator).await,
        approval => rooms.store.restrict(scope, Restriction::Approval(approval), why, operator).await,
    };
    done.map_err(|error| error.to_status())
}

pub(super) async fn freeze(
    rooms: &Rooms,
    request: v1::FreezeRequest,
    operator: Operator,
) -> Result<Mutation, Status> {
    let freeze = if request.renewals { Freeze::All } else { Freeze::New };
    let (scope, why) = (scope(rooms, &request.scope)?, reason(&request.reason)?);
    let done = rooms.store.restrict(scope, Restriction::Freeze(freeze), why, operator).await;
    done.map_err(|error| error.to_status())
}

pub(super) async fn unfreeze(
    rooms: &Rooms,
    request: v1::UnfreezeRequest,
    operator: Operator,
) -> Result<Mutation, Status> {
    let (scope, why) = (scope(rooms, &request.scope)?, reason(&request.reason)?);
    let done = rooms.store.lift(scope, RestrictionKind::Freeze, why, operator).await;
    done.map_err(|error| error.to_status())
}

pub(super) async fn list(rooms: &Rooms, sight: &Sight) -> Result<v1::ListRestrictionsResponse, Status> {
    let all = rooms.store.restrictions().await.map_err(|error| error.to_status())?;
    let seen = all.into_iter().filter(|restricted| sight.sees(&restricted.scope));
    Ok(v1::ListRestrictionsResponse { restrictions: seen.map(message).collect() })
}

/// Where issuance is frozen.
pub(super) async fn frozen(rooms: &Rooms) -> Result<Vec<String>, Status> {
    let all = rooms.store.restrictions().await.map_err(|error| error.to_status())?;
    Ok(all.iter().filter_map(Restricted::frozen).collect())
}

fn message(restricted: Restricted) -> v1::Restriction {
    let what = match restricted.restriction {
        Restriction::Approval(approval) => What::Approval(
            match approval {
                Approval::None => v1::WorkloadApproval::None,
                Approval::One => v1::WorkloadApproval::One,
                Approval::Two => v1::WorkloadApproval::Two,
            }
            .into(),
        ),
        Restriction::Freeze(freeze) => What::Frozen(v1::Frozen { renewals: freeze == Freeze::All }),
    };
    v1::Restriction {
        scope: restricted.scope.to_string(),
        what: Some(what),
        reason: restricted.reason,
        set_by: restricted.set_by,
        set_at: Some(time::to_proto(restricted.set_at)),
    }
}
