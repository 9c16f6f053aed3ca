//! The threads that read. They see the last commit and never wait for the writer.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::sql::{Purpose, Session, Sql};

const QUEUE: usize = 4096;

/// Reads that one reader takes at once; the others leave it some.
const TOGETHER: usize = 16;

/// Runs inside of a snapshot, or is told why there is none.
type Job = Box<dyn FnOnce(Result<&dyn Session, StoreError>) + Send>;

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
        let job: Job = Box::new(move |snapshot| {
            let _ = answer.send(snapshot.and_then(|session| work(&Sql::new(session))));
        });
        super::enqueue(&self.jobs, job).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// One idle reader waits at the queue, the others at the lock; whoever gets something to do lets the next one wait.
fn run(session: &dyn Session, queue: &Mutex<mpsc::Receiver<Job>>) {
    let mut taken = Vec::with_capacity(TOGETHER);
    while queue.lock().blocking_recv_many(&mut taken, TOGETHER) > 0 {
        let mut waiting = taken.drain(..).peekable();
        while waiting.peek().is_some() {
            in_snapshot(session, &mut waiting);
        }
    }
}

/// What waits at the same time sees the same commit: the newest one, of after all of it was asked. After a read that
/// fails, the rest begins again.
fn in_snapshot(session: &dyn Session, waiting: &mut impl Iterator<Item = Job>) {
    if let Err(error) = session.begin(Purpose::Read) {
        waiting.for_each(|job| job(Err(error.clone())));
        return;
    }
    for job in waiting {
        job(Ok(session));
        if !session.is_usable() {
            break;
        }
    }
    session.rollback();
}
