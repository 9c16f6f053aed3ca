//! What a document of `kind: Service` says, as types.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::KIND;
use crate::spiffe::SpiffeId;

/// How calls to one identity are made and taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Whose calls.
    pub id: SpiffeId,
    /// Between whom they are split; empty: not at all.
    pub split: Vec<Leg>,
    /// What is tried again.
    pub retries: Option<Retries>,
    /// How long its phases may take.
    pub timeouts: Option<Timeouts>,
    /// How much it takes at once.
    pub limits: Option<Limits>,
    /// How much it takes of each caller.
    pub rate: Option<Rate>,
}

/// A part of the calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// To whom they go.
    #[serde(serialize_with = "text")]
    pub to: SpiffeId,
    /// To which of its apps, if it has several and another port than the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// How many, in proportion to the others.
    pub weight: u32,
}

/// What is tried again, at another endpoint. Calls that nobody looked at always are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// How often a request is sent, the first time included.
    pub attempts: u32,
    /// After what.
    pub on: BTreeSet<Condition>,
    /// Methods of which a request may be sent twice.
    pub methods: BTreeSet<String>,
    /// How many in all.
    pub budget: Budget,
}

/// How many retries there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Of a hundred requests.
    pub percent: u32,
    /// In a second in any case.
    pub per_second: u32,
}

/// What may be followed by a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// No connection came about: always safe, and always retried.
    Connect,
    /// The connection broke before the answer.
    Reset,
    /// The head of the answer did not come in time.
    Timeout,
    /// A gRPC call was answered UNAVAILABLE, and with nothing before that.
    Unavailable,
    /// This status, 429 or 500 to 599.
    Status(u16),
}

/// How long phases of a call may take; `None`: as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Until an endpoint is connected, handshake included.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub connect: Option<Duration>,
    /// From the request to the head of its answer, each time that it is sent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub first_byte: Option<Duration>,
    /// Between two bytes.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "duration")]
    pub idle: Option<Duration>,
}

/// How many requests one app is given at once. What is more waits its turn, and is shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// At once.
    pub requests: u32,
    /// Waiting.
    pub queue: u32,
    /// For so long.
    #[serde(serialize_with = "some_duration")]
    pub wait: Duration,
}

/// How many requests, or connections of other protocols, one calling identity may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// So many.
    pub requests: u32,
    /// In this time.
    #[serde(serialize_with = "some_duration")]
    pub per: Duration,
    /// At once, after a rest.
    pub burst: u32,
}

#[derive(Serialize)]
struct Text<'a> {
    kind: &'static str,
    id: String,
    #[serde(skip_serializing_if = "<[Leg]>::is_empty")]
    split: &'a [Leg],
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<&'a Retries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeouts: Option<Timeouts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
}

impl Service {
    /// The document as JSON, in the same schema as the YAML: what [`super::parse_json`] reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { id, split, retries, timeouts, limits, rate } = self;
        let text = Text {
            kind: KIND,
            id: id.to_string(),
            split,
            retries: retries.as_ref(),
            timeouts: *timeouts,
            limits: *limits,
            rate: *rate,
        };
        // Texts and numbers alone: nothing of it fails.
        serde_json::to_string(&text).unwrap_or_default()
    }
}

impl Retries {
    /// Whether a request of this method may be sent twice.
    #[must_use]
    pub fn allows(&self, method: &str) -> bool {
        self.methods.contains(method)
    }
}

impl Default for Retries {
    fn default() -> Self {
        // The idempotent methods (RFC 9110 s9.2.2), TRACE apart.
        let methods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];
        Self {
            attempts: 3,
            on: BTreeSet::from([Condition::Connect, Condition::Reset, Condition::Status(503)]),
            methods: methods.map(str::to_owned).into(),
            budget: Budget::default(),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { percent: 20, per_second: 10 }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Unavailable => f.write_str("unavailable"),
            Self::Status(status) => status.fmt(f),
        }
    }
}

impl FromStr for Condition {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "connect" => Ok(Self::Connect),
            "reset" => Ok(Self::Reset),
            "timeout" => Ok(Self::Timeout),
            "unavailable" => Ok(Self::Unavailable),
            status if status.len() == 3 => match status.parse() {
                Ok(status @ (429 | 500..=599)) => Ok(Self::Status(status)),
                _ => Err(()),
            },
            _ => Err(()),
        }
    }
}

/// Statuses as numbers, the way people write them.
impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Status(status) => serializer.serialize_u16(*status),
            word => serializer.collect_str(word),
        }
    }
}

fn text<S: Serializer>(id: &SpiffeId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn some_duration<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = span.as_millis();
    match millis % 1000 {
        0 => serializer.collect_str(&format_args!("{}s", millis / 1000)),
        _ => serializer.collect_str(&format_args!("{millis}ms")),
    }
}

fn duration<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => some_duration(span, serializer),
        None => serializer.serialize_none(),
    }
}
