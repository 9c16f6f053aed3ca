//! A span while it lasts, and what is sent of it: the attributes of OpenTelemetry's conventions where there are any,
//! and our own for identities and the verdict.

use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Status, status::StatusCode};

use super::steps::Step;
use super::{Context, Finished, Scope};
use crate::telemetry::{CloseReason, Direction};

/// Longer texts of others are cut.
const LONGEST_STATE: usize = 512;

/// A span that is recorded.
#[derive(Debug)]
pub(in crate::telemetry) struct Span {
    pub(in crate::telemetry) scope: Scope,
    parent: Option<u64>,
    /// The `tracestate` of the caller.
    pub(in crate::telemetry) state: String,
}

/// What is known of it at its end.
pub(in crate::telemetry) struct Facts<'a> {
    pub(in crate::telemetry) direction: Direction,
    pub(in crate::telemetry) reason: CloseReason,
    pub(in crate::telemetry) method: Option<&'a str>,
    pub(in crate::telemetry) status: Option<u16>,
    pub(in crate::telemetry) detail: Option<&'a str>,
    /// All else, by name.
    pub(in crate::telemetry) attributes: Vec<KeyValue>,
}

impl Span {
    pub(super) fn new(own: Context, parent: Option<u64>) -> Self {
        Self { scope: Scope::new(own), parent, state: String::new() }
    }

    /// Takes the caller's `tracestate`.
    pub(in crate::telemetry) fn with_state(&mut self, state: &str) {
        if state.len() <= LONGEST_STATE {
            state.clone_into(&mut self.state);
        }
    }

    /// The span that ends now, and its phases.
    pub(super) fn finished(&self, facts: &Facts<'_>, took: Duration) -> Vec<Finished> {
        let (now, instant) = (signet_proto::clock::now(), Instant::now());
        let Context { trace, span, .. } = self.scope.context();
        let base = |span: u64, parent: Option<u64>| Finished {
            trace_id: trace.to_be_bytes().to_vec(),
            span_id: span.to_be_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
            trace_state: self.state.clone(),
            // Recorded, and whether the parent is elsewhere is known.
            flags: 0x101,
            ..Finished::default()
        };
        let below = self.scope.steps().into_iter().filter_map(|step| {
            let Step { name, begun, took, failed } = step;
            let own = Context::below(&self.scope.context())?;
            let ended = now.checked_sub(instant.saturating_duration_since(begun + took))?;
            Some(Finished {
                name: name.to_owned(),
                kind: SpanKind::Internal.into(),
                start_time_unix_nano: nanos(ended.checked_sub(took)?),
                end_time_unix_nano: nanos(ended),
                status: failed.map(|why| Status { message: why, code: StatusCode::Error.into() }),
                ..base(own.span, Some(span))
            })
        });
        let mut all: Vec<_> = below.collect();
        let kind = match facts.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        };
        all.push(Finished {
            // Conventions for HTTP: the method alone where there is no route.
            name: facts.method.unwrap_or("connection").to_owned(),
            kind: kind.into(),
            start_time_unix_nano: nanos(now.checked_sub(took).unwrap_or(now)),
            end_time_unix_nano: nanos(now),
            attributes: facts.attributes.clone(),
            status: failure(facts),
            flags: 0x301,
            ..base(span, self.parent)
        });
        all
    }
}

/// Servers are not to blame for what their clients did wrong (conventions for HTTP, "Status").
fn failure(facts: &Facts<'_>) -> Option<Status> {
    let worst = match facts.direction {
        Direction::Inbound => 500,
        Direction::Outbound => 400,
    };
    let broke = !matches!(facts.reason, CloseReason::Finished | CloseReason::Denied);
    let failed = broke || facts.status.is_some_and(|status| status >= worst);
    let message = facts.detail.unwrap_or(facts.reason.as_str());
    failed.then(|| Status { message: message.to_owned(), code: StatusCode::Error.into() })
}

/// An attribute with a text.
pub(in crate::telemetry) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An attribute with a number.
pub(in crate::telemetry) fn number(key: &str, value: impl TryInto<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
impl Facts<'static> {
    pub(super) fn for_a_test() -> Self {
        Self {
            direction: Direction::Inbound,
            reason: CloseReason::Finished,
            method: Some("GET"),
            status: Some(404),
            detail: None,
            attributes: vec![text("signet.policy", "orders"), number("http.response.status_code", 404_u16)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_lie_within_their_span_and_below_it() {
        let span = Span::new(Context { trace: 7, span: 8, sampled: true }, Some(9));
        let begun = Instant::now();
        span.scope.step("connect", begun, None);
        span.scope.step("handshake", begun, Some("refused".into()));
        let finished = span.finished(&Facts::for_a_test(), begun.elapsed());
        let [connect, handshake, whole] = finished.as_slice() else { panic!("{finished:?}") };
        assert_eq!((whole.name.as_str(), whole.kind), ("GET", SpanKind::Server as i32));
        assert_eq!(whole.parent_span_id, 9_u64.to_be_bytes());
        assert!(whole.status.is_none(), "a 404 is no fault of the server");
        for step in [connect, handshake] {
            assert_eq!((&step.parent_span_id, &step.trace_id), (&whole.span_id, &whole.trace_id));
            assert!(step.end_time_unix_nano <= whole.end_time_unix_nano);
        }
        assert_eq!(handshake.status.as_ref().map(|status| status.message.as_str()), Some("refused"));
    }

    #[test]
    fn clients_are_told_of_every_failure() {
        let facts = Facts { direction: Direction::Outbound, ..Facts::for_a_test() };
        assert!(failure(&facts).is_some());
        let cut = Facts { reason: CloseReason::PolicyLost, status: Some(200), ..Facts::for_a_test() };
        assert_eq!(failure(&cut).map(|status| status.message), Some("policy_lost".into()));
    }
}
