//! The one thread that writes. It takes whatever changes wait and commits them together: the fsync is the
//! price of durability, and it is paid once per batch.

use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::StoreError;
use super::change::Change;
use super::model::Commit;
use crate::telemetry::metrics;
use crate::time;

/// Changes that may wait; further senders wait for a place among them.
const QUEUE: usize = 4096;
const MAX_BATCH: usize = 512;

pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    pub(super) fn start(connection: Connection, publish: watch::Sender<Commit>) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&connection, queue, &publish))
            .map_err(|error| StoreError::Open(format!("cannot start the writer thread: {error}")))?;
        Ok(Self { jobs })
    }

    pub(super) async fn submit<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        super::enqueue(&self.jobs, Box::new(Task { work, answer }) as Box<dyn Job>).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// A change of unknown result type, as the queue holds it.
trait Job: Send {
    /// Applies the change inside the open savepoint.
    fn apply(self: Box<Self>, change: &mut Change<'_>) -> Applied;
    /// Answers without having been applied.
    fn refuse(self: Box<Self>, error: StoreError);
}

struct Applied {
    /// Why its savepoint is rolled back, if it is.
    failed: Option<StoreError>,
    /// Answers, once it is known whether the batch was committed.
    answer: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

struct Task<T, W> {
    work: W,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Task<T, W>
where
    T: Send + 'static,
    W: FnOnce(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
{
    fn apply(self: Box<Self>, change: &mut Change<'_>) -> Applied {
        let Self { work, answer } = *self;
        let result = work(change).and_then(|value| change.require_accounted().map(|()| value));
        Applied {
            failed: result.as_ref().err().cloned(),
            // A refusal, too, may rest on another change of the same batch: if that was not committed, the
            // refusal is not true either.
            answer: Box::new(move |committed| {
                let _ = answer.send(committed.and(result));
            }),
        }
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        let _ = self.answer.send(Err(error));
    }
}

fn run(connection: &Connection, mut queue: mpsc::Receiver<Box<dyn Job>>, publish: &watch::Sender<Commit>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
        let size = batch.len();
        let started = Instant::now();
        commit(connection, &mut batch, publish);
        metrics::store_committed(size, started.elapsed());
    }
    if let Err(error) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!(%error, "store closed without a checkpoint; the next start catches up");
    }
}

fn commit(connection: &Connection, batch: &mut Vec<Box<dyn Job>>, publish: &watch::Sender<Commit>) {
    if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
        let error = failed(error);
        batch.drain(..).for_each(|job| job.refuse(error.clone()));
        return;
    }
    let mut committed = *publish.borrow();
    let before = committed;
    let mut answers = Vec::with_capacity(batch.len());
    let mut fault = None;
    let mut jobs = batch.drain(..);
    for job in jobs.by_ref() {
        match one(connection, job, &mut committed) {
            Ok(answer) => answers.push(answer),
            Err((answer, error)) => {
                answers.extend(answer);
                fault = Some(error);
                break;
            }
        }
    }
    if let Some(error) = &fault {
        jobs.for_each(|job| job.refuse(error.clone()));
    } else {
        drop(jobs);
        fault = connection.execute_batch("COMMIT").err().map(failed);
    }
    if fault.is_some() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    let outcome = fault.map_or(Ok(()), Err);
    if outcome.is_ok() && committed != before {
        publish.send_replace(committed);
    }
    for answer in answers {
        answer(outcome.clone());
    }
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// One change in its savepoint. An error means the whole transaction is lost: SQLite rolls back by itself
/// when the disk is full or an I/O operation fails at a bad moment.
fn one(
    connection: &Connection,
    job: Box<dyn Job>,
    committed: &mut Commit,
) -> Result<Answer, (Option<Answer>, StoreError)> {
    if let Err(error) = connection.execute_batch("SAVEPOINT job") {
        let error = failed(error);
        job.refuse(error.clone());
        return Err((None, error));
    }
    let mut change = Change::new(connection, time::now());
    let Applied { failed: refused, answer } = job.apply(&mut change);
    let changed = change.finish();
    if connection.is_autocommit() {
        let lost = || StoreError::Io("the transaction was rolled back".into());
        return Err((Some(answer), refused.unwrap_or_else(lost)));
    }
    let keep = refused.is_none();
    let end = if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    if let Err(error) = connection.execute_batch(end) {
        return Err((Some(answer), failed(error)));
    }
    if let Some(changed) = changed.filter(|_| keep) {
        *committed = changed;
    }
    Ok(answer)
}

fn failed(error: rusqlite::Error) -> StoreError {
    let error = StoreError::from(error);
    metrics::store_failed();
    tracing::error!(%error, "store cannot commit");
    error
}
