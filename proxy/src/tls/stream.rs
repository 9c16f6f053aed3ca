//! A TLS connection after its handshake, as a stream of bytes.
//!
//! Bytes are opened from the buffer that they were read into to where the reader wants them, and sealed from where
//! the writer has them into the buffer that is written: no copy, no allocation for a record, several records with one
//! call of the system. While a connection waits it has no buffer, and at most a small one amid a record.
//!
//! Reading never writes, but for the alert that ends a connection: the answer to a key update goes ahead of what is
//! written next (RFC 8446, section 4.6.3).

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use signet_proto::handshake::{Opened, Session, SessionError};
use signet_proto::record::{self, HEADER_BYTES, MAX_CONTENT, OVERHEAD, Opener, Pieces};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::Size;
use super::held::Held;

/// A TLS connection of either role.
#[derive(Debug)]
pub struct TlsStream<S> {
    io: S,
    session: Session,
    alpn: Option<&'static [u8]>,
    /// Records of the peer.
    input: Held,
    /// What was opened in the input's buffer, as its reader had no room, and waits there.
    content: Range<usize>,
    /// Our records.
    output: Held,
    reading: Reading,
}

/// What is read at once has so many records at most, however short they are.
const MOST_STEPS: usize = 256;

/// How far the peer's side has got.
#[derive(Debug)]
enum Reading {
    Open,
    /// It has said that it has finished.
    Finished,
    /// It went without a word.
    Cut,
    /// It broke the protocol, or we did; the first who asks is told how.
    Failed(Option<SessionError>),
}

impl<S> TlsStream<S> {
    /// A connection whose handshake is done; `input` is what the peer has sent since.
    pub(super) fn new(
        io: S,
        session: Session,
        alpn: Option<&'static [u8]>,
        input: &[u8],
    ) -> Result<Self, SessionError> {
        let input = Held::of(input).ok_or(SessionError::Flood)?;
        Ok(Self { io, session, alpn, input, content: 0..0, output: Held::default(), reading: Reading::Open })
    }

    /// What is spoken on it.
    #[must_use]
    pub const fn alpn(&self) -> Option<&'static [u8]> {
        self.alpn
    }

    /// Gives back what the next record has made again: nothing has moved for a while.
    pub fn rest(&mut self) {
        self.session.rest();
    }

    /// What it runs on.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.io
    }

    /// Gives `buf` what there is of the stream. What it has room for is opened right there.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> Result<(), SessionError> {
        let before = buf.filled().len();
        for _ in 0..MOST_STEPS {
            if buf.remaining() == 0 {
                break;
            }
            if !self.content.is_empty() {
                let count = self.content.len().min(buf.remaining());
                buf.put_slice(self.input.at(self.content.start..self.content.start + count));
                self.content.start += count;
                continue;
            }
            let Some(length) = record::length(self.input.bytes())? else { break };
            if self.input.bytes().len() < length {
                break;
            }
            let room = Opener::room(length);
            let opened = if room <= buf.remaining() {
                let record = self.input.take(length);
                let opened = self.session.open(self.input.at(record), buf.initialize_unfilled_to(room))?;
                if let Opened::Data(count) = opened {
                    buf.advance(count);
                }
                opened
            } else if buf.filled().len() > before {
                // The next reader may have room.
                break;
            } else {
                let record = self.input.take(length);
                let begin = record.start + HEADER_BYTES;
                let opened = self.session.open_in_place(self.input.at_mut(record))?;
                if let Opened::Data(count) = opened {
                    self.content = begin..begin + count;
                }
                opened
            };
            if opened == Opened::Closed {
                self.reading = Reading::Finished;
                self.input.clear();
                break;
            }
        }
        if self.content.is_empty() && self.input.is_empty() {
            self.input.clear();
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// The connection is over: the peer is told why, if it listens.
    fn fail(&mut self, cx: &mut Context<'_>, error: SessionError) {
        self.input.clear();
        self.content = 0..0;
        let alert = |out: &mut [u8]| self.session.give_up(&error, out);
        if self.output.append(Size::Small, OVERHEAD + 2, alert).is_none() {
            // No room for the alert: nothing is said any more, least of all that all is well.
            let _ = self.session.give_up(&error, &mut []);
        }
        self.reading = Reading::Failed(Some(error));
        let _ = self.output.poll_drain(cx, &mut self.io);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            match &mut this.reading {
                Reading::Open => {}
                Reading::Finished => return Poll::Ready(Ok(())),
                Reading::Cut => return Poll::Ready(Err(cut())),
                Reading::Failed(error) => return Poll::Ready(Err(failed(error.take()))),
            }
            let given = this.give(buf);
            if let Err(error) = given {
                this.fail(cx, error);
            }
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if matches!(this.reading, Reading::Open) && ready!(this.input.poll_fill(cx, &mut this.io))? == 0 {
                this.reading = Reading::Cut;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.output.poll_drain(cx, &mut this.io))?;
        let mut pieces = Pieces::new(data);
        let all = pieces.left();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        let size = if all > MAX_CONTENT { Size::Large } else { Size::Small };
        let sealed = this.output.append(size, 0, |out| this.session.seal(&mut pieces, out));
        match sealed {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(unsendable(error))),
            None => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        }
        // What cannot be written now goes first next time.
        match this.output.poll_drain(cx, &mut this.io) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(all - pieces.left())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.output.poll_drain(cx, &mut this.io))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.output.poll_drain(cx, &mut this.io))?;
        if let Some(Err(error)) = this.output.append(Size::Small, 0, |out| this.session.close(out)) {
            return Poll::Ready(Err(unsendable(error)));
        }
        ready!(this.output.poll_drain(cx, &mut this.io))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // It has nobody left to be told.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "peer closed connection without sending TLS close_notify")
}

fn failed(error: Option<SessionError>) -> io::Error {
    match error {
        Some(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        None => io::ErrorKind::InvalidData.into(),
    }
}

fn unsendable(error: SessionError) -> io::Error {
    let kind = match error {
        SessionError::Closed => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests;
