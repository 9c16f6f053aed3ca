//! Rotate, AwaitRotated: SVIDs that are renewed because somebody says so.

use std::collections::HashSet;
use std::time::Duration;

use signet_proto::v1::{AppliedBy, AwaitRotatedRequest, AwaitRotatedResponse, RotateRequest, RotateResponse};
use tokio::time::Instant;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::{messages, reason, scope};
use crate::roles::{Operator, Permission};
use crate::store::Rotated;
use crate::time;

const USUAL: Duration = Duration::from_secs(30);
/// The server ends calls that take longer than 75 s.
const LONGEST: Duration = Duration::from_secs(60);
/// A renewal is no news for anybody but who renews: it is looked for. Between two looks is this,
const LOOK: Duration = Duration::from_millis(100);
/// or so many times what a look took, if that is longer: the store is for others, too.
const REST: u32 = 10;

pub(super) async fn order(
    rooms: &Rooms,
    request: RotateRequest,
    operator: Operator,
) -> Result<RotateResponse, Status> {
    let (scope, why) = (scope(rooms, &request.scope)?, reason(&request.reason)?);
    let ordered = rooms.store.order_rotation(scope, why, operator).await;
    let (mutation, order) = ordered.map_err(|error| error.to_status())?;
    Ok(RotateResponse {
        mutation: Some(messages::mutation(mutation)),
        issued_before: Some(time::to_proto(order.issued_before)),
        within: Some(time::duration_to_proto(order.within)),
    })
}

pub(super) async fn wait(
    rooms: &Rooms,
    request: AwaitRotatedRequest,
    operator: Operator,
) -> Result<AwaitRotatedResponse, Status> {
    let AwaitRotatedRequest { scope: on, issued_before, timeout } = request;
    let scope = scope(rooms, &on)?;
    operator.on(&scope).map_err(|refused| refused.to_status())?;
    let sight = operator.sight().map_err(|refused| refused.to_status())?;
    let issued_before = issued_before
        .as_ref()
        .map(|at| time::from_proto(Some(at)))
        .ok_or_else(|| Status::invalid_argument("issued_before: expected the time that Rotate answered"))?;
    let timeout = messages::duration("timeout", timeout.as_ref())?.unwrap_or(USUAL).min(LONGEST);
    let deadline = Instant::now() + timeout;
    let Rotated { rotated, left, left_some } = loop {
        let began = Instant::now();
        let looked = rooms.store.rotated(scope.clone(), issued_before, time::now()).await;
        let found = looked.map_err(|error| error.to_status())?;
        if found.left == 0 || Instant::now() >= deadline || rooms.stop.is_cancelled() {
            break found;
        }
        let rest = LOOK.max(began.elapsed() * REST);
        tokio::time::sleep_until(deadline.min(Instant::now() + rest)).await;
    };
    let mut connected: HashSet<_> = rooms.watchers.connected().into_keys().collect();
    let elsewhere = rooms.store.standings_elsewhere().await.map_err(|error| error.to_status())?;
    connected.extend(elsewhere.into_iter().map(|standing| standing.instance));
    let seen = left_some.into_iter().filter(|(id, _)| sight.sees_identity(id));
    let left_some = seen.map(|(id, instance)| AppliedBy {
        spiffe_id: id.to_string(),
        instance: instance.to_string(),
        connected: connected.contains(&instance),
        ..AppliedBy::default()
    });
    Ok(AwaitRotatedResponse { rotated, left, left_some: left_some.collect() })
}
