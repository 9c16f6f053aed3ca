//! The connections to one callee, and the callees that are known.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;
use signet_proto::tunnel::{self, Preamble};

use super::peer::{Boxed, Peer};
use crate::balance::tunnels::{Tunnel, Tunnels};
use crate::config::Protocol;
use crate::forward::http::{Pool, Version, cut};
use crate::forward::tunnel::Tunneled;
use crate::forward::upstream::{Called, UpstreamError};
use crate::mesh::Alpn;
use crate::run::Shared;

/// How long a peer may take to answer a request for a stream.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Callees whose connections are kept for the next call.
const MOST_CALLEES: usize = 1024;

/// Whom a connection is for: connections to one callee are never used for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Callee {
    /// Who must be at the other end.
    pub(super) peer: SpiffeId,
    /// Where.
    pub(super) whereabouts: Whereabouts,
    /// What is spoken there.
    pub(super) protocol: Protocol,
}

/// Where a callee is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whereabouts {
    /// At any of the endpoints that control knows, with this port of the app if it has several.
    Anywhere(Option<u16>),
    /// At those of them whose app is at this address.
    App(SocketAddr),
    /// Where the configuration says, with this port of the app.
    Address(SocketAddr, Option<u16>),
}

/// A callee at work.
pub(super) struct Calls {
    pub(super) peer: Peer,
    pub(super) http1: Arc<Pool<Peer>>,
    pub(super) http2: Arc<Pool<Peer>>,
    pub(super) tunnels: Tunnels,
}

/// How bytes get to the peer.
pub(super) enum Way {
    /// A connection of their own.
    Plain(Called<Boxed>),
    /// A stream on a connection to a Signet proxy.
    Tunnel(Box<Tunnel>),
}

/// The callees at work. Those that nobody calls make room.
#[derive(Default)]
pub(super) struct Callees(Mutex<HashMap<Callee, (Arc<Calls>, Instant)>>);

impl Callees {
    /// The callee's connections.
    pub(super) fn calls(&self, shared: &Arc<Shared>, callee: Callee) -> Arc<Calls> {
        let mut known = self.0.lock();
        if let Some((calls, used)) = known.get_mut(&callee) {
            *used = Instant::now();
            return Arc::clone(calls);
        }
        let calls = Arc::new(Calls::new(shared, callee.clone()));
        if known.len() >= MOST_CALLEES {
            let unused = known.iter().filter(|(_, (calls, _))| Arc::strong_count(calls) == 1);
            if let Some(oldest) = unused.min_by_key(|(_, (_, used))| *used).map(|(callee, _)| callee.clone())
            {
                known.remove(&oldest);
            }
        }
        if known.len() < MOST_CALLEES {
            known.insert(callee, (Arc::clone(&calls), Instant::now()));
        }
        calls
    }
}

impl Calls {
    /// No connection yet.
    fn new(shared: &Arc<Shared>, callee: Callee) -> Self {
        let peer = Peer::new(Arc::clone(shared), callee);
        let pool = |version| Arc::new(Pool::new(Arc::clone(shared), peer.clone(), version));
        let (http1, http2) = (pool(Version::Http1), pool(Version::Http2));
        Self { http1, http2, tunnels: Tunnels::default(), peer }
    }

    /// A way for bytes from `source`: a stream on a connection that waits, or on a new one.
    pub(super) async fn way(&self, source: Option<SocketAddr>) -> Result<Way, UpstreamError> {
        let to = |port| Preamble { source, ..Preamble::to_port(port) };
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
        let alpn = match self.peer.callee.whereabouts {
            Whereabouts::Address(..) => Alpn::None,
            Whereabouts::Anywhere(_) | Whereabouts::App(_) => Alpn::Signet,
        };
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
