//! What other replicas do, as this one hears of it, and which of them leads.
//!
//! A connection of its own listens. Notifications wake; what they say is only believed as far as it is read from the
//! tables: after a connection was lost, and every few seconds anyway, the newest revision is read, so that nothing
//! rests on a notification arriving. The same connection holds the leader's lock: whoever loses the connection loses
//! the lead, and duties that change anything decide again in their commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_postgres::AsyncMessage;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::StoreError;
use super::location::Server;
use super::model::Commit;
use super::news::News;
use super::sql::postgres::LOCKS;
use super::writer::Publish;
use crate::time;

/// Tells the number of a new revision.
pub(super) const REVISIONS: &str = "signet_revision";
/// Tells an instance whose endpoints changed.
pub(super) const ENDPOINTS: &str = "signet_endpoints";
const LEADER: i32 = 2;
const LOOK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(500);
const NOTICES: usize = 1024;

/// Follows until dropped.
pub(super) struct Follower {
    leads: watch::Receiver<Option<Instant>>,
    _stop: DropGuard,
}

impl Follower {
    /// Starts the thread that listens.
    pub(super) fn start(server: Server, publish: Publish, news: Arc<News>) -> Result<Self, StoreError> {
        let stop = CancellationToken::new();
        let (lead, leads) = watch::channel(None);
        let ended = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StoreError::Open(format!("cannot start a runtime: {error}")))?;
        std::thread::Builder::new()
            .name("store-follower".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = follow(&server, &publish, &news, &lead) => {}
                    }
                });
            })
            .map_err(|error| StoreError::Open(format!("cannot start the follower thread: {error}")))?;
        Ok(Self { leads, _stop: stop.drop_guard() })
    }

    /// Since when this replica leads, as far as it knows.
    pub(super) fn leads_since(&self) -> Option<Instant> {
        *self.leads.borrow()
    }
}

async fn follow(server: &Server, publish: &Publish, news: &News, lead: &watch::Sender<Option<Instant>>) {
    loop {
        if let Err(error) = listen(server, publish, news, lead).await {
            if lead.send_replace(None).is_some() {
                tracing::warn!(%error, "no longer the leading replica");
            } else {
                tracing::debug!(%error, "not listening to other replicas");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Until the connection is lost.
async fn listen(
    server: &Server,
    publish: &Publish,
    news: &News,
    lead: &watch::Sender<Option<Instant>>,
) -> Result<(), StoreError> {
    let (client, mut messages) = server.connect().await?;
    let (notices, mut notified) = mpsc::channel(NOTICES);
    let driver = async {
        while let Some(message) = messages.next().await {
            let AsyncMessage::Notification(notification) = message? else { continue };
            if notification.channel() == ENDPOINTS {
                match notification.payload().parse() {
                    Ok(instance) => news.heard(instance),
                    Err(_) => news.missed(),
                }
            } else {
                // A full queue has something in it already: what is looked at is the newest of all.
                let _ = notices.try_send(());
            }
        }
        Ok::<(), StoreError>(())
    };
    let looking = async {
        client.batch_execute(&format!("LISTEN {REVISIONS}; LISTEN {ENDPOINTS}")).await?;
        news.missed();
        loop {
            look(&client, publish, lead).await?;
            let _ = tokio::time::timeout(LOOK, notified.recv()).await;
            while notified.try_recv().is_ok() {}
        }
    };
    tokio::select! {
        ended = driver => ended.and(Err(StoreError::Unavailable("the server ended the connection".into()))),
        ended = looking => ended,
    }
}

async fn look(
    client: &tokio_postgres::Client,
    publish: &Publish,
    lead: &watch::Sender<Option<Instant>>,
) -> Result<(), StoreError> {
    // What was told before it is asked: its own writer may be ahead of the answer.
    let told = publish.newest();
    let asked = async {
        if let Some(row) = client
            .query_opt("SELECT revision, at_ms FROM revision ORDER BY revision DESC LIMIT 1", &[])
            .await?
        {
            let revision: i64 = row.try_get(0)?;
            let at = time::from_millis(row.try_get(1)?);
            let newest = Commit { revision: revision.try_into().unwrap_or(0), at };
            if newest.revision < told.revision || (newest.revision == told.revision && newest != told) {
                tracing::error!(
                    told = told.revision,
                    newest = newest.revision,
                    "the database is older than it was: it was restored, or is a copy that lagged"
                );
                publish.rewind(newest);
            } else {
                publish.advance(newest);
            }
        }
        if lead.borrow().is_none() {
            let won: bool = client
                .query_one("SELECT pg_try_advisory_lock($1, $2)", &[&LOCKS, &LEADER])
                .await?
                .try_get(0)?;
            if won {
                lead.send_replace(Some(Instant::now()));
                tracing::info!("this replica leads: it rotates and prunes");
            }
        }
        Ok(())
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable("no answer in time".into())),
    }
}
