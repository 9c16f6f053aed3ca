//! A request as an app received it, and the strict reading of HTTP/1.1 (RFC 9112) that the recording app does.

/// A complete request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// The method.
    pub method: String,
    /// The target as it is in the request line; in HTTP/2 `:path`.
    pub target: String,
    /// The fields in their order, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// The fields after the body.
    pub trailers: Vec<(String, String)>,
}

impl Received {
    /// The values of this field, one per line.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Every value, in the head or after the body, of what a server could take for the identity header.
    #[must_use]
    pub fn identities(&self) -> Vec<&str> {
        self.headers
            .iter()
            .chain(&self.trailers)
            .filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-") == "x-forwarded-client-cert")
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// What the first bytes of a connection are.
pub(super) enum Parsed {
    /// A request, and how many bytes it has.
    Complete(Box<Received>, usize),
    /// More is needed.
    Incomplete,
    /// No request that every server reads the same way.
    Malformed(String),
}

enum Framing {
    Length(usize),
    Chunked,
}

/// Reads one request.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let result = match complete_head(bytes) {
        None => return Parsed::Incomplete,
        Some(Err(why)) => Err(why),
        Some(Ok((mut request, start))) => framing(&request).and_then(|framing| {
            let body = bytes.get(start..).unwrap_or_default();
            let length = match framing {
                Framing::Length(length) if body.len() < length => return Ok(None),
                Framing::Length(length) => {
                    request.body = body[..length].to_vec();
                    length
                }
                Framing::Chunked => match chunked(body, &mut request)? {
                    Some(length) => length,
                    None => return Ok(None),
                },
            };
            Ok(Some((request, start + length)))
        }),
    };
    match result {
        Ok(Some((request, length))) => Parsed::Complete(Box::new(request), length),
        Ok(None) => Parsed::Incomplete,
        Err(why) => Parsed::Malformed(why),
    }
}

/// The request whose head these bytes begin with, without its body.
pub(super) fn head(bytes: &[u8]) -> Option<Received> {
    complete_head(bytes)?.ok().map(|(request, _)| request)
}

fn complete_head(bytes: &[u8]) -> Option<Result<(Received, usize), String>> {
    let end = find(bytes, b"\r\n\r\n")?;
    Some(read_head(&bytes[..end]).map(|request| (request, end + 4)))
}

fn read_head(head: &[u8]) -> Result<Received, String> {
    let head = std::str::from_utf8(head).map_err(|_| "bytes that are not ASCII".to_owned())?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("request line {line:?}"));
    };
    if !is_token(method) || target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("request line {line:?}"));
    }
    let headers = lines.map(field).collect::<Result<_, _>>()?;
    Ok(Received { method: method.to_owned(), target: target.to_owned(), headers, ..Received::default() })
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("field {line:?}"))?;
    let clean = value.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control());
    if !is_token(name) || !clean {
        return Err(format!("field {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

/// One way to tell the length, in its plainest form, and one host.
fn framing(request: &Received) -> Result<Framing, String> {
    let hosts = request.values("host").len();
    if hosts != 1 {
        return Err(format!("{hosts} Host fields"));
    }
    let (codings, lengths) = (request.values("transfer-encoding"), request.values("content-length"));
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| format!("Content-Length {length:?}"))
        }
        _ => Err(format!("Transfer-Encoding {codings:?}, Content-Length {lengths:?}")),
    }
}

/// The length of a chunked body with its trailers, which go into `request`.
fn chunked(body: &[u8], request: &mut Received) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(end) = find(&body[at..], b"\r\n") else { return Ok(None) };
        let line = &body[at..at + end];
        let size = std::str::from_utf8(line).ok().filter(|size| {
            !size.is_empty() && size.len() <= 8 && size.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| format!("chunk size {:?}", line.escape_ascii().to_string()))?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(data) = body.get(at..at + size + 2) else { return Ok(None) };
        let (data, end) = data.split_at(size);
        if end != b"\r\n" {
            return Err("a chunk that does not end with its size".to_owned());
        }
        request.body.extend(data);
        at += size + 2;
    }
    if body[at..].starts_with(b"\r\n") {
        return Ok(Some(at + 2));
    }
    let Some(end) = find(&body[at..], b"\r\n\r\n") else { return Ok(None) };
    let trailers = std::str::from_utf8(&body[at..at + end]).map_err(|_| "trailers".to_owned())?;
    request.trailers = trailers.split("\r\n").map(field).collect::<Result<_, _>>()?;
    Ok(Some(at + end + 4))
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &str) -> String {
        match parse(bytes.as_bytes()) {
            Parsed::Complete(request, length) => {
                format!("{} {} {length}", request.target, String::from_utf8_lossy(&request.body))
            }
            Parsed::Incomplete => "incomplete".to_owned(),
            Parsed::Malformed(why) => why,
        }
    }

    #[test]
    fn what_is_plain_is_read() {
        assert_eq!(said("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET"), "/a  28");
        assert_eq!(said("PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi!"), "/a hi 49");
        let chunked = "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(said(&format!("{chunked}2\r\nhi\r\n0\r\n\r\nGET")), "/a hi 68");
        assert_eq!(said(&format!("{chunked}2\r\nhi\r\n0\r\nA: b\r\n\r\n")), "/a hi 74");
        for unfinished in ["", "2\r\n", "2\r\nhi\r\n", "2\r\nhi\r\n0\r\n", "2\r\nhi\r\n0\r\nA: b\r\n"] {
            assert_eq!(said(&format!("{chunked}{unfinished}")), "incomplete");
        }
    }

    #[test]
    fn what_is_ambiguous_is_malformed() {
        let both = "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n";
        assert!(said(both).starts_with("Transfer-Encoding"));
        assert!(said("GET /a HTTP/1.0\r\nHost: a\r\n\r\n").starts_with("request line"));
        assert!(said("GET /a HTTP/1.1\r\nHost: a\r\nB : c\r\n\r\n").starts_with("field"));
        assert!(said("GET /a HTTP/1.1\r\nHost: a\nB: c\r\n\r\n").starts_with("field"));
        assert_eq!(said("GET /a HTTP/1.1\r\n\r\n"), "0 Host fields");
    }
}
