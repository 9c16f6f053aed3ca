//! Reading the audit, and the times of revisions.

use std::time::SystemTime;

use super::sql::{Row, values};
use super::{Store, StoreError};
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
        self.read(move |sql| {
            let mut events: Vec<_> = match subject {
                None => sql.all(
                    &format!("SELECT {COLUMNS} FROM audit ORDER BY sequence DESC LIMIT ?1"),
                    values![limit],
                    event,
                )?,
                Some(subject) => sql.all(
                    &format!(
                        "SELECT {COLUMNS} FROM audit WHERE subject = ?2 ORDER BY sequence DESC LIMIT ?1"
                    ),
                    values![limit, subject],
                    event,
                )?,
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
        self.read(move |sql| {
            let events = sql.all(
                &format!("SELECT {COLUMNS} FROM audit WHERE sequence > ?1 ORDER BY sequence LIMIT ?2"),
                values![sequence, limit],
                event,
            )?;
            Ok(events)
        })
        .await
    }

    /// When a revision was committed; `None` if there is none of this number or it is long past.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revision_time(&self, revision: u64) -> Result<Option<SystemTime>, StoreError> {
        self.read(move |sql| {
            let at =
                sql.find("SELECT at_ms FROM revision WHERE revision = ?1", values![revision], |row| {
                    row.get(0)
                })?;
            Ok(at)
        })
        .await
    }
}

fn event(row: &Row) -> Result<AuditEvent, StoreError> {
    Ok(AuditEvent {
        sequence: row.get(0)?,
        at: row.get(1)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        subject: row.get(4)?,
        detail: row.get(5)?,
        hash: row.get(6)?,
    })
}
