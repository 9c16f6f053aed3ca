//! A store that is older than it was is not started: whoever restores an old backup un-revokes what was revoked
//! since.
//!
//! What the store cannot know about itself stands beside it: the newest checkpoint, in `checkpoint.json` in the data
//! directory and in the file sinks. A store has to contain it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::key::AuditKey;
use super::line::{Line, LineError};
use super::sink::newest_in_file;
use super::{durable, store::AuditStore};
use crate::store::StoreError;
use crate::time;

/// Its name in the data directory.
pub const CHECKPOINT_FILE: &str = "checkpoint.json";
const MAX_FILE: u64 = 64 * 1024;

/// The store is not as new as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooOld {
    /// It ends before the checkpoint.
    #[error(
        "the store lacks audit events {from} to {to}, which were there {}: it was restored from an old backup, or \
         cut. Every revocation, suspension and withdrawn role of that time is lost: whoever was locked out could \
         take part again. Restore a newer backup; or start once with `--accept-older-store`, then revoke again",
        time::rfc3339(*at)
    )]
    Lacks {
        /// The first event that is missing.
        from: u64,
        /// The last one that is known to be.
        to: u64,
        /// When it was there.
        at: SystemTime,
    },
    /// It has another event in that place.
    #[error(
        "audit event {sequence} of the store is not the one that was there {}: the store is another one, was \
         restored from an old backup and used since, or its history was written anew. Restore the right one; or \
         start once with `--accept-older-store`", time::rfc3339(*at)
    )]
    Differs {
        /// Which event.
        sequence: u64,
        /// When the other one was there.
        at: SystemTime,
    },
    /// The checkpoint is not of this store's key.
    #[error(
        "the checkpoint of audit event {sequence}, kept outside of the store, is not believed: {because}. The store \
         is another one, or older than the key that signs its checkpoints, or the checkpoint was tampered with. \
         Restore the right one; or start once with `--accept-older-store`"
    )]
    Foreign {
        /// Which event it speaks of.
        sequence: u64,
        /// Why it is not believed.
        because: CheckpointError,
    },
}

/// Why a checkpoint outside of the store could not be compared with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file holds something else.
    #[error("{path} holds no checkpoint ({error}): remove it if you know why")]
    Content {
        /// Which file.
        path: String,
        /// What is wrong.
        error: LineError,
    },
    /// The store is not as new as it was.
    #[error(transparent)]
    TooOld(#[from] TooOld),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The rule: the store has come as far as the checkpoint, and has its event in its place. `store_hash_at` is the
/// hash of the store's event with the checkpoint's sequence, if it has one.
///
/// # Errors
/// Why it is too old.
pub fn older_than_checkpoint(
    store_sequence: u64,
    store_hash_at: Option<&[u8; 32]>,
    checkpoint: &Checkpoint,
) -> Result<(), TooOld> {
    let Checkpoint { sequence, at, .. } = *checkpoint;
    if store_sequence < sequence {
        return Err(TooOld::Lacks { from: store_sequence + 1, to: sequence, at });
    }
    match store_hash_at {
        Some(hash) if *hash == checkpoint.hash => Ok(()),
        _ => Err(TooOld::Differs { sequence, at }),
    }
}

/// The same, asked of a store; with the key, whether the checkpoint is this store's at all.
///
/// # Errors
/// [`GuardError::TooOld`], or that the store cannot be read.
pub async fn require_contained(
    store: &impl AuditStore,
    key: &AuditKey,
    checkpoint: &Checkpoint,
) -> Result<(), GuardError> {
    let sequence = checkpoint.sequence;
    checkpoint.verify(key).map_err(|because| TooOld::Foreign { sequence, because })?;
    let newest = store.newest_event().await?.map_or(0, |event| event.sequence);
    let found = store.events_after(sequence.saturating_sub(1), 1).await?;
    let hash = found.first().filter(|event| event.sequence == sequence).map(|event| &event.hash);
    Ok(older_than_checkpoint(newest, hash, checkpoint)?)
}

/// The rule at a start: the store contains every checkpoint that is kept outside of it. Those that it lacks are
/// `accepted`, or were before; returns whether any is accepted now.
///
/// That one was accepted before counts only if it was signed since: an event alone anybody could write who can write
/// the store.
///
/// # Errors
/// [`GuardError::TooOld`], or that the store cannot be read or written.
pub async fn require_all_contained(
    store: &impl AuditStore,
    key: &AuditKey,
    kept: Vec<Checkpoint>,
    accepted: bool,
) -> Result<bool, GuardError> {
    let mut any = false;
    for checkpoint in kept {
        let too_old = match require_contained(store, key, &checkpoint).await {
            Ok(()) => continue,
            Err(GuardError::TooOld(too_old)) => too_old,
            Err(error) => return Err(error),
        };
        if was_accepted(store, key, &checkpoint).await? {
            continue;
        }
        if !accepted {
            return Err(too_old.into());
        }
        tracing::warn!(%too_old, "started on an older store all the same, as told by --accept-older-store");
        store.accept_older(checkpoint, too_old.to_string()).await?;
        any = true;
    }
    Ok(any)
}

async fn was_accepted(
    store: &impl AuditStore,
    key: &AuditKey,
    checkpoint: &Checkpoint,
) -> Result<bool, StoreError> {
    let Some(accepted) = store.accepted_older(checkpoint).await? else { return Ok(false) };
    let signed = store.checkpoints_after(accepted.saturating_sub(1), 1).await?;
    Ok(signed.first().is_some_and(|signed| signed.verify(key).is_ok()))
}

/// Puts it in the place of the one before, at once and to stay.
///
/// # Errors
/// When the file cannot be written.
pub fn keep_newest(data_dir: &Path, checkpoint: &Checkpoint) -> Result<(), GuardError> {
    let path = data_dir.join(CHECKPOINT_FILE);
    let line = format!("{}\n", Line::Checkpoint(checkpoint.clone()));
    durable::replace(&path, line.as_bytes())
        .map_err(|error| GuardError::File { path: path.display().to_string(), error })
}

/// The newest of [`kept_checkpoints`].
///
/// # Errors
/// When a file is there that cannot be read, or holds something else.
pub fn newest_checkpoint<'a>(
    data_dir: &Path,
    file_sinks: impl IntoIterator<Item = &'a Path>,
) -> Result<Option<Checkpoint>, GuardError> {
    let kept = kept_checkpoints(data_dir, file_sinks)?;
    Ok(kept.into_iter().max_by_key(|checkpoint| checkpoint.sequence))
}

/// What is kept outside of the store: the newest checkpoint in the data directory, and in each of these file sinks.
///
/// # Errors
/// When a file is there that cannot be read, or holds something else.
pub fn kept_checkpoints<'a>(
    data_dir: &Path,
    file_sinks: impl IntoIterator<Item = &'a Path>,
) -> Result<Vec<Checkpoint>, GuardError> {
    let path = data_dir.join(CHECKPOINT_FILE);
    let shown = || path.display().to_string();
    let kept = durable::read(&path, MAX_FILE).map_err(|error| GuardError::File { path: shown(), error })?;
    let mut all = match kept.as_deref().map(|text| Line::parse(text.trim_end_matches('\n'))) {
        None => Vec::new(),
        Some(Ok(Line::Checkpoint(checkpoint))) => vec![checkpoint],
        Some(Ok(Line::Event(_))) => {
            let error = LineError::Json("an event".to_owned());
            return Err(GuardError::Content { path: shown(), error });
        }
        Some(Err(error)) => return Err(GuardError::Content { path: shown(), error }),
    };
    for path in file_sinks {
        let found = newest_in_file(path)
            .map_err(|error| GuardError::File { path: path.display().to_string(), error })?;
        all.extend(found.filter(|found| !all.contains(found)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing::{self, MemoryStore, chain, checkpoint};

    #[test]
    fn store_contains_its_newest_checkpoint_or_is_refused() {
        let (events, signer) = (chain(20), testing::signer());
        let kept = checkpoint(&signer, &events[14]);
        older_than_checkpoint(20, Some(&events[14].hash), &kept).unwrap();
        older_than_checkpoint(15, Some(&events[14].hash), &kept).unwrap();
        let refused = older_than_checkpoint(9, None, &kept).unwrap_err();
        assert_eq!(refused, TooOld::Lacks { from: 10, to: 15, at: kept.at });
        let text = refused.to_string();
        assert!(text.contains("events 10 to 15") && text.contains("--accept-older-store"), "{text}");
        assert!(text.contains("revocation"), "{text}");
        let refused = older_than_checkpoint(20, Some(&events[13].hash), &kept);
        assert_eq!(refused, Err(TooOld::Differs { sequence: 15, at: kept.at }));
        assert!(older_than_checkpoint(20, None, &kept).is_err());
    }

    #[tokio::test]
    async fn store_is_asked_for_the_event_of_the_checkpoint() {
        let (events, signer) = (chain(20), testing::signer());
        let kept = checkpoint(&signer, &events[14]);
        let key = signer.public();
        require_contained(&MemoryStore::with(&events), key, &kept).await.unwrap();
        for short in [0, 1, 14] {
            let store = MemoryStore::with(&events[..short]);
            let refused = require_contained(&store, key, &kept).await.unwrap_err();
            assert!(matches!(refused, GuardError::TooOld(TooOld::Lacks { to: 15, .. })), "{refused}");
        }
        let stranger = testing::signer();
        let refused = require_contained(&MemoryStore::with(&events), stranger.public(), &kept).await;
        assert!(matches!(refused, Err(GuardError::TooOld(TooOld::Foreign { sequence: 15, .. }))));
    }

    #[tokio::test]
    async fn what_was_accepted_and_signed_is_not_asked_for_again() {
        let (events, signer) = (chain(20), testing::signer());
        let lost = vec![checkpoint(&signer, &events[9]), checkpoint(&signer, &events[14])];
        let store = MemoryStore::with(&events[..12]);
        let ask =
            async |accepted| require_all_contained(&store, signer.public(), lost.clone(), accepted).await;
        assert!(matches!(ask(false).await, Err(GuardError::TooOld(TooOld::Lacks { from: 13, .. }))));
        assert!(ask(true).await.unwrap());
        assert!(ask(false).await.is_err(), "anybody can write an event");
        let accepted = store.newest_event().await.unwrap().unwrap();
        store.add_checkpoint(checkpoint(&testing::signer(), &accepted)).await.unwrap();
        assert!(ask(false).await.is_err(), "or sign with another key");
        let store = MemoryStore::with(&store.events_after(0, 99).await.unwrap());
        store.add_checkpoint(checkpoint(&signer, &accepted)).await.unwrap();
        let ask = async |kept| require_all_contained(&store, signer.public(), kept, false).await;
        assert!(!ask(lost.clone()).await.unwrap());
        let another = checkpoint(&signer, &events[19]);
        assert!(ask(vec![another]).await.is_err(), "what is lost beyond that was not accepted");
    }

    #[test]
    fn newest_one_of_state_file_and_sinks_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (events, signer) = (chain(20), testing::signer());
        let sink = directory.path().join("audit.jsonl");
        let found = || newest_checkpoint(directory.path(), [sink.as_path()]).unwrap();
        assert_eq!(found(), None);
        let older = checkpoint(&signer, &events[4]);
        keep_newest(directory.path(), &older).unwrap();
        keep_newest(directory.path(), &older).unwrap();
        assert_eq!(found(), Some(older));
        let newer = checkpoint(&signer, &events[9]);
        let lines = [Line::Checkpoint(newer.clone()), Line::Event(events[10].clone())];
        std::fs::write(&sink, lines.map(|line| format!("{line}\n")).concat() + "{\"event\":{\"torn").unwrap();
        assert_eq!(found(), Some(newer));
    }

    #[test]
    fn state_file_that_is_something_else_is_no_reason_to_start() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["", "{}", "not json"] {
            std::fs::write(directory.path().join(CHECKPOINT_FILE), content).unwrap();
            let refused = newest_checkpoint(directory.path(), []).unwrap_err();
            assert!(matches!(refused, GuardError::Content { .. }), "{content}: {refused}");
        }
    }
}
