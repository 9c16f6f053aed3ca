//! The threads that read. They see the last commit and never wait for the writer.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::sql::{Purpose, Session, Sql};

const QUEUE: usize = 4096;

type Job = Box<dyn FnOnce(&dyn Session) + Send>;

pub(super) struct Readers {
    jobs: mpsc::Sender<Job>,
}

impl Readers {
    /// One thread for each session.
    pub(super) fn start(sessions: Vec<Box<dyn Session>>) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for (number, session) in sessions.into_iter().enumerate() {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || run(&*session, &queue))
                .map_err(|error| StoreError::Open(format!("cannot start a reader thread: {error}")))?;
        }
        Ok(Self { jobs })
    }

    pub(super) async fn submit<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Sql<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |session| {
            let _ = answer.send(in_snapshot(session, work));
        });
        super::enqueue(&self.jobs, job).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// One idle reader waits at the queue, the others at the lock; whoever gets a job lets the next one wait.
fn run(session: &dyn Session, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = queue.lock().blocking_recv();
        match job {
            Some(job) => job(session),
            None => return,
        }
    }
}

/// Several statements of one read see the same commit.
fn in_snapshot<T>(
    session: &dyn Session,
    work: impl FnOnce(&Sql<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    session.begin(Purpose::Read)?;
    let result = work(&Sql::new(session));
    if session.is_usable() {
        session.commit().inspect_err(|_| session.rollback())?;
    } else {
        session.rollback();
    }
    result
}
