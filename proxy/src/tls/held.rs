//! Bytes on their way between a socket and a session, in a buffer that is there only while they are.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use signet_proto::record::MAX_RECORD;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::{Buffer, SMALL, Size};

/// The bytes `start..end` of a buffer.
#[derive(Debug, Default)]
pub(crate) struct Held {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    /// The last read was long: the next one may be, too.
    busy: bool,
    /// What is not complete may be longer than any record, and wait for long.
    roomy: bool,
}

impl Held {
    /// Begins with bytes that are there already, as far as a small buffer has room.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let mut held = Self::default();
        if !bytes.is_empty() {
            let size = if bytes.len() > SMALL { Size::Large } else { Size::Small };
            let mut buffer = Buffer::lend(size);
            buffer.get_mut(..bytes.len())?.copy_from_slice(bytes);
            held = Self { buffer: Some(buffer), end: bytes.len(), ..held };
        }
        Some(held)
    }

    /// For what may be longer than any record. It waits in memory of its own: what is lent is for what moves.
    pub(crate) fn roomy() -> Self {
        Self { roomy: true, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.at(self.start..self.end)
    }

    pub(crate) fn at(&self, range: Range<usize>) -> &[u8] {
        self.buffer.as_deref().and_then(|buffer| buffer.get(range)).unwrap_or_default()
    }

    /// Takes the first bytes out: where they are. They stay there until [`Held::settle`].
    pub(crate) fn take(&mut self, count: usize) -> Range<usize> {
        let taken = self.start..self.start + count.min(self.end - self.start);
        self.start = taken.end;
        taken
    }

    pub(crate) fn at_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        self.buffer.as_deref_mut().and_then(|buffer| buffer.get_mut(range)).unwrap_or_default()
    }

    /// Puts what `make` writes behind what is there: its length. `None` if there is no room of `least` bytes.
    pub(crate) fn append<E>(
        &mut self,
        size: Size,
        least: usize,
        make: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        let end = self.end;
        let buffer = self.buffer.get_or_insert_with(|| Buffer::lend(size));
        let room = buffer.get_mut(end..).filter(|room| room.len() >= least)?;
        let made = make(room);
        if let Ok(length) = &made {
            self.end += length;
        }
        if self.is_empty() {
            self.clear();
        }
        Some(made)
    }

    /// Nothing is held that is not needed: no buffer without bytes, and no large one for few.
    pub(crate) fn settle(&mut self) {
        let left = self.end - self.start;
        if left == 0 {
            self.clear();
        } else if self.buffer.as_ref().is_some_and(|buffer| buffer.size() == Size::Large) {
            if left <= SMALL {
                self.move_to(Buffer::lend(Size::Small));
            } else if self.roomy {
                self.move_to(Buffer::own(left + SMALL));
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        (self.buffer, self.start, self.end) = (None, 0, 0);
    }

    /// Reads more, once: how much.
    pub(crate) fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let end = self.end;
        let room = self.buffer.as_deref_mut().and_then(|buffer| buffer.get_mut(end..)).unwrap_or_default();
        let most = room.len();
        if most == 0 {
            // To be read as the end it is not.
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let mut read = ReadBuf::new(room);
        let polled = Pin::new(reader).poll_read(cx, &mut read);
        let count = read.filled().len();
        self.end += count;
        if polled.is_pending() {
            self.settle();
        } else {
            self.busy = count == most || count > SMALL;
            if count == 0 {
                self.settle();
            }
        }
        ready!(polled)?;
        Poll::Ready(Ok(count))
    }

    /// Writes all there is.
    pub(crate) fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *writer).poll_write(cx, self.bytes()) else {
                self.settle();
                return Poll::Pending;
            };
            match written? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.take(written)),
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    /// A buffer with room for what is missing of any record: what is there is less than one.
    fn make_room(&mut self) {
        let wanted = if self.busy { Size::Large } else { Size::Small };
        match &self.buffer {
            None => (self.buffer, self.start, self.end) = (Some(Buffer::lend(wanted)), 0, 0),
            Some(buffer) if wanted == Size::Large && buffer.size() == Size::Small => {
                self.move_to(Buffer::lend(wanted));
            }
            // Or so little room that a read of it would not be worth its call.
            Some(buffer) if self.start > 0 && (self.is_empty() || buffer.len() - self.end < MAX_RECORD) => {
                let (start, end) = (self.start, self.end);
                if let Some(buffer) = &mut self.buffer {
                    buffer.copy_within(start..end, 0);
                }
                (self.start, self.end) = (0, end - start);
            }
            Some(_) => {}
        }
        let length = self.end - self.start;
        if self.roomy && self.buffer.as_ref().is_some_and(|buffer| buffer.len() == self.end) {
            self.move_to(Buffer::own(length + SMALL));
        }
    }

    /// What is there fits the other one.
    fn move_to(&mut self, mut other: Buffer) {
        let bytes = self.bytes();
        let count = bytes.len();
        if let Some(room) = other.get_mut(..count) {
            room.copy_from_slice(bytes);
            (self.buffer, self.start, self.end) = (Some(other), 0, count);
        }
    }
}
