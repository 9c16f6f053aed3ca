//! Which key a proof was used with first. A token proves the same for whoever holds it; where its profile makes it one
//! job's, it is that job's key's from its first use until it ends.

use super::change::Change;
use super::sql::values;
use super::{Refusal, StoreError};
use crate::attest::ProofUse;

/// Binds a proof to the key that it is used with now.
pub(super) fn bind(change: &Change<'_>, used: &ProofUse, spki_sha256: &[u8; 32]) -> Result<(), StoreError> {
    let first: Option<Vec<u8>> = change.sql.find(
        "SELECT spki_sha256 FROM proof_use WHERE proof_sha256 = ?1",
        values![used.sha256],
        |row| row.get(0),
    )?;
    match first {
        Some(first) if first == spki_sha256 => Ok(()),
        Some(_) => Err(Refusal::ProofUsed.into()),
        None => change.sql.post(
            "INSERT INTO proof_use (proof_sha256, spki_sha256, ends_at_ms) VALUES (?1, ?2, ?3)",
            values![used.sha256, spki_sha256, used.ends],
        ),
    }
}
