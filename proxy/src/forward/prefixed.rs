//! A stream some of whose bytes were read ahead: they are given back first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream with a look-ahead buffer.
#[derive(Debug)]
pub struct Prefixed<S> {
    ahead: BytesMut,
    inner: S,
}

impl<S> Prefixed<S> {
    /// Wraps a stream of which nothing was read yet.
    pub fn new(inner: S) -> Self {
        Self { ahead: BytesMut::new(), inner }
    }

    /// What was read ahead so far.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Forgets the first `count` bytes that were read ahead: they have been understood.
    pub fn discard(&mut self, count: usize) {
        self.ahead.advance(count.min(self.ahead.len()));
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// Gives back bytes that were read and not understood: they are read first.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let mut ahead = BytesMut::from(bytes);
        ahead.extend_from_slice(&self.ahead);
        self.ahead = ahead;
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream itself, of which nothing is to be read past what was read ahead.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The stream itself. What was read ahead is lost, so only once that was given back.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads more ahead; 0 at the end of the stream. Cancel safe: what arrives stays in the buffer.
    ///
    /// # Errors
    /// What the stream reports.
    pub async fn read_ahead(&mut self) -> io::Result<usize> {
        self.ahead.reserve(1024);
        self.inner.read_buf(&mut self.ahead).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let ready = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(ready));
        if !self.ahead.has_remaining() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
