//! What the audit keeps besides its events: the key that signs checkpoints, the checkpoints, and how far copies are.
//!
//! A checkpoint is added only after those that are there, in sequence and in time, decided in the commit: whichever
//! replica makes it, the list goes forward.

use serde_json::json;

use super::change::Change;
use super::model::Actor;
use super::sql::{Row, Sql, values};
use super::{Store, StoreError};
use crate::audit::{
    Action, Annotation, AuditEvent, AuditKeyRecord, AuditStore, Checkpoint, CheckpointError, Line,
};

/// Two for each sink; those that were not written for the longest time are forgotten.
const POSITIONS: i64 = 256;

impl Store {
    /// Records that somebody was refused something. Whoever calls this bounds how often.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn record_refusal(
        &self,
        actor: Actor,
        action: Action,
        subject: String,
        detail: serde_json::Value,
    ) -> Result<(), StoreError> {
        self.write(move |change| change.audit(&actor, action, &subject, &detail)).await
    }
}

impl AuditStore for Store {
    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        Self::events_after(self, sequence, limit).await
    }

    async fn newest_event(&self) -> Result<Option<AuditEvent>, StoreError> {
        Ok(self.newest_events(1, None).await?.pop())
    }

    fn revision(&self) -> u64 {
        self.committed().borrow().revision
    }

    async fn audit_key(&self) -> Result<Option<AuditKeyRecord>, StoreError> {
        self.read(key).await
    }

    async fn create_audit_key(&self, record: AuditKeyRecord) -> Result<AuditKeyRecord, StoreError> {
        self.write(move |change| {
            if let Some(first) = key(&change.sql)? {
                return Ok(first);
            }
            change.sql.post(
                "INSERT INTO audit_key (id, one, public_key, sealed_key, created_at_ms)
                 VALUES (?1, 1, ?2, ?3, ?4)",
                values![&record.id, &record.public_key, &record.sealed_key, change.at],
            )?;
            change.audit(&Actor::control(), Action::AuditKeyCreated, &record.id, &json!({}))?;
            Ok(record.clone())
        })
        .await
    }

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.read(newest).await
    }

    async fn checkpoints_after(&self, sequence: u64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
        self.read(move |sql| {
            sql.all(
                "SELECT line FROM audit_checkpoint WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
                values![sequence, limit],
                checkpoint,
            )
        })
        .await
    }

    async fn add_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        self.write(move |change| {
            let sequence = checkpoint.sequence;
            if let Some(newest) = newest(&change.sql)? {
                checkpoint.follows(&newest).map_err(|error| match error {
                    CheckpointError::OtherDomain => {
                        StoreError::Damaged(format!("checkpoint of audit event {}: {error}", newest.sequence))
                    }
                    _ => StoreError::exists(
                        "checkpoint of this audit event, or a later one,",
                        &sequence.to_string(),
                    ),
                })?;
            }
            change.operational();
            change.sql.post(
                "INSERT INTO audit_checkpoint (sequence, line) VALUES (?1, ?2)",
                values![sequence, Line::Checkpoint(checkpoint.clone()).to_string()],
            )
        })
        .await
    }

    async fn sink_position(&self, name: String) -> Result<u64, StoreError> {
        self.read(move |sql| {
            let found =
                sql.find("SELECT sequence FROM audit_copy WHERE name = ?1", values![&name], |row| {
                    row.get(0)
                })?;
            Ok(found.unwrap_or(0))
        })
        .await
    }

    async fn set_sink_position(&self, name: String, sequence: u64) -> Result<(), StoreError> {
        self.write(move |change| put_position(change, &name, sequence)).await
    }

    async fn accept_older(&self, checkpoint: Checkpoint, because: String) -> Result<(), StoreError> {
        self.write(move |change| {
            let detail = json!({
                "sequence": checkpoint.sequence,
                "hash": crate::hex::encode(&checkpoint.hash),
                "at": crate::time::rfc3339(checkpoint.at),
            });
            let detail = Annotation::default().because(&because).on(detail);
            change.audit(&Actor::control(), Action::OlderStoreAccepted, &checkpoint.name(), &detail)
        })
        .await
    }

    async fn accepted_older(&self, checkpoint: &Checkpoint) -> Result<Option<u64>, StoreError> {
        let name = checkpoint.name();
        self.read(move |sql| {
            sql.find(
                "SELECT sequence FROM audit WHERE subject = ?1 AND action = ?2 ORDER BY sequence LIMIT 1",
                values![&name, Action::OlderStoreAccepted.as_str()],
                |row| row.get(0),
            )
        })
        .await
    }
}

fn key(sql: &Sql<'_>) -> Result<Option<AuditKeyRecord>, StoreError> {
    sql.find("SELECT id, public_key, sealed_key FROM audit_key", &[], |row| {
        Ok(AuditKeyRecord { id: row.get(0)?, public_key: row.get(1)?, sealed_key: row.get(2)? })
    })
}

fn newest(sql: &Sql<'_>) -> Result<Option<Checkpoint>, StoreError> {
    sql.find("SELECT line FROM audit_checkpoint ORDER BY sequence DESC LIMIT 1", &[], checkpoint)
}

fn checkpoint(row: &Row) -> Result<Checkpoint, StoreError> {
    let text: String = row.get(0)?;
    match Line::parse(&text) {
        Ok(Line::Checkpoint(checkpoint)) => Ok(checkpoint),
        Ok(Line::Event(_)) => Err(StoreError::Damaged("an event in the place of a checkpoint".into())),
        Err(error) => Err(StoreError::Damaged(format!("checkpoint: {error}"))),
    }
}

fn put_position(change: &mut Change<'_>, name: &str, sequence: u64) -> Result<(), StoreError> {
    change.operational();
    change.sql.post(
        "INSERT INTO audit_copy (name, sequence, written_at_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET sequence = excluded.sequence, written_at_ms = excluded.written_at_ms",
        values![name, sequence, change.at],
    )?;
    change.sql.post(
        "DELETE FROM audit_copy WHERE name <> ?1 AND name NOT IN (
           SELECT name FROM audit_copy ORDER BY written_at_ms DESC, name LIMIT ?2)",
        values![name, POSITIONS],
    )
}
