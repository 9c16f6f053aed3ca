//! A peer calls our app: accept -> handshake -> authorize -> detect -> forward.

mod plaintext;
mod streams;

use std::convert::Infallible;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::Either;
use signet_proto::handshake::{ALPN_H2, ALPN_HTTP1, PeerIdentity};
use signet_proto::shares::Share;
use signet_proto::spiffe::SpiffeId;
use signet_proto::tunnel;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use self::plaintext::Begins;
use crate::capture::own::is_local;
use crate::capture::proxy_protocol::Balancers;
use crate::capture::{Remote, Socket, original, reset_unless};
use crate::config;
use crate::connections::{Content, Peer, Registration, Subject};
use crate::forward::detect::{Detected, detect, detect_only, detect_version};
use crate::forward::http::{Direct, Http, Http2Support, Pool, Version, cut};
use crate::forward::opaque::relay;
use crate::forward::stated::{self, Stated};
use crate::forward::tunnel::{MOMENT, Tunneled};
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::forward::{Duplex, IdentityFields, Prefixed, Screened, farewell};
use crate::mesh::Alpn;
use crate::run::Shared;
use crate::sightings::Seen;
use crate::telemetry::observers::closed_by_operator;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Protocol, metrics, traces};
use crate::tls::{self, OffersBoth, TlsStream};

/// One inbound listener at work.
#[derive(Debug)]
pub struct Inbound {
    app: config::App,
    protocol: config::Protocol,
    balancers: Balancers,
    http2: Http2Support,
    identity: Vec<config::Statement>,
    /// Whether a PROXY protocol header goes before all that the app is sent.
    send_proxy: bool,
}

/// How long an HTTP connection that lost its right may take to say so (GOAWAY, `Connection: close`). Nothing that has no
/// right is forwarded meanwhile: each request is decided on its own.
const FAREWELL: Duration = Duration::from_millis(250);

/// Why an inbound connection ended before or while it was forwarded.
type Refusal = (CloseReason, Option<String>);

impl From<config::Inbound> for Inbound {
    fn from(settings: config::Inbound) -> Self {
        let config::Inbound { listen: _, forward, protocol, proxy_protocol_from, identity, send_proxy } =
            settings;
        let balancers = proxy_protocol_from.into();
        Self { app: forward, protocol, balancers, http2: Http2Support::default(), identity, send_proxy }
    }
}

/// The whole story of one accepted connection. Whatever happens is in its record.
pub fn serve(
    shared: Arc<Shared>,
    inbound: Arc<Inbound>,
    socket: Socket,
    remote: Remote,
) -> impl Future<Output = ()> {
    let facts = Facts {
        direction: Direction::Inbound,
        remote,
        requested: None,
        port: 0,
        source: None,
        destination: None,
        edge: None,
        live: None,
    };
    let mut record = AccessRecord::connection(&shared.observers, facts);
    let live = record.live();
    async move {
        let ended = tokio::select! {
            biased;
            ended = story(&shared, &inbound, socket, &mut record) => ended,
            () = closed_by_operator(live.as_deref()) => Err((CloseReason::ClosedByOperator, None)),
        };
        if let Err((reason, detail)) = ended {
            record.ended(reason, detail);
        }
    }
}

/// Each part in a box of its own: what is over takes no room for as long as the connection lasts.
async fn story(
    shared: &Arc<Shared>,
    inbound: &Arc<Inbound>,
    socket: Socket,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let arrived = Box::pin(arrive(shared, inbound, socket, record)).await?;
    match arrived {
        Some(arrived) => Box::pin(arrived.served(record)).await,
        None => Ok(()),
    }
}

/// accept -> handshake. Nobody has arrived if it was a caller without TLS, who was served.
async fn arrive(
    shared: &Arc<Shared>,
    inbound: &Arc<Inbound>,
    socket: Socket,
    record: &mut AccessRecord,
) -> Result<Option<Box<Arrived>>, Refusal> {
    let snapshot = shared.mesh.current().ok_or_else(|| error(UpstreamError::NotReady))?;
    record.facts.destination = Some(snapshot.svid.id().clone());
    let app = inbound.app_of(shared, &socket, record).await?;
    let called = socket.local();

    let mut caller = Prefixed::new(socket);
    let remote = inbound.balancers.caller(record.facts.remote, &mut caller).await.map_err(error)?;
    record.facts.remote = remote;
    let unproven = match remote.address() {
        Some(address) => Some(shared.limits.unproven(address.ip()).ok_or_else(|| limited("address"))?),
        None => None,
    };
    let now = signet_proto::clock::now();
    if snapshot.settings.accepts_plaintext(snapshot.svid.id(), app.port(), now) {
        let from = remote.address().map(|address| address.ip());
        let to = inbound.app(app, called, remote, None);
        let asked = plaintext::asks(&snapshot, inbound.protocol, to, from);
        if let Begins::Plaintext(begun) = Box::pin(plaintext::begins(&mut caller, asked)).await {
            drop(unproven);
            let to = inbound.app(app, called, remote, None);
            let served = plaintext::serve(shared, inbound, &snapshot, to, caller, begun, record);
            return Box::pin(served).await.map(|()| None);
        }
    }
    let asks = inbound.protocol != config::Protocol::Tcp;
    let own = inbound.send_proxy.then(stated::own_proxy_header).flatten();
    let choose = async |OffersBoth(both)| match asks && both && !inbound.http2.of(app, own.as_ref()).await {
        true => Arc::clone(&snapshot.server_http1),
        false => Arc::clone(&snapshot.server),
    };
    let began = Instant::now();
    let (stream, peer) = Box::pin(tls::accept(caller, choose)).await.map_err(|refused| {
        (CloseReason::HandshakeFailed, Some(format!("{}: {refused}", refused.reason())))
    })?;
    drop(unproven);
    record.live().inspect(|live| live.shook_hands(began));
    record.facts.source = Some(peer.id.clone());
    let counted = shared.limits.identity(&peer.id).ok_or_else(|| limited("identity"))?;
    record.facts.edge = shared.sightings.caller(&peer.id, app.port());
    record.shows();
    let certificate = shared.sightings.certificate(&peer);
    let peer = shared.connections.peer(peer);
    let spoken = stream.alpn().and_then(Spoken::by);

    let arrival = Arrival {
        shared: Arc::clone(shared),
        app: inbound.app(app, called, remote, Some(&peer)),
        inbound: Arc::clone(inbound),
        subject: Subject {
            direction: Direction::Inbound,
            peer: Peer::Proven(peer),
            local: snapshot.svid.id().clone(),
            port: Some(app.port()),
            address: remote.address().map(|address| address.ip()),
            content: Content::Connection,
        },
        handshake: snapshot.generation,
        certificate,
    };
    Ok(Some(Box::new(Arrived { arrival, stream: Box::new(stream), spoken, counted })))
}

/// A verified peer on its connection.
struct Arrived {
    arrival: Arrival,
    /// Boxed: it is handed on several times before it settles.
    stream: Box<TlsStream<Prefixed<Socket>>>,
    /// What was agreed on in the handshake.
    spoken: Option<Spoken>,
    counted: Share<SpiffeId>,
}

/// What a peer speaks, if it says so.
enum Spoken {
    /// `signet/1`.
    Streams,
    Http(Version),
}

impl Spoken {
    fn by(alpn: &[u8]) -> Option<Self> {
        match alpn {
            tunnel::ALPN => Some(Self::Streams),
            ALPN_HTTP1 => Some(Self::Http(Version::Http1)),
            ALPN_H2 => Some(Self::Http(Version::Http2)),
            _ => None,
        }
    }
}

impl Arrived {
    /// authorize -> detect -> forward. Taken out of its box before it begins, as the box would last as long.
    #[expect(clippy::boxed_local, reason = "it comes in its box, which ends here")]
    fn served(self: Box<Self>, record: &mut AccessRecord) -> impl Future<Output = Result<(), Refusal>> {
        let Self { arrival, stream, spoken, counted } = *self;
        let stream = match spoken {
            Some(Spoken::Streams) => Either::Left(Box::new(Tunneled::acceptor(*stream))),
            Some(Spoken::Http(version)) => Either::Right((stream, Some(Detected::Http(version)))),
            None => Either::Right((stream, None)),
        };
        async move {
            let (stream, expected) = match stream {
                Either::Left(carrier) => {
                    let served = Box::pin(streams::serve(&arrival, carrier, record)).await;
                    drop(counted);
                    return served;
                }
                Either::Right(other) => other,
            };
            let registration = arrival.register();
            record.closes_with(&registration);
            let mut caller = Some(Prefixed::new(stream));
            let carried = arrival.carry(&registration, &mut caller, expected, None, record);
            let ended = Box::pin(carried).await;
            drop(registration);
            if let (Err((CloseReason::Denied, _)), Some(caller)) = (&ended, &mut caller) {
                Box::pin(farewell(caller)).await;
            }
            drop(counted);
            ended
        }
    }
}

impl Inbound {
    /// The app at `address`, for a caller who called `called`.
    fn app(
        &self,
        address: SocketAddr,
        called: Option<SocketAddr>,
        remote: Remote,
        peer: Option<&PeerIdentity>,
    ) -> App {
        let header = || {
            let name = peer.and_then(PeerIdentity::common_name);
            let proven = peer.map(|peer| (&peer.id, name.as_deref()));
            stated::proxy_header(remote.address(), called.unwrap_or(address), proven)
        };
        App { address, header: self.send_proxy.then(header).flatten() }
    }

    /// Where the app is that the connection is for. A captured connection never leads to one of our own
    /// listeners: that would be a loop, or a way to what only this machine may see.
    async fn app_of(
        &self,
        shared: &Shared,
        socket: &Socket,
        record: &mut AccessRecord,
    ) -> Result<SocketAddr, Refusal> {
        let app = match (self.app, socket) {
            (config::App::At(app), _) => app,
            (config::App::Original, Socket::Tcp(stream)) => {
                let app = original::destination(stream).map_err(error)?;
                record.facts.requested = Some(app.to_string().into());
                if shared.own.has(app) || !is_local(app) || shared.own.is_control(app).await {
                    let why = format!("{app} is this proxy, control, or not here: no app of ours");
                    return Err((CloseReason::UnknownDestination, Some(why)));
                }
                app
            }
            (config::App::Original, Socket::Unix(_)) => {
                return Err(error("a unix socket has no original destination"));
            }
        };
        record.facts.port = app.port();
        Ok(app)
    }
}

/// A verified peer, or where the mesh takes plaintext somebody, that wants to reach our app.
struct Arrival {
    shared: Arc<Shared>,
    inbound: Arc<Inbound>,
    app: App,
    subject: Subject,
    /// The generation that verified it.
    handshake: u64,
    /// What it proved itself with, if it did.
    certificate: Option<Arc<Seen>>,
}

impl Arrival {
    fn register(&self) -> Registration {
        self.shared.connections.register(self.subject.clone())
    }

    /// authorize -> detect -> forward, for as long as its right lasts. `expected` is what the peer said it would speak,
    /// `connected` the app if it is already. What is carried as bytes to its end is left in `caller`; HTTP consumes it,
    /// and its client is told that the right ends, if it listens.
    async fn carry<S>(
        &self,
        registration: &Registration,
        caller: &mut Option<Prefixed<S>>,
        expected: Option<Detected>,
        connected: Option<Box<Prefixed<TcpStream>>>,
        record: &mut AccessRecord,
    ) -> Result<(), Refusal>
    where
        S: Duplex + Send + 'static,
    {
        // In a box of its own: what comes before bytes takes no room while they are carried.
        let forwarded = Box::pin(async {
            let over = async {
                let reason = cut(Some(registration)).await;
                if !registration.is_opaque() {
                    tokio::time::sleep(FAREWELL).await;
                }
                reason
            };
            tokio::select! {
                biased;
                forwarded = self.forward(registration, caller, expected, connected, record) => forwarded,
                reason = over => Err((reason, None)),
            }
        });
        let ended = match (forwarded.await, &mut *caller) {
            (Ok(Some(app)), Some(caller)) => self.carry_bytes(registration, caller, app, record).await,
            (forwarded, _) => forwarded.map(|_| ()),
        };
        match registration.close_reason() {
            Some(reason) if ended.is_ok() => Err((reason, None)),
            _ => ended,
        }
    }

    /// authorize -> detect -> the app, if it is to get bytes, and all of HTTP.
    async fn forward<S>(
        &self,
        registration: &Registration,
        caller: &mut Option<Prefixed<S>>,
        expected: Option<Detected>,
        connected: Option<Box<Prefixed<TcpStream>>>,
        record: &mut AccessRecord,
    ) -> Result<Option<Prefixed<TcpStream>>, Refusal>
    where
        S: Duplex + Send + 'static,
    {
        let refusal = self.authorize(registration, record).err();
        let mut connected = connected.map(|connected| *connected);
        let Some(from) = caller.as_mut() else { return Ok(None) };
        let (detected, called) = match (self.inbound.protocol, expected) {
            (config::Protocol::Tcp, _) => (Detected::Opaque, connected),
            (_, Some(expected)) => (expected, connected),
            // Refused either way, but an HTTP client is told why, if it asks soon.
            (_, None) if refusal.is_some() => {
                (Box::pin(detect_only(from)).await.unwrap_or(Detected::Opaque), None)
            }
            (config::Protocol::Http, _) => (Box::pin(detect_version(from)).await.map_err(error)?, None),
            (config::Protocol::Detect, _) => {
                let connect = async {
                    match connected.take() {
                        Some(connected) => Ok(connected),
                        None => self.app.reach().await,
                    }
                };
                Box::pin(detect(from, connect)).await.map_err(error)?
            }
        };
        match detected {
            Detected::Http(version) => {
                record.protocol = version.into();
                record.shows();
                if refusal.is_none() {
                    self.let_in(record);
                }
                let pool = Arc::new(Pool::new(Arc::clone(&self.shared), self.app.clone(), version));
                if let Some(stream) = called {
                    Box::pin(pool.adopt(Called { stream, registration: None, svid: None })).await;
                }
                // Every request is decided on its own: a refused connection gets refusals with their reasons.
                let http = Http {
                    shared: Arc::clone(&self.shared),
                    route: Direct(pool),
                    version,
                    subject: self.subject.clone(),
                    stated: Stated::new(
                        &self.inbound.identity,
                        &self.subject.local,
                        self.subject.peer.identity(),
                    ),
                    authority: self.app.address.to_string(),
                    facts: record.facts.clone(),
                    meters: record.meters(),
                    handshake: self.handshake,
                    only_one: refusal.is_some(),
                    until: self.shared.end_of_one(),
                    carrier: Arc::default(),
                };
                let Some(caller) = caller.take() else { return Ok(None) };
                let served = Box::pin(http.serve(caller, registration.closing())).await;
                served.and(refusal.map_or(Ok(None), Err))
            }
            Detected::Opaque if let Some(refusal) = refusal => Err(refusal),
            Detected::Opaque => {
                record.protocol = Protocol::Opaque;
                record.begin_span(None, "");
                if !registration.is_opaque() {
                    registration.carries(Content::Opaque);
                }
                self.authorize(registration, record)?;
                self.charge()?;
                record.shows();
                self.let_in(record);
                if called.is_some() {
                    return Ok(called);
                }
                let reached = traces::measured("connect", self.app.reach());
                let reached = Box::pin(traces::within(record.scope(), reached));
                tokio::select! {
                    biased;
                    reached = reached => reached.map(Some).map_err(error),
                    never = tell(from) => match never {},
                }
            }
        }
    }

    /// Carries bytes; the app's socket is still in hand when the right is lost.
    fn carry_bytes<S: Duplex>(
        &self,
        registration: &Registration,
        caller: &mut Prefixed<S>,
        mut app: Prefixed<TcpStream>,
        record: &mut AccessRecord,
    ) -> impl Future<Output = Result<(), Refusal>> {
        let (meters, began) = (record.meters(), Instant::now());
        async move {
            let relayed = match self.inbound.protocol {
                config::Protocol::Tcp => Either::Left(relay(&mut app, caller, &meters, self.shared.idle)),
                config::Protocol::Http | config::Protocol::Detect => {
                    let screened = Screened::new(caller, IdentityFields::default());
                    Either::Right(relay(&mut app, screened, &meters, self.shared.idle))
                }
            };
            let ended = tokio::select! {
                biased;
                reason = cut(Some(registration)) => Err((reason, None)),
                ended = relayed => ended.map_err(Into::into),
            };
            record.step("forward", began, None);
            reset_unless(ended.is_ok(), app.get_ref());
            ended
        }
    }

    /// Why the connection may not be under the newest snapshot, whatever policy says. Without one we have given up our
    /// identity.
    fn distrusted(&self, registration: &Registration) -> Option<CloseReason> {
        match self.shared.mesh.current() {
            Some(snapshot) => registration.distrusted(&snapshot, self.handshake),
            None => Some(CloseReason::SvidEnded),
        }
    }

    /// A connection of another protocol than HTTP counts as one request.
    fn charge(&self) -> Result<(), Refusal> {
        let snapshot = self.shared.mesh.current();
        let service = snapshot.as_ref().and_then(|snapshot| snapshot.traffic.of(&self.subject.local));
        let Some(rate) = service.and_then(|service| service.rate) else { return Ok(()) };
        let charged = self.shared.admission.charge(self.subject.charged(), rate);
        charged.map_err(|exceeded| (CloseReason::Limited, Some(exceeded.to_string())))
    }

    fn let_in(&self, record: &mut AccessRecord) {
        if matches!(self.subject.peer, Peer::Plaintext) {
            metrics::plaintext("accepted");
        }
        record.let_in(self.certificate.clone());
    }

    /// Decides with the newest snapshot. The connection is in the table already, so that a change after this
    /// is held against it there (invariant 4).
    fn authorize(&self, registration: &Registration, record: &mut AccessRecord) -> Result<(), Refusal> {
        if self.shared.mesh.current().is_some_and(|snapshot| registration.stands(&snapshot)) {
            return Ok(());
        }
        let began = Instant::now();
        let decided = self.decide(registration, record);
        record.step("authorize", began, decided.as_ref().err().map(|(reason, _)| reason.as_str()));
        decided
    }

    fn decide(&self, registration: &Registration, record: &mut AccessRecord) -> Result<(), Refusal> {
        if let Some(reason) = self.distrusted(registration) {
            return Err((reason, None));
        }
        let snapshot = self.shared.mesh.current().ok_or_else(|| error(UpstreamError::NotReady))?;
        if let Some(verdict) = registration.decide(&snapshot) {
            let allowed = verdict.allowed;
            record.decided(verdict, snapshot.generation);
            if !allowed {
                return Err((CloseReason::Denied, Some(registration.explain(&snapshot))));
            }
        }
        registration.settled(&snapshot);
        Ok(())
    }
}

/// A caller that is taken hears of it though the app is not there yet.
async fn tell(caller: &mut (impl AsyncWrite + Unpin)) -> Infallible {
    tokio::time::sleep(MOMENT).await;
    let _ = caller.flush().await;
    std::future::pending().await
}

fn limited(whose: &'static str) -> Refusal {
    metrics::limited(whose);
    (CloseReason::Limited, Some(format!("too many connections of this {whose} at once")))
}

fn error(cause: impl Display) -> Refusal {
    (CloseReason::Error, Some(cause.to_string()))
}

/// Our own app, and what it is sent before all else.
#[derive(Debug, Clone)]
struct App {
    address: SocketAddr,
    header: Option<Bytes>,
}

impl App {
    async fn reach(&self) -> Result<Prefixed<TcpStream>, UpstreamError> {
        let mut stream = dial(self.address).await?;
        if let Some(header) = &self.header {
            // Into an empty send buffer: it does not wait for the app.
            let sent = stream.write_all(header).await;
            sent.map_err(|error| UpstreamError::Connect { address: self.address, error })?;
        }
        Ok(Prefixed::new(stream))
    }
}

impl Upstream for App {
    type Io = TcpStream;

    async fn connect(&self, _: Alpn) -> Result<Called<TcpStream>, UpstreamError> {
        Ok(Called { stream: self.reach().await?, registration: None, svid: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::size_of_future;

    /// The handshake is over when a connection is served.
    #[test]
    fn what_lasts_of_a_connection_is_small() {
        let served = size_of_future(|(arrived, record): (Box<Arrived>, &'static mut AccessRecord)| {
            arrived.served(record)
        });
        let streams = size_of_future(
            |(arrival, carrier, record): (&'static Arrival, streams::Carrier, &'static mut AccessRecord)| {
                streams::serve(arrival, carrier, record)
            },
        );
        assert!(served <= 512 && streams <= 1280, "{served} and {streams} bytes");
    }
}
