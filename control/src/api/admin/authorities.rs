//! Roots and intermediates: where each is, and one step further.

use std::time::{Duration, SystemTime};

use signet_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::messages;
use crate::ca::Certified;
use crate::store::model::{Actor, AuthorityKind, Chained, KnownAuthority, Missing, Phase, Unacknowledged};
use crate::time;

const LONGEST: Duration = Duration::from_secs(60);
/// For everybody to hear of it and renew.
const BELIEVED: Duration = Duration::from_secs(60);
const LONGEST_BELIEVED: Duration = Duration::from_secs(24 * 3600);
/// Replicas write down what their proxies say several times a second.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn list(rooms: &Rooms) -> Result<v1::ListAuthoritiesResponse, Status> {
    rooms.authority.refresh().await.map_err(|error| error.to_status())?;
    let now = time::now();
    let mut authorities = Vec::new();
    for known in rooms.authority.hierarchy().known() {
        let chained = match known.phase {
            Phase::Active | Phase::Retiring => rooms.store.chained(known.clone(), now).await,
            Phase::Prepared | Phase::Removed => Ok(Chained::default()),
        };
        let missing = match (known.kind, known.phase) {
            (AuthorityKind::Root, Phase::Prepared) => rooms.store.unacknowledged(known.announced, now).await,
            _ => Ok(Missing::default()),
        };
        let (chained, missing) =
            (chained.map_err(|error| error.to_status())?, missing.map_err(|error| error.to_status())?);
        authorities.push(message(rooms, known, chained, &missing)?);
    }
    Ok(v1::ListAuthoritiesResponse { authorities })
}

pub(super) async fn prepare(
    rooms: &Rooms,
    request: v1::PrepareAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let kind = request.kind.parse();
    let kind = kind.map_err(|error| Status::invalid_argument(format!("kind: {error}")))?;
    let (id, mutation) = rooms.authority.prepare(kind, actor).await.map_err(|error| error.to_status())?;
    Ok(v1::AuthorityResponse { id, mutation: Some(messages::mutation(mutation)) })
}

/// Waits for whoever does not know it yet; the commit asks again.
pub(super) async fn activate(
    rooms: &Rooms,
    request: v1::ActivateAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let v1::ActivateAuthorityRequest { authority, timeout, force } = request;
    let timeout = messages::duration("timeout", timeout.as_ref())?.unwrap_or(LONGEST).min(LONGEST);
    let deadline = Instant::now() + timeout;
    let prepared = rooms.authority.named(&authority, &[Phase::Prepared]).await;
    let prepared = prepared.map_err(|error| error.to_status())?;
    while !force && prepared.kind == AuthorityKind::Root && Instant::now() < deadline {
        let missing = rooms.store.unacknowledged(prepared.announced, time::now()).await;
        if missing.map_err(|error| error.to_status())?.count == 0 {
            break;
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)).await;
    }
    let activated = rooms.authority.activate(&prepared, force, actor).await;
    let mutation = activated.map_err(|error| error.to_status())?;
    Ok(v1::AuthorityResponse { id: prepared.id, mutation: Some(messages::mutation(mutation)) })
}

pub(super) async fn retire(
    rooms: &Rooms,
    request: v1::RetireAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let found = rooms.authority.named(&request.authority, &[Phase::Retiring, Phase::Prepared]).await;
    let found = found.map_err(|error| error.to_status())?;
    let mutation = rooms.authority.retire(&found, actor).await.map_err(|error| error.to_status())?;
    Ok(v1::AuthorityResponse { id: found.id, mutation: Some(messages::mutation(mutation)) })
}

/// Trust ends at a time that is said; until then everybody below it can renew.
pub(super) async fn compromised(
    rooms: &Rooms,
    request: v1::CompromisedAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let v1::CompromisedAuthorityRequest { authority, reason, within } = request;
    let reason = super::reason(&reason)?;
    let within = messages::duration("within", within.as_ref())?.unwrap_or(BELIEVED);
    if within > LONGEST_BELIEVED {
        return Err(Status::invalid_argument("within: expected a day at most"));
    }
    let found = rooms.authority.named(&authority, &[Phase::Active, Phase::Retiring]).await;
    let found = found.map_err(|error| error.to_status())?;
    let done = rooms.authority.compromised(&found, within, reason, actor).await;
    let mutation = done.map_err(|error| error.to_status())?;
    Ok(v1::AuthorityResponse { id: found.id, mutation: Some(messages::mutation(mutation)) })
}

fn message(
    rooms: &Rooms,
    known: &KnownAuthority,
    chained: Chained,
    missing: &Missing,
) -> Result<v1::KnownAuthority, Status> {
    let next = next(rooms, known, &chained, missing);
    Ok(v1::KnownAuthority {
        id: known.id.clone(),
        kind: known.kind.as_str().to_owned(),
        phase: known.phase.as_str().to_owned(),
        phase_at: Some(time::to_proto(known.phase_at)),
        certificate: Some(messages::authority(&Certified::from(known))?),
        issuer: known.issuer.clone().unwrap_or_default(),
        chained: chained.certificates,
        chained_until: chained.until.map(time::to_proto),
        chained_some: chained.some,
        tickets: chained.tickets,
        distrusted_at: known.distrusted_at.map(time::to_proto),
        unacknowledged: missing.count,
        unacknowledged_some: missing.some.iter().map(waiting).collect(),
        next,
    })
}

fn waiting(proxy: &Unacknowledged) -> v1::AppliedBy {
    v1::AppliedBy {
        spiffe_id: proxy.id.to_string(),
        instance: proxy.instance.to_string(),
        connected: proxy.connected,
        ..v1::AppliedBy::default()
    }
}

fn next(rooms: &Rooms, known: &KnownAuthority, chained: &Chained, missing: &Missing) -> String {
    let from = |at: SystemTime| format!("by itself from {}", time::rfc3339(at));
    match (known.kind, known.phase) {
        (_, Phase::Active | Phase::Retiring) if known.distrusted_at.is_some() => {
            let ends = known.distrusted_at.map(time::rfc3339).unwrap_or_default();
            format!("compromised: nobody is believed by it from {ends} on")
        }
        (_, Phase::Removed) if known.distrusted_at.is_some() => "compromised: revoked".to_owned(),
        (_, Phase::Prepared) if missing.count > 0 => {
            format!("waits for {} proxies: {missing}", missing.count)
        }
        (_, Phase::Prepared) => format!("signet ca activate {}", known.id),
        (AuthorityKind::Root, Phase::Active) => format!("another one {}", from(rooms.authority.root_due())),
        (AuthorityKind::Intermediate, Phase::Active) => {
            format!("replaced {}", from(rooms.authority.rotation_due()))
        }
        (_, Phase::Retiring) if chained.is_none() => "removed by itself soon".to_owned(),
        (_, Phase::Retiring) => format!("needed by {chained}"),
        (_, Phase::Removed) => "nobody is believed by it".to_owned(),
    }
}
