//! The threads that read. In WAL mode they see the last commit and never wait for the writer.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{StoreError, engine};

const THREADS: usize = 2;
const QUEUE: usize = 4096;

type Job = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct Readers {
    jobs: mpsc::Sender<Job>,
}

impl Readers {
    pub(super) fn start(data_dir: &Path) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..THREADS {
            let connection = engine::open_for_reading(data_dir)?;
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || run(&connection, &queue))
                .map_err(|error| StoreError::Open(format!("cannot start a reader thread: {error}")))?;
        }
        Ok(Self { jobs })
    }

    pub(super) async fn submit<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = answer.send(in_snapshot(connection, work));
        });
        super::enqueue(&self.jobs, job).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// One idle reader waits at the queue, the others at the lock; whoever gets a job lets the next one wait.
fn run(connection: &Connection, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let job = queue.lock().blocking_recv();
        match job {
            Some(job) => job(connection),
            None => return,
        }
    }
}

/// Several statements of one read see the same commit.
fn in_snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.execute_batch("BEGIN DEFERRED")?;
    let result = work(connection);
    connection.execute_batch("COMMIT").or_else(|_| connection.execute_batch("ROLLBACK"))?;
    result
}
