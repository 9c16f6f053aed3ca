//! What a caller's bytes are, as this proxy reads them: for those who look at the reading alone, as fuzzing does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Decoder;
use super::head::{self, Asked};
use super::wire::Wire;
use crate::forward::Prefixed;

/// The requests that some bytes are.
#[derive(Debug, PartialEq, Eq)]
pub struct Requests {
    /// The head of each as it would go on, and its body.
    pub requests: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether nothing is left that is refused, or not complete.
    pub whole: bool,
}

/// Reads requests from bytes that come `piece` at a time, up to the one that ends its connection.
#[must_use]
pub fn requests(bytes: &[u8], piece: usize) -> Requests {
    let mut wire = Wire::new(Prefixed::new(InPieces { rest: bytes, piece: piece.max(1) }));
    let mut cx = Context::from_waker(Waker::noop());
    let mut requests = Vec::new();
    let whole = loop {
        let asked = match wire.poll_head(&mut cx, head::request) {
            Poll::Ready(Ok(Some(asked))) => asked,
            Poll::Ready(Ok(None)) => break true,
            _ => break false,
        };
        let keep = asked.keep;
        let Some(request) = with_body(asked, &mut wire, &mut cx) else { break false };
        requests.push(request);
        if !keep {
            break true;
        }
    };
    Requests { requests, whole }
}

fn with_body(
    asked: Asked,
    wire: &mut Wire<InPieces<'_>>,
    cx: &mut Context<'_>,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut decoder, mut head, mut body) = (Decoder::new(asked.body), Vec::new(), Vec::new());
    let request: Request<()> = asked.request;
    head::write_request(&request, asked.body, &mut head);
    while !decoder.is_done() {
        let framed = decoder.frame(wire.input()).ok()?;
        wire.discard(framed);
        let count = usize::try_from(decoder.data()).unwrap_or(usize::MAX).min(wire.input().len());
        if count > 0 {
            body.extend_from_slice(wire.input().get(..count).unwrap_or_default());
            wire.discard(count);
            decoder.took(count as u64);
        } else if !decoder.is_done() && !matches!(wire.poll_more(cx), Poll::Ready(Ok(true))) {
            return None;
        }
    }
    Some((head, body))
}

/// Bytes that are there, as many at a time as one likes.
struct InPieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for InPieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.piece.min(buf.remaining()).min(self.rest.len());
        let (now, later) = self.rest.split_at(count);
        buf.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for InPieces<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_no_difference() {
        let two = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\nPOST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nllo";
        let read = requests(two, usize::MAX);
        let bodies: Vec<_> = read.requests.iter().map(|(_, body)| &body[..]).collect();
        assert_eq!((bodies, read.whole), (vec![&b"he"[..], b"llo"], true));
        for piece in 1..10 {
            assert_eq!(requests(two, piece), read);
        }
        let last = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\n";
        assert_eq!(requests(last, 5).requests.len(), 1);
        assert!(!requests(&two[..two.len() - 1], 7).whole);
    }
}
