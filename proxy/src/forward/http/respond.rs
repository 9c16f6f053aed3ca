//! Answers of our own: what happened and how to find it in the log, in the form that the client understands.

use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::headers::REQUEST_ID;
use super::tracked::{Flow, Tracked};
use crate::telemetry::AccessRecord;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const RESOURCE_EXHAUSTED: &str = "8";
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// In what form a client expects an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A status and a text.
    Text,
    /// A trailers-only response (gRPC over HTTP/2, "Responses").
    Grpc,
}

impl Form {
    pub(super) fn of(request: &HeaderMap) -> Self {
        let content = request.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content.starts_with("application/grpc") { Self::Grpc } else { Self::Text }
    }
}

/// The answer; `after`: when its client may come again.
pub(super) fn answer(
    form: Form,
    status: StatusCode,
    text: &str,
    request_id: &str,
    after: Option<Duration>,
) -> Response<String> {
    let mut response = match form {
        Form::Text => {
            let text = format!("signet-proxy: {text}\nrequest id: {request_id}\n");
            let mut response = Response::new(text);
            *response.status_mut() = status;
            insert(response.headers_mut(), CONTENT_TYPE, "text/plain; charset=utf-8");
            response
        }
        Form::Grpc => {
            let mut response = Response::new(String::new());
            let headers = response.headers_mut();
            insert(headers, CONTENT_TYPE, "application/grpc");
            let code = if after.is_some() { RESOURCE_EXHAUSTED } else { grpc_status(status) };
            insert(headers, GRPC_STATUS, code);
            insert(headers, GRPC_MESSAGE, &percent_encoded(&format!("signet-proxy: {text}")));
            response
        }
    };
    let headers = response.headers_mut();
    insert(headers, REQUEST_ID, request_id);
    if let Some(after) = after {
        // In whole seconds (RFC 9110 s10.2.3), and never at once.
        insert(headers, RETRY_AFTER, &after.as_secs_f64().ceil().max(1.0).to_string());
    }
    response
}

/// The same over HTTP/2, with its record, which it carries to the log.
pub(super) fn tracked(mut record: AccessRecord, answer: Response<String>) -> Response<Tracked> {
    record.answered(answer.status().as_u16());
    let flow = Flow::of_responses(record.facts.direction);
    answer.map(|text| Tracked::local(text, flow, record))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// The code whose meaning is nearest (gRPC, "Status codes and their use").
fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "7",
        StatusCode::GATEWAY_TIMEOUT => "4",
        StatusCode::METHOD_NOT_ALLOWED => "12",
        _ => "14",
    }
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2, "Responses").
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_encoded() {
        assert_eq!(percent_encoded("50% of \"é\"\n"), "50%25 of \"%C3%A9\"%0A");
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let of = |value: &'static str| {
            Form::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert_eq!(of("application/grpc+proto"), Form::Grpc);
        assert_eq!(of("text/html"), Form::Text);
        assert_eq!(Form::of(&HeaderMap::new()), Form::Text);
    }
}
