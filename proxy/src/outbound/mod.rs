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
use crate::forward::detect::{Detected, detect};
use crate::forward::http1::{Http1, cut};
use crate::forward::opaque::relay;
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
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
    /// Whose turn it is.
    pub rotation: Rotation,
}

/// The whole story of one accepted connection. Whatever happens is in its record.
pub async fn serve(shared: Arc<Shared>, outbound: Arc<Outbound>, stream: TcpStream, remote: SocketAddr) {
    let facts = Facts {
        direction: Direction::Outbound,
        remote,
        port: outbound.listen.port(),
        source: shared.mesh.current().map(|snapshot| snapshot.svid.id().clone()),
        destination: Some(outbound.peer.clone()),
    };
    let mut record = AccessRecord::connection(facts);
    if let Err((reason, detail)) = phases(&shared, outbound, stream, &mut record).await {
        record.ended(reason, detail);
    }
}

async fn phases(
    shared: &Arc<Shared>,
    outbound: Arc<Outbound>,
    stream: TcpStream,
    record: &mut AccessRecord,
) -> Result<(), (CloseReason, Option<String>)> {
    let mut caller = Prefixed::new(stream);
    let peer = Peer { shared: Arc::clone(shared), outbound };
    let (detected, called) = match peer.outbound.protocol {
        Declared::Tcp => (Detected::Opaque, None),
        Declared::Http => (Detected::Http1, None),
        Declared::Detect => {
            let mut registered = None;
            let connect = async {
                let Called { stream, registration } = peer.connect().await?;
                registered = registration;
                Ok::<_, UpstreamError>(stream)
            };
            let (detected, stream) = Box::pin(detect(&mut caller, connect)).await.map_err(error)?;
            (detected, stream.map(|stream| Called { stream, registration: registered }))
        }
    };

    match detected {
        Detected::Http1 => {
            record.protocol = Protocol::Http1;
            let authority = peer.outbound.listen.to_string();
            let http = Http1::new(Arc::clone(shared), peer, None, authority, record);
            Box::pin(http.serve(caller, called, None)).await
        }
        Detected::Http2 => Err(error("HTTP/2 with prior knowledge is not forwarded")),
        Detected::Opaque => {
            record.protocol = Protocol::Opaque;
            let called = match called {
                Some(called) => called,
                None => Box::pin(peer.connect()).await.map_err(error)?,
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
struct Peer {
    shared: Arc<Shared>,
    outbound: Arc<Outbound>,
}

impl Upstream for Peer {
    type Io = TlsStream<TcpStream>;

    /// Tries the endpoints in turn; nothing has been sent yet, so the next one may be tried.
    async fn connect(&self) -> Result<Called<Self::Io>, UpstreamError> {
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let peer = &self.outbound.peer;
        let endpoints = match self.outbound.address {
            Some(address) => vec![address],
            None => self.outbound.rotation.order(snapshot.services.get(peer).map_or(&[], Vec::as_slice)),
        };
        let mut failure = UpstreamError::NoEndpoint(peer.clone());
        for address in endpoints.into_iter().take(MOST_TRIES) {
            match self.call(address).await {
                Ok(called) => return Ok(called),
                Err(error) => failure = error,
            }
            metrics::upstream_failed(failure.reason(), peer);
        }
        Err(failure)
    }
}

impl Peer {
    async fn call(&self, address: SocketAddr) -> Result<Called<TlsStream<TcpStream>>, UpstreamError> {
        let stream = dial(address).await?;
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let config = snapshot
            .client(&self.outbound.peer)
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
            None => Ok(Called { stream: Prefixed::new(stream), registration: Some(registration) }),
        }
    }
}
