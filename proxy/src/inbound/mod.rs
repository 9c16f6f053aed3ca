//! A peer calls our app: accept -> handshake -> authorize -> detect -> forward.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use signet_proto::handshake::{ALPN_H2, ALPN_HTTP1};
use tokio::net::TcpStream;

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
    inbound: &Inbound,
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

    let subject = Subject {
        direction: Direction::Inbound,
        peer: Arc::new(peer),
        local: snapshot.svid.id().clone(),
        port: inbound.app.port(),
        content: Content::Connection,
    };
    let registration = shared.connections.register(subject.clone());
    let refusal = authorize(shared, &registration, snapshot.generation, record).err();

    let mut caller = Prefixed::new(stream);
    let app = App(inbound.app);
    let (detected, called) = match (inbound.protocol, spoken.as_deref()) {
        (Declared::Tcp, _) => (Detected::Opaque, None),
        (_, Some(ALPN_HTTP1)) => (Detected::Http(Version::Http1), None),
        (_, Some(ALPN_H2)) => (Detected::Http(Version::Http2), None),
        (Declared::Http, _) => (detect_version(&mut caller).await.map_err(error)?, None),
        // Refused either way, but an HTTP client is told why.
        (Declared::Detect, _) if refusal.is_some() => {
            (detect_only(&mut caller).await.unwrap_or(Detected::Opaque), None)
        }
        (Declared::Detect, _) => {
            let connect = async { app.connect(Alpn::None).await.map(|called| called.stream) };
            tokio::select! {
                biased;
                reason = cut(Some(&registration)) => return Err((reason, None)),
                detected = Box::pin(detect(&mut caller, connect)) => detected.map_err(error)?,
            }
        }
    };

    match detected {
        Detected::Http(version) => {
            record.protocol = version.into();
            let pool = Arc::new(Pool::new(Arc::clone(shared), app, version));
            if let Some(stream) = called {
                pool.adopt(Called { stream, registration: None, svid: None }).await;
            }
            // Every request is decided on its own, so that a refused connection gets refusals with their reasons.
            let http = Http {
                shared: Arc::clone(shared),
                pool,
                version,
                subject: Some(subject),
                authority: inbound.app.to_string(),
                facts: record.facts.clone(),
                meters: record.meters(),
                handshake: snapshot.generation,
                only_one: refusal.is_some(),
                carrier: Arc::default(),
                upgraded: Slot::default(),
            };
            Box::pin(http.serve(caller, Some(&registration))).await.and(refusal.map_or(Ok(()), Err))
        }
        Detected::Opaque if let Some(refusal) = refusal => Err(refusal),
        Detected::Opaque => {
            record.protocol = Protocol::Opaque;
            registration.carries(Content::Opaque);
            authorize(shared, &registration, snapshot.generation, record)?;
            let called = match called {
                Some(called) => called,
                None => dial(inbound.app).await.map(Prefixed::new).map_err(error)?,
            };
            let meters = record.meters();
            tokio::select! {
                biased;
                reason = cut(Some(&registration)) => Err((reason, None)),
                ended = relay(called, caller, &meters, shared.idle) =>
                    ended.map_err(|broken| (broken.reason(), Some(broken.to_string()))),
            }
        }
    }
}

/// Decides with the newest snapshot. The connection is in the table already, so that a change after this is
/// held against it there (invariant 4).
fn authorize(
    shared: &Shared,
    registration: &Registration,
    handshake: u64,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let snapshot = shared.mesh.current().ok_or_else(|| error(UpstreamError::NotReady))?;
    if let Some(reason) = registration.distrusted(&snapshot, handshake) {
        return Err((reason, None));
    }
    if let Some(verdict) = registration.decide(&snapshot) {
        let allowed = verdict.allowed;
        record.decided(verdict, snapshot.generation);
        if !allowed {
            return Err((CloseReason::Denied, Some(registration.explain(&snapshot))));
        }
    }
    Ok(())
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
