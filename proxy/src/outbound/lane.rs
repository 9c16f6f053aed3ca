//! The connections to one endpoint: those that wait for their next request or stream, and new ones. They go with
//! the endpoint: one that control took out carries nothing new.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_proto::tunnel::{self, Preamble};

use super::peer::{Boxed, Target};
use crate::balance::tunnels::{Tunnel, Tunnels};
use crate::connections::Link;
use crate::forward::http::{Pool, Version, cut};
use crate::forward::tunnel::Tunneled;
use crate::forward::upstream::{Called, Upstream, UpstreamError};
use crate::mesh::Alpn;
use crate::telemetry::traces;

/// How long a peer may take to answer a request for a stream.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// The connections to one endpoint.
pub(super) struct Lane {
    pub(super) target: Target,
    http1: Arc<Pool<Target>>,
    http2: Arc<Pool<Target>>,
    pub(super) tunnels: Tunnels,
}

/// How bytes get to the peer.
pub(super) enum Way {
    /// A connection of their own.
    Plain(Called<Boxed>),
    /// A stream on a connection to a Signet proxy.
    Tunnel(Box<Tunnel>),
}

impl Lane {
    pub(super) fn new(target: Target) -> Self {
        let pool = |version| Arc::new(Pool::new(Arc::clone(&target.shared), target.clone(), version));
        let (http1, http2) = (pool(Version::Http1), pool(Version::Http2));
        Self { http1, http2, tunnels: Tunnels::default(), target }
    }

    /// Connections that speak this.
    pub(super) fn pool(&self, version: Version) -> &Arc<Pool<Target>> {
        match version {
            Version::Http1 => &self.http1,
            Version::Http2 => &self.http2,
        }
    }

    /// A way for bytes from `source`: a stream on a connection that waits, or on a new one.
    pub(super) async fn way(&self, alpn: Alpn, source: Option<SocketAddr>) -> Result<Way, UpstreamError> {
        let to = |port| Preamble { source, trace: traces::parent(), ..Preamble::to_port(port) };
        while let Some(mut tunnel) = self.tunnels.take(&self.target.shared) {
            let preamble = to(tunnel.port);
            match opened(&mut tunnel, &preamble).await {
                Ok(()) => return Ok(Way::Tunnel(Box::new(carrying(tunnel)))),
                Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(UpstreamError::Refused(refused));
                }
                // The peer has vanished without a word: the others that wait are no better.
                Err(silent) if silent.kind() == io::ErrorKind::TimedOut => break,
                // It ended while it waited.
                Err(_) => {}
            }
        }
        let called = traces::measured("connect", self.target.connect(alpn)).await?;
        Ok(match (called, NonZeroU16::new(self.target.endpoint.app_port)) {
            (Called { stream, registration: Some(registration), svid: Some(svid) }, Some(port))
                if stream.get_ref().alpn() == Some(tunnel::ALPN) =>
            {
                let stream = Tunneled::initiator(stream.into_inner());
                let mut tunnel =
                    Tunnel { stream, registration, svid, port, made: Instant::now(), carried: None };
                opened(&mut tunnel, &to(port)).await.map_err(UpstreamError::Refused)?;
                Way::Tunnel(Box::new(carrying(tunnel)))
            }
            (called, _) => Way::Plain(called),
        })
    }
}

fn carrying(mut tunnel: Tunnel) -> Tunnel {
    tunnel.carried = tunnel.registration.link().map(Link::carry);
    tunnel
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
