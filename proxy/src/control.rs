//! The way to control: gRPC over mutual TLS of our own making, to the first address that answers.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use signet_proto::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::capture;
use crate::causes::causes;
use crate::tls::{HandshakeError, connect};

/// For one call, from the connect to the answer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
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
}

impl From<tonic::Status> for ControlError {
    fn from(status: tonic::Status) -> Self {
        if matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        ) {
            return Self::Unreachable { address: "its open connection".into(), cause: causes(&status) };
        }
        Self::Refused { code: status.code(), message: status.message().to_owned() }
    }
}

/// Control's own SPIFFE ID in a trust domain.
///
/// # Errors
/// When the domain is so long that the ID is not one.
pub fn control_id(domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(domain, "/signet/control")
}

/// A connection to the first of `addresses` that answers as control.
///
/// # Errors
/// When none does.
pub async fn channel(addresses: &[String], tls: &Arc<ClientConfig>) -> Result<Channel, ControlError> {
    let mut failure = ControlError::Unusable("no address of control is configured".into());
    for address in addresses {
        match connect_to(address, Arc::clone(tls)).await {
            Ok(channel) => return Ok(channel),
            Err(error) => {
                failure = ControlError::Unreachable { address: address.clone(), cause: causes(&error) };
            }
        }
    }
    Err(failure)
}

async fn connect_to(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let dial = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (dial, tls) = (dial.clone(), Arc::clone(&tls));
        async move {
            let stream = TcpStream::connect(dial).await.map_err(HandshakeError::Connect)?;
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
