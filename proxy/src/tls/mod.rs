//! A handshake with its deadline, in either role, and its failure in the words of the metrics; then the
//! stream of bytes that it leads to.

pub mod buffers;
pub(crate) mod held;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ServerConfig};
use signet_proto::handshake::{
    ALPN_H2, ALPN_HTTP1, Exchange, Finished, PeerError, PeerIdentity, Progress, verify_failure,
};
use signet_proto::tunnel;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use self::stream::TlsStream;
use crate::telemetry::{Direction, metrics, traces};

/// From the accept to the end of the ClientHello: a caller that says nothing costs little and not for long.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// From the hello to the end of the handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// What is offered, of it all or some (ALPN).
const SPOKEN: [&[u8]; 3] = [tunnel::ALPN, ALPN_H2, ALPN_HTTP1];
/// What is read at once of a handshake.
const READ: usize = 4096;

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
    mut stream: S,
    choose: impl AsyncFnOnce(OffersBoth) -> Arc<ServerConfig>,
) -> Result<(TlsStream<S>, PeerIdentity), HandshakeError> {
    timed(Direction::Inbound, async {
        let hello = tokio::time::timeout(HELLO_DEADLINE, hello(&mut stream));
        let (both, input) = hello.await.map_err(|_| HandshakeError::Hello)??;
        let exchange = Exchange::answer(choose(both).await, input).map_err(tls)?;
        shake(stream, exchange).await
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
) -> Result<(TlsStream<S>, PeerIdentity), HandshakeError> {
    let handshake = timed(Direction::Outbound, async {
        let exchange = Exchange::call(config).map_err(tls)?;
        shake(stream, exchange).await
    });
    traces::measured("handshake", handshake).await
}

/// Waits for the ClientHello: what it offers, and all that has come so far.
async fn hello<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
) -> Result<(OffersBoth, Vec<u8>), HandshakeError> {
    let mut acceptor = Acceptor::default();
    let mut input = Vec::new();
    loop {
        let known = input.len();
        read(stream, &mut input).await?;
        let mut fresh = input.get(known..).unwrap_or_default();
        while !fresh.is_empty() && acceptor.read_tls(&mut fresh)? > 0 {
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let mut versions = (false, false);
                    for offered in accepted.client_hello().alpn().into_iter().flatten() {
                        versions = (versions.0 || offered == ALPN_HTTP1, versions.1 || offered == ALPN_H2);
                    }
                    return Ok((OffersBoth(versions == (true, true)), input));
                }
                Err((error, mut alert)) => {
                    let mut said = Vec::new();
                    alert.write_all(&mut said)?;
                    say(stream, &said);
                    return Err(tls(error));
                }
            }
        }
    }
}

/// Carries a handshake to its end.
async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut exchange: Exchange,
) -> Result<(TlsStream<S>, PeerIdentity), HandshakeError> {
    loop {
        let progress = exchange.advance();
        let output = exchange.take_output();
        let progress = match progress {
            Ok(progress) => progress,
            Err(error) => {
                say(&mut stream, &output);
                return Err(tls(error));
            }
        };
        stream.write_all(&output).await?;
        stream.flush().await?;
        if progress == Progress::Done {
            break;
        }
        let too_much = || io::Error::new(io::ErrorKind::InvalidData, "message buffer full");
        read(&mut stream, exchange.input().ok_or_else(too_much)?).await?;
    }
    let peer = PeerIdentity::from_verified(exchange.peer_certificates())?;
    // Nothing else is ever offered, and so agreed on.
    let alpn = exchange.alpn().and_then(|agreed| SPOKEN.into_iter().find(|known| *known == agreed));
    let Finished { session, input } = exchange.finish().map_err(tls)?;
    let stream = TlsStream::new(stream, session, alpn, &input)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((stream, peer))
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Vec<u8>) -> io::Result<()> {
    input.reserve(READ);
    // No more than that: what comes after the handshake stays in the socket.
    match stream.take(READ as u64).read_buf(input).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")),
        _ => Ok(()),
    }
}

/// An alert that is the last word: it is small, and nobody waits for who does not take it.
fn say<S: AsyncWrite + Unpin>(stream: &mut S, alert: &[u8]) {
    let _ = stream.write_all(alert).now_or_never();
}

fn tls(error: rustls::Error) -> HandshakeError {
    HandshakeError::Tls(io::Error::new(io::ErrorKind::InvalidData, error))
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
