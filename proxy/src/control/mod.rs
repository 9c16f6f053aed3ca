//! The way to control: gRPC over mutual TLS of our own making, to the first address that answers.

mod addresses;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use signet_proto::because;
use signet_proto::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::backoff::unit_random;
use crate::capture;
use crate::causes::causes;
use crate::tls::{HandshakeError, connect};

pub use addresses::{Addresses, Place};

/// For one call, from the connect to the answer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// For each address of a name that has several.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(2);
/// A dead connection to control is noticed within the sum of these.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// A call to control that brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No address answered. Try again.
    #[error("control cannot be reached at {address}: {cause}")]
    Unreachable {
        /// The last address tried.
        address: String,
        /// Every cause, outermost first.
        cause: String,
    },
    /// Control answered, and the answer is no.
    #[error("control refused ({code:?}): {message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// Control's words.
        message: String,
        /// The same in one word ([`because`]), if it gave one.
        because: Option<String>,
    },
    /// Control answered something that does not fit.
    #[error("control's answer is not usable: {0}")]
    Unusable(String),
}

impl ControlError {
    /// Whether the same request can never succeed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        let Self::Refused { code, .. } = self else { return false };
        matches!(
            code,
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::NotFound
        )
    }

    /// Whether the request waits for somebody's approval: the same one is to be sent again later.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Refused { code: Code::FailedPrecondition, .. })
    }

    /// Whether another replica of control might do better.
    #[must_use]
    pub fn blames_the_replica(&self) -> bool {
        !self.is_final() && !self.is_held()
    }
}

impl From<tonic::Status> for ControlError {
    fn from(status: tonic::Status) -> Self {
        if matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        ) {
            return Self::Unreachable { address: "its open connection".into(), cause: causes(&status) };
        }
        let because = because::of(&status).map(str::to_owned);
        Self::Refused { code: status.code(), message: status.message().to_owned(), because }
    }
}

/// Control's own SPIFFE ID in a trust domain.
///
/// # Errors
/// When the domain is so long that the ID is not one.
pub fn control_id(domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(domain, "/signet/control")
}

/// A connection to the first of `addresses` that answers as control, and which it is.
///
/// # Errors
/// When none does.
pub async fn channel(
    addresses: &Addresses,
    tls: &Arc<ClientConfig>,
) -> Result<(Place, Channel), ControlError> {
    let connected = addresses.first(|address| connect_to(address, Arc::clone(tls))).await;
    connected.map_err(|failure| match failure {
        Some((address, error)) => ControlError::Unreachable { address, cause: causes(&error) },
        None => ControlError::Unusable("no address of control is configured".into()),
    })
}

/// How long to wait before connecting again, after a connection was lost that had worked.
#[must_use]
pub fn pause_after_loss() -> Duration {
    addresses::pause_after_loss(unit_random())
}

async fn connect_to(address: String, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let dial = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (dial, tls) = (dial.clone(), Arc::clone(&tls));
        async move {
            let stream = dial_name(&dial).await.map_err(HandshakeError::Connect)?;
            capture::prepare(&stream);
            let (stream, _) = connect(stream, &tls).await?;
            Ok::<_, HandshakeError>(TokioIo::new(stream))
        }
    });
    // The connector has its own TLS; the scheme only keeps tonic from wanting one.
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// A name may stand for several replicas: each connection begins with another of them, and none that is silent takes
/// the time of the others.
async fn dial_name(name: &str) -> io::Result<TcpStream> {
    let mut found: Vec<SocketAddr> = tokio::net::lookup_host(name).await?.collect();
    addresses::shuffle(&mut found, unit_random);
    let deadline = if found.len() > 1 { ADDRESS_DEADLINE } else { CONNECT_DEADLINE };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in found {
        match tokio::time::timeout(deadline, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}
