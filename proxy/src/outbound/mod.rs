//! Our app calls a peer: accept -> destination -> authorize egress -> detect -> pick endpoint -> handshake -> forward.
//!
//! The destination is the listener's, or what the app asked for: where a captured connection was going, or
//! what CONNECT names. Whether our app may call it is decided here, before an endpoint is chosen, if egress documents
//! restrict it; whether it is let in is decided at the peer; that it is the peer we meant is decided here, in the
//! handshake.

mod attach;
mod calls;
mod destination;
mod egress;
mod lane;
mod passthrough;
mod peer;
mod trip;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::sync::oneshot;

pub use self::attach::{Attachments, NoToken};
use self::calls::{Callees, Calls};
use self::destination::{Asked, DestinationError, Meant};
pub use self::destination::{Destinations, Outbound};
use self::egress::Egress;
use self::lane::{Lane, Way};
pub(crate) use self::peer::Boxed;
use self::trip::{Call, Connected, Outgoing};
use crate::balance::Turn;
use crate::balance::tunnels::Tunnel;
use crate::capture::socket::canonical;
use crate::capture::{Remote, Socket, connect, reset_unless};
use crate::config::{Destination, Protocol as Declared, Requested};
use crate::connections::{self, Content, Registration, Subject};
use crate::forward::detect::{Detected, detect, detect_only, detect_version};
use crate::forward::http::{Http, cut};
use crate::forward::opaque::{Idle, RelayError, relay};
use crate::forward::stated::Stated;
use crate::forward::upstream::{Called, UpstreamError};
use crate::forward::{Duplex, Prefixed};
use crate::mesh::Snapshot;
use crate::run::Shared;
use crate::telemetry::observers::closed_by_operator;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Meters, Protocol, metrics, traces};

/// So much of what the app has said goes along with the request for a stream, about: a ClientHello, or a query.
const MOST_WORDS: usize = 8 * 1024;

/// Why an outbound connection ended before or while it was forwarded.
type Refusal = (CloseReason, Option<String>);

/// The whole story of one accepted connection. Whatever happens is in its record.
pub fn serve(outbound: Arc<Outbound>, socket: Socket, remote: Remote) -> impl Future<Output = ()> {
    let facts = Facts {
        direction: Direction::Outbound,
        remote,
        requested: None,
        port: outbound.port.unwrap_or_default(),
        source: outbound.shared.mesh.current().map(|snapshot| snapshot.svid.id().clone()),
        destination: None,
        edge: None,
        live: None,
    };
    let mut record = AccessRecord::connection(&outbound.shared.observers, facts);
    let live = record.live();
    async move {
        let ended = tokio::select! {
            biased;
            ended = story(&outbound, socket, &mut record) => ended,
            () = closed_by_operator(live.as_deref()) => Err((CloseReason::ClosedByOperator, None)),
        };
        if let Err((reason, detail)) = ended {
            record.ended(reason, detail);
        }
    }
}

/// Each part in a box of its own: what is over takes no room for as long as the connection lasts.
async fn story(outbound: &Outbound, socket: Socket, record: &mut AccessRecord) -> Result<(), Refusal> {
    let begun = Box::pin(phases(outbound, socket, record)).await?;
    match begun {
        Some(bytes) => Box::pin(bytes.carried(&outbound.shared, record)).await,
        None => Ok(()),
    }
}

/// accept -> destination -> [`forward`]. What is left is to carry bytes, if it is not over.
async fn phases(
    outbound: &Outbound,
    socket: Socket,
    record: &mut AccessRecord,
) -> Result<Option<Box<Bytes>>, Refusal> {
    let mut caller = Prefixed::new(socket);
    record.facts.remote = outbound.balancers.caller(record.facts.remote, &mut caller).await.map_err(error)?;
    let asked = outbound.asked(&mut caller).await.map_err(|cause| refused(&cause))?;
    if let Asked::For(requested) = &asked {
        record.facts.requested = Some(requested.to_string().into());
        record.facts.port = requested.port;
    }
    let snapshot = snapshot_of(&outbound.shared)?;
    let calls = match outbound.meant(asked, &snapshot) {
        Meant::Peer(calls) => calls,
        Meant::Stranger(requested) => {
            return Box::pin(stranger(outbound, caller, &requested, record)).await.map(|()| None);
        }
        Meant::Unclear(requested) => {
            let why = format!(
                "{requested} is a peer's address, and who is meant is not clear: is its proxy connected to control, is it revoked, or do several share the address?"
            );
            return Box::pin(turn_away(outbound, caller, why)).await.map(|()| None);
        }
    };
    record.facts.destination = Some(calls.callee.peer.clone());
    record.shows();
    let egress = Egress::register(&calls, &snapshot, record.facts.remote);
    drop(snapshot);
    if outbound.destination == Destination::Connect {
        // Nothing was said yet: it can be told in the form that it understands.
        if let Err((reason, why)) = egress.authorize(record) {
            connect::deny(&mut caller, why.as_deref().unwrap_or(reason.as_str())).await;
            return Err((reason, why));
        }
        connect::grant(&mut caller).await.map_err(error)?;
    }
    forward(outbound, &calls, egress, caller, record).await
}

/// authorize egress -> detect -> pick endpoint -> handshake, and all of HTTP.
async fn forward(
    outbound: &Outbound,
    calls: &Arc<Calls>,
    egress: Egress,
    mut caller: Prefixed<Socket>,
    record: &mut AccessRecord,
) -> Result<Option<Box<Bytes>>, Refusal> {
    let shared = &outbound.shared;
    let callees = &outbound.destinations.callees;
    let refusal = egress.authorize(record).err();
    let (detected, begun) = match calls.callee.protocol {
        Declared::Tcp => (Detected::Opaque, None),
        // Refused either way, but an HTTP client is told why, if it asks soon.
        _ if refusal.is_some() => (detect_only(&mut caller).await.unwrap_or(Detected::Opaque), None),
        Declared::Http => (detect_version(&mut caller).await.map_err(error)?, None),
        Declared::Detect => Box::pin(found_out(callees, calls, &mut caller)).await?,
    };
    match detected {
        Detected::Http(version) => {
            record.protocol = version.into();
            record.shows();
            let begun = match begun {
                Some((mut call, connected)) => {
                    call.adopt(version, connected).await;
                    Some(call)
                }
                None => None,
            };
            let http = Http {
                shared: Arc::clone(shared),
                route: Outgoing::new(Arc::clone(callees), Arc::clone(calls), version, begun),
                version,
                subject: egress.into_subject(),
                stated: Stated::default(),
                authority: record.facts.requested.as_deref().unwrap_or(&outbound.listen).to_owned(),
                facts: record.facts.clone(),
                meters: record.meters(),
                handshake: 0,
                only_one: refusal.is_some(),
                until: shared.end_of_one(),
                carrier: Arc::default(),
            };
            let served = Box::pin(http.serve(caller, std::future::pending())).await;
            served.and(refusal.map_or(Ok(None), Err))
        }
        Detected::Opaque if let Some(refusal) = refusal => {
            reset_unless(false, caller.get_ref());
            Err(refusal)
        }
        Detected::Opaque => {
            record.protocol = Protocol::Opaque;
            record.shows();
            record.begin_span(None, "");
            egress.carries_bytes(record)?;
            let (call, Connected { with: way, lane, turn }) = match begun {
                Some((call, Connected { with, lane, turn })) => {
                    (call, Connected { with: Way::Plain(with), lane, turn })
                }
                None => {
                    let mut call = Call::begin(callees, calls).await.map_err(error)?;
                    first_words(&mut caller).await?;
                    let way = call.way(record.facts.remote.address(), caller.ahead());
                    let connected = tokio::select! {
                        biased;
                        // What goes along is under this right, too.
                        reason = cut(Some(egress.right())) => Err((reason, None)),
                        connected = traces::within(record.scope(), Box::pin(way)) => connected.map_err(error),
                    };
                    if connected.is_err() {
                        reset_unless(false, caller.get_ref());
                    }
                    (call, connected?)
                }
            };
            record.facts.destination = Some(call.callee().clone());
            record.shows();
            let idle = shared.idle.at_most(call.timeouts().idle);
            let right = egress.into_right();
            Ok(Some(Box::new(Bytes { caller, right, way, lane, turn, idle })))
        }
    }
}

/// Bytes on their way to the peer.
struct Bytes {
    caller: Prefixed<Socket>,
    /// To call whom our app means.
    right: Registration,
    way: Way,
    lane: Arc<Lane>,
    turn: Turn,
    idle: Idle,
}

impl Bytes {
    /// Taken out of their box before they are carried, as the box would last as long.
    fn carried(
        self: Box<Self>,
        shared: &Shared,
        record: &mut AccessRecord,
    ) -> impl Future<Output = Result<(), Refusal>> {
        let Self { mut caller, right, mut way, lane, turn, idle } = *self;
        async move {
            let theirs = match &way {
                Way::Plain(called) => called.registration.as_deref(),
                Way::Tunnel { tunnel, .. } => Some(&*tunnel.registration),
            };
            theirs.inspect(|theirs| record.closes_with(theirs));
            let (meters, began) = (record.meters(), Instant::now());
            let carried = match &mut way {
                Way::Plain(Called { stream, registration, .. }) => Either::Left(carry(
                    &mut caller,
                    stream,
                    [Some(&right), registration.as_deref()],
                    &meters,
                    &idle,
                )),
                Way::Tunnel { tunnel, sent } => {
                    caller.discard(*sent);
                    meters.to_peer.fetch_add(*sent as u64, Ordering::Relaxed);
                    let Tunnel { stream, registration, .. } = &mut **tunnel;
                    Either::Right(carry(
                        &mut caller,
                        stream,
                        [Some(&right), Some(registration)],
                        &meters,
                        &idle,
                    ))
                }
            };
            let ended = carried.await;
            if let (Ok(()), Way::Tunnel { tunnel, .. }) = (&ended, way) {
                lane.tunnels.keep(shared, *tunnel);
            }
            record.step("forward", began, None);
            // It is outstanding until then.
            drop(turn);
            ended
        }
    }
}

/// What the app has said already, which may go along with the request for a stream. Nobody waits for it.
async fn first_words(caller: &mut Prefixed<Socket>) -> Result<(), Refusal> {
    if !caller.ahead().is_empty() {
        return Ok(());
    }
    // That a socket can be read is known once the runtime has looked, which it does in between.
    tokio::task::yield_now().await;
    while caller.ahead().len() < MOST_WORDS {
        match caller.read_ahead().now_or_never() {
            Some(Ok(1..)) => {}
            Some(Err(broken)) => {
                reset_unless(false, caller.get_ref());
                return Err(RelayError::App(broken).into());
            }
            Some(Ok(0)) | None => break,
        }
    }
    Ok(())
}

/// Carries bytes for as long as our app has its right to call, and the peer its right to be called.
async fn carry(
    caller: &mut Prefixed<Socket>,
    peer: &mut impl Duplex,
    [ours, theirs]: [Option<&Registration>; 2],
    meters: &Meters,
    idle: &Idle,
) -> Result<(), Refusal> {
    let ended = tokio::select! {
        biased;
        reason = cut(ours) => Err((reason, None)),
        reason = cut(theirs) => Err((reason, None)),
        ended = relay(&mut *caller, peer, meters, *idle) => ended.map_err(Refusal::from),
    };
    reset_unless(ended.is_ok(), caller.get_ref());
    ended
}

/// Detects what the caller speaks. The peer is connected while the caller is silent, and may lose its right
/// meanwhile.
async fn found_out(
    callees: &Callees,
    calls: &Arc<Calls>,
    caller: &mut Prefixed<Socket>,
) -> Result<(Detected, Option<(Call, Connected<Called<Boxed>>)>), Refusal> {
    let mut rest = None;
    let (tell, told) = oneshot::channel();
    let connect = async {
        let mut call = Call::begin(callees, calls).await?;
        let Connected { with: Called { stream, registration, svid }, lane, turn } = call.connection().await?;
        let _ = tell.send(registration.clone());
        rest = Some((call, registration, svid, lane, turn));
        Ok::<_, UpstreamError>(stream)
    };
    let lost = async {
        match told.await {
            Ok(registration) => cut(registration.as_deref()).await,
            Err(_) => std::future::pending().await,
        }
    };
    let (detected, stream) = tokio::select! {
        biased;
        reason = lost => return Err((reason, None)),
        detected = detect(caller, connect) => detected.map_err(error)?,
    };
    let begun = stream.zip(rest).map(|(stream, (call, registration, svid, lane, turn))| {
        (call, Connected { with: Called { stream, registration, svid }, lane, turn })
    });
    Ok((detected, begun))
}

/// A destination that is no known peer.
async fn stranger(
    outbound: &Outbound,
    mut caller: Prefixed<Socket>,
    requested: &Requested,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let connects = outbound.destination == Destination::Connect;
    let shared = &outbound.shared;
    if let Some(why) = egress::restricted(shared, requested) {
        return turn_away_as(CloseReason::Denied, outbound, caller, why).await;
    }
    // Entered first and decided then, so that a change in between is held against it there (invariant 4).
    let right = shared.connections.register(Subject {
        direction: Direction::Outbound,
        peer: connections::Peer::Stranger(outbound.unknown()),
        local: snapshot_of(shared)?.svid.id().clone(),
        port: Some(requested.port),
        address: None,
        content: Content::Opaque,
    });
    record.closes_with(&right);
    if right.distrusted(&*snapshot_of(shared)?, 0).is_some() {
        let why = format!(
            "{requested} is no known peer: is its proxy running and connected to control, or is a `route` missing? (`unknown-destinations` is `refuse`, here or in the settings of the mesh)"
        );
        return turn_away(outbound, caller, why).await;
    }
    let (mut stranger, _calling) = match passthrough::reach(shared, requested).await {
        Ok(stranger) => stranger,
        Err(why) => return turn_away(outbound, caller, why.to_string()).await,
    };
    metrics::passed_through();
    record.protocol = Protocol::Plaintext;
    record.shows();
    if let Ok(address) = stranger.peer_addr() {
        record.facts.edge = shared.sightings.stranger(canonical(address));
        record.let_in(None);
    }
    if connects {
        connect::grant(&mut caller).await.map_err(error)?;
    }
    carry(&mut caller, &mut stranger, [Some(&right), None], &record.meters(), &shared.idle).await
}

/// Ends a caller whose destination nobody knows, and tells it if it can be told.
async fn turn_away(outbound: &Outbound, caller: Prefixed<Socket>, why: String) -> Result<(), Refusal> {
    turn_away_as(CloseReason::UnknownDestination, outbound, caller, why).await
}

async fn turn_away_as(
    reason: CloseReason,
    outbound: &Outbound,
    mut caller: Prefixed<Socket>,
    why: String,
) -> Result<(), Refusal> {
    let connects = outbound.destination == Destination::Connect;
    if connects {
        connect::deny(&mut caller, &why).await;
    }
    reset_unless(connects, caller.get_ref());
    Err((reason, Some(why)))
}

fn snapshot_of(shared: &Shared) -> Result<Arc<Snapshot>, Refusal> {
    shared.mesh.current().ok_or_else(|| error(UpstreamError::NotReady))
}

fn refused(cause: &DestinationError) -> Refusal {
    let reason = match cause {
        DestinationError::Own(_) | DestinationError::Ourselves => CloseReason::UnknownDestination,
        _ => CloseReason::Error,
    };
    (reason, Some(cause.to_string()))
}

fn error(cause: impl Display) -> Refusal {
    (CloseReason::Error, Some(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::size_of_future;

    /// All else is over when a connection carries bytes.
    #[test]
    fn what_lasts_of_a_connection_is_small() {
        let carried = size_of_future(
            |(bytes, shared, record): (Box<Bytes>, &'static Shared, &'static mut AccessRecord)| {
                bytes.carried(shared, record)
            },
        );
        assert!(carried <= 1024, "{carried} bytes");
    }
}
