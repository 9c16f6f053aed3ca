//! Roots, intermediates and keys of tokens: where each is, and one step further.

use std::time::{Duration, SystemTime};

use signet_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::messages;
use crate::ca::{Certified, JWT, Replaced};
use crate::store::model::{
    Actor, AuthorityKind, Chained, KnownAuthority, KnownJwtKey, Missing, Mutation, Phase, Unacknowledged,
};
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
    for known in rooms.authority.hierarchy().jwt().known() {
        let missing = match known.phase {
            Phase::Prepared => rooms.store.unacknowledged(known.announced, now).await,
            _ => Ok(Missing::default()),
        };
        authorities.push(jwt_message(rooms, known, &missing.map_err(|error| error.to_status())?));
    }
    Ok(v1::ListAuthoritiesResponse { authorities })
}

/// Of one replica, or of all: whoever does not know which one leaked wants them all to be others.
pub(super) async fn rotate(
    rooms: &Rooms,
    request: v1::RotateIntermediateRequest,
    actor: Actor,
) -> Result<v1::RotateIntermediateResponse, Status> {
    let replicas = match replica(rooms, &request.replica).await? {
        Some(one) => vec![one],
        None => {
            rooms.authority.refresh().await.map_err(|error| error.to_status())?;
            rooms.authority.signing_replicas()
        }
    };
    let replicas: Vec<&str> = replicas.iter().map(String::as_str).collect();
    let replaced = rooms.authority.replace_intermediates(&replicas, actor).await;
    let rotated = replaced.map_err(|error| error.to_status())?.into_iter().map(rotated);
    let rotated = rotated.collect::<Result<Vec<_>, _>>()?;
    let first = rotated.first().cloned().unwrap_or_default();
    Ok(v1::RotateIntermediateResponse { previous: first.previous, current: first.current, rotated })
}

fn rotated(replaced: Replaced) -> Result<v1::RotatedIntermediate, Status> {
    Ok(v1::RotatedIntermediate {
        replica: replaced.replica,
        previous: replaced.previous.as_ref().map(messages::authority).transpose()?,
        current: Some(messages::authority(&replaced.current)?),
    })
}

/// The replica of which somebody named the first digits; none: they named none.
async fn replica(rooms: &Rooms, name: &str) -> Result<Option<String>, Status> {
    match name {
        "" => Ok(None),
        name => rooms.authority.replica_named(name).await.map(Some).map_err(|error| error.to_status()),
    }
}

pub(super) async fn prepare(
    rooms: &Rooms,
    request: v1::PrepareAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let prepared = match request.kind.as_str() {
        JWT => rooms.authority.prepare_jwt_key(actor).await,
        kind => {
            let wrong = |error| Status::invalid_argument(format!("kind: {error}, or `{JWT}`"));
            let kind = kind.parse().map_err(wrong)?;
            let replica = replica(rooms, &request.replica).await?;
            let replica = replica.as_deref().unwrap_or(rooms.store.signs_as());
            rooms.authority.prepare_for(replica, kind, actor).await
        }
    };
    let (id, mutation) = prepared.map_err(|error| error.to_status())?;
    Ok(response(id, mutation))
}

/// Waits for whoever does not know it yet; the commit asks again.
pub(super) async fn activate(
    rooms: &Rooms,
    request: v1::ActivateAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let v1::ActivateAuthorityRequest { authority, timeout, force } = request;
    let timeout = messages::duration("timeout", timeout.as_ref())?.unwrap_or(LONGEST).min(LONGEST);
    let deadline = Instant::now() + if force { Duration::ZERO } else { timeout };
    if let Some(key) = jwt_key(rooms, &authority, &[Phase::Prepared]).await? {
        known_to_all(rooms, key.announced, deadline).await?;
        let early = rooms.authority.jwt_key_is_known_from(&key).duration_since(time::now());
        tokio::time::sleep_until(deadline.min(Instant::now() + early.unwrap_or_default())).await;
        let activated = rooms.authority.activate_jwt_key(&key, force, actor).await;
        return Ok(response(key.id, activated.map_err(|error| error.to_status())?));
    }
    let prepared = rooms.authority.named(&authority, &[Phase::Prepared]).await;
    let prepared = prepared.map_err(|error| error.to_status())?;
    if prepared.kind == AuthorityKind::Root {
        known_to_all(rooms, prepared.announced, deadline).await?;
    }
    let activated = rooms.authority.activate(&prepared, force, actor).await;
    Ok(response(prepared.id, activated.map_err(|error| error.to_status())?))
}

/// Waits until `deadline` for those who do not know of a change.
async fn known_to_all(rooms: &Rooms, announced: u64, deadline: Instant) -> Result<(), Status> {
    while Instant::now() < deadline {
        let missing = rooms.store.unacknowledged(announced, time::now()).await;
        if missing.map_err(|error| error.to_status())?.count == 0 {
            break;
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)).await;
    }
    Ok(())
}

async fn jwt_key(rooms: &Rooms, name: &str, phases: &[Phase]) -> Result<Option<KnownJwtKey>, Status> {
    rooms.authority.jwt_key_named(name, phases).await.map_err(|error| error.to_status())
}

fn response(id: String, mutation: Mutation) -> v1::AuthorityResponse {
    v1::AuthorityResponse { id, mutation: Some(messages::mutation(mutation)) }
}

pub(super) async fn request(
    rooms: &Rooms,
    request: v1::RequestAuthorityRequest,
    actor: Actor,
) -> Result<v1::RequestAuthorityResponse, Status> {
    let made = rooms.authority.signing_request(request.anew, actor).await;
    let (id, pem) = made.map_err(|error| error.to_status())?;
    Ok(v1::RequestAuthorityResponse { id, pem })
}

pub(super) async fn install(
    rooms: &Rooms,
    request: v1::InstallAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let installed = rooms.authority.install(&request.chain, actor).await;
    let installed = installed.map_err(|error| error.to_status())?;
    Ok(response(installed.id, installed.mutation))
}

pub(super) async fn retire(
    rooms: &Rooms,
    request: v1::RetireAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let phases = [Phase::Retiring, Phase::Prepared];
    if let Some(key) = jwt_key(rooms, &request.authority, &phases).await? {
        let retired = rooms.authority.retire_jwt_key(&key, actor).await;
        return Ok(response(key.id, retired.map_err(|error| error.to_status())?));
    }
    let found = rooms.authority.named(&request.authority, &phases).await;
    let found = found.map_err(|error| error.to_status())?;
    let mutation = rooms.authority.retire(&found, actor).await.map_err(|error| error.to_status())?;
    Ok(response(found.id, mutation))
}

/// Trust ends at a time that is said; until then everybody below it can renew.
pub(super) async fn compromised(
    rooms: &Rooms,
    request: v1::CompromisedAuthorityRequest,
    actor: Actor,
) -> Result<v1::AuthorityResponse, Status> {
    let v1::CompromisedAuthorityRequest { authority, reason, within, replica: of } = request;
    let reason = super::reason(&reason)?;
    let within = messages::duration("within", within.as_ref())?.unwrap_or(BELIEVED);
    if within > LONGEST_BELIEVED {
        return Err(Status::invalid_argument("within: expected a day at most"));
    }
    let phases = [Phase::Active, Phase::Retiring];
    if let Some(key) = jwt_key(rooms, &authority, &phases).await? {
        let done = rooms.authority.compromised_jwt_key(&key, within, reason, actor).await;
        return Ok(response(key.id, done.map_err(|error| error.to_status())?));
    }
    let of = replica(rooms, &of).await?;
    let found = rooms.authority.named_of(&authority, of.as_deref(), &phases).await;
    let found = found.map_err(|error| error.to_status())?;
    let done = rooms.authority.compromised(&found, within, reason, actor).await;
    Ok(response(found.id, done.map_err(|error| error.to_status())?))
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
        replica: known.replica.clone(),
    })
}

/// A key of tokens has no certificate: it is shown when it stops to sign, or to be believed.
fn jwt_message(rooms: &Rooms, known: &KnownJwtKey, missing: &Missing) -> v1::KnownAuthority {
    let ends = match known.phase {
        Phase::Active => rooms.authority.jwt_key_ends(),
        _ => known.ends,
    };
    let next = match known.phase {
        Phase::Prepared if missing.count > 0 => format!("waits for {} proxies: {missing}", missing.count),
        Phase::Prepared => format!("signet ca activate {}", known.id),
        Phase::Active => {
            format!("another one by itself from {}", ends.map(time::rfc3339).unwrap_or_default())
        }
        _ => format!("needed by its tokens until {}", ends.map(time::rfc3339).unwrap_or_default()),
    };
    v1::KnownAuthority {
        id: known.id.clone(),
        kind: JWT.to_owned(),
        phase: known.phase.as_str().to_owned(),
        phase_at: Some(time::to_proto(known.phase_at)),
        certificate: Some(v1::Authority {
            subject: format!("Signet JWT Key {}", known.id),
            sha256: crate::hex::encode(&crate::sha256(&known.public_key)),
            not_before: Some(time::to_proto(known.phase_at)),
            not_after: ends.map(time::to_proto),
            ..v1::Authority::default()
        }),
        unacknowledged: missing.count,
        unacknowledged_some: missing.some.iter().map(waiting).collect(),
        next,
        ..v1::KnownAuthority::default()
    }
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
    let by_upstream = match known.phase {
        Phase::Active => rooms.authority.upstream_next(known.kind, time::now()),
        _ => None,
    };
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
        (_, Phase::Active) if let Some(next) = by_upstream => next,
        (AuthorityKind::Root, Phase::Active) if !known.has_key => {
            let due = time::rfc3339(rooms.authority.root_due());
            format!("kept elsewhere: another one is to be made there and installed from {due}")
        }
        (AuthorityKind::Intermediate, Phase::Active) if rooms.authority.root_is_elsewhere() => {
            let due = time::rfc3339(rooms.authority.replacement_due(known.not_after));
            format!("another one is to be signed and installed from {due}: signet ca csr")
        }
        (AuthorityKind::Root, Phase::Active) => format!("another one {}", from(rooms.authority.root_due())),
        (AuthorityKind::Intermediate, Phase::Active) => {
            format!("replaced {}", from(rooms.authority.replacement_due(known.not_after)))
        }
        (_, Phase::Retiring) if chained.is_none() => "removed by itself soon".to_owned(),
        (_, Phase::Retiring) => format!("needed by {chained}"),
        (_, Phase::Removed) => "nobody is believed by it".to_owned(),
    }
}
