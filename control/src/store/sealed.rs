//! All that is sealed with the seal key, whatever it is for: read as a whole, and replaced as a whole.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::model::Actor;
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;

/// Every table with a column `sealed_key`, and in SQL what its keys are sealed for.
pub(super) const SEALED: &[(&str, &str)] = &[
    ("authority", "kind"),
    ("authority_request", "'intermediate'"),
    ("jwt_key", "'jwt'"),
    ("audit_key", "'audit checkpoint'"),
];

/// A sealed key where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedKey {
    table: &'static str,
    /// What it is for.
    pub purpose: String,
    /// Its id.
    pub id: String,
    /// As it is sealed.
    pub sealed: Vec<u8>,
}

impl Store {
    /// Everything that is sealed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sealed_keys(&self) -> Result<Vec<SealedKey>, StoreError> {
        self.read(all).await
    }

    /// Replaces each of these by what stands beside it: all of them in one commit, or none.
    ///
    /// # Errors
    /// [`Refusal::SealedMeanwhile`] unless these are all there are; [`Refusal::ReplicaRuns`] while another replica was
    /// seen within `seen`: it would seal with the key before.
    pub async fn reseal(
        &self,
        keys: Vec<(SealedKey, Vec<u8>)>,
        place: String,
        seen: Duration,
    ) -> Result<(), StoreError> {
        self.write(move |change| {
            require_alone(&change.sql, change.at - seen)?;
            if all(&change.sql)?.len() != keys.len() {
                return Err(Refusal::SealedMeanwhile.into());
            }
            for (SealedKey { table, id, sealed, .. }, again) in &keys {
                let update = format!("UPDATE {table} SET sealed_key = ?3 WHERE id = ?1 AND sealed_key = ?2");
                if change.sql.execute(&update, values![id, sealed, again])? != 1 {
                    return Err(Refusal::SealedMeanwhile.into());
                }
            }
            let detail = json!({ "keys": keys.len() });
            change.audit(&Actor::control(), Action::KeysResealed, &place, &detail)
        })
        .await
    }
}

fn all(sql: &Sql<'_>) -> Result<Vec<SealedKey>, StoreError> {
    let mut keys = Vec::new();
    for (table, purpose) in SEALED {
        let query =
            format!("SELECT {purpose}, id, sealed_key FROM {table} WHERE sealed_key IS NOT NULL ORDER BY id");
        keys.extend(sql.all(&query, &[], |row| {
            Ok(SealedKey { table, purpose: row.get(0)?, id: row.get(1)?, sealed: row.get(2)? })
        })?);
    }
    Ok(keys)
}

fn require_alone(sql: &Sql<'_>, since: SystemTime) -> Result<(), StoreError> {
    let other: Option<String> = sql.find(
        "SELECT id FROM replica WHERE seen_at_ms > ?1 ORDER BY id LIMIT 1",
        values![since],
        |row| row.get(0),
    )?;
    other.map_or(Ok(()), |replica| Err(Refusal::ReplicaRuns(replica).into()))
}
