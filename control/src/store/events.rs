//! Reading the audit, and the times of revisions.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use super::{Store, StoreError, rows};
use crate::audit::AuditEvent;

const COLUMNS: &str = "sequence, at_ms, actor, action, subject, detail, hash";

impl Store {
    /// The newest `limit` events, oldest first; with `subject`, only those about it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn newest_events(
        &self,
        limit: u32,
        subject: Option<String>,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        self.read(move |connection| {
            let mut events: Vec<_> = match subject {
                None => connection
                    .prepare_cached(&format!("SELECT {COLUMNS} FROM audit ORDER BY sequence DESC LIMIT ?1"))?
                    .query_map(params![limit], event)?
                    .collect::<Result<_, _>>()?,
                Some(subject) => connection
                    .prepare_cached(&format!(
                        "SELECT {COLUMNS} FROM audit WHERE subject = ?2 ORDER BY sequence DESC LIMIT ?1"
                    ))?
                    .query_map(params![limit, subject], event)?
                    .collect::<Result<_, _>>()?,
            };
            events.reverse();
            Ok(events)
        })
        .await
    }

    /// At most `limit` events after `sequence`, oldest first: to walk through all of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        self.read(move |connection| {
            let events = connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM audit WHERE sequence > ?1 ORDER BY sequence LIMIT ?2"
                ))?
                .query_map(params![rows::signed(sequence), limit], event)?
                .collect::<Result<_, _>>()?;
            Ok(events)
        })
        .await
    }

    /// When a revision was committed; `None` if there is none of this number or it is long past.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revision_time(&self, revision: u64) -> Result<Option<SystemTime>, StoreError> {
        self.read(move |connection| {
            let at = connection
                .prepare_cached("SELECT at_ms FROM revision WHERE revision = ?1")?
                .query_row([rows::signed(revision)], |row| rows::instant(row, 0))
                .optional()?;
            Ok(at)
        })
        .await
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<AuditEvent> {
    Ok(AuditEvent {
        sequence: rows::count(row, 0)?,
        at: rows::instant(row, 1)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        subject: row.get(4)?,
        detail: row.get(5)?,
        hash: row.get(6)?,
    })
}
