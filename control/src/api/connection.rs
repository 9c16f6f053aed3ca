//! A connection whose other end is known, and what ends it from our side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::caller::Caller;
use super::sessions::Session;
use super::shares::Share;

/// Whoever connects has something to ask.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// What the server reads from and writes to.
pub(super) struct Connection {
    io: Io,
    caller: Caller,
    /// No request by then: the end.
    first_request: Option<Pin<Box<Sleep>>>,
    /// The end of a connection that may not stay.
    life: Option<Pin<Box<Sleep>>>,
    /// Its identity is not welcome any more.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _holds: Holds,
}

/// Places taken for as long as the connection is open.
#[derive(Default)]
#[expect(dead_code, reason = "held, not read: the places are given back on drop")]
pub(super) struct Holds {
    /// Among all, and among those of its kind.
    pub(super) permits: [Option<OwnedSemaphorePermit>; 2],
    /// Among those of its address that have proven nothing.
    pub(super) share: Option<Share>,
    /// Among those of its instance.
    pub(super) session: Option<Session>,
}

/// What carries it.
pub(super) enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Set by the first request of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<AtomicBool>);

impl Asked {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Ends after `life`, if it has one.
    pub(super) fn new(io: Io, caller: Caller, life: Option<Duration>, holds: Holds) -> Self {
        Self {
            io,
            caller,
            first_request: Some(Box::pin(tokio::time::sleep(FIRST_REQUEST))),
            life: life.map(|life| Box::pin(tokio::time::sleep(life))),
            cut: holds.session.as_ref().map(|session| Box::pin(session.cut())),
            _holds: holds,
        }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let due = |sleep: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>| {
            sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready())
        };
        if self.caller.asked.is_set() {
            self.first_request = None;
        }
        due(&mut self.first_request, context)
            || due(&mut self.life, context)
            || self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(context).is_ready())
    }
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
        if self.is_over(context) {
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
