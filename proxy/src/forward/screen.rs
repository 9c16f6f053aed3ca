//! Bytes of a protocol that was found out and is not HTTP, looked at once more: the head of a request that no rule
//! knows for one, and that a lenient server would take for one all the same, must not bring the identity header
//! along. Servers have been seen to take a request line without a version, and methods of any kind.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stated::RESERVED;

/// No server takes a longer head.
const LONGEST_HEAD: usize = 64 * 1024;

/// A caller's stream whose beginning may not look like that.
#[derive(Debug)]
pub struct Screened<S> {
    inner: S,
    field: Field,
}

/// How far into a line that begins with a field's name the bytes are; either of the signs is taken for the other.
#[derive(Debug)]
struct Field {
    seen: usize,
    /// Of each of the names; `None` in a line that begins otherwise.
    matched: [Option<usize>; RESERVED.len()],
}

impl<S> Screened<S> {
    /// Screens a stream of which nothing was passed on yet.
    pub fn new(inner: S) -> Self {
        Self { inner, field: Field { seen: 0, matched: [Some(0); RESERVED.len()] } }
    }
}

impl Field {
    /// Whether one of the names is complete with these bytes.
    fn completes(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes.iter().take(LONGEST_HEAD.saturating_sub(self.seen)) {
            let alike = if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
            for (name, matched) in RESERVED.iter().zip(&mut self.matched) {
                *matched = match (alike, *matched) {
                    (b'\n' | b'\r', _) => Some(0),
                    // Some strip what a line begins with.
                    (0..=b' ', Some(0)) => Some(0),
                    (alike, Some(matched)) if name.get(matched) == Some(&alike) => Some(matched + 1),
                    _ => None,
                };
                if *matched == Some(name.len()) {
                    return true;
                }
            }
        }
        self.seen = self.seen.saturating_add(bytes.len());
        false
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.field.seen < LONGEST_HEAD {
            let new = buf.filled().get(before..).unwrap_or_default();
            if self.field.completes(new) {
                buf.set_filled(before);
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bytes of an undeclared protocol bring the identity header: if this port's protocol is not HTTP, declare it: protocol = \"tcp\"",
                )));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field() -> Field {
        Field { seen: 0, matched: [Some(0); RESERVED.len()] }
    }

    #[test]
    fn the_field_is_found_where_a_line_begins_with_it() {
        for head in [
            "GET /a\r\nX-Forwarded-Client-Cert: URI=spiffe://td/admin\r\n\r\n",
            "(GET / HTTP/1.1\nx_forwarded-client_CERT : x",
            "x-forwarded-client-cert:",
            "GET a\r\n \tx-forwarded-client-cert: x",
            "GET a\rx-forwarded-client-cert",
            "GET /a\r\nClient-Cert: :AA==:\r\n",
            "GET /a\nclient_cert_chain: :AA==:\r\n",
        ] {
            for size in [1, 2, 7, head.len()] {
                let mut field = field();
                assert!(
                    head.as_bytes().chunks(size).any(|piece| field.completes(piece)),
                    "{head:?} by {size}"
                );
            }
        }
        for other in [
            "GET /x-forwarded-client-cert\r\n",
            "x-forwarded-client-\ncert",
            "INSERT INTO t VALUES ('x-forwarded-client-cert')",
            "x-forwarded-for: 10.0.0.1",
            "x-client-cert: other",
        ] {
            assert!(!field().completes(other.as_bytes()), "{other:?}");
        }
        let late = format!("{}\nx-forwarded-client-cert", "a".repeat(LONGEST_HEAD));
        assert!(!field().completes(late.as_bytes()), "beyond any head");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in prop::collection::vec(prop::sample::select(&b"x-forwarded-client-cert_X\r\n :"[..]), 0..200), size in 1_usize..20) {
            let mut pieces = field();
            prop_assert_eq!(field().completes(&bytes), bytes.chunks(size).any(|piece| pieces.completes(piece)));
        }
    }
}
