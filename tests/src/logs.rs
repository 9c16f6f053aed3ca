//! What a process wrote, line by line, and a way to wait for a line.
//!
//! Our programs log JSON (`tracing`): `{"level":..,"target":..,"fields":{"message":..,..}}`. Only the newest
//! lines are kept, so that an access log under load does not fill the memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

const LINES_KEPT: usize = 50_000;

/// The newest lines of one process.
#[derive(Debug)]
pub struct Logs {
    lines: Mutex<Lines>,
    written: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Lines {
    dropped: u64,
    kept: VecDeque<Arc<str>>,
}

impl Default for Logs {
    fn default() -> Self {
        Self { lines: Mutex::default(), written: watch::Sender::new(0) }
    }
}

impl Logs {
    /// Appends a line and wakes who waits.
    pub(crate) fn push(&self, line: String) {
        let mut lines = self.lines.lock();
        lines.kept.push_back(line.into());
        if lines.kept.len() > LINES_KEPT {
            lines.kept.pop_front();
            lines.dropped += 1;
        }
        drop(lines);
        self.written.send_modify(|written| *written += 1);
    }

    /// The lines from number `from` on (those still kept), and the number of the next one.
    fn since(&self, from: u64) -> (Vec<Arc<str>>, u64) {
        let lines = self.lines.lock();
        let skip = usize::try_from(from.saturating_sub(lines.dropped)).unwrap_or(usize::MAX);
        let next = lines.dropped + lines.kept.len() as u64;
        (lines.kept.iter().skip(skip).cloned().collect(), next)
    }

    /// How many lines were written so far: a mark for [`Logs::events_since`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.since(u64::MAX).1
    }

    /// Every line kept, as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.since(0).0.join("\n")
    }

    /// The last `count` lines, as text.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let lines = self.since(0).0;
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Every JSON line that `matches`.
    pub fn events(&self, matches: impl FnMut(&Value) -> bool) -> Vec<Value> {
        self.events_since(0, matches)
    }

    /// Every JSON line that was written after `mark` and that `matches`.
    pub fn events_since(&self, mark: u64, mut matches: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let (lines, _) = self.since(mark);
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|event| matches(event))
            .collect()
    }

    /// The first `count` JSON lines after `mark` that `matches`, as soon as there are that many; `None` at the
    /// deadline.
    pub async fn wait_for(
        &self,
        mark: u64,
        count: usize,
        within: Duration,
        mut matches: impl FnMut(&Value) -> bool,
    ) -> Option<Vec<Value>> {
        let deadline = Instant::now() + within;
        let mut written = self.written.subscribe();
        let mut found = Vec::new();
        let mut next = mark;
        loop {
            written.mark_unchanged();
            let (lines, after) = self.since(next);
            next = after;
            found.extend(
                lines
                    .iter()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                    .filter(|event| matches(event)),
            );
            if found.len() >= count {
                found.truncate(count);
                return Some(found);
            }
            timeout_at(deadline, written.changed()).await.ok()?.ok()?;
        }
    }
}

/// A text field of a log event; numbers and booleans as text; empty when absent.
#[must_use]
pub fn field(event: &Value, name: &str) -> String {
    match &event["fields"][name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether this is the event with that message.
#[must_use]
pub fn is_message(event: &Value, message: &str) -> bool {
    event["fields"]["message"] == message
}

/// Whether this is a line of the access log with all these fields.
#[must_use]
pub fn is_access(event: &Value, fields: &[(&str, &str)]) -> bool {
    event["target"] == "access" && fields.iter().all(|(name, value)| field(event, name) == *value)
}
