//! The called side of a connection: the app of an inbound one, the peer of an outbound one.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use signet_proto::handshake::{ConfigError, Svid};
use signet_proto::spiffe::SpiffeId;
use signet_proto::tunnel::Refusal;
use tokio::net::TcpStream;

use super::tunnel::StreamError;
use super::{Duplex, Prefixed};
use crate::capture;
use crate::config::Requested;
use crate::connections::Registration;
use crate::forward::http::Version;
use crate::mesh::Alpn;
use crate::tls::HandshakeError;

/// How long a TCP connect may take.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Something that can be connected to, as often as needed.
pub trait Upstream: Send + Sync + 'static {
    /// What a connection to it is.
    type Io: Duplex + Send + 'static;

    /// Makes a new connection; `alpn` is what will be spoken on it, as far as it is known.
    fn connect(&self, alpn: Alpn) -> impl Future<Output = Result<Called<Self::Io>, UpstreamError>> + Send;
}

/// A connection to the called side.
#[derive(Debug)]
pub struct Called<U> {
    /// Its bytes.
    pub stream: Prefixed<U>,
    /// Its place in the table of live connections, if a verified peer is at its end.
    pub registration: Option<Arc<Registration>>,
    /// What we proved ourselves with on it: after a rotation it carries nothing new.
    pub svid: Option<Arc<Svid>>,
}

/// The called side could not be reached. But for [`UpstreamError::Broken`] nothing was sent to it, so another try is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No identity, bundle or policy yet.
    #[error("this proxy has no identity and policy yet")]
    NotReady,
    /// Nobody listens under that identity.
    #[error(
        "no endpoint of `{0}` is known: is its proxy running and connected to control, or does the listener need `address`?"
    )]
    NoEndpoint(SpiffeId),
    /// Several apps are behind that identity, and the listener does not say which.
    #[error("`{peer}` has apps on ports {ports:?}: say which with `port` (flag: IP:PORT={peer}:PORT)")]
    SeveralApps {
        /// Whom the listener means.
        peer: SpiffeId,
        /// Its apps' ports.
        ports: BTreeSet<u16>,
    },
    /// It is one of our own listeners.
    #[error("{address} is this proxy's own listener: calling it would be a loop")]
    Loop {
        /// Where to.
        address: SocketAddr,
    },
    /// No TLS configuration can be made for the peer.
    #[error("TLS: {0}")]
    Tls(#[from] ConfigError),
    /// TCP failed.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// TCP took too long.
    #[error("no connection to {address} within {} s", CONNECT_DEADLINE.as_secs())]
    Deadline {
        /// Where to.
        address: SocketAddr,
    },
    /// All of it, the handshake included, took longer than its service's document allows.
    #[error("no connection within {0:?} (`timeouts.connect` of its service)")]
    Late(Duration),
    /// The name of the peer has no addresses.
    #[error("`{0}` is not found by DNS: see the log for why")]
    Name(Requested),
    /// The peer and we did not come together.
    #[error("{address}: {error}")]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// What failed.
        error: HandshakeError,
    },
    /// The peer does not take the stream.
    #[error("{0}")]
    Refused(io::Error),
    /// The connection broke after bytes of our app went to the peer, whose app may have them.
    #[error("the connection broke as its stream was opened: {0}")]
    Broken(io::Error),
    /// HTTP could not be started on it.
    #[error("the called side does not speak HTTP: {0}")]
    Http(String),
    /// The peer was revoked while we called.
    #[error("peer is refused: {0}")]
    Distrusted(&'static str),
}

impl UpstreamError {
    /// The label value.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::NoEndpoint(_) => "no_endpoint",
            Self::SeveralApps { .. } => "several_apps",
            Self::Loop { .. } => "loop",
            Self::Tls(_) => "tls",
            Self::Connect { .. } => "connect",
            Self::Deadline { .. } | Self::Late(_) => "connect_deadline",
            Self::Name(_) => "dns",
            Self::Handshake { error, .. } => error.reason(),
            Self::Refused(_) => "refused_by_peer",
            Self::Broken(_) => "broken",
            Self::Http(_) => "http",
            Self::Distrusted(reason) => reason,
        }
    }

    /// Whether another endpoint may do better, and is tried.
    #[must_use]
    pub fn is_of_this_endpoint(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Deadline { .. }
            | Self::Late(_)
            | Self::Handshake { .. }
            | Self::Http(_)
            | Self::Loop { .. }
            | Self::Distrusted(_) => true,
            Self::Refused(error) => refusal(error).is_none_or(|refusal| refusal.code().is_of_this_endpoint()),
            Self::NotReady
            | Self::NoEndpoint(_)
            | Self::SeveralApps { .. }
            | Self::Name(_)
            | Self::Tls(_)
            | Self::Broken(_) => false,
        }
    }

    /// What an HTTP client is told.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotReady
            | Self::NoEndpoint(_)
            | Self::SeveralApps { .. }
            | Self::Name(_)
            | Self::Connect { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline { .. } | Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop { .. } => StatusCode::LOOP_DETECTED,
            Self::Tls(_)
            | Self::Handshake { .. }
            | Self::Refused(_)
            | Self::Broken(_)
            | Self::Http(_)
            | Self::Distrusted(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

/// What a peer proxy answered to a stream that it did not take.
fn refusal(error: &io::Error) -> Option<&Refusal> {
    match StreamError::of(error)? {
        StreamError::Refused(refusal) => Some(refusal),
        _ => None,
    }
}

/// A TCP connection, made within the deadline and prepared.
///
/// # Errors
/// When it cannot be made in time.
pub async fn dial(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    in_time(address, TcpStream::connect(address)).await
}

/// The same for a connect that is set up otherwise.
///
/// # Errors
/// As [`dial`].
pub async fn in_time(
    address: SocketAddr,
    connect: impl Future<Output = io::Result<TcpStream>>,
) -> Result<TcpStream, UpstreamError> {
    match tokio::time::timeout(CONNECT_DEADLINE, connect).await {
        Ok(Ok(stream)) => {
            capture::prepare_towards(address, &stream);
            Ok(stream)
        }
        Ok(Err(error)) => Err(UpstreamError::Connect { address, error }),
        Err(_) => Err(UpstreamError::Deadline { address }),
    }
}

impl From<Version> for Alpn {
    fn from(version: Version) -> Self {
        match version {
            Version::Http1 => Self::Http1,
            Version::Http2 => Self::Http2,
        }
    }
}
