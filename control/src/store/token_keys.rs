//! Keys in tokens that are to be destroyed there: of authorities that are gone, or that never came to be. A token knows
//! nothing of commits, so that what is to be done there is written down first, and crossed out when it is done.
//!
//! Never in a backup: what a restored store believes to be over may be what the mesh signs with.

use std::time::{Duration, SystemTime};

use super::change::Change;
use super::model::KeptKey;
use super::sql::{Value, values};
use super::{Refusal, Store, StoreError};

/// A look destroys no more than so many.
const BATCH: i64 = 32;

impl Store {
    /// A key is about to be made: unless its authority is recorded before `due`, it is to be destroyed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn intend_token_key(&self, name: String, due: SystemTime) -> Result<(), StoreError> {
        self.write(move |change| {
            change.operational();
            change.sql.post("INSERT INTO token_key (name, due_ms) VALUES (?1, ?2)", values![&name, due])
        })
        .await
    }

    /// Keys that are to be destroyed by now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn ended_token_keys(&self, now: SystemTime) -> Result<Vec<String>, StoreError> {
        self.read(move |sql| {
            let due = "SELECT name FROM token_key WHERE due_ms <= ?1 ORDER BY due_ms, name LIMIT ?2";
            sql.all(due, values![now, BATCH], |row| row.get(0))
        })
        .await
    }

    /// It is destroyed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_token_key(&self, name: String) -> Result<(), StoreError> {
        self.write(move |change| {
            change.operational();
            change.sql.post("DELETE FROM token_key WHERE name = ?1", values![&name])
        })
        .await
    }

    /// The key of an authority, unless it was erased.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn kept_key(&self, id: String) -> Result<Option<KeptKey>, StoreError> {
        self.read(move |sql| {
            let query = "SELECT sealed_key, token_key FROM authority WHERE id = ?1";
            let found = sql.find(query, values![&id], |row| {
                let (sealed, token): (Option<Vec<u8>>, Option<String>) = (row.get(0)?, row.get(1)?);
                Ok(sealed.map(KeptKey::Sealed).or(token.map(KeptKey::Token)))
            })?;
            Ok(found.flatten())
        })
        .await
    }
}

/// Where a key is, for the columns of whoever has it.
pub(super) fn columns<'k>(
    change: &Change<'_>,
    key: &'k KeptKey,
) -> Result<(Option<&'k [u8]>, Option<&'k str>), StoreError> {
    match key {
        KeptKey::Sealed(sealed) => Ok((Some(sealed), None)),
        KeptKey::Token(name) => {
            recorded(change, name)?;
            Ok((None, Some(name)))
        }
        KeptKey::Elsewhere => Ok((None, None)),
    }
}

/// A key moves from one row to another, in this commit.
pub(super) fn intend_again(change: &Change<'_>, key: &KeptKey) -> Result<(), StoreError> {
    let KeptKey::Token(name) = key else { return Ok(()) };
    let due = change.at + Duration::from_secs(1);
    change.sql.post("INSERT INTO token_key (name, due_ms) VALUES (?1, ?2)", values![name, due])
}

/// A key is not needed any more.
pub(super) fn end(change: &Change<'_>, key: &KeptKey) -> Result<(), StoreError> {
    let KeptKey::Token(name) = key else { return Ok(()) };
    change.sql.post("INSERT INTO token_key (name, due_ms) VALUES (?1, ?2)", values![name, change.at])
}

/// A key that was intended belongs to an authority now.
fn recorded(change: &Change<'_>, name: &str) -> Result<(), StoreError> {
    let taken = "DELETE FROM token_key WHERE name = ?1 AND due_ms > ?2";
    match change.sql.execute(taken, values![name, change.at])? {
        1 => Ok(()),
        _ => Err(Refusal::RotatedMeanwhile.into()),
    }
}

/// Erases the keys of the authorities that the condition finds: what is sealed here, what is in a token there.
pub(super) fn erase(change: &Change<'_>, condition: &str, value: &str) -> Result<(), StoreError> {
    let values = &[Value::from(value), Value::from(change.at)];
    change.sql.execute(
        &format!(
            "INSERT INTO token_key (name, due_ms)
             SELECT token_key, CAST(?2 AS BIGINT) FROM authority WHERE token_key IS NOT NULL AND {condition}"
        ),
        values,
    )?;
    change.sql.execute(
        &format!("UPDATE authority SET sealed_key = NULL, token_key = NULL WHERE {condition}"),
        values![value],
    )?;
    Ok(())
}
