//! What other replicas do, as this one hears of it, which of them leads, and whether clocks agree.
//!
//! A connection of its own listens. Notifications wake; what they say is only believed as far as it is read from the
//! tables: after a connection was lost, and every few seconds anyway, the newest revision is read, so that nothing
//! rests on a notification arriving. The same connection holds two locks. The one of this replica's name, so that a
//! copied data directory does not make two of one; and the leader's: whoever loses the connection loses the lead, and
//! duties that change anything decide again in their commit. Whoever's clock is far from the database's does not lead:
//! what ends for everyone must not follow it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::StoreError;
use super::location::{Messages, Server};
use super::model::Commit;
use super::news::News;
use super::writer::Publish;
use crate::telemetry::metrics;
use crate::time;

const LEADER: i32 = 2;
const LOOK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);
/// Replicas say every few seconds that they run.
const REPLICA_SEEN: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);
/// For how long a process of the same name, or what the server still keeps of it, may need to end.
const PREDECESSOR: Duration = Duration::from_secs(15);
const NOTICES: usize = 1024;
/// A clock that is further off may not say what has ended.
const LEADING_CLOCK_MS: u64 = 10_000;

/// Where replicas tell each other of what they commit: names of this mesh alone.
#[derive(Debug)]
pub(super) struct Channels {
    /// Tells the number of a new revision.
    pub(super) revisions: String,
    /// Tells an instance whose endpoints changed.
    pub(super) endpoints: String,
}

impl Channels {
    /// Of a server that was connected to.
    pub(super) fn of(server: &Server) -> Result<Self, StoreError> {
        let schema = server.schema()?;
        Ok(Self { revisions: schema.channel("revision"), endpoints: schema.channel("endpoints") })
    }
}

/// What is known of the others and of the database, as of the newest look.
#[derive(Debug, Clone, Copy)]
struct Seen {
    leads_since: Option<Instant>,
    /// By how much the clock of this machine is ahead of the database's; milliseconds.
    ahead_ms: Option<i64>,
    at: Instant,
    others: u64,
}

/// When the database answered last, and who else it knew then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// When it answered.
    pub at: Instant,
    /// Other replicas that had said lately that they run.
    pub others: u64,
}

/// Follows until dropped.
pub(super) struct Follower {
    seen: watch::Receiver<Seen>,
    _stop: DropGuard,
}

impl Follower {
    /// Claims the name of this replica, and starts the thread that listens. Not inside of a runtime.
    pub(super) fn start(
        server: Server,
        replica: &str,
        publish: Publish,
        news: Arc<News>,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StoreError::Open(format!("cannot start a runtime: {error}")))?;
        let connection = runtime.block_on(connect(&server, replica, PREDECESSOR))?;
        let (stop, replica) = (CancellationToken::new(), replica.to_owned());
        let (see, seen) =
            watch::channel(Seen { leads_since: None, ahead_ms: None, at: Instant::now(), others: 0 });
        let ended = stop.clone();
        std::thread::Builder::new()
            .name("store-follower".into())
            .spawn(move || {
                let following = Following { server, replica, publish, news, see };
                runtime.block_on(async {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = following.run(connection) => {}
                    }
                });
            })
            .map_err(|error| StoreError::Open(format!("cannot start the follower thread: {error}")))?;
        Ok(Self { seen, _stop: stop.drop_guard() })
    }

    /// Since when this replica leads, as far as it knows.
    pub(super) fn leads_since(&self) -> Option<Instant> {
        self.seen.borrow().leads_since
    }

    /// When the database answered last, and who else it knew then.
    pub(super) fn contact(&self) -> Contact {
        let seen = self.seen.borrow();
        Contact { at: seen.at, others: seen.others }
    }

    /// By how many milliseconds this machine's clock is ahead of the database's.
    pub(super) fn ahead_ms(&self) -> Option<i64> {
        self.seen.borrow().ahead_ms
    }

    /// When the database last answered it.
    pub(super) fn seen_at(&self) -> Instant {
        self.seen.borrow().at
    }
}

/// Whether a clock may say what has ended.
fn may_lead(ahead_ms: Option<i64>) -> bool {
    ahead_ms.is_none_or(|ahead| ahead.unsigned_abs() <= LEADING_CLOCK_MS)
}

/// A connection that holds the lock of the replica's name.
async fn connect(
    server: &Server,
    replica: &str,
    patience: Duration,
) -> Result<(Client, Messages), StoreError> {
    let (client, mut messages) = server.connect().await?;
    tokio::select! {
        claimed = claim(&client, server, replica, patience) => claimed?,
        () = async { while let Some(Ok(_)) = messages.next().await {} } => return Err(lost()),
    }
    Ok((client, messages))
}

async fn claim(
    client: &Client,
    server: &Server,
    replica: &str,
    patience: Duration,
) -> Result<(), StoreError> {
    let name = server.schema()?.lock_of(replica);
    let until = Instant::now() + patience;
    loop {
        if client.query_one("SELECT pg_try_advisory_lock($1)", &[&name]).await?.try_get(0)? {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(StoreError::Open(format!(
                "another signet-control runs as the replica {replica}, with a copy of this data directory: stop it, \
                 or remove the file `replica` from one of the two directories"
            )));
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("the server ended the connection".into())
}

/// What the thread works with.
struct Following {
    server: Server,
    replica: String,
    publish: Publish,
    news: Arc<News>,
    see: watch::Sender<Seen>,
}

impl Following {
    async fn run(&self, first: (Client, Messages)) {
        let mut connection = Ok(first);
        loop {
            let ended = match connection {
                Ok((client, messages)) => self.listen(&client, messages).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                if self.leads(None) {
                    tracing::warn!(%error, "no longer the leading replica");
                } else {
                    tracing::debug!(%error, "not listening to other replicas");
                }
            }
            tokio::time::sleep(RETRY).await;
            connection = connect(&self.server, &self.replica, Duration::ZERO).await;
        }
    }

    /// Until the connection is lost.
    async fn listen(&self, client: &Client, mut messages: Messages) -> Result<(), StoreError> {
        let Channels { revisions, endpoints } = Channels::of(&self.server)?;
        let (notices, mut notified) = mpsc::channel(NOTICES);
        let driver = async {
            while let Some(message) = messages.next().await {
                let AsyncMessage::Notification(notification) = message? else { continue };
                if notification.channel() == endpoints {
                    match notification.payload().parse() {
                        Ok(instance) => self.news.heard(instance),
                        Err(_) => self.news.missed(),
                    }
                } else {
                    // A full queue has something in it already: what is looked at is the newest of all.
                    let _ = notices.try_send(());
                }
            }
            Ok::<(), StoreError>(())
        };
        let looking = async {
            client.batch_execute(&format!("LISTEN {revisions}; LISTEN {endpoints}")).await?;
            self.news.missed();
            loop {
                match tokio::time::timeout(ANSWER, self.look(client)).await {
                    Ok(looked) => looked?,
                    Err(_) => return Err(StoreError::Unavailable("no answer in time".into())),
                }
                let _ = tokio::time::timeout(LOOK, notified.recv()).await;
                while notified.try_recv().is_ok() {}
            }
        };
        tokio::select! {
            ended = driver => ended.and_then(|()| Err(lost())),
            ended = looking => ended,
        }
    }

    async fn look(&self, client: &Client) -> Result<(), StoreError> {
        // What was told before it is asked: its own writer may be ahead of the answer.
        let told = self.publish.newest();
        let (asked, began) = (time::now(), Instant::now());
        let row = client
            .query_one(
                "SELECT revision, at_ms, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)
                 FROM (SELECT 1) AS asked
                 LEFT JOIN (SELECT revision, at_ms FROM revision ORDER BY revision DESC LIMIT 1) AS newest ON true",
                &[],
            )
            .await?;
        let halfway = time::to_millis(asked + began.elapsed() / 2);
        if let (Some(revision), Some(at)) = (row.try_get::<_, Option<i64>>(0)?, row.try_get(1)?) {
            let at = time::from_millis(at);
            self.heard(told, Commit { revision: revision.try_into().unwrap_or(0), at });
        }
        let here: i64 = row.try_get(2)?;
        let ahead_ms = halfway - here;
        let lately = time::to_millis(time::from_millis(here) - REPLICA_SEEN);
        let others: i64 = client
            .query_one(
                "SELECT count(*) FROM replica WHERE id <> $1 AND seen_at_ms > $2",
                &[&self.replica, &lately],
            )
            .await?
            .try_get(0)?;
        self.see.send_modify(|seen| {
            (seen.ahead_ms, seen.at) = (Some(ahead_ms), Instant::now());
            seen.others = others.try_into().unwrap_or(0);
        });
        metrics::clock_ahead(ahead_ms);
        metrics::duty_done("follow", time::now());
        self.stand(client, may_lead(Some(ahead_ms))).await
    }

    /// The newest commit of the database, after `told` was told.
    fn heard(&self, told: Commit, newest: Commit) {
        if newest.revision < told.revision || (newest.revision == told.revision && newest != told) {
            tracing::error!(
                told = told.revision,
                newest = newest.revision,
                "the database is older than it was: it was restored, or is a copy that lagged"
            );
            self.publish.rewind(newest);
        } else {
            self.publish.advance(newest);
        }
    }

    /// Takes the lead if nobody has it; gives it up if it may not lead.
    async fn stand(&self, client: &Client, may_lead: bool) -> Result<(), StoreError> {
        let leads = self.see.borrow().leads_since.is_some();
        let space = self.server.schema()?.locks();
        if may_lead && !leads {
            let won = client.query_one("SELECT pg_try_advisory_lock($1, $2)", &[&space, &LEADER]).await?;
            if won.try_get(0)? {
                self.leads(Some(Instant::now()));
                tracing::info!("this replica leads: it rotates and prunes");
            }
        } else if !may_lead && leads {
            self.leads(None);
            tracing::error!("this machine's clock is far from the database's: another replica has to lead");
            client.query_one("SELECT pg_advisory_unlock($1, $2)", &[&space, &LEADER]).await?;
        }
        Ok(())
    }

    /// Whether it led before.
    fn leads(&self, since: Option<Instant>) -> bool {
        metrics::leads(since.is_some());
        let mut before = None;
        self.see.send_modify(|seen| before = std::mem::replace(&mut seen.leads_since, since));
        before.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_far_from_the_database_s_clock_does_not_lead() {
        for (ahead_ms, may) in [
            (None, true),
            (Some(0), true),
            (Some(-9_999), true),
            (Some(10_001), false),
            (Some(i64::MIN), false),
        ] {
            assert_eq!(may_lead(ahead_ms), may, "{ahead_ms:?}");
        }
    }
}
