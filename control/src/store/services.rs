//! Documents of `kind: Service` as they were applied, by the identity that they are about.

use super::StoreError;
use super::change::Change;
use super::model::{Actor, ManagedService, NewService};
use super::sql::{Sql, values};
use crate::registry::OwnerLabel;

/// Writes one document, whether or not it is there.
pub(super) fn write(
    change: &Change<'_>,
    new: &NewService,
    managed_by: &OwnerLabel,
    actor: &Actor,
    revision: u64,
) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO service (spiffe_id, document, applied_at_ms, applied_by, revision, managed_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (spiffe_id) DO UPDATE SET document = excluded.document,
               applied_at_ms = excluded.applied_at_ms, applied_by = excluded.applied_by,
               revision = excluded.revision, managed_by = excluded.managed_by",
        values![new.id.as_str(), &new.document, change.at, actor.as_str(), revision, managed_by.as_str()],
    )
}

/// Removes one document.
pub(super) fn remove(change: &Change<'_>, id: &str) -> Result<(), StoreError> {
    change.sql.post("DELETE FROM service WHERE spiffe_id = ?1", values![id])
}

/// All documents, by identity.
pub(super) fn all(sql: &Sql<'_>) -> Result<Vec<ManagedService>, StoreError> {
    sql.all("SELECT spiffe_id, document, managed_by FROM service ORDER BY spiffe_id", &[], |row| {
        let managed_by = match row.get::<String>(2)?.as_str() {
            "" => None,
            _ => Some(row.parsed(2)?),
        };
        Ok(ManagedService { service: NewService { id: row.parsed(0)?, document: row.get(1)? }, managed_by })
    })
}
