//! One change inside a batch: its time, its audit event, its revision.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::StoreError;
use super::mesh::Topics;
use super::model::{Actor, Commit};
use super::rows;
use crate::audit::{Action, AuditEvent, GENESIS};
use crate::time;

/// What a job works with on the writer thread.
pub(super) struct Change<'a> {
    pub(super) connection: &'a Connection,
    pub(super) at: SystemTime,
    changes_before: u64,
    accounted: bool,
    revised: Option<Commit>,
}

impl<'a> Change<'a> {
    pub(super) fn new(connection: &'a Connection, at: SystemTime) -> Self {
        Self { connection, at, changes_before: connection.total_changes(), accounted: false, revised: None }
    }

    /// Milliseconds of `at`, as rows hold it.
    pub(super) fn at_millis(&self) -> i64 {
        time::to_millis(self.at)
    }

    /// Appends the audit event. If that fails, so does the change.
    pub(super) fn audit(
        &mut self,
        actor: &Actor,
        action: Action,
        subject: &str,
        detail: &Value,
    ) -> Result<(), StoreError> {
        let last: Option<(i64, [u8; 32])> = self
            .connection
            .prepare_cached("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (sequence, previous) = last.unwrap_or((0, GENESIS));
        let mut event = AuditEvent {
            sequence: rows::unsigned(sequence)? + 1,
            at: self.at,
            actor: actor.as_str().to_owned(),
            action: action.as_str().to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_string(),
            hash: [0; 32],
        };
        event.hash = event.expected_hash(&previous);
        self.connection
            .prepare_cached(
                "INSERT INTO audit (sequence, at_ms, actor, action, subject, detail, hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                sequence + 1,
                self.at_millis(),
                event.actor,
                event.action,
                event.subject,
                event.detail,
                event.hash
            ])?;
        self.accounted = true;
        Ok(())
    }

    /// Marks bookkeeping that is nobody's decision (leases, pruning of what is over): no audit event.
    pub(super) fn operational(&mut self) {
        self.accounted = true;
    }

    /// Appends the revision; `topics` say which parts of the mesh's view it changed.
    pub(super) fn revise(&mut self, topics: Topics, subject: &str) -> Result<Commit, StoreError> {
        self.append(topics, subject, None)
    }

    /// Appends the revision of a change of policy: it concerns those that the `targets` match.
    pub(super) fn revise_policies<'t>(
        &mut self,
        subject: &str,
        targets: impl IntoIterator<Item = &'t str>,
    ) -> Result<Commit, StoreError> {
        let targets: Vec<_> = targets.into_iter().collect();
        self.append(Topics::POLICIES, subject, Some(&targets.join("\n")))
    }

    fn append(&mut self, topics: Topics, subject: &str, targets: Option<&str>) -> Result<Commit, StoreError> {
        let revision: i64 = self
            .connection
            .prepare_cached(
                "INSERT INTO revision (revision, at_ms, topics, subject, targets)
                 VALUES ((SELECT coalesce(max(revision), 0) + 1 FROM revision), ?1, ?2, ?3, ?4)
                 RETURNING revision",
            )?
            .query_row(params![self.at_millis(), topics.bits(), subject, targets], |row| row.get(0))?;
        let commit = Commit { revision: rows::unsigned(revision)?, at: self.at };
        self.revised = Some(commit);
        Ok(commit)
    }

    /// The newest commit, for a change that turned out to change nothing.
    pub(super) fn newest(&self) -> Result<Commit, StoreError> {
        super::mesh::newest(self.connection)
    }

    /// A mutation that cannot be audited does not happen; neither does one that forgot to.
    pub(super) fn require_accounted(&self) -> Result<(), StoreError> {
        if self.connection.total_changes() == self.changes_before || self.accounted {
            Ok(())
        } else {
            Err(StoreError::Unaudited)
        }
    }

    pub(super) fn finish(self) -> Option<Commit> {
        self.revised
    }
}
