//! HTTP CONNECT (RFC 9110 s9.3.6): an app that is configured with a proxy names its destination. Bytes that
//! come with the request wait until the destination was granted, and go nowhere if it is not: the connection
//! ends then, so that they cannot be taken for another request.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::forward::Prefixed;

/// From the accept to the end of the request head, and for an answer to be taken.
const DEADLINE: Duration = Duration::from_secs(5);
const LARGEST_HEAD: usize = 8 * 1024;
const MOST_FIELDS: usize = 64;

/// A request for a destination that cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Another method.
    #[error("this listener takes CONNECT only, found {0} (curl: --proxytunnel)")]
    Method(String),
    /// Not HTTP/1, or not as it should be.
    #[error("not a CONNECT request: {0}")]
    Malformed(&'static str),
    /// Too much of it.
    #[error("CONNECT request head longer than {LARGEST_HEAD} bytes or {MOST_FIELDS} fields")]
    TooLarge,
    /// Its end did not come.
    #[error("CONNECT request not complete within {} s", DEADLINE.as_secs())]
    Deadline,
    /// The connection broke.
    #[error("connection broke before the CONNECT request ended: {0}")]
    Io(#[from] io::Error),
}

impl ConnectError {
    fn status(&self) -> &'static str {
        match self {
            Self::Method(_) => "405 Method Not Allowed\r\nallow: CONNECT",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Deadline => "408 Request Timeout",
            Self::Malformed(_) | Self::Io(_) => "400 Bad Request",
        }
    }
}

/// Reads the request; a request that cannot be followed is answered.
///
/// # Errors
/// When no CONNECT request comes in time.
pub async fn requested<S>(caller: &mut Prefixed<S>) -> Result<Authority, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = async {
        loop {
            if let Some((authority, length)) = parse(caller.ahead())? {
                caller.discard(length);
                return Ok(authority);
            }
            if caller.read_ahead().await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    };
    let requested = tokio::time::timeout(DEADLINE, head).await.unwrap_or(Err(ConnectError::Deadline));
    if let Err(error) = &requested {
        refuse(caller, error.status(), error).await;
    }
    requested
}

/// The destination was found.
///
/// # Errors
/// When the caller does not take the answer.
pub async fn grant<S: AsyncWrite + Unpin>(caller: &mut Prefixed<S>) -> io::Result<()> {
    let answer = caller.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n");
    tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// It was not, or may not be called.
pub async fn deny<S: AsyncWrite + Unpin>(caller: &mut Prefixed<S>, why: impl Display) {
    refuse(caller, "403 Forbidden", why).await;
}

async fn refuse<S: AsyncWrite + Unpin>(caller: &mut Prefixed<S>, status: &str, why: impl Display) {
    let text = format!("signet-proxy: {why}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    let send = async {
        caller.write_all(answer.as_bytes()).await?;
        caller.shutdown().await
    };
    // It is refused either way.
    let _ = tokio::time::timeout(DEADLINE, send).await;
}

/// The destination that the request at the start of `bytes` names and the length of its head, or `None` while
/// more bytes are needed. Pure.
///
/// # Errors
/// When the bytes cannot become a CONNECT request.
pub fn parse(bytes: &[u8]) -> Result<Option<(Authority, usize)>, ConnectError> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= LARGEST_HEAD => length,
        Ok(httparse::Status::Partial) if bytes.len() < LARGEST_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(ConnectError::TooLarge),
        Err(_) => return Err(ConnectError::Malformed("its syntax is broken")),
    };
    match request.method {
        Some("CONNECT") => {}
        other => return Err(ConnectError::Method(other.unwrap_or_default().chars().take(32).collect())),
    }
    // A CONNECT request has no content, and what claims to have some is up to no good.
    if request.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("content-length")
            || field.name.eq_ignore_ascii_case("transfer-encoding")
    }) {
        return Err(ConnectError::Malformed("it has content"));
    }
    let target = request.path.unwrap_or_default();
    let authority: Authority =
        target.parse().map_err(|_| ConnectError::Malformed("its target is not HOST:PORT"))?;
    // The root of all names is nobody's.
    let host = authority.host().trim_matches(['[', ']', '.']);
    let named = !host.is_empty() && authority.port_u16().is_some_and(|port| port != 0);
    if !named || target.contains('@') {
        return Err(ConnectError::Malformed("its target is not HOST:PORT"));
    }
    Ok(Some((authority, length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn destination_is_what_the_request_names() {
        for (request, expected) in [
            ("CONNECT db.internal:5432 HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n", "db.internal:5432"),
            ("CONNECT [fd00::2]:80 HTTP/1.1\r\n\r\n", "[fd00::2]:80"),
            ("CONNECT 10.0.0.2:80 HTTP/1.0\r\nUser-Agent: x\r\n\r\n", "10.0.0.2:80"),
        ] {
            for end in 0..request.len() {
                assert!(parse(&request.as_bytes()[..end]).unwrap().is_none(), "{request} at {end}");
            }
            let early = format!("{request}GET /smuggled HTTP/1.1\r\n");
            let (authority, length) = parse(early.as_bytes()).unwrap().unwrap();
            assert_eq!((authority.as_str(), length), (expected, request.len()));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for refused in [
            "GET http://db.internal/ HTTP/1.1\r\n\r\n",
            "CONNECT db.internal HTTP/1.1\r\n\r\n",
            "CONNECT db.internal:0 HTTP/1.1\r\n\r\n",
            "CONNECT db.internal:99999 HTTP/1.1\r\n\r\n",
            "CONNECT :80 HTTP/1.1\r\n\r\n",
            "CONNECT .:80 HTTP/1.1\r\n\r\n",
            "CONNECT []:80 HTTP/1.1\r\n\r\n",
            "CONNECT user@db.internal:80 HTTP/1.1\r\n\r\n",
            "CONNECT http://db.internal:80/ HTTP/1.1\r\n\r\n",
            "CONNECT db.internal:80 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "CONNECT db.internal:80 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT db.internal:80 HTTP/2.0\r\n\r\n",
            "\x16\x03\x01",
        ] {
            assert!(parse(refused.as_bytes()).is_err(), "{refused}");
        }
        let long = format!("CONNECT a:1 HTTP/1.1\r\nX: {}", "a".repeat(LARGEST_HEAD));
        assert!(matches!(parse(long.as_bytes()), Err(ConnectError::TooLarge)));
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_is_an_answer_and_the_end() {
        let (mut app, ours) = tokio::io::duplex(1024);
        app.write_all(b"GET / HTTP/1.1\r\n\r\nGET /again HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(requested(&mut Prefixed::new(ours)).await.is_err());
        let mut answer = String::new();
        app.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.matches("HTTP/1.1").count() == 1, "{answer}");

        let (mut app, ours) = tokio::io::duplex(1024);
        app.write_all(b"CONNECT a:1 HTTP/1.1\r\n").await.unwrap();
        assert!(matches!(requested(&mut Prefixed::new(ours)).await, Err(ConnectError::Deadline)));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in any::<Vec<u8>>(), tail in "CONNECT [a-z.:0-9\\[\\]@]{0,30} HTTP/1.1\r\n\r\n") {
            let _ = parse(&bytes);
            let _ = parse(tail.as_bytes());
        }
    }
}
