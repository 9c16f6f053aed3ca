//! One identity that calls another at a port, and what is added to it. Pure.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use crate::time;

/// Causes that are kept apart; the oldest of further ones count as one.
const MOST_CAUSES: usize = 8;
const OTHER: &str = "other";
/// A B-tree entry of PostgreSQL holds 2704 bytes.
const LONGEST_LINK: usize = 2400;

/// Which edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// Who is called.
    pub destination: SpiffeId,
    /// Who calls.
    pub source: SpiffeId,
    /// The app's port; 0: not known.
    pub port: u16,
}

/// All that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Which.
    pub link: Link,
    /// What was spoken last, if that is known.
    pub protocol: Option<Spoken>,
    /// When it was first seen.
    pub first_at: SystemTime,
    /// When last.
    pub last_at: SystemTime,
    /// Connections that were let in.
    pub connections: u64,
    /// HTTP requests that were let in.
    pub requests: u64,
    /// To the destination.
    pub bytes_in: u64,
    /// From it.
    pub bytes_out: u64,
    /// Connections and requests that were denied.
    pub denied: u64,
    /// Calls that did not get there.
    pub unreached: u64,
    /// When last either.
    pub refused_at: Option<SystemTime>,
    /// Why, newest first.
    pub causes: Vec<Cause>,
}

/// What one report adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increment {
    /// To which edge.
    pub link: Link,
    /// What was spoken last, if that is known.
    pub protocol: Option<Spoken>,
    /// When what is added began.
    pub first_at: SystemTime,
    /// When it ended.
    pub last_at: SystemTime,
    /// Connections that were let in.
    pub connections: u64,
    /// HTTP requests that were let in.
    pub requests: u64,
    /// To the destination.
    pub bytes_in: u64,
    /// From it.
    pub bytes_out: u64,
    /// What was refused, and why.
    pub causes: Vec<Cause>,
}

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// Bytes.
    Tcp,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why something was denied, or not reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which of the two.
    pub refused: Refused,
    /// The document that decided, if one did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// Its rule.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// The reason, in a word.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// When last, in milliseconds since the epoch.
    pub last_at_ms: i64,
}

/// Where it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// At the destination, by policy or revocation.
    Denied,
    /// On the way there.
    Unreached,
}

impl Link {
    /// Whether it can be kept: an index holds no longer texts.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.destination.as_str().len() + self.source.as_str().len() <= LONGEST_LINK
    }
}

impl Edge {
    /// Of which nothing is known but what `increment` will add.
    #[must_use]
    pub fn new(increment: &Increment) -> Self {
        Self {
            link: increment.link.clone(),
            protocol: None,
            first_at: increment.first_at,
            last_at: increment.last_at,
            connections: 0,
            requests: 0,
            bytes_in: 0,
            bytes_out: 0,
            denied: 0,
            unreached: 0,
            refused_at: None,
            causes: Vec::new(),
        }
    }

    /// Counts what a report adds. No count wraps: whoever reports nonsense spoils no more than its own numbers.
    pub fn add(&mut self, increment: &Increment) {
        self.protocol = increment.protocol.or(self.protocol);
        self.first_at = self.first_at.min(increment.first_at);
        self.last_at = self.last_at.max(increment.last_at);
        let counted = [
            (&mut self.connections, increment.connections),
            (&mut self.requests, increment.requests),
            (&mut self.bytes_in, increment.bytes_in),
            (&mut self.bytes_out, increment.bytes_out),
        ];
        for (total, more) in counted {
            add(total, more);
        }
        for cause in &increment.causes {
            match cause.refused {
                Refused::Denied => add(&mut self.denied, cause.count),
                Refused::Unreached => add(&mut self.unreached, cause.count),
            }
            self.refused_at = self.refused_at.max(Some(time::from_millis(cause.last_at_ms)));
            self.explain(cause.clone());
        }
        self.newest_first();
        // The two kinds are told by the two ends: neither pushes out what the other says.
        while self.causes.len() > MOST_CAUSES
            && let crowded = self.more_told()
            && let Some(oldest) =
                self.causes.iter().rposition(|cause| cause.refused == crowded && cause.reason != OTHER)
        {
            let Cause { refused, count, last_at_ms, .. } = self.causes.remove(oldest);
            self.explain(Cause {
                refused,
                policy: String::new(),
                rule: String::new(),
                reason: OTHER.to_owned(),
                count,
                last_at_ms,
            });
            self.newest_first();
        }
    }

    /// The kind that has more causes.
    fn more_told(&self) -> Refused {
        let denied = self.causes.iter().filter(|cause| cause.refused == Refused::Denied).count();
        if denied * 2 > self.causes.len() { Refused::Denied } else { Refused::Unreached }
    }

    fn newest_first(&mut self) {
        self.causes.sort_by_key(|cause| std::cmp::Reverse(cause.last_at_ms));
    }

    fn explain(&mut self, cause: Cause) {
        let same = |known: &&mut Cause| {
            (known.refused, &known.policy, &known.rule, &known.reason)
                == (cause.refused, &cause.policy, &cause.rule, &cause.reason)
        };
        match self.causes.iter_mut().find(same) {
            Some(known) => {
                add(&mut known.count, cause.count);
                known.last_at_ms = known.last_at_ms.max(cause.last_at_ms);
            }
            None => self.causes.push(cause),
        }
    }
}

/// Up to what the store can hold.
fn add(total: &mut u64, more: u64) {
    *total = total.saturating_add(more).min(i64::MAX.unsigned_abs());
}

impl Spoken {
    /// From the message, or the store's column: the same numbers.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        match v1::Protocol::try_from(number).ok()? {
            v1::Protocol::Unspecified => None,
            v1::Protocol::Tcp => Some(Self::Tcp),
            v1::Protocol::Http1 => Some(Self::Http1),
            v1::Protocol::Http2 => Some(Self::Http2),
        }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
        }
    }

    /// As in the message.
    #[must_use]
    pub fn message(this: Option<Self>) -> v1::Protocol {
        match this {
            None => v1::Protocol::Unspecified,
            Some(Self::Tcp) => v1::Protocol::Tcp,
            Some(Self::Http1) => v1::Protocol::Http1,
            Some(Self::Http2) => v1::Protocol::Http2,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn increment(connections: u64, at: i64, causes: Vec<Cause>) -> Increment {
        let id = |name: &str| format!("spiffe://td/{name}").parse().unwrap();
        Increment {
            link: Link { destination: id("db"), source: id("web"), port: 5432 },
            protocol: Some(Spoken::Tcp),
            first_at: time::from_millis(at),
            last_at: time::from_millis(at + 5),
            connections,
            requests: 0,
            bytes_in: connections,
            bytes_out: 2,
            causes,
        }
    }

    fn cause(reason: u8, count: u64, last_at_ms: i64) -> Cause {
        Cause {
            refused: if reason.is_multiple_of(3) { Refused::Unreached } else { Refused::Denied },
            policy: "shop".into(),
            rule: String::new(),
            reason: format!("r{reason}"),
            count,
            last_at_ms,
        }
    }

    #[test]
    fn nothing_wraps() {
        let mut edge = Edge::new(&increment(0, 10, Vec::new()));
        edge.add(&increment(u64::MAX, 10, vec![cause(1, u64::MAX, 1)]));
        edge.add(&increment(u64::MAX, 10, vec![cause(1, u64::MAX, 1)]));
        let most = i64::MAX.unsigned_abs();
        assert_eq!((edge.connections, edge.denied, edge.causes[0].count), (most, most, most));
    }

    #[test]
    fn edge_spans_its_reports_in_whatever_order_they_come() {
        let mut edge = Edge::new(&increment(0, 100, Vec::new()));
        edge.add(&increment(1, 100, Vec::new()));
        edge.add(&increment(1, 50, Vec::new()));
        assert_eq!((edge.first_at, edge.last_at), (time::from_millis(50), time::from_millis(105)));
        assert_eq!((edge.protocol, edge.refused_at), (Some(Spoken::Tcp), None));
    }

    #[test]
    fn a_caller_does_not_push_out_why_it_was_denied() {
        let mut edge = Edge::new(&increment(0, 0, Vec::new()));
        edge.add(&increment(0, 0, vec![cause(1, 1, 1)]));
        for reason in 0..30 {
            edge.add(&increment(0, 0, vec![cause(3 * reason, 1, 100)]));
        }
        let denied: Vec<_> = edge.causes.iter().filter(|cause| cause.refused == Refused::Denied).collect();
        assert_eq!((denied.len(), &*denied[0].reason, edge.denied), (1, "r1", 1));
        assert_eq!((edge.causes.len(), edge.unreached), (MOST_CAUSES, 30));
    }

    proptest! {
        #[test]
        fn causes_are_few_and_none_is_lost(
            causes in proptest::collection::vec((0..30_u8, 1..9_u64, 0..99_i64), 0..80),
        ) {
            let mut edge = Edge::new(&increment(0, 0, Vec::new()));
            for (reason, count, at) in &causes {
                edge.add(&increment(0, 0, vec![cause(*reason, *count, *at)]));
            }
            prop_assert!(edge.causes.len() <= MOST_CAUSES);
            let of = |refused| {
                edge.causes.iter().filter(|cause| cause.refused == refused).map(|cause| cause.count).sum::<u64>()
            };
            prop_assert_eq!((of(Refused::Denied), of(Refused::Unreached)), (edge.denied, edge.unreached));
            prop_assert_eq!(edge.denied + edge.unreached, causes.iter().map(|(_, count, _)| count).sum::<u64>());
            prop_assert!(edge.causes.is_sorted_by_key(|cause| std::cmp::Reverse(cause.last_at_ms)));
        }
    }
}
