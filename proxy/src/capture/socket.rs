//! An accepted socket: TCP, or a unix socket of the same machine.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// What was accepted.
#[derive(Debug)]
pub enum Socket {
    /// Over a network or loopback.
    Tcp(TcpStream),
    /// Through the file system.
    Unix(UnixStream),
}

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// An address; IPv4 is never written as IPv6.
    Ip(SocketAddr),
    /// A process of this machine, as the kernel tells.
    Unix {
        /// Its user.
        uid: u32,
        /// Its process id, if it is in a namespace that we can see.
        pid: Option<i32>,
    },
}

impl Socket {
    /// The address that was called, canonical, if it has one.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(canonical),
            Self::Unix(_) => None,
        }
    }
}

impl Remote {
    /// The address, canonical.
    #[must_use]
    pub fn ip(address: SocketAddr) -> Self {
        Self::Ip(canonical(address))
    }

    /// The address, if it has one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix { uid, pid: Some(pid) } => write!(f, "unix:uid={uid},pid={pid}"),
            Self::Unix { uid, pid: None } => write!(f, "unix:uid={uid}"),
        }
    }
}

/// A listener for both families sees IPv4 callers as `::ffff:a.b.c.d`; nobody else should.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if let Some(v4) = v6.ip().to_ipv4_mapped() => SocketAddr::from((v4, v6.port())),
        // With its scope, without which a link-local address means nothing.
        other => other,
    }
}

/// Small writes go out at once, and a peer that vanished without a word is noticed. What a listener accepts is as the
/// listener is.
pub fn prepare<'a>(socket: impl Into<SockRef<'a>>) {
    let socket = socket.into();
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    tell(socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)));
}

/// The same for one that leads to `remote`. On this machine nobody vanishes without a word.
pub fn prepare_towards(remote: SocketAddr, stream: &TcpStream) {
    match canonical(remote).ip().is_loopback() {
        true => tell(stream.set_nodelay(true)),
        false => prepare(stream),
    }
}

fn tell(set: io::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// Lets the drop of an app's socket send a reset rather than an end, unless all went well: an app that reads
/// to the end must not take what was cut off for the whole. Unix sockets know no reset.
pub fn reset_unless(well: bool, stream: &impl AsFd) {
    if !well && let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot reset a connection");
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }
}
