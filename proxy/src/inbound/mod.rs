//! A peer calls our app: accept -> handshake -> authorize -> detect -> forward.

mod streams;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use signet_proto::handshake::{ALPN_H2, ALPN_HTTP1};
use signet_proto::tunnel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::capture;
use crate::connections::{Content, Registration, Subject};
use crate::forward::Prefixed;
use crate::forward::detect::{Detected, detect, detect_only, detect_version};
use crate::forward::http::{Http, Pool, Slot, Version, cut};
use crate::forward::opaque::relay;
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::mesh::Alpn;
use crate::run::{Protocol as Declared, Shared};
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Protocol};
use crate::tls;

/// One inbound listener: what arrives there is for this app.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Where the app listens.
    pub app: SocketAddr,
    /// What the app speaks.
    pub protocol: Declared,
}

/// Why an inbound connection ended before or while it was forwarded.
type Refusal = (CloseReason, Option<String>);

/// The whole story of one accepted connection. Whatever happens is in its record.
pub async fn serve(shared: Arc<Shared>, inbound: Arc<Inbound>, stream: TcpStream, remote: SocketAddr) {
    let facts = Facts {
        direction: Direction::Inbound,
        remote,
        port: inbound.app.port(),
        source: None,
        destination: None,
    };
    let mut record = AccessRecord::connection(facts);
    if let Err((reason, detail)) = phases(&shared, &inbound, stream, &mut record).await {
        record.ended(reason, detail);
    }
}

async fn phases(
    shared: &Arc<Shared>,
    inbound: &Arc<Inbound>,
    stream: TcpStream,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let snapshot = shared.mesh.current().ok_or_else(|| error(UpstreamError::NotReady))?;
    record.facts.destination = Some(snapshot.svid.id().clone());

    let (stream, peer) = tls::accept(stream, &snapshot.server).await.map_err(|refused| {
        (CloseReason::HandshakeFailed, Some(format!("{}: {refused}", refused.reason())))
    })?;
    record.facts.source = Some(peer.id.clone());
    let spoken = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);

    let arrival = Arrival {
        shared: Arc::clone(shared),
        inbound: Arc::clone(inbound),
        subject: Subject {
            direction: Direction::Inbound,
            peer: Arc::new(peer),
            local: snapshot.svid.id().clone(),
            port: inbound.app.port(),
            content: Content::Connection,
        },
        handshake: snapshot.generation,
    };
    let expected = match spoken.as_deref() {
        Some(tunnel::ALPN) => return Box::pin(streams::serve(&arrival, stream, record)).await,
        Some(ALPN_HTTP1) => Some(Detected::Http(Version::Http1)),
        Some(ALPN_H2) => Some(Detected::Http(Version::Http2)),
        _ => None,
    };
    let registration = arrival.register();
    let mut caller = Some(Prefixed::new(stream));
    tokio::select! {
        biased;
        ended = arrival.carry(&registration, &mut caller, expected, record) => ended,
        reason = cut(Some(&registration)) => Err((reason, None)),
    }
}

/// A verified peer that wants to reach our app.
struct Arrival {
    shared: Arc<Shared>,
    inbound: Arc<Inbound>,
    subject: Subject,
    /// The generation that verified it.
    handshake: u64,
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
        let (detected, called) = match (self.inbound.protocol, expected) {
            (Declared::Tcp, _) => (Detected::Opaque, None),
            (_, Some(expected)) => (expected, None),
            (Declared::Http, _) => (detect_version(from).await.map_err(error)?, None),
            // Refused either way, but an HTTP client is told why.
            (Declared::Detect, _) if refusal.is_some() => {
                (detect_only(from).await.unwrap_or(Detected::Opaque), None)
            }
            (Declared::Detect, _) => {
                let connect = async { self.app().connect(Alpn::None).await.map(|called| called.stream) };
                Box::pin(detect(from, connect)).await.map_err(error)?
            }
        };
        match detected {
            Detected::Http(version) => {
                record.protocol = version.into();
                let pool = Arc::new(Pool::new(Arc::clone(&self.shared), self.app(), version));
                if let Some(stream) = called {
                    pool.adopt(Called { stream, registration: None, svid: None }).await;
                }
                // Every request is decided on its own: a refused connection gets refusals with their reasons.
                let http = Http {
                    shared: Arc::clone(&self.shared),
                    pool,
                    version,
                    subject: Some(self.subject.clone()),
                    authority: self.inbound.app.to_string(),
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
                let mut called = match called {
                    Some(called) => called,
                    None => dial(self.inbound.app).await.map(Prefixed::new).map_err(error)?,
                };
                let meters = record.meters();
                // Raced here, too, so that the app's socket is still in hand when the right is lost.
                let ended = tokio::select! {
                    biased;
                    reason = cut(Some(registration)) => Err((reason, None)),
                    ended = relay(&mut called, from, &meters, self.shared.idle) => ended.map_err(Into::into),
                };
                capture::reset_unless(ended.is_ok(), called.get_ref());
                ended
            }
        }
    }

    /// Why the peer is no longer believed by the newest snapshot, if it is not.
    fn distrusted(&self, registration: &Registration) -> Option<CloseReason> {
        let snapshot = self.shared.mesh.current()?;
        registration.distrusted(&snapshot, self.handshake)
    }

    fn app(&self) -> App {
        App(self.inbound.app)
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
