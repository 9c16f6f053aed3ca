//! The ends of the two logs, known to the one who writes: read once per batch, moved by every change.

use std::time::SystemTime;

use super::StoreError;
use super::model::{Actor, Commit};
use super::sql::{Sql, values};
use crate::audit::{Action, AuditEvent, GENESIS};
use crate::time;

/// Where the next revision and the next audit event go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) commit: Commit,
    sequence: u64,
    hash: [u8; 32],
}

impl Heads {
    pub(super) fn read(sql: &Sql<'_>) -> Result<Self, StoreError> {
        let row = sql.row(
            "SELECT a.sequence, a.hash, r.revision, r.at_ms FROM (SELECT 1) AS asked
             LEFT JOIN (SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1) AS a ON 1 = 1
             LEFT JOIN (SELECT revision, at_ms FROM revision ORDER BY revision DESC LIMIT 1) AS r ON 1 = 1",
            &[],
        )?;
        let row = row.ok_or_else(|| StoreError::Damaged("a question without an answer".into()))?;
        let (sequence, hash): (Option<u64>, Option<[u8; 32]>) = (row.get(0)?, row.get(1)?);
        let (revision, at): (Option<u64>, Option<SystemTime>) = (row.get(2)?, row.get(3)?);
        Ok(Self {
            commit: Commit {
                revision: revision.unwrap_or_default(),
                at: at.unwrap_or_else(|| time::from_millis(0)),
            },
            sequence: sequence.unwrap_or_default(),
            hash: hash.unwrap_or(GENESIS),
        })
    }

    /// Appends an audit event.
    pub(super) fn audit(
        &mut self,
        sql: &Sql<'_>,
        at: SystemTime,
        actor: &Actor,
        action: Action,
        subject: &str,
        detail: &serde_json::Value,
    ) -> Result<(), StoreError> {
        let mut event = AuditEvent {
            sequence: self.sequence + 1,
            at,
            actor: actor.as_str().to_owned(),
            action: action.as_str().to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_string(),
            hash: [0; 32],
        };
        event.hash = event.expected_hash(&self.hash);
        sql.post(
            "INSERT INTO audit (sequence, at_ms, actor, action, subject, detail, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            values![
                event.sequence,
                at,
                &event.actor,
                &event.action,
                &event.subject,
                &event.detail,
                &event.hash
            ],
        )?;
        (self.sequence, self.hash) = (event.sequence, event.hash);
        Ok(())
    }

    /// Appends a revision.
    pub(super) fn revise(
        &mut self,
        sql: &Sql<'_>,
        at: SystemTime,
        topics: i64,
        subject: &str,
        targets: Option<&str>,
    ) -> Result<Commit, StoreError> {
        let commit = Commit { revision: self.commit.revision + 1, at };
        sql.post(
            "INSERT INTO revision (revision, at_ms, topics, subject, targets) VALUES (?1, ?2, ?3, ?4, ?5)",
            values![commit.revision, at, topics, subject, targets],
        )?;
        self.commit = commit;
        Ok(commit)
    }
}
