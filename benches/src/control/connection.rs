//! One HTTP/2 connection to control, as small as it gets: it belongs to one proxy, does not reconnect by itself,
//! and has one task. Deadlines and keep-alive are those of the proxy's own way to control.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use signet_proto::handshake::server_name;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::{Service, http};

/// `signet_proxy::control`: from the connect to the end of the handshake.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// `signet_proxy::control`: how often a proxy asks whether control is there, and how long it waits.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Makes requests on one connection. The connection ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Connection(SendRequest<Body>);

/// Why a proxy has no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("no connection within {} s", CONNECT_DEADLINE.as_secs())]
    Deadline,
    #[error("HTTP/2: {0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Call(Box<tonic::Status>),
    #[error("control ended the stream")]
    Ended,
}

impl Broken {
    /// Few words that the same causes have in common.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Connect(error) => format!("connect: {}", error.kind()),
            Self::Tls(error) => format!("TLS: {}", error.kind()),
            Self::Deadline => "connect: deadline".to_owned(),
            Self::Http(_) => "HTTP/2".to_owned(),
            Self::Call(status) => format!("call: {:?}", status.code()),
            Self::Ended => "ended by control".to_owned(),
        }
    }
}

impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl Connection {
    /// From `source`, one of the many addresses of the loopback interface: control gives each its share.
    pub(crate) async fn tls(
        source: Ipv4Addr,
        control: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> Result<Self, Broken> {
        let dial = async {
            let socket = TcpSocket::new_v4().map_err(Broken::Connect)?;
            socket.bind((source, 0).into()).map_err(Broken::Connect)?;
            let stream = socket.connect(control).await.map_err(Broken::Connect)?;
            stream.set_nodelay(true).map_err(Broken::Connect)?;
            TlsConnector::from(Arc::clone(tls)).connect(server_name(), stream).await.map_err(Broken::Tls)
        };
        // Boxed: a handshake is short, its state is large, and the future around it lives long.
        let stream = timeout(CONNECT_DEADLINE, Box::pin(dial)).await.map_err(|_| Broken::Deadline)??;
        Self::over(stream).await
    }

    /// Over the operators' local socket.
    pub(crate) async fn unix(path: &Path) -> Result<Self, Broken> {
        Self::over(UnixStream::connect(path).await.map_err(Broken::Connect)?).await
    }

    async fn over<S>(stream: S) -> Result<Self, Broken>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            // Its failure is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(Self(requests))
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// What requests name as their host; the connection knows where it leads.
pub(crate) fn origin() -> http::Uri {
    http::Uri::from_static("http://control")
}

/// Each proxy has an address of its own in 127.0.0.0/8, away from 127.0.0.1.
pub(crate) fn source_address(number: usize) -> Ipv4Addr {
    const FIRST: u32 = Ipv4Addr::new(127, 1, 0, 0).to_bits();
    let each_block = 250;
    let (block, host) = (number / each_block, number % each_block + 1);
    Ipv4Addr::from_bits(FIRST + (block as u32) * 256 + host as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_different_and_on_loopback() {
        let all: std::collections::BTreeSet<_> = (0..20_000).map(source_address).collect();
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
        assert_eq!(source_address(250), Ipv4Addr::new(127, 1, 1, 1));
    }
}
