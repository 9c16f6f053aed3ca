//! A handshake with its deadline, in either role, and its failure in the words of the metrics.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::server::Acceptor;
use rustls::{ClientConfig, ServerConfig};
use signet_proto::handshake::{ALPN_H2, ALPN_HTTP1, PeerError, PeerIdentity, server_name, verify_failure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

use crate::telemetry::{Direction, metrics, traces};

/// From the accept to the end of the ClientHello: a caller that says nothing costs little and not for long.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// From the hello to the end of the handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// A handshake that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No ClientHello.
    #[error("no complete ClientHello within {} s", HELLO_DEADLINE.as_secs())]
    Hello,
    /// It took too long.
    #[error("TLS handshake did not finish within {} s", HANDSHAKE_DEADLINE.as_secs())]
    Deadline,
    /// There was no connection to shake hands on.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// TLS failed, or one side refused the other.
    #[error("{}", said(.0))]
    Tls(#[from] io::Error),
    /// The peer's certificate cannot be read.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl HandshakeError {
    /// The label value.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let Self::Tls(error) = self else {
            return match self {
                Self::Hello => "hello_deadline",
                Self::Deadline => "deadline",
                Self::Connect(_) => "connect",
                _ => "bad_svid",
            };
        };
        let Some(tls) = tls_error(error) else {
            return if error.kind() == io::ErrorKind::UnexpectedEof { "closed" } else { "io" };
        };
        if let Some(refused) = verify_failure(tls) {
            return refused.reason();
        }
        match tls {
            rustls::Error::AlertReceived(_) => "refused_by_peer",
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => "incompatible",
            _ => "protocol",
        }
    }
}

/// Our own refusals in our own words: rustls prints what a verifier said as a debug text.
fn said(error: &io::Error) -> String {
    match tls_error(error).and_then(verify_failure) {
        Some(refused) => refused.to_string(),
        None => format!("TLS handshake failed: {error}"),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Whether a peer offers both versions of HTTP, and leaves the choice to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffersBoth(pub bool);

/// Accepts a peer with the configuration that `choose` has for it.
///
/// # Errors
/// When the peer is not believed, does not finish in time, or breaks off.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    choose: impl AsyncFnOnce(OffersBoth) -> Arc<ServerConfig>,
) -> Result<(server::TlsStream<S>, PeerIdentity), HandshakeError> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    timed(Direction::Inbound, async {
        let hello =
            tokio::time::timeout(HELLO_DEADLINE, hello).await.map_err(|_| HandshakeError::Hello)??;
        let mut versions = (false, false);
        for offered in hello.client_hello().alpn().into_iter().flatten() {
            versions = (versions.0 || offered == ALPN_HTTP1, versions.1 || offered == ALPN_H2);
        }
        let config = choose(OffersBoth(versions == (true, true))).await;
        let stream = hello.into_stream(config).await?;
        let peer = PeerIdentity::from_verified(stream.get_ref().1.peer_certificates())?;
        Ok((stream, peer))
    })
    .await
}

/// Calls a peer.
///
/// # Errors
/// When the peer is not the expected one, refuses us, does not finish in time, or breaks off.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: &Arc<ClientConfig>,
) -> Result<(client::TlsStream<S>, PeerIdentity), HandshakeError> {
    let handshake = TlsConnector::from(Arc::clone(config)).connect(server_name(), stream);
    let handshake = timed(Direction::Outbound, async {
        let stream = handshake.await?;
        let peer = PeerIdentity::from_verified(stream.get_ref().1.peer_certificates())?;
        Ok((stream, peer))
    });
    traces::measured("handshake", handshake).await
}

async fn timed<T>(
    direction: Direction,
    handshake: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    let started = Instant::now();
    // Boxed: a handshake is short, the future that contains it is long-lived, and its state is large.
    let result = match tokio::time::timeout(HANDSHAKE_DEADLINE, Box::pin(handshake)).await {
        Ok(result) => result,
        Err(_) => Err(HandshakeError::Deadline),
    };
    match &result {
        Ok(_) => metrics::handshake(direction, started.elapsed()),
        Err(error) => metrics::handshake_failed(direction, error.reason()),
    }
    result
}
