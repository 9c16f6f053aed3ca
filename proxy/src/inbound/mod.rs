//! A peer calls our app: accept -> handshake -> authorize -> detect -> forward.

mod streams;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use signet_proto::handshake::{ALPN_H2, ALPN_HTTP1};
use signet_proto::tunnel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::capture::own::is_local;
use crate::capture::proxy_protocol::Balancers;
use crate::capture::{Remote, Socket, original, reset_unless};
use crate::config;
use crate::connections::{Content, Registration, Subject};
use crate::forward::detect::{Detected, detect, detect_only, detect_version};
use crate::forward::http::{Direct, Http, Http2Support, Pool, Slot, Version, cut};
use crate::forward::opaque::relay;
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::forward::{Prefixed, Screened};
use crate::mesh::Alpn;
use crate::run::Shared;
use crate::sightings::Seen;
use crate::telemetry::observers::closed_by_operator;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Protocol, metrics};
use crate::tls::{self, OffersBoth};

/// One inbound listener at work.
#[derive(Debug)]
pub struct Inbound {
    app: config::App,
    protocol: config::Protocol,
    balancers: Balancers,
    http2: Http2Support,
}

/// Why an inbound connection ended before or while it was forwarded.
type Refusal = (CloseReason, Option<String>);

impl From<config::Inbound> for Inbound {
    fn from(settings: config::Inbound) -> Self {
        let config::Inbound { forward, protocol, proxy_protocol_from, .. } = settings;
        let balancers = proxy_protocol_from.into();
        Self { app: forward, protocol, balancers, http2: Http2Support::default() }
    }
}

/// The whole story of one accepted connection. Whatever happens is in its record.
pub async fn serve(shared: Arc<Shared>, inbound: Arc<Inbound>, socket: Socket, remote: Remote) {
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
    let ended = tokio::select! {
        biased;
        ended = phases(&shared, &inbound, socket, &mut record) => ended,
        () = closed_by_operator(live.as_deref()) => Err((CloseReason::ClosedByOperator, None)),
    };
    if let Err((reason, detail)) = ended {
        record.ended(reason, detail);
    }
}

async fn phases(
    shared: &Arc<Shared>,
    inbound: &Arc<Inbound>,
    socket: Socket,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let snapshot = shared.mesh.current().ok_or_else(|| error(UpstreamError::NotReady))?;
    record.facts.destination = Some(snapshot.svid.id().clone());
    let app = inbound.app_of(shared, &socket, record).await?;

    let mut caller = Prefixed::new(socket);
    let remote = inbound.balancers.caller(record.facts.remote, &mut caller).await.map_err(error)?;
    record.facts.remote = remote;
    let unproven = match remote.address() {
        Some(address) => Some(shared.limits.unproven(address.ip()).ok_or_else(|| limited("address"))?),
        None => None,
    };
    let asks = inbound.protocol != config::Protocol::Tcp;
    let choose = async |OffersBoth(both)| match asks && both && !inbound.http2.of(app).await {
        true => Arc::clone(&snapshot.server_http1),
        false => Arc::clone(&snapshot.server),
    };
    let (stream, peer) = tls::accept(caller, choose).await.map_err(|refused| {
        (CloseReason::HandshakeFailed, Some(format!("{}: {refused}", refused.reason())))
    })?;
    drop(unproven);
    record.facts.source = Some(peer.id.clone());
    let _counted = shared.limits.identity(&peer.id).ok_or_else(|| limited("identity"))?;
    record.facts.edge = shared.sightings.caller(&peer.id, app.port());
    record.shows();
    let certificate = shared.sightings.certificate(&peer);
    let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);

    let arrival = Arrival {
        shared: Arc::clone(shared),
        app,
        protocol: inbound.protocol,
        subject: Subject {
            direction: Direction::Inbound,
            peer: Arc::new(peer),
            local: snapshot.svid.id().clone(),
            port: app.port(),
            content: Content::Connection,
        },
        handshake: snapshot.generation,
        certificate,
    };
    let expected = match spoken.as_deref() {
        Some(tunnel::ALPN) => return Box::pin(streams::serve(&arrival, stream, record)).await,
        Some(ALPN_HTTP1) => Some(Detected::Http(Version::Http1)),
        Some(ALPN_H2) => Some(Detected::Http(Version::Http2)),
        _ => None,
    };
    let registration = arrival.register();
    record.closes_with(&registration);
    let mut caller = Some(Prefixed::new(stream));
    tokio::select! {
        biased;
        ended = arrival.carry(&registration, &mut caller, expected, record) => ended,
        reason = cut(Some(&registration)) => Err((reason, None)),
    }
}

impl Inbound {
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

/// A verified peer that wants to reach our app.
struct Arrival {
    shared: Arc<Shared>,
    app: SocketAddr,
    protocol: config::Protocol,
    subject: Subject,
    /// The generation that verified it.
    handshake: u64,
    /// What it proved itself with.
    certificate: Option<Arc<Seen>>,
}

impl Arrival {
    fn register(&self) -> Registration {
        self.shared.connections.register(self.subject.clone())
    }

    /// authorize -> detect -> forward. `expected` is what the peer said it would speak. What is carried as bytes
    /// to its end is left in `caller`; HTTP consumes it.
    async fn carry<S>(
        &self,
        registration: &Registration,
        caller: &mut Option<Prefixed<S>>,
        expected: Option<Detected>,
        record: &mut AccessRecord,
    ) -> Result<(), Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let refusal = self.authorize(registration, record).err();
        let Some(from) = caller.as_mut() else { return Ok(()) };
        let (detected, called) = match (self.protocol, expected) {
            (config::Protocol::Tcp, _) => (Detected::Opaque, None),
            (_, Some(expected)) => (expected, None),
            // Refused either way, but an HTTP client is told why, if it asks soon.
            (_, None) if refusal.is_some() => (detect_only(from).await.unwrap_or(Detected::Opaque), None),
            (config::Protocol::Http, _) => (detect_version(from).await.map_err(error)?, None),
            (config::Protocol::Detect, _) => {
                let connect = async { self.app().connect(Alpn::None).await.map(|called| called.stream) };
                Box::pin(detect(from, connect)).await.map_err(error)?
            }
        };
        match detected {
            Detected::Http(version) => {
                record.protocol = version.into();
                record.shows();
                if refusal.is_none() {
                    record.let_in(self.certificate.clone());
                }
                let pool = Arc::new(Pool::new(Arc::clone(&self.shared), self.app(), version));
                if let Some(stream) = called {
                    pool.adopt(Called { stream, registration: None, svid: None }).await;
                }
                // Every request is decided on its own: a refused connection gets refusals with their reasons.
                let http = Http {
                    shared: Arc::clone(&self.shared),
                    route: Direct(pool),
                    version,
                    subject: Some(self.subject.clone()),
                    authority: self.app.to_string(),
                    facts: record.facts.clone(),
                    meters: record.meters(),
                    handshake: self.handshake,
                    only_one: refusal.is_some(),
                    carrier: Arc::default(),
                    upgraded: Slot::default(),
                };
                let Some(caller) = caller.take() else { return Ok(()) };
                Box::pin(http.serve(caller)).await.and(refusal.map_or(Ok(()), Err))
            }
            Detected::Opaque if let Some(refusal) = refusal => Err(refusal),
            Detected::Opaque => {
                record.protocol = Protocol::Opaque;
                registration.carries(Content::Opaque);
                self.authorize(registration, record)?;
                self.charge()?;
                record.shows();
                record.let_in(self.certificate.clone());
                let mut called = match called {
                    Some(called) => called,
                    None => dial(self.app).await.map(Prefixed::new).map_err(error)?,
                };
                let meters = record.meters();
                // Raced here, too, so that the app's socket is still in hand when the right is lost.
                let relayed = async {
                    match self.protocol {
                        config::Protocol::Tcp => relay(&mut called, from, &meters, self.shared.idle).await,
                        _ => relay(&mut called, Screened::new(from), &meters, self.shared.idle).await,
                    }
                };
                let ended = tokio::select! {
                    biased;
                    reason = cut(Some(registration)) => Err((reason, None)),
                    ended = relayed => ended.map_err(Into::into),
                };
                reset_unless(ended.is_ok(), called.get_ref());
                ended
            }
        }
    }

    /// Why the peer is no longer believed by the newest snapshot, if it is not.
    fn distrusted(&self, registration: &Registration) -> Option<CloseReason> {
        let snapshot = self.shared.mesh.current()?;
        registration.distrusted(&snapshot, self.handshake)
    }

    /// A connection of another protocol than HTTP counts as one request.
    fn charge(&self) -> Result<(), Refusal> {
        let snapshot = self.shared.mesh.current();
        let service = snapshot.as_ref().and_then(|snapshot| snapshot.traffic.of(&self.subject.local));
        let Some(rate) = service.and_then(|service| service.rate) else { return Ok(()) };
        let charged = self.shared.admission.charge(&self.subject.peer.id, rate);
        charged.map_err(|exceeded| (CloseReason::Limited, Some(exceeded.to_string())))
    }

    fn app(&self) -> App {
        App(self.app)
    }

    /// Decides with the newest snapshot. The connection is in the table already, so that a change after this
    /// is held against it there (invariant 4).
    fn authorize(&self, registration: &Registration, record: &mut AccessRecord) -> Result<(), Refusal> {
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
        Ok(())
    }
}

fn limited(whose: &'static str) -> Refusal {
    metrics::limited(whose);
    (CloseReason::Limited, Some(format!("too many connections of this {whose} at once")))
}

fn error(cause: impl Display) -> Refusal {
    (CloseReason::Error, Some(cause.to_string()))
}

/// Our own app.
struct App(SocketAddr);

impl Upstream for App {
    type Io = TcpStream;

    async fn connect(&self, _: Alpn) -> Result<Called<TcpStream>, UpstreamError> {
        Ok(Called { stream: Prefixed::new(dial(self.0).await?), registration: None, svid: None })
    }
}
