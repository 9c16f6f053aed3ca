//! Our app calls a peer: accept -> destination -> detect -> pick endpoint -> handshake -> forward.
//!
//! The destination is the listener's: one listener, one peer. Whether we may call is decided at the peer;
//! that it is the peer we meant is decided here, in the handshake.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_proto::spiffe::SpiffeId;
use signet_proto::tunnel::{self, Preamble};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;

use crate::balance::Rotation;
use crate::balance::tunnels::{Tunnel, Tunnels};
use crate::capture;
use crate::connections::{Content, Subject};
use crate::forward::Prefixed;
use crate::forward::detect::{Detected, detect, detect_version};
use crate::forward::http::{Http, Pool, Slot, Version, cut};
use crate::forward::opaque::relay;
use crate::forward::tunnel::Tunneled;
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::mesh::{Alpn, Endpoint, Snapshot};
use crate::run::{Protocol as Declared, Shared};
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Protocol, metrics};
use crate::tls;

/// How many endpoints are tried for one connection, and for how long.
const MOST_TRIES: usize = 8;
const TRIES_DEADLINE: Duration = Duration::from_secs(12);
/// How long a peer may take to answer a request for a stream.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// One outbound listener: what arrives there is for this peer.
#[derive(Debug)]
pub struct Outbound {
    /// Where the app calls us.
    pub listen: SocketAddr,
    /// Whom it means.
    pub peer: SpiffeId,
    /// Which of the peer's apps, by its port, if it has several.
    pub port: Option<u16>,
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
    tunnels: Tunnels,
}

/// How bytes get to the peer.
enum Way {
    /// A connection of their own.
    Plain(Called<Boxed>),
    /// A stream on a connection to a Signet proxy.
    Tunnel(Box<Tunnel>),
}

impl Calls {
    /// No connection yet.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, outbound: Outbound) -> Self {
        let peer =
            Peer { shared: Arc::clone(shared), outbound: Arc::new(outbound), rotation: Arc::default() };
        let pool = |version| Arc::new(Pool::new(Arc::clone(shared), peer.clone(), version));
        let (http1, http2) = (pool(Version::Http1), pool(Version::Http2));
        Self { http1, http2, tunnels: Tunnels::default(), peer }
    }

    /// A way for bytes from `source`: a stream on a connection that waits, or on a new one.
    async fn way(&self, source: SocketAddr) -> Result<Way, UpstreamError> {
        let to = |port| Preamble { source: Some(source), ..Preamble::to_port(port) };
        while let Some(mut tunnel) = self.tunnels.take(&self.peer.shared) {
            let preamble = to(tunnel.port);
            match opened(&mut tunnel, &preamble).await {
                Ok(()) => return Ok(Way::Tunnel(Box::new(tunnel))),
                Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(UpstreamError::Refused(refused));
                }
                // The peer has vanished without a word: the others that wait are no better.
                Err(silent) if silent.kind() == io::ErrorKind::TimedOut => break,
                // It ended while it waited.
                Err(_) => {}
            }
        }
        // Who answers at a configured address may be no Signet proxy, and need not know this protocol.
        let alpn = if self.peer.outbound.address.is_some() { Alpn::None } else { Alpn::Signet };
        let (called, app_port) = self.peer.reach(alpn).await?;
        Ok(match (called, NonZeroU16::new(app_port)) {
            (Called { stream, registration: Some(registration), svid: Some(svid) }, Some(port))
                if stream.get_ref().get_ref().1.alpn_protocol() == Some(tunnel::ALPN) =>
            {
                let stream = Tunneled::initiator(stream.into_inner());
                let mut tunnel = Tunnel { stream, registration, svid, port, made: Instant::now() };
                opened(&mut tunnel, &to(port)).await.map_err(UpstreamError::Refused)?;
                Way::Tunnel(Box::new(tunnel))
            }
            (called, _) => Way::Plain(called),
        })
    }
}

/// Why an outbound connection ended before or while it was forwarded.
type Refusal = (CloseReason, Option<String>);

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

async fn phases(calls: &Calls, stream: TcpStream, record: &mut AccessRecord) -> Result<(), Refusal> {
    let Peer { shared, outbound, .. } = &calls.peer;
    let mut caller = Prefixed::new(stream);
    let (detected, called) = match outbound.protocol {
        Declared::Tcp => (Detected::Opaque, None),
        Declared::Http => (detect_version(&mut caller).await.map_err(error)?, None),
        Declared::Detect => Box::pin(found_out(&calls.peer, &mut caller)).await?,
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
                handshake: 0,
                only_one: false,
                carrier: Arc::default(),
                upgraded: Slot::default(),
            };
            Box::pin(http.serve(caller)).await
        }
        Detected::Opaque => {
            record.protocol = Protocol::Opaque;
            let way = match called {
                Some(called) => Way::Plain(called),
                None => Box::pin(calls.way(record.facts.remote)).await.map_err(error)?,
            };
            let meters = record.meters();
            match way {
                Way::Plain(called) => {
                    let ended = tokio::select! {
                        biased;
                        reason = cut(called.registration.as_deref()) => Err((reason, None)),
                        ended = relay(&mut caller, called.stream, &meters, shared.idle) => ended.map_err(Refusal::from),
                    };
                    capture::reset_unless(ended.is_ok(), caller.get_ref());
                    ended
                }
                Way::Tunnel(tunnel) => {
                    let mut tunnel = *tunnel;
                    let ended = tokio::select! {
                        biased;
                        reason = cut(Some(&tunnel.registration)) => Err((reason, None)),
                        ended = relay(&mut caller, &mut tunnel.stream, &meters, shared.idle) => ended.map_err(Refusal::from),
                    };
                    capture::reset_unless(ended.is_ok(), caller.get_ref());
                    if ended.is_ok() {
                        calls.tunnels.keep(shared, tunnel);
                    }
                    ended
                }
            }
        }
    }
}

/// Opens a stream and waits for its answer, for as long as the peer has its right. Servers may speak first, so
/// nothing is left for the app's first bytes to push along.
async fn opened(tunnel: &mut Tunnel, preamble: &Preamble) -> io::Result<()> {
    tunnel.stream.open(preamble)?;
    tokio::select! {
        biased;
        reason = cut(Some(&tunnel.registration)) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason.as_str())),
        answered = tokio::time::timeout(ANSWER_DEADLINE, tunnel.stream.answered()) =>
            answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    }
}

/// Detects what the caller speaks. The peer is connected while the caller is silent, and may lose its right
/// meanwhile.
async fn found_out(
    peer: &Peer,
    caller: &mut Prefixed<TcpStream>,
) -> Result<(Detected, Option<Called<Boxed>>), Refusal> {
    let mut rest = None;
    let (tell, told) = oneshot::channel();
    let connect = async {
        let Called { stream, registration, svid } = peer.connect(Alpn::None).await?;
        let _ = tell.send(registration.clone());
        rest = Some((registration, svid));
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
    let called = stream.zip(rest).map(|(stream, (registration, svid))| Called { stream, registration, svid });
    Ok((detected, called))
}

fn error(cause: impl Display) -> Refusal {
    (CloseReason::Error, Some(cause.to_string()))
}

/// A TLS connection is large, and handed on several times before it settles.
pub(crate) type Boxed = Box<TlsStream<TcpStream>>;

/// The peer behind an outbound listener.
#[derive(Clone)]
struct Peer {
    shared: Arc<Shared>,
    outbound: Arc<Outbound>,
    rotation: Arc<Rotation>,
}

impl Upstream for Peer {
    type Io = Boxed;

    async fn connect(&self, alpn: Alpn) -> Result<Called<Self::Io>, UpstreamError> {
        self.reach(alpn).await.map(|(called, _)| called)
    }
}

impl Peer {
    /// Tries the endpoints in turn; nothing has been sent yet, so the next one may be tried. Tells the app's
    /// port, too.
    async fn reach(&self, alpn: Alpn) -> Result<(Called<Boxed>, u16), UpstreamError> {
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let peer = &self.outbound.peer;
        let endpoints = match self.outbound.address {
            Some(address) => vec![Endpoint { address, app_port: self.outbound.port.unwrap_or_default() }],
            None => self.rotation.order(&self.endpoints(&snapshot)?),
        };
        let mut failure = UpstreamError::NoEndpoint(peer.clone());
        let started = Instant::now();
        for Endpoint { address, app_port } in endpoints.into_iter().take(MOST_TRIES) {
            if started.elapsed() > TRIES_DEADLINE {
                break;
            }
            match self.call(address, alpn).await {
                Ok(called) => return Ok((called, app_port)),
                Err(error) => failure = error,
            }
            metrics::upstream_failed(failure.reason(), peer);
        }
        Err(failure)
    }

    /// The endpoints of the app that is meant. Several apps behind one identity are never mixed.
    fn endpoints(&self, snapshot: &Snapshot) -> Result<Vec<Endpoint>, UpstreamError> {
        let peer = &self.outbound.peer;
        let mut endpoints = snapshot.services.get(peer).cloned().unwrap_or_default();
        match self.outbound.port {
            Some(port) => endpoints.retain(|endpoint| endpoint.app_port == port),
            None => {
                let ports: BTreeSet<u16> = endpoints.iter().map(|endpoint| endpoint.app_port).collect();
                if ports.len() > 1 {
                    return Err(UpstreamError::SeveralApps { peer: peer.clone(), ports });
                }
            }
        }
        Ok(endpoints)
    }

    async fn call(&self, address: SocketAddr, alpn: Alpn) -> Result<Called<Boxed>, UpstreamError> {
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
        match registration.distrusted(&newest, snapshot.generation) {
            Some(reason) => Err(UpstreamError::Distrusted(reason.as_str())),
            None => {
                let svid = Some(Arc::clone(&snapshot.svid));
                Ok(Called {
                    stream: Prefixed::new(Box::new(stream)),
                    registration: Some(Arc::new(registration)),
                    svid,
                })
            }
        }
    }
}
