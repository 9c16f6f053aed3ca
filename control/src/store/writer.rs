//! The one thread that writes. It takes whatever changes wait and commits them together: the fsync is the
//! price of durability, and it is paid once per batch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::StoreError;
use super::change::Change;
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

/// Tells of every commit, whoever made it; never goes back.
#[derive(Clone)]
pub(super) struct Publish {
    committed: watch::Sender<Commit>,
    /// Whether other replicas have to be told.
    shared: bool,
}

impl Publish {
    pub(super) fn new(newest: Commit, shared: bool) -> Self {
        Self { committed: watch::Sender::new(newest), shared }
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

/// Answers, once it is known whether the batch was committed.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Applied {
    /// Why its savepoint is rolled back, if it is.
    failed: Option<StoreError>,
    answer: Answer,
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

fn run(session: &dyn Session, mut queue: mpsc::Receiver<Box<dyn Job>>, publish: &Publish) {
    let mut arrived = Vec::with_capacity(MAX_BATCH);
    let mut batch = VecDeque::with_capacity(MAX_BATCH);
    while queue.blocking_recv_many(&mut arrived, MAX_BATCH) > 0 {
        batch.extend(arrived.drain(..));
        while !batch.is_empty() {
            let (waiting, started) = (batch.len(), Instant::now());
            commit(session, &mut batch, publish);
            metrics::store_committed(waiting - batch.len(), started.elapsed());
        }
    }
    session.close();
}

/// Commits what waits, as much as can be done while others who write do not wait for long.
fn commit(session: &dyn Session, batch: &mut VecDeque<Box<dyn Job>>, publish: &Publish) {
    let until = Instant::now() + LONGEST_BATCH;
    let begun = session.begin(Purpose::Write).and_then(|()| Heads::read(&Sql::new(session)));
    let mut heads = match begun {
        Ok(heads) => heads,
        Err(error) => {
            session.rollback();
            let error = failed(error);
            batch.drain(..).for_each(|job| job.refuse(error.clone()));
            return;
        }
    };
    let before = heads.commit;
    let mut answers = Vec::with_capacity(batch.len());
    let mut fault = None;
    while let Some(job) = batch.pop_front() {
        let (answer, ended) = one(session, job, &mut heads, publish.shared);
        answers.push(answer);
        if let Err(error) = ended {
            fault = Some(error);
            break;
        }
        if Instant::now() >= until {
            break;
        }
    }
    if let Some(error) = &fault {
        batch.drain(..).for_each(|job| job.refuse(error.clone()));
        session.rollback();
    } else {
        fault =
            tell(session, publish, before, heads.commit).and_then(|()| session.commit()).err().map(failed);
        if fault.is_some() {
            session.rollback();
        }
    }
    let outcome = fault.map_or(Ok(()), Err);
    if outcome.is_ok() {
        publish.advance(heads.commit);
    }
    for answer in answers {
        answer(outcome.clone());
    }
}

/// Other replicas hear of it with the commit.
fn tell(session: &dyn Session, publish: &Publish, before: Commit, after: Commit) -> Result<(), StoreError> {
    if publish.shared && before != after {
        let news = after.revision.to_string();
        session.post("SELECT pg_notify(?1, ?2)", values![super::follow::REVISIONS, news])?;
    }
    Ok(())
}

/// One change in its savepoint. An error means the whole transaction is lost: SQLite rolls back by itself
/// when the disk is full or an I/O operation fails at a bad moment, a connection can end at any.
fn one(
    session: &dyn Session,
    job: Box<dyn Job>,
    heads: &mut Heads,
    shared: bool,
) -> (Answer, Result<(), StoreError>) {
    let mut change = Change::new(session, *heads, time::now(), shared);
    // Also a question that fails must not take the others of the batch with it.
    if let Err(error) = change.sql.save() {
        job.refuse(error.clone());
        return (Box::new(|_| ()), Err(failed(error)));
    }
    let Applied { failed: mut refused, answer } = job.apply(&mut change);
    let ended = if refused.is_none() && session.is_usable() {
        match change.end(true) {
            Ok(after) => {
                *heads = after;
                Ok(())
            }
            // What was sent without waiting for its answer failed: this change alone is undone.
            Err(error) if session.is_usable() => {
                refused = Some(error);
                session.undo()
            }
            Err(error) => Err(error),
        }
    } else if session.is_usable() {
        change.end(false).map(drop)
    } else {
        Err(refused.clone().unwrap_or_else(|| StoreError::Io("the transaction was rolled back".into())))
    };
    let late = refused;
    let answer: Answer = Box::new(move |committed| answer(committed.and(late.map_or(Ok(()), Err))));
    (answer, ended.map_err(failed))
}

fn failed(error: StoreError) -> StoreError {
    metrics::store_failed();
    tracing::error!(%error, "store cannot commit");
    error
}
