//! Where a message ends and whom it is for: what is not beyond doubt is refused, as the next server might read
//! it differently (RFC 9112 s6.1 and s3.2, RFC 9113 s8.2.2).

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Request, StatusCode};

use super::{MOST_FIELDS, Version};

/// A request that could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubtful {
    /// A coding that we do not know the end of.
    #[error("transfer codings other than a single `chunked` are not forwarded")]
    Coding,
    /// Two statements about its length.
    #[error("the request has both Transfer-Encoding and Content-Length, or several Transfer-Encodings")]
    Length,
    /// None, several, different ones, or something that is no host.
    #[error("the request needs exactly one host, with an optional port")]
    Host,
    /// Bytes that have no place in a target, and that servers read differently.
    #[error("the target of the request is not ASCII: what is not needs percent-encoding")]
    Target,
    /// Fields of this hop that cannot be told.
    #[error("the Connection field of the request is not ASCII")]
    Connection,
    /// More than we look at.
    #[error("the request has more than {MOST_FIELDS} fields")]
    Fields,
}

impl Doubtful {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Length | Self::Host | Self::Target | Self::Connection => StatusCode::BAD_REQUEST,
            Self::Fields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// Whether a request is beyond doubt.
pub(super) fn check<B>(request: &Request<B>, version: Version) -> Result<(), Doubtful> {
    let headers = request.headers();
    if headers.len() > MOST_FIELDS {
        return Err(Doubtful::Fields);
    }
    if !request.uri().path_and_query().is_none_or(|target| target.as_str().is_ascii()) {
        return Err(Doubtful::Target);
    }
    // One look at each costs less than to look these up, and nearly no request has any but the last.
    let (mut coded, mut connected, mut hosts) = (false, false, Hosts::None);
    for (name, value) in headers {
        match name {
            name if *name == TRANSFER_ENCODING => coded = true,
            name if *name == CONNECTION => connected = true,
            name if *name == HOST => hosts = hosts.and(value),
            _ => {}
        }
    }
    if coded {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        if !codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(Doubtful::Coding);
        }
        if codings.next().is_some() || headers.contains_key(CONTENT_LENGTH) {
            return Err(Doubtful::Length);
        }
    }
    if connected && headers.get_all(CONNECTION).iter().any(|value| value.to_str().is_err()) {
        return Err(Doubtful::Connection);
    }
    let authority = request.uri().authority().filter(|_| version == Version::Http2);
    match (hosts, authority) {
        // HTTP/2 says it in the target; a field may say the same once more (RFC 9113 s8.3.1).
        (Hosts::None, Some(_)) => Ok(()),
        (Hosts::One(host), Some(authority)) => {
            let same = host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
            if same { Ok(()) } else { Err(Doubtful::Host) }
        }
        (Hosts::One(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Hosts::None, None) if request.version() < http::Version::HTTP_11 => Ok(()),
        _ => Err(Doubtful::Host),
    }
}

enum Hosts<'a> {
    None,
    One(&'a HeaderValue),
    Several,
}

impl<'a> Hosts<'a> {
    fn and(self, other: &'a HeaderValue) -> Self {
        if matches!(self, Self::None) { Self::One(other) } else { Self::Several }
    }
}

/// `HOST[:PORT]` (RFC 9112 s3.2); empty where the target has no authority.
fn is_host(value: &[u8]) -> bool {
    // A name or an address of IPv4: what most are is seen without reading all that it could be.
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) => value.split_at(colon),
        None => (value, &[][..]),
    };
    let plain = host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    if plain && (port.is_empty() || (!host.is_empty() && is_port(port))) {
        return true;
    }
    let Ok(authority) = Authority::try_from(value) else { return false };
    let host = authority.host();
    // Numbers are read with a sign, too, where they are read.
    let digits =
        || authority.port().is_some_and(|port| port.as_str().bytes().all(|byte| byte.is_ascii_digit()));
    !host.is_empty()
        && !authority.as_str().contains('@')
        && (authority.as_str().len() == host.len() || (authority.port_u16().is_some() && digits()))
}

/// A colon, and a number that is none too large.
fn is_port(port: &[u8]) -> bool {
    let number = port
        .iter()
        .skip(1)
        .try_fold(0_u32, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')));
    (2..=6).contains(&port.len()) && number.is_some_and(|number| number <= u16::MAX.into())
}

/// Whether the client waits to be asked for its body (RFC 9110 s10.1.1).
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: http::Version, fields: &[(&str, &str)]) -> Result<(), Doubtful> {
        let mut request = Request::post("/").version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap(), Version::Http1)
    }

    #[test]
    fn length_is_said_once_and_understood() {
        let host = ("host", "a");
        let coded = |value| of(http::Version::HTTP_11, &[host, ("transfer-encoding", value)]);
        assert_eq!(coded("chunked"), Ok(()));
        assert_eq!(coded("Chunked"), Ok(()));
        for other in ["identity, chunked", "gzip, chunked", "chunked, chunked", ", chunked", "x", ""] {
            assert_eq!(coded(other), Err(Doubtful::Coding), "{other}");
        }
        let chunked = ("transfer-encoding", "chunked");
        assert_eq!(of(http::Version::HTTP_11, &[host, chunked, chunked]), Err(Doubtful::Length));
        let both = [host, chunked, ("content-length", "3")];
        assert_eq!(of(http::Version::HTTP_11, &both), Err(Doubtful::Length));
    }

    #[test]
    fn host_is_one_and_a_host() {
        for host in
            ["a", "a.example:80", "[fd00::1]:80", "[fd00::1]", "10.0.0.1", "10.0.0.1:65535", "a:8443", ""]
        {
            assert_eq!(of(http::Version::HTTP_11, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "a b", "a/admin", "u@a", "a, b", "a:x", "a:99999", "a:65536", "a:", ":80", "a:80:80", "a:-1",
            "a:+1",
        ] {
            assert_eq!(of(http::Version::HTTP_11, &[("host", host)]), Err(Doubtful::Host), "{host}");
        }
        assert_eq!(of(http::Version::HTTP_11, &[]), Err(Doubtful::Host));
        assert_eq!(of(http::Version::HTTP_10, &[]), Ok(()));
        assert_eq!(of(http::Version::HTTP_11, &[("host", "a"), ("host", "a")]), Err(Doubtful::Host));
    }

    #[test]
    fn fields_are_bounded() {
        let many: Vec<_> = (0..MOST_FIELDS).map(|_| ("x", "y")).chain([("host", "a")]).collect();
        assert_eq!(of(http::Version::HTTP_11, &many), Err(Doubtful::Fields));
    }
}
