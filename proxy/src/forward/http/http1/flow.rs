//! A body on its way from one connection to another, behind the head of its message: read, counted, coded as the other
//! side understands it, and written. Small pieces go out with what is before them, large ones from where they came.

use std::io;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Coding, Decoder};
use super::head::{Length, Malformed};
use super::wire::{FULL, Out, Wire};
use crate::forward::http::headers;
use crate::forward::http::tracked::Flow;
use crate::telemetry::Meters;

/// Pieces from there on are not copied.
const LARGE: usize = 4 * 1024;

/// So often a body is read before others have their turn, and its right is looked at again.
const ROUNDS: usize = 64;

/// A message that is passed on.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    decoder: Decoder,
    coding: Coding,
    /// Begins with its head.
    pub(super) out: Out,
    flow: Flow,
    meters: [&'a Meters; 2],
    moved: bool,
    /// Whom it goes to does not take more.
    stalls: bool,
}

/// Which side failed.
#[derive(Debug)]
pub(super) enum Broken {
    Reading(Unreadable),
    Writing(io::Error),
}

/// A body that does not come as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it ended before its end")]
    Short,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl<'a> Transfer<'a> {
    pub(super) fn new(length: Length, coding: Coding, out: Out, flow: Flow, meters: [&'a Meters; 2]) -> Self {
        Self { decoder: Decoder::new(length), coding, out, flow, meters, moved: false, stalls: false }
    }

    /// Whether all of the body was read.
    pub(super) fn was_read(&self) -> bool {
        self.decoder.is_done()
    }

    /// Whether something was read or written since this was asked last.
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Whether it waits for whom it goes to.
    pub(super) fn stalls(&self) -> bool {
        self.stalls
    }

    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<Result<T, Broken>> {
        self.stalls = written.is_pending();
        written.map_err(Broken::Writing)
    }

    /// Reads the body to its end, and writes it as it comes; what is left to be written is little.
    pub(super) fn poll_read<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<A>,
        to: &mut Wire<B>,
    ) -> Poll<Result<(), Broken>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let mut rounds = 0;
        while !self.decoder.is_done() {
            rounds += 1;
            if rounds > ROUNDS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if self.out.waiting() >= FULL {
                let written = self.out.poll_write(cx, &mut to.io);
                ready!(self.written(written))?;
                self.moved = true;
            }
            let framed = self.decoder.frame(from.input()).map_err(Broken::malformed)?;
            from.discard(framed);
            let data = from.input();
            let count = usize::try_from(self.decoder.data()).unwrap_or(usize::MAX).min(data.len());
            let data = data.get(..count).unwrap_or_default();
            if let Decoder::Done(trailers) = &mut self.decoder {
                if let Some(trailers) = trailers {
                    may_be_merged(trailers);
                }
                self.coding.end(trailers.as_deref(), &mut self.out.bytes);
                return Poll::Ready(Ok(()));
            }
            let taken = if data.is_empty() {
                // What came goes on before more is waited for.
                let sent = self.out.poll_send(cx, &mut to.io);
                ready!(self.written(sent))?;
                self.poll_more(cx, from)?
            } else if self.coding == Coding::Plain && count >= LARGE && !self.out.is_kept() {
                let sent = self.out.poll_beyond(cx, &mut to.io, data);
                Some(ready!(self.written(sent))?)
            } else {
                let piece = data.get(..count.min(FULL)).unwrap_or_default();
                self.coding.before(piece.len(), &mut self.out.bytes);
                self.out.bytes.extend_from_slice(piece);
                self.coding.after(&mut self.out.bytes);
                Some(piece.len())
            };
            match taken {
                None => return Poll::Pending,
                Some(0) => {}
                Some(taken) => {
                    from.discard(taken);
                    self.count(taken);
                    if self.decoder.is_done() {
                        self.coding.end(None, &mut self.out.bytes);
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is left.
    pub(super) fn poll_send<B: AsyncWrite + AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Wire<B>,
    ) -> Poll<Result<(), Broken>> {
        let sent = self.out.poll_send(cx, &mut to.io);
        self.written(sent)
    }

    /// Reads the body for nobody: up to its end, or as much as `left` says.
    pub(super) fn poll_drop<A: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<A>,
        left: &mut usize,
    ) -> Poll<Result<(), Broken>> {
        while !self.decoder.is_done() && *left > 0 {
            let framed = self.decoder.frame(from.input()).map_err(Broken::malformed)?;
            from.discard(framed);
            let count = usize::try_from(self.decoder.data()).unwrap_or(usize::MAX).min(from.input().len());
            *left = left.saturating_sub(count + framed);
            if count > 0 {
                from.discard(count);
                self.count(count);
            } else if !self.decoder.is_done() && self.poll_more(cx, from)?.is_none() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once: none if nothing came yet.
    fn poll_more<A: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<A>,
    ) -> Result<Option<usize>, Broken> {
        match from.poll_more(cx) {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(true)) => {
                self.moved = true;
                Ok(Some(0))
            }
            Poll::Ready(Ok(false)) if self.decoder.ended() => {
                self.coding.end(None, &mut self.out.bytes);
                Ok(Some(0))
            }
            Poll::Ready(Ok(false)) => Err(Broken::Reading(Unreadable::Short)),
            Poll::Ready(Err(error)) => Err(Broken::Reading(error.into())),
        }
    }

    fn count(&mut self, taken: usize) {
        let taken = taken as u64;
        self.decoder.took(taken);
        self.moved = true;
        for meters in self.meters {
            self.flow.of(meters).fetch_add(taken, Ordering::Relaxed);
        }
    }
}

impl Broken {
    fn malformed(error: Malformed) -> Self {
        Self::Reading(error.into())
    }
}

/// Servers that merge trailers into the header fields would take some of them for our word, or for the framing.
fn may_be_merged(trailers: &mut HeaderMap) {
    headers::remove_identity(trailers);
    headers::remove_framing(trailers);
}
