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

/// Looks at what a caller sends, as it comes.
pub trait Screen {
    /// Why the stream ends with these bytes, which are not passed on; `None` if it goes on.
    fn refuses(&mut self, bytes: &[u8]) -> Option<&'static str>;
}

/// A caller's stream, for as long as its screen refuses nothing.
#[derive(Debug)]
pub struct Screened<S, R> {
    inner: S,
    screen: R,
}

/// How far into a line that begins with a field's name the bytes are; either of the signs is taken for the other.
#[derive(Debug)]
pub struct IdentityFields {
    seen: usize,
    /// Of each of the names; `None` in a line that begins otherwise.
    matched: [Option<u8>; RESERVED.len()],
}

impl<S, R> Screened<S, R> {
    /// Screens a stream of which nothing was passed on yet.
    pub fn new(inner: S, screen: R) -> Self {
        Self { inner, screen }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream itself, of which nothing is to be read past the screen.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl Default for IdentityFields {
    fn default() -> Self {
        Self { seen: 0, matched: [Some(0); RESERVED.len()] }
    }
}

impl IdentityFields {
    /// Whether one of the names is complete with these bytes.
    fn completes(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes.iter().take(LONGEST_HEAD.saturating_sub(self.seen)) {
            let alike = if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
            for (name, matched) in RESERVED.iter().zip(&mut self.matched) {
                *matched = match (alike, *matched) {
                    (b'\n' | b'\r', _) => Some(0),
                    // Some strip what a line begins with.
                    (0..=b' ', Some(0)) => Some(0),
                    (alike, Some(matched)) if name.get(usize::from(matched)) == Some(&alike) => {
                        Some(matched + 1)
                    }
                    _ => None,
                };
                if matched.is_some_and(|matched| usize::from(matched) == name.len()) {
                    return true;
                }
            }
        }
        self.seen = self.seen.saturating_add(bytes.len());
        false
    }
}

impl Screen for IdentityFields {
    fn refuses(&mut self, bytes: &[u8]) -> Option<&'static str> {
        (self.seen < LONGEST_HEAD && self.completes(bytes)).then_some(
            "bytes of an undeclared protocol bring the identity header: if this port's protocol is not HTTP, declare it: protocol = \"tcp\"",
        )
    }
}

impl<S: AsyncRead + Unpin, R: Screen + Unpin> AsyncRead for Screened<S, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Some(why) = self.screen.refuses(buf.filled().get(before..).unwrap_or_default()) {
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, R: Unpin> AsyncWrite for Screened<S, R> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
                let mut field = IdentityFields::default();
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
            assert!(!IdentityFields::default().completes(other.as_bytes()), "{other:?}");
        }
        let late = format!("{}\nx-forwarded-client-cert", "a".repeat(LONGEST_HEAD));
        assert!(!IdentityFields::default().completes(late.as_bytes()), "beyond any head");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in prop::collection::vec(prop::sample::select(&b"x-forwarded-client-cert_X\r\n :"[..]), 0..200), size in 1_usize..20) {
            let mut pieces = IdentityFields::default();
            prop_assert_eq!(IdentityFields::default().completes(&bytes), bytes.chunks(size).any(|piece| pieces.completes(piece)));
        }
    }
}
