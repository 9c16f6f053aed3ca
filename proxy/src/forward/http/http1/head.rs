//! Heads of HTTP/1 messages, read and written (RFC 9112). What frames a message is settled here: one statement about its
//! length goes on, and a message that makes two has one that counts or is refused.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::Uri;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use httparse::{Error, Header, ParserConfig, Status};

use super::super::headers::{REQUEST_ID, TRACE_PARENT, TRACE_STATE};
use super::super::{LARGEST_HEAD, MOST_FIELDS};
use crate::forward::stated::FORWARDED_CLIENT_CERT;

/// Bytes of a target; beyond that the answer is 414. What [`Uri`] can hold.
const LONGEST_TARGET: usize = (u16::MAX - 1) as usize;
/// Fields that are added to a head on its way: there is room for them without moving the others.
const MOST_ADDED: usize = 4;
/// Whoever holds a part of a head holds as much memory, which is why it is not more.
const HEADS_AT_ONCE: usize = 4 * 1024;
/// The preface of HTTP/2, which is no request (RFC 9113 s3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// How long the body of a message is (RFC 9112 s6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes; 0 where there is none.
    Exactly(u64),
    Chunked,
    /// As long as its connection.
    ToEnd,
}

/// A request as it came.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request<()>,
    pub(super) body: Length,
    /// Whether the connection may go on after the answer.
    pub(super) keep: bool,
}

/// A response as it came.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) response: Response<()>,
    pub(super) body: Length,
    /// Whether the connection may go on after it.
    pub(super) keep: bool,
}

/// Bytes that are no message of HTTP/1, or one that nobody should have to understand.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the head is larger than {LARGEST_HEAD} bytes")]
    Large,
    #[error("the head has more than {MOST_FIELDS} fields")]
    Fields,
    #[error("the target is longer than {LONGEST_TARGET} bytes")]
    Target,
    #[error("HTTP/2 in the middle of HTTP/1")]
    Preface,
    #[error("{0}")]
    Syntax(#[from] Error),
    #[error("{0}")]
    Part(#[from] http::Error),
    #[error("Content-Length is no number, or several")]
    ContentLength,
    #[error("a transfer coding that is not understood")]
    Coding,
    #[error("the size of a chunk is no number, or not followed by its chunk")]
    Chunk,
    #[error("trailers that are none, or too many")]
    Trailers,
}

impl Malformed {
    /// What a client is told, if it is told anything.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Large | Self::Fields => Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Self::Target => Some(StatusCode::URI_TOO_LONG),
            Self::Preface => None,
            _ => Some(StatusCode::BAD_REQUEST),
        }
    }
}

/// The request that `bytes` begin with and the length of its head, if that is complete.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Asked, usize)>, Malformed> {
    let mut room = [MaybeUninit::<Header<'_>>::uninit(); MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let read = ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, bytes, &mut room);
    let length = match complete(read, bytes) {
        Err(Malformed::Syntax(Error::Version)) if bytes.starts_with(PREFACE) => {
            return Err(Malformed::Preface);
        }
        other => other?,
    };
    let Some(length) = length else { return Ok(None) };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Error::Status.into());
    };
    if target.len() > LONGEST_TARGET {
        return Err(Malformed::Target);
    }
    let head = Head::of(bytes, length);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(http::Error::from)?;
    *request.uri_mut() = Uri::from_maybe_shared(head.part(target.as_bytes())).map_err(http::Error::from)?;
    *request.version_mut() = if version == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let (headers, said) = head.fields(parsed.headers)?;
    *request.headers_mut() = headers;
    let version = request.version();
    let framing = said.settle(request.headers_mut(), version)?;
    let (body, keep) = match framing {
        // Whoever says both may mean either, as far as the next request goes (RFC 9112 s6.3).
        Framing { coded: Some(true), length, .. } => (Length::Chunked, length.is_none()),
        Framing { coded: Some(false), .. } => return Err(Malformed::Coding),
        Framing { coded: None, length, .. } => (Length::Exactly(length.unwrap_or(0)), true),
    };
    let keep = keep && framing.keep;
    Ok(Some((Asked { request, body, keep }, length)))
}

/// The response to a request of that method that `bytes` begin with, and the length of its head, if that is complete.
pub(super) fn response(bytes: &[u8], method: &Method) -> Result<Option<(Told, usize)>, Malformed> {
    let mut room = [MaybeUninit::<Header<'_>>::uninit(); MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let read = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut room);
    let Some(length) = complete(read, bytes)? else { return Ok(None) };
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else { return Err(Error::Status.into()) };
    let head = Head::of(bytes, length);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(code).map_err(http::Error::from)?;
    *response.version_mut() = if version == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let (headers, said) = head.fields(parsed.headers)?;
    *response.headers_mut() = headers;
    let (status, response_version) = (response.status(), response.version());
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD;
    if bodiless {
        let keep = said.settle(response.headers_mut(), response_version)?.keep;
        return Ok(Some((Told { response, body: Length::Exactly(0), keep }, length)));
    }
    let framing = said.settle(response.headers_mut(), response_version)?;
    // Whoever says both may mean either (RFC 9112 s6.3).
    let keep = framing.keep && (framing.coded.is_none() || framing.length.is_none());
    let body = match framing {
        Framing { coded: Some(true), .. } if is_only_chunked(response.headers()) => Length::Chunked,
        Framing { coded: Some(_), .. } => return Err(Malformed::Coding),
        Framing { length: Some(length), .. } => Length::Exactly(length),
        Framing { .. } => Length::ToEnd,
    };
    Ok(Some((Told { response, body, keep: keep && body != Length::ToEnd }, length)))
}

/// What else a body is coded with would be lost with the field.
fn is_only_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// Fields after a chunked body, and how long they are, if they are complete.
pub(super) fn trailers(bytes: &[u8]) -> Result<Option<(HeaderMap, usize)>, Malformed> {
    let mut room = [httparse::EMPTY_HEADER; MOST_FIELDS];
    match httparse::parse_headers(bytes, &mut room) {
        Ok(Status::Complete((length, fields))) => {
            let (fields, _) = Head::of(bytes, length).fields(fields).map_err(|_| Malformed::Trailers)?;
            Ok(Some((fields, length)))
        }
        Ok(Status::Partial) => Ok(None),
        Err(_) => Err(Malformed::Trailers),
    }
}

fn complete(read: httparse::Result<usize>, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    match read {
        Ok(Status::Complete(length)) if length > LARGEST_HEAD => Err(Malformed::Large),
        Ok(Status::Complete(length)) => Ok(Some(length)),
        Ok(Status::Partial) if bytes.len() > LARGEST_HEAD => Err(Malformed::Large),
        Ok(Status::Partial) => Ok(None),
        Err(Error::TooManyHeaders) => Err(Malformed::Fields),
        Err(error) => Err(error.into()),
    }
}

thread_local! {
    /// Heads are kept one behind the other: the memory is taken again when all of them are gone.
    static HEADS: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(HEADS_AT_ONCE));
}

thread_local! {
    /// Maps that were used, with the memory of their fields.
    static FIELDS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}
/// Kept for the next heads, by each worker, and of how many fields.
const MOST_SPARE: usize = 8;
const MOST_SPARE_FIELDS: usize = 32;

/// The fields of a head that was written are needed no more.
pub(super) fn end_fields(headers: &mut HeaderMap) {
    let mut headers = std::mem::take(headers);
    if (1..=MOST_SPARE_FIELDS).contains(&headers.capacity()) {
        headers.clear();
        FIELDS.with_borrow_mut(|spare| {
            if spare.len() < MOST_SPARE {
                spare.push(headers);
            }
        });
    }
}

/// A head whose parts are shared and not copied once more.
struct Head<'a> {
    parsed: &'a [u8],
    kept: Bytes,
}

/// Which fields a head has of those that say where its message and its connection end.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    coding: bool,
    length: bool,
    connection: bool,
}

impl<'a> Head<'a> {
    fn of(bytes: &'a [u8], length: usize) -> Self {
        let parsed = bytes.get(..length).unwrap_or_default();
        let kept = HEADS.with_borrow_mut(|heads| {
            heads.extend_from_slice(parsed);
            heads.split().freeze()
        });
        Self { parsed, kept }
    }

    fn part(&self, part: &[u8]) -> Bytes {
        let start = (part.as_ptr() as usize).saturating_sub(self.parsed.as_ptr() as usize);
        match start.checked_add(part.len()) {
            Some(end) if end <= self.kept.len() => self.kept.slice(start..end),
            _ => Bytes::copy_from_slice(part),
        }
    }

    fn fields(&self, parsed: &[Header<'_>]) -> Result<(HeaderMap, Said), http::Error> {
        let mut headers = FIELDS.with_borrow_mut(Vec::pop).unwrap_or_default();
        headers.reserve(parsed.len() + MOST_ADDED);
        let mut said = Said::default();
        for field in parsed {
            let name = name_of(field.name.as_bytes())?;
            match &name {
                name if *name == TRANSFER_ENCODING => said.coding = true,
                name if *name == CONTENT_LENGTH => said.length = true,
                name if *name == CONNECTION => said.connection = true,
                _ => {}
            }
            headers.append(name, HeaderValue::from_maybe_shared(self.part(field.value))?);
        }
        Ok((headers, said))
    }
}

/// Custom names that most messages between proxies have: they need no memory of their own.
static USUAL: [HeaderName; 4] = [REQUEST_ID, FORWARDED_CLIENT_CERT, TRACE_PARENT, TRACE_STATE];

fn name_of(name: &[u8]) -> Result<HeaderName, http::Error> {
    match USUAL.iter().find(|usual| usual.as_str().as_bytes() == name) {
        Some(usual) => Ok(usual.clone()),
        None => Ok(HeaderName::from_bytes(name)?),
    }
}

/// Where a message ends.
struct Framing {
    /// Whether the last transfer coding is `chunked`, if there is any.
    coded: Option<bool>,
    /// The length that was said beside it, or instead.
    length: Option<u64>,
    keep: bool,
}

impl Said {
    /// What the fields say, of which one statement about the length is left.
    fn settle(self, headers: &mut HeaderMap, version: Version) -> Result<Framing, Malformed> {
        let mut framing = Framing { coded: None, length: None, keep: self.keeps(headers, version) };
        if self.length {
            let mut several = false;
            for value in headers.get_all(CONTENT_LENGTH) {
                let said = number(value.as_bytes()).ok_or(Malformed::ContentLength)?;
                if framing.length.is_some_and(|known| known != said) {
                    return Err(Malformed::ContentLength);
                }
                several = framing.length.replace(said).is_some();
            }
            if let Some(length) = framing.length.filter(|_| several) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        if self.coding {
            if version == Version::HTTP_10 {
                return Err(Malformed::Coding);
            }
            framing.coded = headers.get_all(TRANSFER_ENCODING).iter().next_back().map(|value| {
                let last = value.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
                last.trim_ascii().eq_ignore_ascii_case(b"chunked")
            });
            headers.remove(CONTENT_LENGTH);
        }
        Ok(framing)
    }

    /// Whether the connection goes on after this message (RFC 9112 s9.3): who says that it does not is believed.
    fn keeps(self, headers: &HeaderMap, version: Version) -> bool {
        if !self.connection {
            return version == Version::HTTP_11;
        }
        let said = |word: &[u8]| {
            let values = headers.get_all(CONNECTION).iter();
            let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            words.any(|said| said.trim_ascii().eq_ignore_ascii_case(word))
        };
        !said(b"close") && (version == Version::HTTP_11 || said(b"keep-alive"))
    }
}

/// Digits and nothing else; as long as no body is.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes the head of a request in the form in which it is forwarded.
pub(super) fn write_request(request: &Request<()>, body: Length, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(request.headers(), out);
    // Servers expect one of methods that are made to bring a body (RFC 9110 s8.6).
    let brings = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if brings && body == Length::Exactly(0) && !request.headers().contains_key(CONTENT_LENGTH) {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of a response to a request of that version, without the end of the head.
pub(super) fn write_status(version: Version, status: StatusCode, out: &mut Vec<u8>) {
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes fields.
pub(super) fn write_fields(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests;
