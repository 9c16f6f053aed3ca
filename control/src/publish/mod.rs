//! From a commit to every proxy that it concerns: pushed, never polled.
//!
//! ```text
//!   store commit ──▶ Publisher: reads what changed ──▶ one immutable MeshState, and whom the difference is about
//!                                                        │ only they are woken (Watchers, Bell)
//!   Watch streams open and close ──▶ Endpoints (leases) ─▶│ followers of that service, too
//!                                                        ▼
//!                  View of each stream woken: only the sections whose digest differs ──▶ proxy
//!   Report (position, digest of what is in force) ──▶ Watchers: the book of changes ──▶ AwaitApplied
//! ```
//!
//! Invariants: a message that carries revision N contains everything of N that concerns its proxy; after the first
//! message of a stream its proxy has everything; a slow proxy gets the newest state, not a queue of old ones; policy
//! that cannot be read denies, and keeps no revocation from anyone. What a proxy has is told by digests of contents
//! (`signet_proto::digest`), not by revisions: so it does not matter which replica it comes to, nor whether the store
//! is an older one than before.

mod bell;
mod book;
mod by_identity;
mod callers;
mod contact;
mod elsewhere;
mod endpoints;
mod following;
mod policies;
mod published;
mod rotations;
mod state;
mod traffic;
mod view;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use signet_proto::spiffe::TrustDomain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::model::Commit;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;
use crate::time;

pub use bell::{Bell, Ended, Moved, Rung};
pub use contact::keep_contact;
pub use elsewhere::{follow_endpoints, write_standings};
pub use endpoints::Endpoints;
pub use following::Following;
pub use policies::{Concerned, PolicySection};
pub use rotations::RotationSection;
pub use state::{Added, MeshState, RevocationSection, WentBack};
pub use traffic::TrafficSection;
pub use view::View;
pub use watchers::{Acknowledgement, Applied, Mismatch, NewWatcher, Opened, WatcherInfo, Watchers};

const RETRY: Duration = Duration::from_millis(200);

/// Keeps the [`MeshState`] up to date.
pub struct Publisher {
    /// The newest commit that was read.
    read: Commit,
    store: Store,
    endpoints: Arc<Endpoints>,
    watchers: Arc<Watchers>,
    trust_domain: TrustDomain,
    state: watch::Sender<Arc<MeshState>>,
}

impl Publisher {
    /// Loads the state as it is now.
    ///
    /// # Errors
    /// When the store cannot be read or what it holds cannot be understood.
    pub async fn load(
        store: Store,
        endpoints: Arc<Endpoints>,
        watchers: Arc<Watchers>,
        trust_domain: TrustDomain,
    ) -> Result<Self, StoreError> {
        let read = store.mesh_since(None).await?;
        let newest = read.commit;
        let empty = MeshState::empty(read.commit);
        let state = match empty.advance(read, &trust_domain)? {
            Some((state, _)) => MeshState { generation: 0, ..state },
            None => empty,
        };
        watchers.begin(state.processed);
        endpoints.drop_revoked(&state.revocations.index);
        let (state, _) = watch::channel(Arc::new(state));
        Ok(Self { read: newest, store, endpoints, watchers, trust_domain, state })
    }

    /// The state, and every later one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.subscribe()
    }

    /// Follows the commits until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut committed = self.store.committed();
        loop {
            let newest = *committed.borrow_and_update();
            if newest == self.read {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = committed.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let caught_up = self.catch_up().await;
            if let Err(error) = &caught_up {
                tracing::error!(%error, "cannot read what changed; proxies keep what they have");
            }
            // What was read may be newer than what was told of, and then that comes.
            if caught_up.is_ok() && self.read.revision >= newest.revision {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = committed.changed() => if changed.is_err() { return },
                }
            } else {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), StoreError> {
        let before = self.read;
        let read = self.store.mesh_since(Some(before)).await?;
        let (newest, went_back) = (read.commit, read.went_back);
        if went_back {
            metrics::history_went_back();
            tracing::error!(
                known = before.revision,
                newest = newest.revision,
                "the store has another history than it had: all is told again as it is now, and what was changed \
                 or revoked since then is lost"
            );
        }
        let current = self.state.borrow().clone();
        let next = current.advance(read, &self.trust_domain)?;
        self.read = newest;
        let Some((mut next, concerned)) = next else {
            // Nothing that a proxy sees: nobody is woken.
            self.state.send_if_modified(|state| {
                Arc::make_mut(state).processed = newest.revision;
                false
            });
            self.watchers.passed(newest.revision);
            return Ok(());
        };
        if went_back {
            next.went_back = Some(WentBack { from: before.revision, to: newest.revision, at: time::now() });
        }
        let added = next.revocations.added_since(&current.revocations);
        let replace = || drop(self.state.send_replace(Arc::new(next)));
        if went_back {
            self.watchers.start_over(newest.revision, replace);
        } else {
            self.watchers.publish(before.revision, newest.revision, &concerned, replace);
        }
        metrics::published(newest.revision);
        let gone = self.endpoints.drop_added(&added);
        if !gone.is_empty() {
            self.store.remove_leases(gone).await?;
        }
        Ok(())
    }
}

/// Ends all streams with `stop`.
pub async fn end_streams(watchers: Arc<Watchers>, stop: CancellationToken) {
    stop.cancelled().await;
    watchers.end_all(Ended::ShuttingDown);
}
