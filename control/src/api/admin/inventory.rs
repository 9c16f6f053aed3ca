//! The lists of the inventory, in pages, and the word that they may have changed.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use signet_proto::policy::Pattern;
use signet_proto::spiffe::{CertificateHandle, InstanceId};
use signet_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Status};

use super::super::Rooms;
use super::super::status::ToStatus;
use crate::inventory::{
    Cause, CertificateStatus, Edge, INSTANCE_WORDS, Outsider, Refused, Spoken, Way, instance_status,
};
use crate::publish::WatcherInfo;
use crate::roles::{Permission, Scope, Sight};
use crate::store::model::{AttestedInstance, IssuedCertificate};
use crate::store::{
    CertificateOrder, CertificateQuery, ConnectionOrder, ConnectionQuery, Cursor, CursorError, Freshness,
    InstanceQuery, Listed, OutsiderQuery, Page,
};
use crate::{hex, time};

const MOST_ROWS: usize = 1000;
/// How often what may have changed is looked at, at most; other replicas do not announce everything.
const LOOK: Duration = Duration::from_secs(1);

/// What a follower is answered with.
pub(super) type Changes = ReceiverStream<Result<v1::InventoryChanged, Status>>;

pub(super) async fn certificates(
    rooms: &Rooms,
    extensions: &Extensions,
    request: v1::ListCertificatesRequest,
) -> Result<v1::ListCertificatesResponse, Status> {
    let of = pattern("id", &request.id)?;
    let sight = sight(rooms, extensions, of.as_ref()).await?;
    let asked = request.page.unwrap_or_default();
    let order = match asked.order.as_str() {
        "" | "expires" => CertificateOrder::End,
        "id" => CertificateOrder::Identity,
        _ => return Err(no_such_order("expires, id")),
    };
    let serial = match request.serial.as_str() {
        "" => None,
        text => Some(hex::decode(text).ok_or_else(|| wrong("serial", "expected hex digits"))?),
    };
    let instance: Option<InstanceId> = match request.instance.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| wrong("instance", error))?),
    };
    let query = CertificateQuery {
        order,
        of,
        ending_after: request.expires_after.as_ref().map(at),
        ending_before: request.expires_before.as_ref().map(at),
        serial,
        page: page(&asked, |text| order.place(text))?,
    };
    let words = words(request.status, &CertificateStatus::WORDS)?;
    let (owner, unused_since) = (request.owner, request.unused_since.as_ref().map(at));
    let (state, now) = (Arc::clone(&rooms.state.borrow()), time::now());
    let take = move |certificate: IssuedCertificate| {
        let unused = unused_since.is_none_or(|since| {
            certificate.seen_at.is_none_or(|seen| seen < since) && certificate.issued_at < since
        });
        let meant = (owner.is_empty() || certificate.owner == owner)
            && instance.is_none_or(|instance| certificate.instance == Some(instance))
            && unused
            && sight.sees_identity(&certificate.spiffe_id);
        if !meant {
            return None;
        }
        let handle = CertificateHandle {
            issuer_sha256: certificate.issuer_sha256,
            serial: certificate.serial.clone(),
            spki_sha256: certificate.spki_sha256,
        };
        let id = &certificate.spiffe_id;
        let listed = state.revocations.index.matching(id, certificate.instance.as_ref(), [&handle]);
        let status = CertificateStatus::of(&certificate, listed, now);
        words
            .as_ref()
            .is_none_or(|words| words.contains(status.as_str()))
            .then(|| message(certificate, status))
    };
    let Listed { rows, next } =
        rooms.store.certificates(query, take).await.map_err(|error| error.to_status())?;
    Ok(v1::ListCertificatesResponse { certificates: rows, next: told(next.as_ref()) })
}

pub(super) async fn instances(
    rooms: &Rooms,
    extensions: &Extensions,
    request: v1::ListInstancesRequest,
) -> Result<v1::ListInstancesResponse, Status> {
    let of = pattern("id", &request.id)?;
    let sight = sight(rooms, extensions, of.as_ref()).await?;
    if let Some(Pattern::Exact(id)) = &of {
        rooms.store.workload(id.clone()).await.map_err(|error| error.to_status())?;
    }
    let asked = request.page.unwrap_or_default();
    if !matches!(asked.order.as_str(), "" | "id") {
        return Err(no_such_order("id"));
    }
    let query = InstanceQuery { of, page: page(&asked, InstanceQuery::place)? };
    let words = words(request.status, &INSTANCE_WORDS)?;
    let owner = request.owner;
    let expires_before = request.expires_before.as_ref().map(at);
    let unseen_since = request.unseen_since.as_ref().map(at);
    let (watchers, replica, now) =
        (Arc::clone(&rooms.watchers), rooms.store.replica().to_owned(), time::now());
    let take = move |mut instance: AttestedInstance| {
        let status = instance_status(&instance, now);
        // Of our own streams we know before it is written down.
        let held = watchers.held(&instance.instance);
        let elsewhere = instance.replica.take().filter(|holder| *holder != replica);
        if let Some((WatcherInfo { address, version }, seen_at)) = &held {
            instance.address.clone_from(address);
            instance.version.clone_from(version);
            instance.last_seen = instance.last_seen.max(*seen_at);
        }
        let meant = (owner.is_empty() || instance.owner == owner)
            && expires_before.is_none_or(|before| instance.not_after < before)
            && unseen_since.is_none_or(|since| instance.last_seen < since)
            && words.as_ref().is_none_or(|words| words.contains(status))
            && sight.sees_identity(&instance.spiffe_id);
        instance.replica = held.map(|_| replica.clone()).or(elsewhere);
        meant.then(|| instance_message(instance, status))
    };
    let Listed { rows, next } =
        rooms.store.instances(query, take).await.map_err(|error| error.to_status())?;
    Ok(v1::ListInstancesResponse { instances: rows, next: told(next.as_ref()) })
}

/// A connection is shown to whoever may see either end.
pub(super) async fn connections(
    rooms: &Rooms,
    extensions: &Extensions,
    request: v1::ListConnectionsRequest,
) -> Result<v1::ListConnectionsResponse, Status> {
    let sight = rooms.sight(extensions).await?;
    let asked = request.page.unwrap_or_default();
    let order = match asked.order.as_str() {
        "" | "last" => ConnectionOrder::Last,
        "refused" => ConnectionOrder::Refused,
        "destination" => ConnectionOrder::Destination,
        "source" => ConnectionOrder::Source,
        _ => return Err(no_such_order("last, refused, destination, source")),
    };
    let port = u16::try_from(request.port).map_err(|_| wrong("port", "expected at most 65535"))?;
    let either = pattern("id", &request.id)?;
    let query = ConnectionQuery {
        order,
        source: pattern("source", &request.source)?,
        destination: pattern("destination", &request.destination)?,
        since: request.since.as_ref().map(at),
        page: page(&asked, |text| order.place(text))?,
    };
    let refused = request.refused;
    let take = move |edge: Edge| {
        let (source, destination) = (&edge.link.source, &edge.link.destination);
        let meant = either.as_ref().is_none_or(|id| id.matches(source) || id.matches(destination))
            && (port == 0 || edge.link.port == port)
            && (!refused || edge.refused_at.is_some())
            && (sight.sees_identity(source) || sight.sees_identity(destination));
        meant.then(|| connection_message(edge))
    };
    let Listed { rows, next } =
        rooms.store.connections(query, take).await.map_err(|error| error.to_status())?;
    Ok(v1::ListConnectionsResponse { connections: rows, next: told(next.as_ref()) })
}

/// Addresses without identity are shown to whoever may see the workload at the other end.
pub(super) async fn outsiders(
    rooms: &Rooms,
    extensions: &Extensions,
    request: v1::ListOutsidersRequest,
) -> Result<v1::ListOutsidersResponse, Status> {
    let workload = pattern("workload", &request.workload)?;
    let sight = sight(rooms, extensions, workload.as_ref()).await?;
    let asked = request.page.unwrap_or_default();
    if !matches!(asked.order.as_str(), "" | "last") {
        return Err(no_such_order("last"));
    }
    let way = Way::from_word(&request.way)
        .ok_or_else(|| wrong("way", format!("expected one of {}", Way::ALL.map(Way::as_str).join(", "))))?;
    let port = u16::try_from(request.port).map_err(|_| wrong("port", "expected at most 65535"))?;
    let since = request.since.as_ref().map(at);
    let query = OutsiderQuery { way, workload, since, page: page(&asked, OutsiderQuery::place)? };
    let take = move |outsider: Outsider| {
        let meant = (port == 0 || outsider.port == port) && sight.sees_identity(&outsider.workload);
        meant.then(|| outsider_message(&outsider))
    };
    let Listed { rows, next } =
        rooms.store.outsiders(query, take).await.map_err(|error| error.to_status())?;
    Ok(v1::ListOutsidersResponse { outsiders: rows, next: told(next.as_ref()) })
}

/// Says at most once a second that something may have changed, and nothing about it: each list is asked for anew, with
/// the rights of that moment.
pub(super) async fn follow(
    rooms: &Rooms,
    request: &Request<v1::FollowInventoryRequest>,
) -> Result<Changes, Status> {
    rooms.sight(request.extensions()).await?;
    let place = rooms.tails.clone().try_acquire_owned().map_err(|_| {
        Status::resource_exhausted("too many follow control already: end one of them, then try again")
    })?;
    let (messages, stream) = mpsc::channel(1);
    let follow = Follow {
        rooms: rooms.clone(),
        caller: request.extensions().clone(),
        goes_on: request.get_ref().follow,
        messages,
        _place: place,
    };
    tokio::spawn(follow.run());
    Ok(ReceiverStream::new(stream))
}

struct Follow {
    rooms: Rooms,
    /// To ask again, before each message, whether they still may.
    caller: Extensions,
    goes_on: bool,
    messages: mpsc::Sender<Result<v1::InventoryChanged, Status>>,
    _place: OwnedSemaphorePermit,
}

impl Follow {
    async fn run(self) {
        let mut known = None;
        let end = loop {
            let found = match self.look().await {
                Ok(found) => found,
                Err(status) => break Some(status),
            };
            if known.replace(found) != Some(found)
                && self.messages.send(Ok(v1::InventoryChanged {})).await.is_err()
            {
                break None;
            }
            if !self.goes_on {
                break None;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.messages.closed() => break None,
                () = self.rooms.stop.cancelled() => {
                    break Some(Status::unavailable("control is shutting down"));
                }
            }
        };
        if let Some(status) = end {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.messages.send(Err(status))).await;
        }
    }

    /// What tells whether anything changed: of the store, and of our own streams.
    async fn look(&self) -> Result<(Freshness, usize), Status> {
        self.rooms.sight(&self.caller).await?;
        let stored = self.rooms.store.freshness().await.map_err(|error| error.to_status())?;
        Ok((stored, self.rooms.watchers.count()))
    }
}

/// What the caller may see; one identity that is named must be among it.
async fn sight(rooms: &Rooms, extensions: &Extensions, of: Option<&Pattern>) -> Result<Sight, Status> {
    let operator = rooms.gate.operator(extensions).await?;
    if let Some(Pattern::Exact(id)) = of {
        // Said rather than shown as an empty list.
        operator.on(&Scope::identity(id)).map_err(|refused| refused.to_status())?;
    }
    operator.sight().map_err(|refused| refused.to_status())
}

fn page(asked: &v1::Page, place: impl Fn(&str) -> Result<Cursor, CursorError>) -> Result<Page, Status> {
    let after = match asked.after.as_str() {
        "" => None,
        text => Some(place(text).map_err(|error| Status::invalid_argument(error.to_string()))?),
    };
    let limit = match usize::try_from(asked.limit) {
        Ok(limit @ 1..=MOST_ROWS) => limit,
        _ => MOST_ROWS,
    };
    Ok(Page { descending: asked.descending, after, limit })
}

fn pattern(field: &str, text: &str) -> Result<Option<Pattern>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error| wrong(field, error))
}

fn words(asked: Vec<String>, known: &[&str]) -> Result<Option<HashSet<String>>, Status> {
    match asked.iter().find(|word| !known.contains(&word.as_str())) {
        Some(_) => Err(wrong("status", format!("expected one of {}", known.join(", ")))),
        None => Ok((!asked.is_empty()).then(|| asked.into_iter().collect())),
    }
}

fn wrong(field: &str, why: impl Display) -> Status {
    Status::invalid_argument(format!("{field}: {why}"))
}

fn no_such_order(known: &str) -> Status {
    wrong("order", format!("expected one of {known}"))
}

fn at(message: &Timestamp) -> SystemTime {
    time::from_proto(Some(message))
}

fn told(next: Option<&Cursor>) -> String {
    next.map(ToString::to_string).unwrap_or_default()
}

fn message(certificate: IssuedCertificate, status: CertificateStatus) -> v1::Certificate {
    v1::Certificate {
        serial: hex::encode(&certificate.serial),
        spiffe_id: certificate.spiffe_id.to_string(),
        status: status.as_str().to_owned(),
        revoked_by: status.revoked_by().to_owned(),
        owner: certificate.owner,
        contact: certificate.contact,
        purpose: certificate.purpose,
        instance: certificate.instance.map(|instance| instance.to_string()).unwrap_or_default(),
        issuer: certificate.issuer,
        authority: certificate.authority,
        key_sha256: hex::encode(&certificate.spki_sha256),
        not_before: Some(time::to_proto(certificate.not_before)),
        not_after: Some(time::to_proto(certificate.not_after)),
        issued_at: Some(time::to_proto(certificate.issued_at)),
        last_seen: certificate.seen_at.map(time::to_proto),
    }
}

fn instance_message(instance: AttestedInstance, status: &str) -> v1::Instance {
    v1::Instance {
        instance: instance.instance.to_string(),
        spiffe_id: instance.spiffe_id.to_string(),
        owner: instance.owner,
        contact: instance.contact,
        purpose: instance.purpose,
        status: status.to_owned(),
        attested_by: instance.proof,
        evidence: instance.evidence,
        attested_at: Some(time::to_proto(instance.attested_at)),
        last_seen: Some(time::to_proto(instance.last_seen)),
        address: instance.address,
        version: instance.version,
        connected: instance.replica.is_some(),
        replica: instance.replica.unwrap_or_default(),
        renewals: instance.renewals,
        serial: hex::encode(&instance.serial),
        not_before: Some(time::to_proto(instance.not_before)),
        not_after: Some(time::to_proto(instance.not_after)),
    }
}

fn connection_message(edge: Edge) -> v1::Connection {
    v1::Connection {
        source: edge.link.source.to_string(),
        destination: edge.link.destination.to_string(),
        port: edge.link.port.into(),
        protocol: edge.protocol.map_or("", Spoken::as_str).to_owned(),
        first_at: Some(time::to_proto(edge.first_at)),
        last_at: Some(time::to_proto(edge.last_at)),
        connections: edge.connections,
        requests: edge.requests,
        bytes_in: edge.bytes_in,
        bytes_out: edge.bytes_out,
        denied: edge.denied,
        unreached: edge.unreached,
        refused_at: edge.refused_at.map(time::to_proto),
        refusals: edge.causes.into_iter().map(refusal).collect(),
    }
}

fn outsider_message(outsider: &Outsider) -> v1::ListedOutsider {
    v1::ListedOutsider {
        workload: outsider.workload.to_string(),
        address: outsider.address.to_string(),
        port: outsider.port.into(),
        protocol: outsider.protocol.map_or("", Spoken::as_str).to_owned(),
        first_at: Some(time::to_proto(outsider.first_at)),
        last_at: Some(time::to_proto(outsider.last_at)),
        connections: outsider.connections,
        requests: outsider.requests,
        bytes_in: outsider.bytes_in,
        bytes_out: outsider.bytes_out,
        denied: outsider.denied,
    }
}

fn refusal(cause: Cause) -> v1::Refusal {
    let kind = match cause.refused {
        Refused::Denied => "denied",
        Refused::Unreached => "unreached",
    };
    v1::Refusal {
        kind: kind.to_owned(),
        policy: cause.policy,
        rule: cause.rule,
        reason: cause.reason,
        count: cause.count,
        last_at: Some(time::to_proto(time::from_millis(cause.last_at_ms))),
    }
}
