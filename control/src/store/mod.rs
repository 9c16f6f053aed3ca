//! Durable state, on one of two engines: an embedded SQLite database, or a PostgreSQL that replicas share.
//!
//! ```text
//!   domain method ──job──▶ bounded queue ──▶ writer thread: one write transaction (over all replicas)
//!                                              job 1: apply + audit event + revision
//!                                              job 2: ... (a failed one is undone alone)
//!                                            COMMIT (one sync for all) ──▶ wake publish ──▶ answers
//!   domain method ──────▶ reader threads (snapshot reads, never wait for the writer)
//!   follower thread (PostgreSQL) ◀── LISTEN: what other replicas committed; who leads
//! ```
//!
//! Invariants: an answer is given only after the commit it speaks of; a change without its audit event is
//! refused (invariant 10); revisions have no gaps; killing the process at any point loses nothing that was
//! answered. Callers see async domain methods and this room's own types. All SQL of the crate is in this folder,
//! written once for both engines over [`sql::Session`]; only the tables differ (`migrations/`).

mod audit_log;
mod authorities;
mod authority_requests;
mod backup;
mod bundle;
mod chained;
mod change;
mod comebacks;
mod compromised;
mod crls;
mod data_dir;
mod documents;
mod entitlement;
mod error;
mod events;
mod facts;
mod federation;
mod follow;
mod heads;
mod identities;
mod intermediates;
mod inventory;
mod issuance;
mod jwt;
mod jwt_keys;
mod lapse;
mod leases;
mod location;
mod mesh;
pub mod model;
mod news;
mod outsiders;
mod policies;
mod proof_uses;
mod quota;
mod readers;
mod registrations;
mod requests;
mod restrictions;
mod revocations;
mod revoke;
mod roles;
mod rotations;
mod schema;
mod sealed;
mod services;
mod settings;
mod sightings;
mod sql;
mod token_keys;
mod tokens;
mod upkeep;
mod workloads;
mod writer;

#[cfg(test)]
mod tests;

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::TrustDomain;
use tokio::sync::{mpsc, watch};

pub use backup::Summary;
pub use comebacks::Comeback;
pub use data_dir::DataDir;
pub use error::{Refusal, StoreError};
pub use follow::Contact;
pub use inventory::{
    CertificateOrder, CertificateQuery, ConnectionOrder, ConnectionQuery, Cursor, CursorError, InstanceQuery,
    Listed, OutsiderQuery, Page,
};
pub use location::{Location, LocationError, Server};
pub use mesh::{Concern, Topics};
pub use news::Changed;
pub use requests::{
    Decision, HeldId, HeldIdError, HeldRequest, HeldState, MAX_TTL as MAX_REQUEST_TTL, NewRequest, Part,
    Verdict,
};
pub use restrictions::{Freeze, Kind as RestrictionKind, Restricted, Restriction};
pub use rotations::Rotated;
pub use schema::Migration;
pub use sealed::SealedKey;
pub use sightings::{Counted, EdgeBounds, Freshness};

use change::Change;
use follow::{Channels, Follower};
use model::Commit;
use news::News;
use quota::DEFAULT_ISSUANCE_QUOTA;
use readers::Readers;
use schema::Engine;
use sql::postgres::PostgresSession;
use sql::sqlite::SqliteSession;
use sql::{Purpose, Session, Sql};
use writer::{Publish, Writer};

use crate::time;

/// Identities that one template gives unless told otherwise: a broad issuer must not make rows without bound.
const DEFAULT_TEMPLATE_LIMIT: u64 = 20_000;
const QUEUE_DEADLINE: Duration = Duration::from_secs(5);
/// The only replica of an embedded store.
const EMBEDDED: &str = "embedded";
const EMBEDDED_READERS: usize = 2;
/// More, as each waits for a network.
const SHARED_READERS: usize = 4;

/// The store. Cheap to clone; closes when the last clone is dropped.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    limits: Limits,
}

/// What operators bound issuance by, for the mesh as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most identities that one template gives.
    pub template_limit: u64,
    /// Most SVIDs that one identity gets in an hour; 0: any number.
    pub issuance_quota: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { template_limit: DEFAULT_TEMPLATE_LIMIT, issuance_quota: DEFAULT_ISSUANCE_QUOTA }
    }
}

struct Inner {
    writer: Writer,
    readers: Readers,
    committed: watch::Receiver<Commit>,
    /// PostgreSQL only: an embedded store has no other replica.
    follower: Option<Follower>,
    news: Arc<News>,
    replica: String,
    _lock: Option<DataDir>,
}

/// Sessions that are open, but used by nobody yet.
struct Opened {
    engine: Engine,
    writer: Box<dyn Session>,
    readers: Vec<Box<dyn Session>>,
    lock: Option<DataDir>,
}

impl Store {
    /// Opens the store, or makes it if there is nothing yet.
    ///
    /// # Errors
    /// When another control has its directory open, it belongs to another trust domain, its schema is not the one of
    /// this program, or it cannot be read and written.
    pub fn open(location: impl Into<Location>, trust_domain: &TrustDomain) -> Result<Self, StoreError> {
        Self::open_as(location, trust_domain, EMBEDDED)
    }

    /// The same, as one of several replicas.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_as(
        location: impl Into<Location>,
        trust_domain: &TrustDomain,
        replica: &str,
    ) -> Result<Self, StoreError> {
        let location = location.into();
        let news = Arc::new(News::default());
        let (opened, publish, follower) = aside(|| {
            let opened = Opened::open(&location, replica)?;
            schema::prepare(&*opened.writer, opened.engine, trust_domain)?;
            opened.writer.begin(Purpose::Read)?;
            let newest = mesh::newest(&Sql::new(&*opened.writer));
            opened.writer.rollback();
            let (publish, follower) = match location {
                Location::Directory(_) => (Publish::new(newest?, None), None),
                Location::Server(server) => {
                    let publish = Publish::new(newest?, Some(Channels::of(&server)?));
                    let follower = Follower::start(server, replica, publish.clone(), Arc::clone(&news))?;
                    (publish, Some(follower))
                }
            };
            Ok((opened, publish, follower))
        })?;
        let committed = publish.subscribe();
        Ok(Self {
            inner: Arc::new(Inner {
                writer: Writer::start(opened.writer, publish)?,
                readers: Readers::start(opened.readers)?,
                committed,
                follower,
                news,
                replica: replica.to_owned(),
                _lock: opened.lock,
            }),
            limits: Limits::default(),
        })
    }

    /// Brings the schema of a store up to date, while no control uses it or only such that can work with both.
    /// Returns the steps that were taken; with `dry_run`, those that would be.
    ///
    /// # Errors
    /// When it cannot be opened, is not Signet's, or is newer than this program.
    pub fn migrate(location: &Location, dry_run: bool) -> Result<&'static [Migration], StoreError> {
        aside(|| {
            let opened = Opened::open(location, EMBEDDED)?;
            schema::migrate(&*opened.writer, opened.engine, dry_run)
        })
    }

    /// Writes a backup as of one commit, while control runs.
    ///
    /// # Errors
    /// When the store cannot be read, or the backup not be written.
    pub fn backup(location: &Location, to: &mut (dyn Write + Send)) -> Result<Summary, StoreError> {
        aside(|| {
            let (engine, session): (_, Box<dyn Session>) = match location {
                Location::Directory(data_dir) => (Engine::Sqlite, Box::new(SqliteSession::reader(data_dir)?)),
                Location::Server(server) => {
                    (Engine::Postgres, Box::new(PostgresSession::open(server, EMBEDDED)?))
                }
            };
            backup::backup(&*session, engine, to)
        })
    }

    /// Fills an empty store from a backup of either engine, all or nothing.
    ///
    /// # Errors
    /// When there is something in it, it is in use, or the backup is not whole.
    pub fn restore(location: &Location, from: &mut (dyn BufRead + Send)) -> Result<Summary, StoreError> {
        aside(|| {
            let opened = Opened::open(location, EMBEDDED)?;
            backup::restore(&*opened.writer, opened.engine, from)
        })
    }

    /// The same, with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// This replica's name.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.inner.replica
    }

    /// Whose intermediate this replica signs with: its own. An embedded store has one for all, which is nobody's.
    #[must_use]
    pub fn signs_as(&self) -> &str {
        if self.is_shared() { self.replica() } else { "" }
    }

    /// Whether there can be other replicas.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.inner.follower.is_some()
    }

    /// When a shared database answered last; an embedded one is always there.
    #[must_use]
    pub fn contact(&self) -> Option<Contact> {
        self.inner.follower.as_ref().map(Follower::contact)
    }

    /// Waits until other replicas changed endpoints; for ever if there are none.
    pub async fn endpoints_changed(&self) -> Changed {
        self.inner.news.next().await
    }

    /// Something of that was missed.
    pub fn endpoints_missed(&self) {
        self.inner.news.missed();
    }

    /// Whether this replica does what only one of them should: always, if there is no other.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.inner.follower.as_ref().is_none_or(|follower| follower.leads_since().is_some())
    }

    /// Whether it has done so, without a break, for at least this long.
    #[must_use]
    pub fn has_led_for(&self, long: Duration) -> bool {
        let since = self.inner.follower.as_ref().and_then(Follower::leads_since);
        since.is_some_and(|since| since.elapsed() >= long)
    }

    /// By how many milliseconds this machine's clock is ahead of the database's, if that is elsewhere and was asked.
    #[must_use]
    pub fn clock_ahead_ms(&self) -> Option<i64> {
        self.inner.follower.as_ref().and_then(Follower::ahead_ms)
    }

    /// The time by the clock that all replicas have in common, the database's: this machine's may be wrong.
    #[must_use]
    pub fn shared_now(&self) -> SystemTime {
        let ahead_ms = self.clock_ahead_ms().unwrap_or_default();
        time::from_millis(time::to_millis(time::now()).saturating_sub(ahead_ms))
    }

    /// For how long the database, if it is elsewhere, has not answered whoever asks it every few seconds.
    #[must_use]
    pub fn unheard_for(&self) -> Option<Duration> {
        self.inner.follower.as_ref().map(|follower| follower.seen_at().elapsed())
    }

    /// Tells of every commit that changed what proxies see.
    #[must_use]
    pub fn committed(&self) -> watch::Receiver<Commit> {
        self.inner.committed.clone()
    }

    /// One change: `work` runs on the writer thread, a second time if all of its batch had to be undone; the answer
    /// comes after COMMIT.
    async fn write<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: Fn(&mut Change<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.writer.submit(work).await
    }

    /// One consistent read on a reader thread.
    async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Sql<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.inner.readers.submit(work).await
    }
}

impl Opened {
    fn open(location: &Location, replica: &str) -> Result<Self, StoreError> {
        Ok(match location {
            Location::Directory(data_dir) => {
                let lock = DataDir::claim(data_dir)?;
                // The writer first: it makes the database.
                let writer = Box::new(SqliteSession::writer(data_dir)?);
                let reader = |_| Ok(Box::new(SqliteSession::reader(data_dir)?) as Box<dyn Session>);
                Self {
                    engine: Engine::Sqlite,
                    writer,
                    readers: (0..EMBEDDED_READERS).map(reader).collect::<Result<_, StoreError>>()?,
                    lock: Some(lock),
                }
            }
            Location::Server(server) => {
                let session = |_| Ok(Box::new(PostgresSession::open(server, replica)?) as Box<dyn Session>);
                Self {
                    engine: Engine::Postgres,
                    writer: session(0)?,
                    readers: (0..SHARED_READERS).map(session).collect::<Result<_, StoreError>>()?,
                    lock: None,
                }
            }
        })
    }
}

/// Sessions bring their own runtime, which cannot start inside of another.
fn aside<T: Send>(work: impl FnOnce() -> Result<T, StoreError> + Send) -> Result<T, StoreError> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(StoreError::Open("the opening thread ended".into())))
    })
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
