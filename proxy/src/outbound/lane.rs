//! The connections to one endpoint: those that wait for their next request or stream, and new ones. They go with
//! the endpoint: one that control took out carries nothing new.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::tunnel::{self, Preamble};
use tokio::io::AsyncWriteExt;

use super::peer::{Boxed, Target};
use crate::balance::tunnels::{Tunnel, Tunnels};
use crate::connections::Link;
use crate::forward::http::{Pool, Version, cut};
use crate::forward::tunnel::{StreamError, Tunneled};
use crate::forward::upstream::{Called, Upstream, UpstreamError};
use crate::mesh::Alpn;
use crate::telemetry::traces;

/// How long a peer may take to answer a request for a stream.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// For how long after a stream the connection is as good as one that carries.
const RELIABLE: Duration = Duration::from_secs(1);

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
    /// A stream on a connection to a Signet proxy, on which so many of the app's bytes went along already.
    Tunnel { tunnel: Box<Tunnel>, sent: usize },
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

    /// A way for bytes from `source`: a stream on a connection that waits, or on a new one. What the app has said
    /// `already` goes along; it stays the caller's until the way is there.
    pub(super) async fn way(
        &self,
        alpn: Alpn,
        source: Option<SocketAddr>,
        already: &[u8],
    ) -> Result<Way, UpstreamError> {
        let to = |port| Preamble { source, trace: traces::parent(), ..Preamble::to_port(port) };
        while let Some(mut tunnel) = self.tunnels.take(&self.target.shared) {
            // One that waited long may lead to nobody any more, and who is silent does not say what it took.
            let along = if tunnel.rested() < RELIABLE { already } else { &[] };
            let preamble = to(tunnel.port);
            match opened(&mut tunnel, &preamble, along).await {
                Ok(()) => return Ok(carrying(tunnel, along)),
                Err(Unopened::Refused(refused)) => return Err(UpstreamError::Refused(refused)),
                Err(Unopened::Unknown(broken)) if !along.is_empty() => {
                    return Err(UpstreamError::Broken(broken));
                }
                // The peer has vanished without a word: the others that wait are no better.
                Err(Unopened::Unknown(silent)) if silent.kind() == io::ErrorKind::TimedOut => break,
                // It ended while it waited.
                Err(Unopened::Unknown(_) | Unopened::Untouched(_)) => {}
            }
        }
        let called = traces::measured("connect", self.target.connect(alpn)).await?;
        Ok(match (called, NonZeroU16::new(self.target.endpoint.app_port)) {
            (Called { stream, registration: Some(registration), svid: Some(svid) }, Some(port))
                if stream.get_ref().alpn() == Some(tunnel::ALPN) =>
            {
                let stream = Tunneled::initiator(stream.into_inner());
                let mut tunnel = Tunnel::new(stream, registration, svid, port);
                opened(&mut tunnel, &to(port), already).await.map_err(|unopened| match unopened {
                    Unopened::Unknown(broken) if !already.is_empty() => UpstreamError::Broken(broken),
                    Unopened::Refused(why) | Unopened::Untouched(why) | Unopened::Unknown(why) => {
                        UpstreamError::Refused(why)
                    }
                })?;
                carrying(tunnel, already)
            }
            (called, _) => Way::Plain(called),
        })
    }
}

/// Why a stream was not opened.
enum Unopened {
    /// The peer does not take it, or has no right to.
    Refused(io::Error),
    /// The connection ended before anything reached an app: another one may do.
    Untouched(io::Error),
    /// The same, but it cannot be told how far it got.
    Unknown(io::Error),
}

fn carrying(mut tunnel: Tunnel, along: &[u8]) -> Way {
    tunnel.carried = tunnel.registration.link().map(Link::carry);
    Way::Tunnel { tunnel: Box::new(tunnel), sent: along.len() }
}

/// Opens a stream, sends what goes along, and waits for the answer, for as long as the peer has its right. Servers may
/// speak first, so nothing is left for the app's first bytes to push along.
async fn opened(tunnel: &mut Tunnel, preamble: &Preamble, along: &[u8]) -> Result<(), Unopened> {
    let registration = Arc::clone(&tunnel.registration);
    let stream = &mut tunnel.stream;
    stream.open(preamble).map_err(|error| Unopened::Untouched(error.into()))?;
    let answer = async {
        let sent = stream.write_all(along).await;
        let answered = stream.answered().await;
        match (sent, answered) {
            (Ok(()), answered) => answered,
            (Err(_), Err(told)) if StreamError::of(&told).is_some() => Err(told),
            (Err(unsent), _) => Err(unsent),
        }
    };
    let answered = tokio::select! {
        biased;
        reason = cut(Some(&registration)) => {
            let lost = io::Error::new(io::ErrorKind::PermissionDenied, reason.as_str());
            return Err(if along.is_empty() { Unopened::Refused(lost) } else { Unopened::Unknown(lost) });
        }
        answered = tokio::time::timeout(ANSWER_DEADLINE, answer) => answered,
    };
    match answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => Ok(()),
        Err(error) => Err(match StreamError::of(&error) {
            Some(StreamError::Refused(_)) => Unopened::Refused(error),
            Some(StreamError::Reset(_) | StreamError::Retired) => Unopened::Untouched(error),
            _ => Unopened::Unknown(error),
        }),
    }
}
