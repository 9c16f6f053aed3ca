//! The one thread that writes. It takes whatever changes wait and commits them together: the fsync is the
//! price of durability, and it is paid once per batch.
//!
//! A batch is first done without savepoints, and without waiting for what nobody asks about. Nearly always that is all:
//! what is refused, is refused before it changes anything. If something does have to be undone, all of it is, and
//! done again with each change in a savepoint of its own: so a change that fails, fails alone. For that a change can be
//! applied twice (`Fn`), and does nothing but what is undone with the transaction.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::StoreError;
use super::change::Change;
use super::follow::Channels;
use super::heads::Heads;
use super::model::Commit;
use super::sql::{Purpose, Session, Sql, values};
use crate::telemetry::metrics;
use crate::time;

/// Changes that may wait; further senders wait for a place among them.
const QUEUE: usize = 4096;
const MAX_BATCH: usize = 512;
/// Writers of other replicas wait for the end of a batch.
const LONGEST_BATCH: Duration = Duration::from_millis(250);

/// Tells of every commit, whoever made it. Goes back only with the store.
#[derive(Clone)]
pub(super) struct Publish {
    committed: watch::Sender<Commit>,
    /// Where other replicas are told, if there can be any.
    channels: Option<Arc<Channels>>,
}

impl Publish {
    pub(super) fn new(newest: Commit, channels: Option<Channels>) -> Self {
        Self { committed: watch::Sender::new(newest), channels: channels.map(Arc::new) }
    }

    pub(super) fn advance(&self, commit: Commit) {
        self.committed.send_if_modified(|current| {
            let newer = commit.revision > current.revision;
            if newer {
                *current = commit;
            }
            newer
        });
    }

    /// The store turned out to be an older one than what was told.
    pub(super) fn rewind(&self, commit: Commit) {
        self.committed.send_replace(commit);
    }

    pub(super) fn newest(&self) -> Commit {
        *self.committed.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Commit> {
        self.committed.subscribe()
    }
}

pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    pub(super) fn start(session: Box<dyn Session>, publish: Publish) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&*session, queue, &publish))
            .map_err(|error| StoreError::Open(format!("cannot start the writer thread: {error}")))?;
        Ok(Self { jobs })
    }

    pub(super) async fn submit<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Fn(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let task = Task { work, result: None, answer };
        super::enqueue(&self.jobs, Box::new(task) as Box<dyn Job>).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// A change of unknown result type, as the queue holds it.
trait Job: Send {
    /// Applies the change. Asked again after what it did was undone, it does it again.
    fn apply(&mut self, change: &mut Change<'_>) -> Result<(), StoreError>;
    /// Answers: with what became of it, if it was committed.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Task<T, W> {
    work: W,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Task<T, W>
where
    T: Send + 'static,
    W: Fn(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
{
    fn apply(&mut self, change: &mut Change<'_>) -> Result<(), StoreError> {
        self.result = None;
        let result = (self.work)(change)?;
        change.require_accounted()?;
        self.result = Some(result);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { result, answer, .. } = *self;
        let _ = answer.send(committed.and_then(|()| result.ok_or(StoreError::Closed)));
    }
}

fn run(session: &dyn Session, mut queue: mpsc::Receiver<Box<dyn Job>>, publish: &Publish) {
    let mut arrived = Vec::with_capacity(MAX_BATCH);
    let mut waiting = VecDeque::with_capacity(MAX_BATCH);
    while queue.blocking_recv_many(&mut arrived, MAX_BATCH) > 0 {
        waiting.extend(arrived.drain(..));
        while !waiting.is_empty() {
            let (before, started) = (waiting.len(), Instant::now());
            commit(session, &mut waiting, publish);
            metrics::store_committed(before - waiting.len(), started.elapsed());
        }
    }
    session.close();
}

/// How the changes of a batch are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// Not at all: nothing is asked that need not be. If anything has to be undone, everything is, and done again.
    Not,
    /// Each in a savepoint of its own, so that it can be undone alone.
    BySavepoints,
}

/// Changes of one commit: what became of each, and where the log ends now. A refusal, too, may rest on another change
/// of the same batch, so that it is told only after the commit.
struct Committed {
    outcomes: Vec<Result<(), StoreError>>,
    newest: Commit,
}

/// Commits what waits, as much as can be done while others who write do not wait for long.
fn commit(session: &dyn Session, waiting: &mut VecDeque<Box<dyn Job>>, publish: &Publish) {
    let committed = match attempt(session, waiting, publish, Apart::Not) {
        Err(error) if !matches!(error, StoreError::Unavailable(_) | StoreError::Unknown) => {
            attempt(session, waiting, publish, Apart::BySavepoints)
        }
        committed => committed,
    };
    match committed {
        Ok(Committed { outcomes, newest }) => {
            publish.advance(newest);
            for (job, outcome) in waiting.drain(..outcomes.len()).zip(outcomes) {
                job.answer(outcome);
            }
        }
        Err(error) => {
            metrics::store_failed();
            tracing::error!(%error, "store cannot commit");
            waiting.drain(..).for_each(|job| job.answer(Err(error.clone())));
        }
    }
}

/// An error means that nothing was committed, but for [`StoreError::Unknown`].
fn attempt(
    session: &dyn Session,
    waiting: &mut VecDeque<Box<dyn Job>>,
    publish: &Publish,
    apart: Apart,
) -> Result<Committed, StoreError> {
    let until = Instant::now() + LONGEST_BATCH;
    let attempted = session.begin(Purpose::Write).and_then(|()| {
        let mut heads = Heads::read(&Sql::new(session))?;
        let before = heads.commit;
        let mut outcomes = Vec::with_capacity(waiting.len());
        for job in waiting.iter_mut() {
            let mut change = Change::new(session, heads, time::now(), publish.channels.as_deref());
            let outcome = match apart {
                Apart::Not => plainly(session, &mut **job, &mut change)?,
                Apart::BySavepoints => alone(session, &mut **job, &mut change)?,
            };
            if outcome.is_ok() {
                heads = change.heads();
            }
            outcomes.push(outcome);
            if Instant::now() >= until {
                break;
            }
        }
        tell(session, publish, before, heads.commit)?;
        session.commit()?;
        Ok(Committed { outcomes, newest: heads.commit })
    });
    attempted.inspect_err(|_| session.rollback())
}

/// Other replicas hear of it with the commit.
fn tell(session: &dyn Session, publish: &Publish, before: Commit, after: Commit) -> Result<(), StoreError> {
    if let Some(channels) = &publish.channels
        && before != after
    {
        let news = after.revision.to_string();
        session.post("SELECT pg_notify(?1, ?2)", values![&channels.revisions, news])?;
    }
    Ok(())
}

/// One change without a way back: what is refused must have changed nothing.
fn plainly(
    session: &dyn Session,
    job: &mut dyn Job,
    change: &mut Change<'_>,
) -> Result<Result<(), StoreError>, StoreError> {
    match job.apply(change) {
        Err(error) if change.sql.has_changed() || !session.is_usable() => Err(error),
        outcome => Ok(outcome),
    }
}

/// One change in its savepoint. An error means the whole transaction is lost: SQLite rolls back by itself
/// when the disk is full or an I/O operation fails at a bad moment, a connection can end at any.
fn alone(
    session: &dyn Session,
    job: &mut dyn Job,
    change: &mut Change<'_>,
) -> Result<Result<(), StoreError>, StoreError> {
    session.savepoint()?;
    // What was sent without waiting for its answer fails at the release: this change alone is undone.
    match job.apply(change).and_then(|()| session.release()) {
        Err(error) if session.is_usable() => session.undo().map(|()| Err(error)),
        Err(error) => Err(error),
        Ok(()) => Ok(Ok(())),
    }
}
