//! Which key a proof was used with first. A token proves the same for whoever holds it; where its profile makes it one
//! job's, it is that job's key's from its first use until it ends.

use super::change::Change;
use super::sql::values;
use super::{Refusal, StoreError};
use crate::attest::ProofUse;

/// Binds a proof to the key that it is used with now.
pub(super) fn bind(change: &Change<'_>, used: &ProofUse, spki_sha256: &[u8; 32]) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO proof_use (proof_sha256, spki_sha256, ends_at_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (proof_sha256) DO NOTHING",
        values![used.sha256, spki_sha256, used.ends],
    )?;
    let first: Vec<u8> =
        change.sql.one("SELECT spki_sha256 FROM proof_use WHERE proof_sha256 = ?1", values![used.sha256])?;
    if first == spki_sha256 { Ok(()) } else { Err(Refusal::ProofUsed.into()) }
}
