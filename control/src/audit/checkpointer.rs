//! Makes checkpoints when they are due. What is signed was verified before, from the checkpoint before it on: a key
//! that signs whatever the store holds would vouch for what somebody put there.
//!
//! Of replicas the leading one makes them; each keeps every new one beside the store, in its own data directory. A
//! store that goes back under a running control takes nothing with it: as long as it lacks the one that is kept, no
//! other is signed or put in its place.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use signet_proto::spiffe::TrustDomain;

use super::chain::{BrokenChain, ChainVerifier};
use super::checkpoint::{self, Checkpoint, CheckpointError};
use super::guard::{GuardError, TooOld, keep_newest, older_than_checkpoint, require_contained};
use super::key::{AuditKey, AuditKeyError, AuditSigner};
use super::store::AuditStore;
use crate::ca::{SealError, SealKey};
use crate::store::StoreError;
use crate::telemetry::metrics;

const PAGE: u32 = 1000;

/// Why no checkpoint was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointFailure {
    /// The key does not open, or cannot be made.
    #[error(transparent)]
    Key(#[from] AuditKeyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is not what was signed last.
    #[error("no checkpoint is signed: {0}")]
    TooOld(#[from] TooOld),
    /// The chain is broken since.
    #[error("no checkpoint is signed, the audit was tampered with: {0}")]
    Broken(#[from] BrokenChain),
    /// Somebody put a checkpoint into the store.
    #[error("no checkpoint is signed: the store's one of audit event {sequence} is not believed: {because}")]
    Forged {
        /// Of which event.
        sequence: u64,
        /// Why it is not believed.
        because: CheckpointError,
    },
    /// The newest one could not be kept beside the store.
    #[error(transparent)]
    Kept(GuardError),
}

impl From<GuardError> for CheckpointFailure {
    fn from(error: GuardError) -> Self {
        match error {
            GuardError::TooOld(too_old) => Self::TooOld(too_old),
            other => Self::Kept(other),
        }
    }
}

impl From<SealError> for CheckpointFailure {
    fn from(error: SealError) -> Self {
        Self::Key(error.into())
    }
}

/// Makes checkpoints for one mesh.
#[derive(Debug)]
pub struct Checkpointer {
    trust_domain: TrustDomain,
    signer: AuditSigner,
    every: Duration,
    /// Where the newest one is kept beside the store.
    data_dir: PathBuf,
    /// That one, once this process has put it there.
    kept: Mutex<Option<Checkpoint>>,
}

impl Checkpointer {
    /// Opens the stored key; makes it if there is none.
    ///
    /// # Errors
    /// When it does not open, or the store fails.
    pub async fn open(
        store: &impl AuditStore,
        seal: &SealKey,
        trust_domain: TrustDomain,
        every: Duration,
        data_dir: PathBuf,
    ) -> Result<Self, CheckpointFailure> {
        let record = match store.audit_key().await? {
            Some(record) => record,
            None => store.create_audit_key(AuditSigner::generate(seal)?).await?,
        };
        let signer = AuditSigner::unseal(&record, seal)?;
        Ok(Self { trust_domain, signer, every, data_dir, kept: Mutex::new(None) })
    }

    /// The public half of its key.
    #[must_use]
    pub fn key(&self) -> &AuditKey {
        self.signer.public()
    }

    /// Keeps the newest one beside the store, whoever made it. The replica that `leads` makes another, if it is due.
    ///
    /// # Errors
    /// Why none was made, or that the newest one is not kept beside the store.
    pub async fn run(
        &self,
        store: &impl AuditStore,
        now: SystemTime,
        leads: bool,
    ) -> Result<Option<Checkpoint>, CheckpointFailure> {
        let previous = store.newest_checkpoint().await?;
        if let Some(previous) = &previous {
            self.keep(store, previous).await?;
        }
        let newest = store.newest_event().await?.map_or(0, |event| event.sequence);
        if leads && checkpoint::is_due(previous.as_ref(), newest, now, self.every) {
            self.make(store, previous, newest, now).await
        } else {
            Ok(None)
        }
    }

    /// Makes one although it is not due: what was just recorded has to be signed.
    ///
    /// # Errors
    /// As for [`Checkpointer::run`].
    pub async fn run_now(
        &self,
        store: &impl AuditStore,
        now: SystemTime,
    ) -> Result<Option<Checkpoint>, CheckpointFailure> {
        let previous = store.newest_checkpoint().await?;
        let newest = store.newest_event().await?.map_or(0, |event| event.sequence);
        self.make(store, previous, newest, now).await
    }

    async fn make(
        &self,
        store: &impl AuditStore,
        previous: Option<Checkpoint>,
        newest: u64,
        now: SystemTime,
    ) -> Result<Option<Checkpoint>, CheckpointFailure> {
        let revision = store.revision();
        let Some(event) = verified_end(store, previous.as_ref(), newest).await? else { return Ok(None) };
        // Time in a list never goes back, even if the clock does.
        let at = previous.map_or(now, |previous| previous.at.max(now));
        let made = Checkpoint::sign(self.trust_domain.clone(), &event, revision, at, &self.signer)?;
        match store.add_checkpoint(made.clone()).await {
            Ok(()) => {}
            // Another replica was faster.
            Err(StoreError::Exists { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        tracing::debug!(sequence = made.sequence, "audit checkpoint made");
        self.keep(store, &made).await?;
        Ok(Some(made))
    }

    async fn keep(&self, store: &impl AuditStore, newest: &Checkpoint) -> Result<(), CheckpointFailure> {
        let kept = self.kept.lock().clone();
        if kept.as_ref() == Some(newest) {
            return Ok(());
        }
        let forged = |because| CheckpointFailure::Forged { sequence: newest.sequence, because };
        newest.verify(self.key()).map_err(forged)?;
        if let Some(kept) = kept {
            require_contained(store, self.key(), &kept).await?;
        }
        keep_newest(&self.data_dir, newest)?;
        metrics::audit_checkpoint(newest.sequence, newest.at);
        *self.kept.lock() = Some(newest.clone());
        Ok(())
    }
}

/// Follows the chain from the checkpoint on; the last event up to `newest`.
async fn verified_end(
    store: &impl AuditStore,
    previous: Option<&Checkpoint>,
    newest: u64,
) -> Result<Option<super::AuditEvent>, CheckpointFailure> {
    let mut verifier = match previous {
        None => ChainVerifier::from_genesis(),
        Some(previous) => {
            let found = store.events_after(previous.sequence.saturating_sub(1), 1).await?;
            let hash = found.first().filter(|event| event.sequence == previous.sequence);
            older_than_checkpoint(newest, hash.map(|event| &event.hash), previous)?;
            ChainVerifier::from_point(previous.sequence, previous.hash)
        }
    };
    let mut last = None;
    while verifier.position() < newest {
        let events = store.events_after(verifier.position(), PAGE).await?;
        if events.is_empty() {
            break;
        }
        for event in events {
            verifier.take(&event)?;
            last = Some(event);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing::{MemoryStore, chain};
    use crate::audit::{Start, newest_checkpoint, verify};
    use crate::time;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn opened(store: &MemoryStore, directory: &std::path::Path) -> Checkpointer {
        let seal = SealKey::load(&directory.join("seal.key"), true).unwrap();
        let domain = "mesh.local".parse().unwrap();
        Checkpointer::open(store, &seal, domain, MINUTE, directory.to_owned()).await.unwrap()
    }

    #[tokio::test]
    async fn checkpoints_are_made_when_due_and_one_key_signs_them_all() {
        let directory = tempfile::tempdir().unwrap();
        let (events, store) = (chain(2500), MemoryStore::default());
        let start = time::from_millis(1_800_000_000_000);
        let first = opened(&store, directory.path()).await;
        assert_eq!(first.run(&store, start, true).await.unwrap(), None, "nothing happened yet");
        store.push(&events[..1]);
        let made = first.run(&store, start, true).await.unwrap().unwrap();
        assert_eq!((made.sequence, made.hash), (1, events[0].hash));
        assert_eq!(
            first.run(&store, start + 5 * MINUTE, true).await.unwrap(),
            None,
            "nothing happened since"
        );
        store.push(&events[1..2]);
        assert_eq!(first.run(&store, start + MINUTE / 2, true).await.unwrap(), None);
        assert_eq!(first.run(&store, start + MINUTE, true).await.unwrap().unwrap().sequence, 2);
        store.push(&events[2..]);
        let replica = opened(&store, directory.path()).await;
        assert_eq!(replica.key(), first.key());
        let made = replica.run(&store, start, true).await.unwrap().unwrap();
        assert_eq!(
            (made.sequence, made.at),
            (2500, start + MINUTE),
            "the clock went back, the list does not"
        );
        assert_eq!(newest_checkpoint(directory.path(), []).unwrap(), Some(made));
        let list = store.checkpoints_after(0, 10).await.unwrap();
        let report = verify(events, list, first.key(), Start::Genesis);
        assert_eq!((report.is_intact(), report.checkpoints, report.tail), (true, 3, 0));
    }

    #[tokio::test]
    async fn nothing_is_signed_that_does_not_follow_from_what_was() {
        let directory = tempfile::tempdir().unwrap();
        let (events, store) = (chain(30), MemoryStore::default());
        let later = time::from_millis(1_900_000_000_000);
        let checkpointer = opened(&store, directory.path()).await;
        store.push(&events[..10]);
        checkpointer.run(&store, later, true).await.unwrap().unwrap();
        store.push(&events[10..20]);
        store.change(|events| events[14].subject.push('x'));
        let failure = checkpointer.run(&store, later + MINUTE, true).await.unwrap_err();
        assert!(matches!(failure, CheckpointFailure::Broken(BrokenChain::Hash(15))), "{failure}");
        store.change(|events| events[9].hash[0] ^= 1);
        let failure = checkpointer.run(&store, later + MINUTE, true).await.unwrap_err();
        assert!(matches!(failure, CheckpointFailure::TooOld(TooOld::Differs { sequence: 10, .. })));
    }

    #[tokio::test]
    async fn replica_that_does_not_lead_keeps_what_the_leading_one_made() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (events, store) = (chain(20), MemoryStore::default());
        let now = time::from_millis(1_800_000_000_000);
        let leading = opened(&store, here.path()).await;
        std::fs::copy(here.path().join("seal.key"), there.path().join("seal.key")).unwrap();
        let other = opened(&store, there.path()).await;
        let kept = |directory: &tempfile::TempDir| newest_checkpoint(directory.path(), []).unwrap();
        store.push(&events[..10]);
        assert_eq!(other.run(&store, now, false).await.unwrap(), None);
        assert_eq!(kept(&there), None);
        let made = leading.run(&store, now, true).await.unwrap().unwrap();
        other.run(&store, now, false).await.unwrap();
        assert_eq!((kept(&here), kept(&there)), (Some(made.clone()), Some(made.clone())));

        let back = MemoryStore::with(&events[..5]);
        back.create_audit_key(store.audit_key().await.unwrap().unwrap()).await.unwrap();
        let older = Checkpoint::sign(made.trust_domain.clone(), &events[4], 1, now, &leading.signer).unwrap();
        back.add_checkpoint(older).await.unwrap();
        for (replica, leads, directory) in [(&leading, true, &here), (&other, false, &there)] {
            let refused = replica.run(&back, now + MINUTE, leads).await.unwrap_err();
            assert!(matches!(refused, CheckpointFailure::TooOld(TooOld::Lacks { from: 6, to: 10, .. })));
            assert_eq!(kept(directory), Some(made.clone()), "it is the proof of what is lost");
        }
    }

    #[tokio::test]
    async fn checkpoint_that_another_key_made_is_not_built_upon() {
        let directory = tempfile::tempdir().unwrap();
        let (events, store) = (chain(20), MemoryStore::default());
        let checkpointer = opened(&store, directory.path()).await;
        store.push(&events);
        let forged = crate::audit::testing::checkpoint(&crate::audit::testing::signer(), &events[9]);
        store.add_checkpoint(forged).await.unwrap();
        let refused = checkpointer.run(&store, time::from_millis(1_900_000_000_000), true).await;
        assert!(matches!(refused, Err(CheckpointFailure::Forged { sequence: 10, .. })));
        assert_eq!(newest_checkpoint(directory.path(), []).unwrap(), None);
    }
}
