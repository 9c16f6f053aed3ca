//! Accepting connections: handshake with a deadline, caps, and who is at the other end.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use signet_proto::handshake::{PeerIdentity, verify_failure};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::ServeError;
use super::caller::{Caller, Peer};
use super::tls::OwnIdentity;
use crate::telemetry::metrics;

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Open TCP connections: room for 10,000 proxies that renew and report over a second one now and then.
const MAX_CONNECTIONS: usize = 24_000;
/// Handshakes at the same time: they cost CPU before anyone is known.
const MAX_HANDSHAKES: usize = 512;
/// Connections without a certificate, and how long one lives: enough to attest.
const MAX_ANONYMOUS: usize = 1024;
const ANONYMOUS_LIFE: Duration = Duration::from_secs(30);
const MAX_LOCAL: usize = 256;
/// After a failed accept (usually: no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Accepted connections that the server has not picked up yet.
const BACKLOG: usize = 64;

/// Connections for the server.
pub(super) type Incoming = ReceiverStream<io::Result<Connection>>;

/// A connection whose other end is known.
pub(super) struct Connection {
    io: Io,
    caller: Caller,
    /// Ends a connection that may only attest.
    deadline: Option<Pin<Box<Sleep>>>,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Connections over TLS, one task per handshake.
pub(super) fn tls(listener: TcpListener, own: Arc<OwnIdentity>, stop: CancellationToken) -> Incoming {
    let (connections, incoming) = mpsc::channel(BACKLOG);
    let door = Arc::new(Door {
        own,
        connections,
        open: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        anonymous: Arc::new(Semaphore::new(MAX_ANONYMOUS)),
    });
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => door.admit(stream, remote.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    metrics::connection("grpc", "accept_failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(incoming)
}

/// Connections on the local socket.
pub(super) fn unix(listener: UnixListener, stop: CancellationToken) -> Incoming {
    let (connections, incoming) = mpsc::channel(BACKLOG);
    let open = Arc::new(Semaphore::new(MAX_LOCAL));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    if let Some(connection) = local(stream, &open)
                        && connections.send(Ok(connection)).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    metrics::connection("unix", "accept_failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(incoming)
}

fn local(stream: UnixStream, open: &Arc<Semaphore>) -> Option<Connection> {
    let Ok(permit) = Arc::clone(open).try_acquire_owned() else {
        metrics::connection("unix", "too_many");
        return None;
    };
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            tracing::warn!(%error, "local connection without credentials");
            metrics::connection("unix", "no_credentials");
            return None;
        }
    };
    metrics::connection("unix", "accepted");
    Some(Connection {
        io: Io::Unix(stream),
        caller: Caller { peer: Peer::Local { uid }, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) },
        deadline: None,
        _permits: [Some(permit), None],
    })
}

struct Door {
    own: Arc<OwnIdentity>,
    connections: mpsc::Sender<io::Result<Connection>>,
    open: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
}

impl Door {
    /// Turned away at once when full: waiting would only move the queue.
    fn admit(self: &Arc<Self>, stream: TcpStream, address: IpAddr) {
        let open = Arc::clone(&self.open).try_acquire_owned();
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned();
        let (Ok(open), Ok(handshake)) = (open, handshake) else {
            metrics::connection("grpc", "too_many");
            return;
        };
        let door = Arc::clone(self);
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, door.shake(stream)).await;
            drop(handshake);
            match shaken {
                Ok(Ok(stream)) => door.enter(stream, address, open).await,
                Ok(Err(error)) => failed(&error, address),
                Err(_) => {
                    tracing::debug!(%address, "handshake took too long");
                    metrics::handshake_failed("timeout");
                }
            }
        });
    }

    async fn shake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        TlsAcceptor::from(self.own.server_config()).accept(stream).await
    }

    async fn enter(&self, stream: TlsStream<TcpStream>, address: IpAddr, open: OwnedSemaphorePermit) {
        let chain = stream.get_ref().1.peer_certificates();
        let (peer, anonymous) = match chain {
            Some(chain) => match PeerIdentity::from_verified(Some(chain)) {
                Ok(identity) => (Peer::Identity(Arc::new(identity)), None),
                Err(error) => {
                    tracing::warn!(%address, %error, "peer cannot be read after its handshake");
                    metrics::handshake_failed("unreadable");
                    return;
                }
            },
            None => match Arc::clone(&self.anonymous).try_acquire_owned() {
                Ok(permit) => (Peer::Anonymous, Some(permit)),
                Err(_) => {
                    metrics::connection("grpc", "too_many_anonymous");
                    return;
                }
            },
        };
        metrics::connection("grpc", if anonymous.is_some() { "anonymous" } else { "identity" });
        let connection = Connection {
            io: Io::Tls(Box::new(stream)),
            caller: Caller { peer, address },
            deadline: anonymous.is_some().then(|| Box::pin(tokio::time::sleep(ANONYMOUS_LIFE))),
            _permits: [Some(open), anonymous],
        };
        let _ = self.connections.send(Ok(connection)).await;
    }
}

fn failed(error: &io::Error, address: IpAddr) {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let reason = match tls {
        None => "io",
        Some(tls) => verify_failure(tls).map_or("tls", |failure| failure.reason()),
    };
    tracing::debug!(%address, %error, reason, "handshake failed");
    metrics::handshake_failed(reason);
}

/// Listens on the admin socket. A socket left by a process that was killed is replaced; anything else at
/// the path is not. Who connects is decided by peer credentials; with `everyone` the file lets others try.
///
/// # Errors
/// When something else is there, another process listens, or the path cannot be used.
pub fn bind_socket(path: &Path, everyone: bool) -> Result<UnixListener, ServeError> {
    let failed = |error| ServeError::Bind { key: "admin-socket", at: path.display().to_string(), error };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(failed(io::Error::other("a file that is no socket is there: remove it")));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(failed(io::Error::other("another process listens there")));
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = if everyone { 0o666 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        match &mut self.io {
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Io::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
            Io::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
