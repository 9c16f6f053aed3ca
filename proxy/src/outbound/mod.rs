//! Our app calls a peer: accept -> destination -> detect -> pick endpoint -> handshake -> forward.
//!
//! The destination is the listener's: one listener, one peer. Whether we may call is decided at the peer;
//! that it is the peer we meant is decided here, in the handshake.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use signet_proto::spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::balance::Rotation;
use crate::connections::{Content, Subject};
use crate::forward::Prefixed;
use crate::forward::detect::{Detected, detect, detect_version};
use crate::forward::http::{Http, Pool, Version, cut};
use crate::forward::opaque::relay;
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::mesh::Alpn;
use crate::run::{Protocol as Declared, Shared};
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Protocol, metrics};
use crate::tls;

/// How many endpoints are tried for one connection.
const MOST_TRIES: usize = 3;

/// One outbound listener: what arrives there is for this peer.
#[derive(Debug)]
pub struct Outbound {
    /// Where the app calls us.
    pub listen: SocketAddr,
    /// Whom it means.
    pub peer: SpiffeId,
    /// Where the peer listens, if not as control says.
    pub address: Option<SocketAddr>,
    /// What the peer's app speaks.
    pub protocol: Declared,
}

/// An outbound listener at work: its settings, and its connections to the peer.
pub struct Calls {
    peer: Peer,
    http1: Arc<Pool<Peer>>,
    http2: Arc<Pool<Peer>>,
}

impl Calls {
    /// No connection yet.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, outbound: Outbound) -> Self {
        let peer =
            Peer { shared: Arc::clone(shared), outbound: Arc::new(outbound), rotation: Arc::default() };
        let pool = |version| Arc::new(Pool::new(Arc::clone(shared), peer.clone(), version));
        Self { http1: pool(Version::Http1), http2: pool(Version::Http2), peer }
    }
}

/// The whole story of one accepted connection. Whatever happens is in its record.
pub async fn serve(calls: Arc<Calls>, stream: TcpStream, remote: SocketAddr) {
    let Peer { shared, outbound, .. } = &calls.peer;
    let facts = Facts {
        direction: Direction::Outbound,
        remote,
        port: outbound.listen.port(),
        source: shared.mesh.current().map(|snapshot| snapshot.svid.id().clone()),
        destination: Some(outbound.peer.clone()),
    };
    let mut record = AccessRecord::connection(facts);
    if let Err((reason, detail)) = phases(&calls, stream, &mut record).await {
        record.ended(reason, detail);
    }
}

async fn phases(
    calls: &Calls,
    stream: TcpStream,
    record: &mut AccessRecord,
) -> Result<(), (CloseReason, Option<String>)> {
    let Peer { shared, outbound, .. } = &calls.peer;
    let mut caller = Prefixed::new(stream);
    let (detected, called) = match outbound.protocol {
        Declared::Tcp => (Detected::Opaque, None),
        Declared::Http => (detect_version(&mut caller).await.map_err(error)?, None),
        Declared::Detect => {
            let mut rest = None;
            let connect = async {
                let Called { stream, registration, svid } = calls.peer.connect(Alpn::None).await?;
                rest = Some((registration, svid));
                Ok::<_, UpstreamError>(stream)
            };
            let (detected, stream) = Box::pin(detect(&mut caller, connect)).await.map_err(error)?;
            let called =
                stream.zip(rest).map(|(stream, (registration, svid))| Called { stream, registration, svid });
            (detected, called)
        }
    };

    match detected {
        Detected::Http(version) => {
            record.protocol = version.into();
            let pool = match version {
                Version::Http1 => &calls.http1,
                Version::Http2 => &calls.http2,
            };
            if let Some(called) = called {
                pool.adopt(called).await;
            }
            let http = Http {
                shared: Arc::clone(shared),
                pool: Arc::clone(pool),
                version,
                subject: None,
                authority: outbound.listen.to_string(),
                facts: record.facts.clone(),
                meters: record.meters(),
                only_one: false,
            };
            Box::pin(http.serve(caller, None)).await
        }
        Detected::Opaque => {
            record.protocol = Protocol::Opaque;
            let called = match called {
                Some(called) => called,
                None => Box::pin(calls.peer.connect(Alpn::None)).await.map_err(error)?,
            };
            if let Some(registration) = &called.registration {
                registration.carries(Content::Opaque);
            }
            let meters = record.meters();
            tokio::select! {
                ended = relay(caller, called.stream, &meters, shared.idle) =>
                    ended.map_err(|broken| (broken.reason(), Some(broken.to_string()))),
                reason = cut(called.registration.as_ref()) => Err((reason, None)),
            }
        }
    }
}

fn error(cause: impl Display) -> (CloseReason, Option<String>) {
    (CloseReason::Error, Some(cause.to_string()))
}

/// The peer behind an outbound listener.
#[derive(Clone)]
struct Peer {
    shared: Arc<Shared>,
    outbound: Arc<Outbound>,
    rotation: Arc<Rotation>,
}

impl Upstream for Peer {
    type Io = TlsStream<TcpStream>;

    /// Tries the endpoints in turn; nothing has been sent yet, so the next one may be tried.
    async fn connect(&self, alpn: Alpn) -> Result<Called<Self::Io>, UpstreamError> {
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let peer = &self.outbound.peer;
        let endpoints = match self.outbound.address {
            Some(address) => vec![address],
            None => self.rotation.order(snapshot.services.get(peer).map_or(&[], Vec::as_slice)),
        };
        let mut failure = UpstreamError::NoEndpoint(peer.clone());
        for address in endpoints.into_iter().take(MOST_TRIES) {
            match self.call(address, alpn).await {
                Ok(called) => return Ok(called),
                Err(error) => failure = error,
            }
            metrics::upstream_failed(failure.reason(), peer);
        }
        Err(failure)
    }
}

impl Peer {
    async fn call(&self, address: SocketAddr, alpn: Alpn) -> Result<Called<TlsStream<TcpStream>>, UpstreamError> {
        let stream = dial(address).await?;
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let config = snapshot
            .client(&self.outbound.peer, alpn)
            .ok_or_else(|| UpstreamError::NoEndpoint(self.outbound.peer.clone()))?;
        let (stream, peer) = tls::connect(stream, config)
            .await
            .map_err(|error| UpstreamError::Handshake { address, error })?;
        let registration = self.shared.connections.register(Subject {
            direction: Direction::Outbound,
            peer: Arc::new(peer),
            local: snapshot.svid.id().clone(),
            port: address.port(),
            content: Content::Connection,
        });
        // Registered first, checked with what is newest now (invariant 4).
        let newest = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        match registration.revoked(&newest) {
            Some(because) => Err(UpstreamError::Distrusted(because.as_str())),
            None => {
                let svid = Some(Arc::clone(&snapshot.svid));
                Ok(Called { stream: Prefixed::new(stream), registration: Some(registration), svid })
            },
        }
    }
}
