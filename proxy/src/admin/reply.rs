//! Answers of the admin listener: JSON, and on refusal what was wrong and what is expected.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use std::sync::Arc;

/// A body that may go on for as long as somebody reads it.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What an endpoint answers.
pub struct Reply {
    content: &'static str,
    body: Body,
}

/// Why an endpoint did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    status: StatusCode,
    text: String,
    allow: Option<&'static str>,
}

impl Reply {
    /// Indented JSON.
    ///
    /// # Errors
    /// When `value` is none that JSON knows.
    pub fn json(value: &impl Serialize) -> Result<Self, Refused> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
        Ok(Self::whole("application/json", text + "\n"))
    }

    /// Text for people.
    #[must_use]
    pub fn text(text: String) -> Self {
        Self::whole("text/plain; charset=utf-8", text)
    }

    /// Lines of JSON, for as long as they come.
    pub fn lines(lines: impl Stream<Item = Arc<str>> + Send + 'static) -> Self {
        let frames = lines.map(|line| Ok(Frame::data(Bytes::copy_from_slice(line.as_bytes()))));
        Self { content: "application/x-ndjson", body: StreamBody::new(frames).boxed_unsync() }
    }

    /// Anything whole.
    #[must_use]
    pub fn whole(content: &'static str, body: impl Into<Bytes>) -> Self {
        Self { content, body: Full::new(body.into()).boxed_unsync() }
    }
}

impl Refused {
    /// With a status, and what to do instead.
    pub fn new(status: StatusCode, text: impl std::fmt::Display) -> Self {
        Self { status, text: text.to_string(), allow: None }
    }

    /// What was asked is not understood.
    pub fn bad(text: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// The endpoint is there, for another method.
    pub(super) fn method(allow: &'static str) -> Self {
        let text = format!("expected {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, text) }
    }
}

impl From<Reply> for Response<Body> {
    fn from(reply: Reply) -> Self {
        let mut response = Self::new(reply.body);
        protect(&mut response, HeaderValue::from_static(reply.content));
        response
    }
}

impl From<Refused> for Response<Body> {
    fn from(refused: Refused) -> Self {
        let text = serde_json::json!({ "error": refused.text }).to_string() + "\n";
        let mut response = Self::new(Full::new(Bytes::from(text)).boxed_unsync());
        *response.status_mut() = refused.status;
        protect(&mut response, HeaderValue::from_static("application/json"));
        if let Some(allow) = refused.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Nothing of it is kept, guessed at, or shown within something else.
fn protect(response: &mut Response<Body>, content: HeaderValue) {
    const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
    const POLICY: HeaderName = HeaderName::from_static("content-security-policy");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    headers.insert(POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}
