//! From the store to the sinks, batch by batch. A sink reads from the store where it is; so nobody waits for it, and
//! what it missed while it was down it gets later.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::chain::AuditEvent;
use super::checkpoint::Checkpoint;
use super::line::Line;
use super::sink::{Sink, SinkError};
use super::store::AuditStore;
use crate::duration;
use crate::store::StoreError;
use crate::telemetry::metrics;

/// What is sent at once, at most: so many lines of each kind ...
const BATCH: u32 = 500;
/// ... of so many bytes, unless one line alone is longer.
const BATCH_BYTES: usize = 1024 * 1024;
/// Batches until others have their turn.
const ROUND: usize = 100;
/// Until it is asked again whether there is something to send.
const PAUSE: Duration = Duration::from_secs(1);
/// A sink that failed for this long is worth a warning.
const WARN_AFTER: Duration = Duration::from_secs(60);
/// What is stored after a sink's name for its checkpoints: they may be made after the events were sent.
const CHECKPOINTS: &str = " checkpoints";

/// How far a sink is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events sent now.
    pub events: usize,
    /// Checkpoints sent now.
    pub checkpoints: usize,
    /// Up to where it has every event.
    pub position: u64,
    /// Events that it does not have yet.
    pub lag: u64,
}

impl Progress {
    /// Whether there was nothing left to send.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.events == 0 && self.checkpoints == 0
    }
}

/// Why a batch did not arrive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The sink did not take it.
    #[error("audit sink {0}")]
    Sink(#[from] SinkError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sink holds another history.
    #[error(
        "audit sink {name} holds event {sequence}, and the store has no such event or another one: the store was \
         restored from a backup. Keep the file, under another name; a new one is begun in its place"
    )]
    Diverged {
        /// Which sink.
        name: String,
        /// The last event it holds.
        sequence: u64,
    },
    /// The sink acknowledged nothing of what it was sent.
    #[error(
        "audit sink {name} keeps nothing: it acknowledges event {acknowledged} and was sent those after it"
    )]
    Stuck {
        /// Which sink.
        name: String,
        /// What it says.
        acknowledged: u64,
    },
}

/// Sends one batch: the events after those the sink has, and the checkpoints of all it has then. At least once: the
/// position is remembered after the sink has them.
///
/// # Errors
/// When they did not arrive, or that cannot be remembered: they are sent again.
pub async fn export_once(store: &impl AuditStore, sink: &Sink) -> Result<Progress, ExportError> {
    let name = sink.name().to_owned();
    let newest = store.newest_event().await?.map_or(0, |event| event.sequence);
    let position = Position::of(store, sink).await?;
    let events = one_batch(store.events_after(position.event, BATCH).await?);
    let until = events.last().map_or(position.event, |event| event.sequence);
    let mut checkpoints = store.checkpoints_after(position.checkpoint, BATCH).await?;
    checkpoints.retain(|checkpoint| checkpoint.sequence <= until);
    let mut progress = Progress {
        events: events.len(),
        checkpoints: checkpoints.len(),
        position: position.event,
        lag: newest.saturating_sub(position.event),
    };
    if progress.is_idle() {
        return Ok(progress);
    }
    let checkpoint_until = checkpoints.last().map_or(position.checkpoint, |newest| newest.sequence);
    let acknowledged = sink.send(merge(events, checkpoints)).await?.map_or(until, |said| said.min(until));
    let checkpoint = checkpoint_until.min(acknowledged);
    if acknowledged != position.event {
        store.set_sink_position(name.clone(), acknowledged).await?;
    }
    if checkpoint != position.checkpoint {
        store.set_sink_position(format!("{name}{CHECKPOINTS}"), checkpoint).await?;
    }
    if acknowledged == position.event && acknowledged < until {
        return Err(ExportError::Stuck { name, acknowledged });
    }
    progress.position = acknowledged;
    progress.lag = newest.saturating_sub(acknowledged);
    Ok(progress)
}

struct Position {
    event: u64,
    checkpoint: u64,
}

impl Position {
    /// What the sink says about itself, or else what is remembered about it.
    async fn of(store: &impl AuditStore, sink: &Sink) -> Result<Self, ExportError> {
        let name = sink.name().to_owned();
        let mut position = Self {
            event: store.sink_position(name.clone()).await?,
            checkpoint: store.sink_position(format!("{name}{CHECKPOINTS}")).await?,
        };
        let Some(held) = sink.held().await? else { return Ok(position) };
        if let Some((sequence, hash)) = held.event {
            let found = store.events_after(sequence.saturating_sub(1), 1).await?;
            if found.first().is_none_or(|event| event.sequence != sequence || event.hash != hash) {
                return Err(ExportError::Diverged { name, sequence });
            }
            position.event = sequence;
            position.checkpoint = position.checkpoint.min(sequence);
        }
        if let Some(checkpoint) = held.checkpoint {
            position.checkpoint = checkpoint.sequence;
        }
        Ok(position)
    }
}

/// As many as fit into a batch by their size, and at least one.
#[must_use]
pub fn one_batch(mut events: Vec<AuditEvent>) -> Vec<AuditEvent> {
    let mut bytes = 0;
    let fits = events.iter().take_while(|event| {
        // Quotes and control characters take more than one byte; the rest of the line is about 250.
        bytes += 256 + 2 * (event.actor.len() + event.subject.len() + event.detail.len());
        bytes <= BATCH_BYTES
    });
    let fits = fits.count().max(1);
    events.truncate(fits);
    events
}

/// In order, each checkpoint after its event.
fn merge(events: Vec<AuditEvent>, checkpoints: Vec<Checkpoint>) -> String {
    let mut lines: Vec<Line> = events.into_iter().map(Line::Event).collect();
    lines.extend(checkpoints.into_iter().map(Line::Checkpoint));
    lines.sort_by_key(|line| (line.sequence(), matches!(line, Line::Checkpoint(_))));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// One sink, and how it is doing.
#[derive(Debug)]
pub struct Exporter {
    sink: Sink,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lag: u64,
    failing: Option<(SystemTime, String)>,
}

impl Exporter {
    /// For this sink.
    #[must_use]
    pub fn new(sink: Sink) -> Self {
        Self { sink, state: Mutex::default() }
    }

    /// The sink's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.sink.name()
    }

    /// Sends until there is nothing left, or much was sent. Returns when to come again.
    ///
    /// # Errors
    /// When a batch did not arrive.
    pub async fn run(&self, store: &impl AuditStore, now: SystemTime) -> Result<Duration, ExportError> {
        for _ in 0..ROUND {
            match export_once(store, &self.sink).await {
                Ok(progress) => {
                    *self.state.lock() = State { lag: progress.lag, failing: None };
                    metrics::audit_sink_lag(self.name(), progress.lag);
                    if progress.is_idle() {
                        return Ok(PAUSE);
                    }
                }
                Err(error) => {
                    self.failed(store, &error, now).await;
                    return Err(error);
                }
            }
        }
        Ok(Duration::ZERO)
    }

    /// Another replica does it: nothing here is behind, or fails.
    pub fn rest(&self) {
        *self.state.lock() = State::default();
        metrics::audit_sink_lag(self.name(), 0);
    }

    /// What is wrong with it, if that lasts.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<String> {
        let state = self.state.lock();
        let (since, error) = state.failing.as_ref()?;
        let lasted = now.duration_since(*since).unwrap_or_default();
        (lasted >= WARN_AFTER).then(|| {
            format!(
                "the copy of the audit in {} is {} events behind and fails since {}: {error}",
                self.name(),
                state.lag,
                duration::rough(lasted)
            )
        })
    }

    async fn failed(&self, store: &impl AuditStore, error: &ExportError, now: SystemTime) {
        metrics::audit_sink_failed(self.name());
        let newest = store.newest_event().await.ok().flatten().map_or(0, |event| event.sequence);
        let position = store.sink_position(self.name().to_owned()).await.unwrap_or(0);
        let lag = newest.saturating_sub(position);
        metrics::audit_sink_lag(self.name(), lag);
        let mut state = self.state.lock();
        state.lag = lag;
        let since = state.failing.as_ref().map_or(now, |(since, _)| *since);
        state.failing = Some((since, error.to_string()));
    }
}

/// All sinks.
#[derive(Debug, Clone, Default)]
pub struct Exports(Arc<[Arc<Exporter>]>);

impl Exports {
    /// Of these.
    #[must_use]
    pub fn new(exporters: impl IntoIterator<Item = Exporter>) -> Self {
        Self(exporters.into_iter().map(Arc::new).collect())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Exporter>> {
        self.0.iter()
    }

    /// For `/readyz`: one line for each sink that fails.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        self.0.iter().filter_map(|exporter| exporter.warning(now)).collect()
    }
}

#[cfg(test)]
mod tests;
