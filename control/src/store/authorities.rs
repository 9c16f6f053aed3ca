//! The certificate authorities, with their sealed keys.

use serde_json::json;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, AuthorityKind, AuthorityRecord, Commit};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::time;

impl Store {
    /// The authority of this kind that signs now, if one was made.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn authority(&self, kind: AuthorityKind) -> Result<Option<AuthorityRecord>, StoreError> {
        self.read(move |sql| active(sql, kind)).await
    }

    /// Stores the first root and the first intermediate together.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when there is a root already.
    pub async fn create_authorities(
        &self,
        root: AuthorityRecord,
        intermediate: AuthorityRecord,
    ) -> Result<Commit, StoreError> {
        self.write(move |change| {
            if active(&change.sql, AuthorityKind::Root)?.is_some() {
                return Err(StoreError::exists("authority", "root"));
            }
            insert(change, &root)?;
            insert(change, &intermediate)?;
            let detail = json!({ "root": root.id, "intermediate": intermediate.id });
            change.audit(&Actor::control(), Action::AuthorityCreated, &root.subject, &detail)?;
            change.revise(Topics::BUNDLE, &root.subject)
        })
        .await
    }

    /// Makes another intermediate the one that signs. The key of the one before is erased; its certificate
    /// stays, as SVIDs that it signed still chain to it.
    ///
    /// # Errors
    /// [`Refusal::RotatedMeanwhile`] unless it is the one to be `replaced` that signs now.
    pub async fn replace_intermediate(
        &self,
        new: AuthorityRecord,
        replaced: String,
        actor: Actor,
    ) -> Result<(), StoreError> {
        self.write(move |change| {
            let previous = active(&change.sql, AuthorityKind::Intermediate)?;
            if previous.as_ref().is_some_and(|previous| previous.id != replaced) {
                return Err(Refusal::RotatedMeanwhile.into());
            }
            change.sql.execute(
                "UPDATE authority SET active = 0, sealed_key = NULL WHERE kind = 'intermediate' AND active = 1",
                &[],
            )?;
            insert(change, &new)?;
            change.audit(
                &actor,
                Action::AuthorityRotated,
                &new.subject,
                &json!({
                    "previous": previous.map(|previous| previous.subject),
                    "not_after": time::rfc3339(new.not_after),
                }),
            )
        })
        .await
    }
}

fn insert(change: &Change<'_>, new: &AuthorityRecord) -> Result<(), StoreError> {
    change.sql.execute(
        "INSERT INTO authority (id, kind, active, subject, certificate, sealed_key, not_before_ms,
                                not_after_ms, created_at_ms)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8)",
        values![
            &new.id,
            new.kind.as_str(),
            &new.subject,
            &new.certificate,
            &new.sealed_key,
            new.not_before,
            new.not_after,
            change.at
        ],
    )?;
    Ok(())
}

fn active(sql: &Sql<'_>, kind: AuthorityKind) -> Result<Option<AuthorityRecord>, StoreError> {
    let record = |row: &Row| {
        Ok(AuthorityRecord {
            id: row.get(0)?,
            kind,
            subject: row.get(1)?,
            certificate: row.get(2)?,
            sealed_key: row.get(3)?,
            not_before: row.get(4)?,
            not_after: row.get(5)?,
        })
    };
    sql.find(
        "SELECT id, subject, certificate, sealed_key, not_before_ms, not_after_ms
         FROM authority WHERE kind = ?1 AND active = 1",
        values![kind.as_str()],
        record,
    )
}
