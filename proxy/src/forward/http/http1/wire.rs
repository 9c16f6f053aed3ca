//! A connection that speaks HTTP/1: what came on it and was not understood yet, and what goes out.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::head::Malformed;
use crate::forward::Prefixed;
use crate::forward::http::LARGEST_HEAD;
use crate::tls::held::Held;

/// Bodies and heads go out at once up to there; more is written before more is read.
pub(super) const FULL: usize = 16 * 1024;

/// Empty lines before a head, in bytes: old clients send one behind a body (RFC 9112 s2.2).
const MOST_EMPTY: usize = 1024;

/// A connection, and what was read of it ahead.
#[derive(Debug)]
pub(super) struct Wire<S> {
    pub(super) io: Prefixed<S>,
    input: Held,
    /// Of an unfinished head: so many bytes do not hold its end.
    looked: usize,
    /// So many empty lines came before the next head, in bytes.
    empty: usize,
    ended: bool,
    /// What is said before an answer.
    interim: Option<Box<Out>>,
}

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHead {
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("the connection ended inside of a head")]
    Cut,
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(io: Prefixed<S>) -> Self {
        Self { io, input: Held::roomy(), looked: 0, empty: 0, ended: false, interim: None }
    }

    /// What came.
    pub(super) fn input(&self) -> &[u8] {
        self.input.bytes()
    }

    /// The first bytes of it were understood.
    pub(super) fn discard(&mut self, count: usize) {
        let _ = self.input.take(count);
        if self.input.is_empty() {
            self.input.clear();
        }
    }

    /// What came waits: it keeps no buffer that others need.
    pub(super) fn settle(&mut self) {
        self.input.settle();
    }

    /// Whether the other end has finished.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads more: false at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        let more = ready!(self.input.poll_fill(cx, &mut self.io))? > 0;
        self.ended = !more;
        Poll::Ready(Ok(more))
    }

    /// The next head, as `parse` reads it; none if the connection ended before it.
    pub(super) fn poll_head<T>(
        &mut self,
        cx: &mut Context<'_>,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Malformed>,
    ) -> Poll<Result<Option<T>, NoHead>> {
        loop {
            if self.looked == 0 {
                let empty =
                    self.input.bytes().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.discard(empty);
                self.empty += empty;
                if self.empty > MOST_EMPTY {
                    return Poll::Ready(Err(Malformed::Large.into()));
                }
            }
            let bytes = self.input.bytes();
            if bytes.is_empty() {
                // Nothing to be read.
            } else if self.looked == 0 || may_be_complete(bytes, self.looked) {
                if let Some((head, length)) = parse(bytes)? {
                    (self.looked, self.empty) = (0, 0);
                    self.discard(length);
                    return Poll::Ready(Ok(Some(head)));
                }
                self.looked = bytes.len();
            }
            if !ready!(self.poll_more(cx))? {
                let begun = !self.input.is_empty();
                return Poll::Ready(if begun { Err(NoHead::Cut) } else { Ok(None) });
            }
        }
    }

    /// Says `bytes` before the answer.
    pub(super) fn say_first(&mut self, bytes: &[u8]) {
        self.interim.get_or_insert_with(Box::default).bytes.extend_from_slice(bytes);
    }

    /// Writes what is said before an answer.
    pub(super) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(interim) = &mut self.interim {
            ready!(interim.poll_send(cx, &mut self.io))?;
            self.interim = None;
        }
        Poll::Ready(Ok(()))
    }

    /// The connection itself, with all that came on it.
    pub(super) fn into_inner(mut self) -> Prefixed<S> {
        self.io.put_back(self.input.bytes());
        self.io
    }
}

/// Whether there is the end of a head behind those bytes of it. Looked for before all of it is read once more, as it may
/// come byte by byte.
fn may_be_complete(bytes: &[u8], looked: usize) -> bool {
    if bytes.len() > LARGEST_HEAD {
        return true;
    }
    let new = bytes.get(looked.saturating_sub(3)..).unwrap_or_default();
    looked < bytes.len()
        && (new.windows(2).any(|end| end == b"\n\n") || new.windows(3).any(|end| end == b"\n\r\n"))
}

/// What is written to a connection.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    written: usize,
    /// Kept after they were written, up to a bound, as they may be written once more.
    kept: bool,
    /// Something was written since [`Out::again`].
    begun: bool,
    unflushed: bool,
}

/// A head, and a small body.
const USUAL: usize = 2 * 1024;
/// Longer requests are sent once.
const MOST_KEPT: usize = 64 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}
/// Kept for the next, by each worker.
const MOST_SPARE: usize = 4;

impl Drop for Out {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if (USUAL..=FULL).contains(&bytes.capacity()) {
            bytes.clear();
            // A worker that ends has no use for it.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MOST_SPARE {
                    spare.push(bytes);
                }
            });
        }
    }
}

impl Out {
    /// With room for most that are.
    pub(super) fn new(kept: bool) -> Self {
        let bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(USUAL));
        Self { bytes, written: 0, kept, begun: false, unflushed: false }
    }

    /// It is not written again.
    pub(super) fn keeps_no_more(&mut self) {
        self.kept = false;
    }

    /// Whether all of it can be written again.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Whether something was written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len().saturating_sub(self.written)
    }

    /// From the beginning, on another connection.
    pub(super) fn again(&mut self) {
        (self.written, self.begun, self.unflushed) = (0, false, false);
    }

    /// Writes what waits.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            // What fails may have been written all the same, in part.
            self.begun = true;
            match ready!(Pin::new(&mut *io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => (self.written, self.unflushed) = (self.written + count, true),
            }
        }
        if self.bytes.len() > MOST_KEPT {
            self.kept = false;
        }
        if !self.kept {
            self.bytes.clear();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes `data`, of which there is some, behind it, as much as goes: how much.
    pub(super) fn poll_beyond<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write(cx, io))?;
        match ready!(Pin::new(io).poll_write(cx, data))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            count => {
                (self.begun, self.unflushed) = (true, true);
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Writes what waits, and has it sent.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx, io))?;
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::super::head;
    use super::*;

    async fn heads(bytes: &[u8], piece: usize) -> Vec<Result<String, String>> {
        let (mut client, server) = duplex(1 << 20);
        let mut wire = Wire::new(Prefixed::new(server));
        let sent = async {
            for part in bytes.chunks(piece) {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let heard = async {
            let mut heads = Vec::new();
            loop {
                match poll_fn(|cx| wire.poll_head(cx, head::request)).await {
                    Ok(Some(asked)) => heads.push(Ok(asked.request.uri().to_string())),
                    Ok(None) => break heads,
                    Err(error) => {
                        heads.push(Err(error.to_string()));
                        break heads;
                    }
                }
            }
        };
        tokio::join!(sent, heard).1
    }

    #[tokio::test]
    async fn heads_are_read_whatever_pieces_they_come_in() {
        let two = b"\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\nhost: a\n\n";
        for piece in [1, 2, 3, 7, two.len()] {
            assert_eq!(heads(two, piece).await, [Ok("/a".to_owned()), Ok("/b".to_owned())], "{piece}");
        }
        for piece in [1, 1000] {
            let cut = heads(b"GET /a HTTP/1.1\r\nhost", piece).await;
            assert!(matches!(&cut[..], [Err(why)] if why.contains("inside")), "{cut:?}");
        }
        let large = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(LARGEST_HEAD));
        let refused = heads(large.as_bytes(), 1 << 14).await;
        assert!(matches!(&refused[..], [Err(why)] if why.contains("larger")), "{refused:?}");
        let some = [b"\r\n".repeat(MOST_EMPTY / 2), two.to_vec()].concat();
        let many = [b"\n".to_vec(), some.clone()].concat();
        for piece in [3, 1 << 14] {
            assert_eq!(heads(&some[2..], piece).await.len(), 2);
            let refused = heads(&many, piece).await;
            assert!(matches!(&refused[..], [Err(why)] if why.contains("larger")), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn what_was_written_is_known_for_it_even_when_it_is_kept_no_more() {
        let (mut ours, mut theirs) = duplex(1 << 20);
        for (length, kept) in [(100, true), (MOST_KEPT + 1, false)] {
            let mut out = Out::new(true);
            assert!(!out.has_begun());
            out.bytes.resize(length, 7);
            poll_fn(|cx| out.poll_send(cx, &mut ours)).await.unwrap();
            assert!(out.has_begun() && out.waiting() == 0 && out.is_kept() == kept, "{length}");
            let mut read = vec![0; length];
            tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut read).await.unwrap();
            out.again();
            assert_eq!((out.has_begun(), out.waiting()), (false, if kept { length } else { 0 }));
        }
    }

    proptest! {
        #[test]
        fn the_end_of_a_head_is_never_missed(pieces in prop::collection::vec(1_usize..5, 1..40)) {
            let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            let mut looked = 0;
            let mut found = false;
            for piece in pieces {
                let bytes = &head[..(looked + piece).min(head.len())];
                if looked > 0 && may_be_complete(bytes, looked) {
                    found = true;
                }
                looked = bytes.len();
            }
            prop_assert_eq!(found, looked == head.len());
        }
    }
}
