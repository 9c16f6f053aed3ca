//! Durable state: one embedded SQLite database, written by one thread.
//!
//! ```text
//!   domain method ──job──▶ bounded queue ──▶ writer thread: BEGIN IMMEDIATE
//!                                              job 1: SAVEPOINT, apply + audit event + revision, RELEASE
//!                                              job 2: SAVEPOINT ... (a failed one rolls back alone)
//!                                            COMMIT (one fsync for all) ──▶ wake publish ──▶ answers
//!   domain method ──────▶ reader threads (snapshot reads, never wait for the writer)
//! ```
//!
//! Invariants: an answer is given only after the commit it speaks of; a change without its audit event is
//! refused (invariant 10); revisions have no gaps; killing the process at any point loses nothing that was
//! answered. Callers see async domain methods and this room's own types, so that another engine can take
//! its place behind the same methods. All SQL of the crate is in this folder.

mod authorities;
mod change;
mod engine;
mod error;
mod events;
mod identities;
mod issuance;
mod lapse;
mod leases;
mod mesh;
pub mod model;
mod policies;
mod readers;
mod revocations;
mod roles;
mod rows;
mod tokens;
mod upkeep;
mod workloads;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::spiffe::TrustDomain;
use tokio::sync::{mpsc, watch};

pub use error::{Refusal, StoreError};
pub use mesh::{Concern, Topics};

use change::Change;
use engine::Lock;
use model::Commit;
use readers::Readers;
use writer::Writer;

const QUEUE_DEADLINE: Duration = Duration::from_secs(5);

/// The store. Cheap to clone; closes when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Writer,
    readers: Readers,
    committed: watch::Receiver<Commit>,
    _lock: Lock,
}

impl Store {
    /// Opens the store in `data_dir`, or makes it there; brings an older schema up to date.
    ///
    /// # Errors
    /// When another control has it open, it belongs to another trust domain, its schema is newer than this
    /// program, or it cannot be read and written.
    pub fn open(data_dir: &Path, trust_domain: &TrustDomain) -> Result<Self, StoreError> {
        let lock = Lock::acquire(data_dir)?;
        let mut connection = engine::open_for_writing(data_dir)?;
        engine::migrate(&mut connection)?;
        engine::pin_trust_domain(&connection, trust_domain)?;
        let newest = mesh::newest(&connection)?;
        let readers = Readers::start(data_dir)?;
        let (publish, committed) = watch::channel(newest);
        let writer = Writer::start(connection, publish)?;
        Ok(Self { inner: Arc::new(Inner { writer, readers, committed, _lock: lock }) })
    }

    /// Tells of every commit that changed what proxies see.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<Commit> {
        self.inner.committed.clone()
    }

    /// One change: `work` runs on the writer thread inside its own savepoint; the answer comes after COMMIT.
    async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.writer.submit(work).await
    }

    /// One consistent read on a reader thread.
    async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.readers.submit(work).await
    }
}

/// Waits for a place in a queue, but not for ever: a herd is slowed down before it is turned away.
async fn enqueue<J>(queue: &mpsc::Sender<J>, job: J) -> Result<(), StoreError> {
    match tokio::time::timeout(QUEUE_DEADLINE, queue.send(job)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(StoreError::Closed),
        Err(_) => Err(StoreError::Overloaded),
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}
