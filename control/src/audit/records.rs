//! The audit's own durable state as files in the data directory, for one replica: key, checkpoints, positions of the
//! sinks. The events are the store's.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::chain::AuditEvent;
use super::checkpoint::Checkpoint;
use super::key::AuditKeyRecord;
use super::line::Line;
use super::sink::{FileSink, newest_in_file};
use super::{AuditStore, durable};
use crate::hex;
use crate::store::{Store, StoreError};

const KEY: &str = "key.json";
const CHECKPOINTS: &str = "checkpoints.jsonl";
const POSITIONS: &str = "positions.json";
const MAX_FILE: u64 = 1024 * 1024;
/// Two for each sink.
const MAX_POSITIONS: usize = 256;

/// The store's events, and these files.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    records: Arc<FileRecords>,
}

impl Ledger {
    /// Opens the files in `data_dir`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open(store: Store, data_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { store, records: Arc::new(FileRecords::open(&data_dir.join("audit"))?) })
    }
}

/// The files.
pub struct FileRecords {
    directory: PathBuf,
    state: Mutex<State>,
}

struct State {
    checkpoints: FileSink,
    newest: Option<Checkpoint>,
    positions: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: String,
    public_key: String,
    sealed_key: String,
}

impl FileRecords {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(directory).map_err(|error| io(directory, &error))?;
        let path = directory.join(CHECKPOINTS);
        let newest = newest_in_file(&path).map_err(|error| io(&path, &error))?;
        let positions = directory.join(POSITIONS);
        let positions = match durable::read(&positions, MAX_FILE).map_err(|error| io(&positions, &error))? {
            Some(text) => serde_json::from_str(&text).map_err(|error| damaged(&positions, &error))?,
            None => BTreeMap::new(),
        };
        let state = State { checkpoints: FileSink::new(path), newest, positions };
        Ok(Self { directory: directory.to_owned(), state: Mutex::new(state) })
    }

    fn key(&self) -> Result<Option<AuditKeyRecord>, StoreError> {
        let path = self.directory.join(KEY);
        let Some(text) = durable::read(&path, MAX_FILE).map_err(|error| io(&path, &error))? else {
            return Ok(None);
        };
        let StoredKey { id, public_key, sealed_key } =
            serde_json::from_str(&text).map_err(|error| damaged(&path, &error))?;
        let bytes = |text: &str| hex::decode(text).ok_or_else(|| damaged(&path, &"no hex"));
        Ok(Some(AuditKeyRecord { public_key: bytes(&public_key)?, sealed_key: bytes(&sealed_key)?, id }))
    }

    fn create_key(&self, record: AuditKeyRecord) -> Result<AuditKeyRecord, StoreError> {
        let _one_at_a_time = self.state.lock();
        if let Some(stored) = self.key()? {
            return Ok(stored);
        }
        let stored = StoredKey {
            id: record.id.clone(),
            public_key: hex::encode(&record.public_key),
            sealed_key: hex::encode(&record.sealed_key),
        };
        self.put(KEY, &stored)?;
        Ok(record)
    }

    fn checkpoints_after(&self, sequence: u64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
        if self.state.lock().newest.as_ref().is_none_or(|newest| newest.sequence <= sequence) {
            return Ok(Vec::new());
        }
        let path = self.directory.join(CHECKPOINTS);
        let file = File::open(&path).map_err(|error| io(&path, &error))?;
        let mut found = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|error| io(&path, &error))?;
            // A torn last line was never answered for.
            if let Ok(Line::Checkpoint(checkpoint)) = Line::parse(&line)
                && checkpoint.sequence > sequence
                && found.len() < limit as usize
            {
                found.push(checkpoint);
            }
        }
        Ok(found)
    }

    fn add_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if state.newest.as_ref().is_some_and(|newest| newest.sequence >= checkpoint.sequence) {
            return Err(StoreError::Exists { what: "checkpoint", name: checkpoint.sequence.to_string() });
        }
        let line = format!("{}\n", Line::Checkpoint(checkpoint.clone()));
        state.checkpoints.append(&line).map_err(|error| io(&self.directory, &error))?;
        state.newest = Some(checkpoint);
        Ok(())
    }

    fn set_position(&self, name: String, sequence: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if !state.positions.contains_key(&name) && state.positions.len() >= MAX_POSITIONS {
            return Err(StoreError::Overloaded);
        }
        let mut positions = state.positions.clone();
        positions.insert(name, sequence);
        self.put(POSITIONS, &positions)?;
        state.positions = positions;
        Ok(())
    }

    fn put(&self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        let text = serde_json::to_vec(value).map_err(|error| damaged(&path, &error))?;
        durable::replace(&path, &text).map_err(|error| io(&path, &error))
    }
}

fn io(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Io(format!("{}: {error}", path.display()))
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{}: {error}", path.display()))
}

impl AuditStore for Ledger {
    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        self.store.events_after(sequence, limit).await
    }

    async fn newest_event(&self) -> Result<Option<AuditEvent>, StoreError> {
        Ok(self.store.newest_events(1, None).await?.pop())
    }

    fn revision(&self) -> u64 {
        self.store.committed().borrow().revision
    }

    async fn audit_key(&self) -> Result<Option<AuditKeyRecord>, StoreError> {
        self.records.key()
    }

    async fn create_audit_key(&self, record: AuditKeyRecord) -> Result<AuditKeyRecord, StoreError> {
        self.records.create_key(record)
    }

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.records.state.lock().newest.clone())
    }

    async fn checkpoints_after(&self, sequence: u64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
        self.records.checkpoints_after(sequence, limit)
    }

    async fn add_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        self.records.add_checkpoint(checkpoint)
    }

    async fn sink_position(&self, name: String) -> Result<u64, StoreError> {
        Ok(self.records.state.lock().positions.get(&name).copied().unwrap_or(0))
    }

    async fn set_sink_position(&self, name: String, sequence: u64) -> Result<(), StoreError> {
        self.records.set_position(name, sequence)
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing::{self, chain, checkpoint};

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let open = || FileRecords::open(&path).unwrap();
        let (events, signer) = (chain(3), testing::signer());
        let record = |id: &str| AuditKeyRecord { id: id.into(), public_key: vec![1], sealed_key: vec![2] };
        let records = open();
        assert_eq!(records.key().unwrap(), None);
        records.create_key(record("first")).unwrap();
        assert_eq!(records.create_key(record("second")).unwrap().id, "first");
        for event in &events {
            records.add_checkpoint(checkpoint(&signer, event)).unwrap();
        }
        assert!(matches!(
            records.add_checkpoint(checkpoint(&signer, &events[2])),
            Err(StoreError::Exists { .. })
        ));
        records.set_position("a".into(), 7).unwrap();
        drop(records);
        let records = open();
        assert_eq!(records.key().unwrap().unwrap().id, "first");
        let after = |sequence, limit| records.checkpoints_after(sequence, limit).unwrap();
        assert_eq!(after(1, 9), [checkpoint_of(&after(0, 9), 2), checkpoint_of(&after(0, 9), 3)]);
        assert_eq!(after(0, 2).len(), 2);
        let state = records.state.lock();
        assert_eq!(state.newest.as_ref().unwrap().sequence, 3);
        assert_eq!(state.positions.get("a"), Some(&7));
    }

    fn checkpoint_of(list: &[Checkpoint], sequence: u64) -> Checkpoint {
        list.iter().find(|checkpoint| checkpoint.sequence == sequence).unwrap().clone()
    }
}
