//! HTTP/1 or not: decided from the first line the caller sends, never from a timer.
//!
//! The answer guards the identity header. If a caller could make HTTP pass as opaque bytes, the header that
//! it forged would reach the app. So silence decides nothing: while the caller is silent the called side is
//! connected, and whoever speaks first settles it (a server that speaks first is no HTTP server). A caller
//! that begins a line and does not finish it is cut at the deadline rather than let through; a protocol that
//! looks like that wants its listener declared `tcp`.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::AsyncRead;

use super::Prefixed;
use super::http::Version;
use crate::telemetry::metrics;

/// How long a caller may be silent before the called side is connected to hear whether it speaks first.
const SILENCE: Duration = Duration::from_millis(10);
/// From the first byte of the first line to its end.
pub const FIRST_LINE_DEADLINE: Duration = Duration::from_secs(5);
/// How long neither side may say anything.
const FIRST_WORD_DEADLINE: Duration = Duration::from_secs(300);
/// What begins like a request and is longer than this without an end goes to the parser, which refuses it.
const LONGEST_LINE: usize = 4096;

/// What a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// HTTP; the parser has the last word.
    Http(Version),
    /// Anything else.
    Opaque,
}

/// Why the protocol did not become known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectError<E> {
    /// The called side could not be reached.
    #[error(transparent)]
    Connect(E),
    /// The caller broke off.
    #[error("caller broke off before its first line ended: {0}")]
    Caller(#[source] io::Error),
    /// A line was begun and not finished.
    #[error(
        "first line not finished within {} s; if this port's protocol is not HTTP, declare it: protocol = \"tcp\"",
        FIRST_LINE_DEADLINE.as_secs()
    )]
    FirstLine,
    /// Nobody said anything.
    #[error("neither side sent anything for {} s", FIRST_WORD_DEADLINE.as_secs())]
    Silence,
}

/// Finds out what `caller` speaks. `connect` reaches the called side; it runs only if the caller is silent,
/// and what it made is returned for the forwarding to use.
///
/// # Errors
/// When a deadline passes or a side cannot be reached.
pub async fn detect<S, U, C, E>(
    caller: &mut Prefixed<S>,
    connect: C,
) -> Result<(Detected, Option<Prefixed<U>>), DetectError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
    C: Future<Output = Result<Prefixed<U>, E>>,
{
    let started = Instant::now();
    let result = first_words(caller, connect).await;
    let label = match &result {
        Ok((Detected::Http(Version::Http1), _)) => "http/1.1",
        Ok((Detected::Http(Version::Http2), _)) => "http/2",
        Ok((Detected::Opaque, _)) => "tcp",
        Err(DetectError::FirstLine | DetectError::Silence) => "timeout",
        Err(_) => "error",
    };
    metrics::detection(label, started.elapsed());
    result
}

/// The same for a caller that will be refused: all that is asked is whether the refusal can be a response.
/// Nothing is connected, and silence is not waited out.
///
/// # Errors
/// When nothing useful came in time.
pub async fn detect_only<S>(caller: &mut Prefixed<S>) -> Result<Detected, DetectError<Infallible>>
where
    S: AsyncRead + Unpin,
{
    match tokio::time::timeout(FIRST_LINE_DEADLINE, first_line(caller)).await {
        Ok(detected) => detected,
        Err(_) => Err(DetectError::FirstLine),
    }
}

/// Which HTTP, where it is declared that it is HTTP: what looks like something else is left to the parser,
/// which refuses it.
///
/// # Errors
/// When the first line does not come in time.
pub async fn detect_version<S>(caller: &mut Prefixed<S>) -> Result<Detected, DetectError<Infallible>>
where
    S: AsyncRead + Unpin,
{
    Ok(match first_line(caller).await? {
        Detected::Opaque => Detected::Http(Version::Http1),
        known => known,
    })
}

async fn first_words<S, U, C, E>(
    caller: &mut Prefixed<S>,
    connect: C,
) -> Result<(Detected, Option<Prefixed<U>>), DetectError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
    C: Future<Output = Result<Prefixed<U>, E>>,
{
    tokio::select! {
        result = first_line(caller) => return Ok((result?, None)),
        () = tokio::time::sleep(SILENCE) => {}
    }
    if !caller.ahead().is_empty() {
        return Ok((first_line(caller).await?, None));
    }
    let mut called = Box::pin(connect).await.map_err(DetectError::Connect)?;
    tokio::select! {
        result = first_line(caller) => Ok((result?, Some(called))),
        // Data, the end or an error: in each case the called side did not wait for a request.
        _ = called.read_ahead() => Ok((Detected::Opaque, Some(called))),
    }
}

/// Reads ahead until [`classify`] knows. Cancel safe.
async fn first_line<S: AsyncRead + Unpin, E>(caller: &mut Prefixed<S>) -> Result<Detected, DetectError<E>> {
    let mut begun = false;
    let line_deadline = tokio::time::sleep(FIRST_LINE_DEADLINE);
    let word_deadline = tokio::time::sleep(FIRST_WORD_DEADLINE);
    tokio::pin!(line_deadline, word_deadline);
    loop {
        if let Some(known) = classify(caller.ahead()) {
            return Ok(known);
        }
        if !begun && !caller.ahead().is_empty() {
            begun = true;
            line_deadline.as_mut().reset(tokio::time::Instant::now() + FIRST_LINE_DEADLINE);
        }
        tokio::select! {
            read = caller.read_ahead() => match read {
                // The end of what the caller says. An unfinished request goes to the parser, which refuses it.
                Ok(0) if mentions_http(caller.ahead()) => return Ok(Detected::Http(Version::Http1)),
                Ok(0) => return Ok(Detected::Opaque),
                Ok(_) => {}
                Err(error) => return Err(DetectError::Caller(error)),
            },
            () = &mut line_deadline, if begun => return Err(DetectError::FirstLine),
            () = &mut word_deadline, if !begun => return Err(DetectError::Silence),
        }
    }
}

/// What the first bytes are, or `None` while more are needed. More bytes never change what is known. Pure.
///
/// Servers accept empty lines before a request (RFC 9112 s2.2) and some accept more than the RFCs allow, so
/// anything whose first line mentions HTTP counts as HTTP, and the strict parser refuses it if it is not. Only
/// a first word that no server takes for a method decides at once, for protocols that know no lines.
#[must_use]
pub fn classify(bytes: &[u8]) -> Option<Detected> {
    let Some(start) = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) else {
        // Servers skip empty lines, however many; the parser has a bound for them.
        return (bytes.len() > LONGEST_LINE).then_some(Detected::Http(Version::Http1));
    };
    if start > LONGEST_LINE {
        return Some(Detected::Http(Version::Http1));
    }
    let (_, rest) = bytes.split_at_checked(start)?;
    let end = rest.iter().position(|byte| *byte == b'\n').filter(|end| start + end <= LONGEST_LINE);
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let word = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
    if is_no_method(word.get(..LONGEST_LINE.min(word.len())).unwrap_or_default()) {
        return Some(Detected::Opaque);
    }
    if end.is_none() {
        return (bytes.len() > LONGEST_LINE).then_some(Detected::Http(Version::Http1));
    }
    Some(match line {
        line if !mentions_http(line) => Detected::Opaque,
        line if line.starts_with(b"PRI * HTTP/2.0") => Detected::Http(Version::Http2),
        _ => Detected::Http(Version::Http1),
    })
}

fn mentions_http(bytes: &[u8]) -> bool {
    bytes.windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTP/"))
}

/// Binary, or the beginning of JSON, XML and the like. Lenient servers take a method that is no token (RFC 9110
/// s5.6.2), and some take any kind of white space around it: neither decides.
fn is_no_method(word: &[u8]) -> bool {
    let binary = |byte: &u8| match byte {
        0x09..=0x0d | 0x1c..=0x20 | 0x85 | 0xa0 => false,
        _ => !byte.is_ascii_graphic(),
    };
    word.iter().any(binary) || word.first().is_some_and(|byte| b"{[(<\"".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn protocols_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Detected::Http(Version::Http1))),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Some(Detected::Http(Version::Http1))),
            (b"BREW /pot HTTP/1.0\n", Some(Detected::Http(Version::Http1))),
            (b"get / http/1.1\r\n", Some(Detected::Http(Version::Http1))),
            (b"PRI * HTTP/2.0\r\n", Some(Detected::Http(Version::Http2))),
            (b"GE", None),
            (b"GET /a/long/path", None),
            (b"\r\n", None),
            (b"", None),
            (b"\x16\x03\x01", Some(Detected::Opaque)),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(Detected::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Opaque)),
            (b"PING\r\n", Some(Detected::Opaque)),
            (b"CONNECT {\"verbose\":false}\r\n", Some(Detected::Opaque)),
            (b"SSH-2.0-client\r\n", Some(Detected::Opaque)),
            (b"ThisWordIsLongButSomeServersWouldTakeItForAMethod", None),
            (b"{\"json\":1", Some(Detected::Opaque)),
            (b"<?xml version='1.0'?><stream:stream", Some(Detected::Opaque)),
            (b"G@T / HTTP/1.1\r\n", Some(Detected::Http(Version::Http1))),
            (b"G@T", None),
            (b"PING\r", None),
            (b"\x0bGET / HTTP/1.1\r\n", Some(Detected::Http(Version::Http1))),
            (b"GET\x0b/\x0bHTTP/1.1\r\n", Some(Detected::Http(Version::Http1))),
            (b"\xa0GET\x85/ HTTP/1.1\r\n", Some(Detected::Http(Version::Http1))),
            (b"A\x01T / HTTP/1.1\r\n", Some(Detected::Opaque)),
        ] {
            assert_eq!(classify(bytes), expected, "{}", bytes.escape_ascii());
        }
        let long = [b"GET /", "a".repeat(LONGEST_LINE).as_bytes()].concat();
        assert_eq!(classify(&long), Some(Detected::Http(Version::Http1)));
        // Servers skip empty lines and accept long methods: neither may make a request pass as bytes.
        for disguise in ["\r\n".repeat(LONGEST_LINE), "A".repeat(LONGEST_LINE + 1)] {
            assert_eq!(classify(disguise.as_bytes()), Some(Detected::Http(Version::Http1)));
        }
    }

    fn no_server() -> std::future::Pending<Result<Prefixed<tokio::io::DuplexStream>, io::Error>> {
        std::future::pending()
    }

    #[tokio::test(start_paused = true)]
    async fn request_dribbled_byte_by_byte_is_still_http() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut caller = Prefixed::new(server);
        let dribble = async {
            for byte in b"GET / HTTP/1.1\r\n" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let (detected, ()) = tokio::join!(detect(&mut caller, no_server()), dribble);
        assert_eq!(detected.unwrap().0, Detected::Http(Version::Http1));
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_line_is_refused_and_not_let_through() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HT").await.unwrap();
        let refused = detect(&mut Prefixed::new(server), no_server()).await;
        assert!(matches!(refused, Err(DetectError::FirstLine)));
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn server_that_speaks_first_is_heard_without_noticeable_delay() {
        let (_client, accepted) = tokio::io::duplex(64);
        let (mut server, upstream) = tokio::io::duplex(64);
        server.write_all(b"220 ready\r\n").await.unwrap();
        let started = tokio::time::Instant::now();
        let connect = async { Ok::<_, io::Error>(Prefixed::new(upstream)) };
        let (detected, called) = detect(&mut Prefixed::new(accepted), connect).await.unwrap();
        assert_eq!(detected, Detected::Opaque);
        assert_eq!(called.unwrap().ahead(), b"220 ready\r\n");
        assert!(started.elapsed() <= Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn late_request_is_http_however_late() {
        let (mut client, accepted) = tokio::io::duplex(64);
        let (_server, upstream) = tokio::io::duplex(64);
        let mut caller = Prefixed::new(accepted);
        let connect = async { Ok::<_, io::Error>(Prefixed::new(upstream)) };
        let late = async {
            tokio::time::sleep(Duration::from_secs(120)).await;
            client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        };
        let (detected, ()) = tokio::join!(detect(&mut caller, connect), late);
        assert_eq!(detected.unwrap().0, Detected::Http(Version::Http1));
    }

    proptest! {
        #[test]
        fn more_bytes_never_turn_http_into_opaque(
            head in "(\r\n){0,3}[A-Z]{1,80} /[a-z/]{0,40} HTTP/1\\.[01]\r\n", tail in any::<Vec<u8>>(),
        ) {
            let bytes = [head.as_bytes(), &tail].concat();
            for end in 0..bytes.len() {
                let known = classify(&bytes[..end]);
                prop_assert!(known.is_none() || known == Some(Detected::Http(Version::Http1)), "{known:?} at {end}");
            }
        }

        #[test]
        fn more_bytes_never_change_what_is_known(
            bytes in prop::collection::vec(prop::sample::select(&b"GET /HTP1.\r\n\t{\x00\x7f@"[..]), 0..80),
        ) {
            let whole = classify(&bytes);
            for end in 0..bytes.len() {
                if let known @ Some(_) = classify(&bytes[..end]) {
                    prop_assert_eq!(known, whole, "at {}", end);
                }
            }
        }

        #[test]
        fn no_input_panics(bytes in any::<Vec<u8>>()) {
            let _ = classify(&bytes);
        }
    }
}
