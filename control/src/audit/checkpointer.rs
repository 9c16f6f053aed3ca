//! Makes checkpoints when they are due. What is signed was verified before, from the checkpoint before it on: a key
//! that signs whatever the store holds would vouch for what somebody put there.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::TrustDomain;

use super::chain::{BrokenChain, ChainVerifier};
use super::checkpoint::{self, Checkpoint};
use super::guard::{GuardError, TooOld, keep_newest, older_than_checkpoint};
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
    /// It was made, but could not be kept beside the store.
    #[error(transparent)]
    Kept(#[from] GuardError),
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
        Ok(Self { trust_domain, signer, every, data_dir })
    }

    /// The public half of its key.
    #[must_use]
    pub fn key(&self) -> &AuditKey {
        self.signer.public()
    }

    /// Makes one, if it is due.
    ///
    /// # Errors
    /// Why none was made, or that the one made is not kept beside the store.
    pub async fn run(
        &self,
        store: &impl AuditStore,
        now: SystemTime,
    ) -> Result<Option<Checkpoint>, CheckpointFailure> {
        let previous = store.newest_checkpoint().await?;
        let newest = store.newest_event().await?.map_or(0, |event| event.sequence);
        if !checkpoint::is_due(previous.as_ref(), newest, now, self.every) {
            return Ok(None);
        }
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
        keep_newest(&self.data_dir, &made)?;
        metrics::audit_checkpoint(made.sequence, made.at);
        tracing::debug!(sequence = made.sequence, "audit checkpoint made");
        Ok(Some(made))
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
        assert_eq!(first.run(&store, start).await.unwrap(), None, "nothing happened yet");
        store.push(&events[..1]);
        let made = first.run(&store, start).await.unwrap().unwrap();
        assert_eq!((made.sequence, made.hash), (1, events[0].hash));
        assert_eq!(first.run(&store, start + 5 * MINUTE).await.unwrap(), None, "nothing happened since");
        store.push(&events[1..2]);
        assert_eq!(first.run(&store, start + MINUTE / 2).await.unwrap(), None);
        assert_eq!(first.run(&store, start + MINUTE).await.unwrap().unwrap().sequence, 2);
        store.push(&events[2..]);
        let replica = opened(&store, directory.path()).await;
        assert_eq!(replica.key(), first.key());
        let made = replica.run(&store, start).await.unwrap().unwrap();
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
        checkpointer.run(&store, later).await.unwrap().unwrap();
        store.push(&events[10..20]);
        store.change(|events| events[14].subject.push('x'));
        let failure = checkpointer.run(&store, later + MINUTE).await.unwrap_err();
        assert!(matches!(failure, CheckpointFailure::Broken(BrokenChain::Hash(15))), "{failure}");
        store.change(|events| events[9].hash[0] ^= 1);
        let failure = checkpointer.run(&store, later + MINUTE).await.unwrap_err();
        assert!(matches!(failure, CheckpointFailure::TooOld(TooOld::Differs { sequence: 10, .. })));
    }
}
