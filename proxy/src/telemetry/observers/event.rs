//! What those who tap are told: one JSON object a line.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is known who talks to whom on a connection, and what they speak.
    Opened,
    /// A connection ended.
    Closed,
    /// A request ended.
    Request,
}

/// One thing that happened. Absent is what is not known, or is not of this kind.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Event<'a> {
    /// What.
    pub event: Kind,
    /// When, as in RFC 3339.
    pub time: String,
    /// The connection, as in the table.
    pub connection: u64,
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// What is spoken.
    pub protocol: &'static str,
    /// Who called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    /// Who was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<&'a str>,
    /// The app's port.
    pub port: u16,
    /// Who is at the other end of the accepted socket.
    pub remote: String,
    /// `allow`, `deny`, or `none` where policy was not asked.
    pub verdict: &'static str,
    /// The document that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    /// Its rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// Of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    /// Of a request, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// Of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// The trace that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Towards the called side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Towards the calling side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<&'static str>,
    /// The same at length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
}

/// In place of events that there was no room for.
pub(super) fn dropped(count: u64) -> Value {
    json!({ "event": "dropped", "count": count })
}

/// Milliseconds to the microsecond.
pub(crate) fn milliseconds(took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let micros = took.as_micros() as f64;
    micros / 1000.0
}
