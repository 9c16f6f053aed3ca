//! Dropping what is long over, in small indexed batches, so that nobody waits for it.

use std::time::SystemTime;

use super::sql::values;
use super::{Store, StoreError};

/// Of each kind at most `?2` that ended before `?1`.
pub(super) const ENDED: [&str; 9] = [
    "DELETE FROM certificate WHERE serial IN
       (SELECT serial FROM certificate WHERE not_after_ms < ?1 LIMIT ?2)",
    "DELETE FROM instance WHERE id IN
       (SELECT id FROM instance WHERE status IN ('departed', 'revoked', 'lapsed') AND not_after_ms < ?1
          AND NOT EXISTS (SELECT 1 FROM certificate WHERE certificate.instance = instance.id)
          AND NOT EXISTS (SELECT 1 FROM endpoint WHERE endpoint.instance = instance.id)
        LIMIT ?2)",
    "DELETE FROM join_token WHERE secret_sha256 IN
       (SELECT secret_sha256 FROM join_token WHERE expires_at_ms < ?1 LIMIT ?2)",
    "DELETE FROM proof_use WHERE proof_sha256 IN
       (SELECT proof_sha256 FROM proof_use WHERE ends_at_ms < ?1 LIMIT ?2)",
    "DELETE FROM revoked_proof WHERE proof_sha256 IN
       (SELECT proof_sha256 FROM revoked_proof WHERE ends_at_ms < ?1 LIMIT ?2)",
    "DELETE FROM held_request WHERE id IN
       (SELECT id FROM held_request WHERE state IN ('denied', 'expired', 'used') AND expires_at_ms < ?1
        LIMIT ?2)",
    "DELETE FROM issuance_count WHERE spiffe_id IN
       (SELECT spiffe_id FROM issuance_count WHERE since_ms < ?1 LIMIT ?2)",
    "DELETE FROM jwt_count WHERE spiffe_id IN
       (SELECT spiffe_id FROM jwt_count WHERE since_ms < ?1 LIMIT ?2)",
    "DELETE FROM rotation WHERE scope IN
       (SELECT scope FROM rotation WHERE issued_before_ms < ?1 LIMIT ?2)",
];
/// At most `?2`, never the newest `?1`.
pub(super) const REVISIONS: &str = "DELETE FROM revision WHERE revision IN
   (SELECT revision FROM revision
    WHERE revision <= (SELECT max(revision) FROM revision) - ?1 ORDER BY revision LIMIT ?2)";

impl Store {
    /// Drops at most `limit` of each: certificates, instances, join tokens, proofs and requests that ended before
    /// `ended_before`, and counts of hours and orders to renew from before. Returns how many rows.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_ended(&self, ended_before: SystemTime, limit: u32) -> Result<u64, StoreError> {
        self.write(move |change| {
            let before = ended_before;
            let mut pruned = 0;
            for statement in ENDED {
                pruned += change.sql.execute(statement, values![before, limit])?;
            }
            change.operational();
            Ok(pruned)
        })
        .await
    }

    /// Drops at most `limit` identities that templates gave before `given_before` and that hold nothing any more: the
    /// next proof gives them again. Those that people decided about stay. Returns how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_given(&self, given_before: SystemTime, limit: u32) -> Result<u64, StoreError> {
        self.write(move |change| {
            let forgotten = change.sql.execute(
                "DELETE FROM workload WHERE spiffe_id IN (
                   SELECT w.spiffe_id FROM workload w
                   WHERE w.template IS NOT NULL AND w.status = 'active' AND w.held = 0 AND w.created_at_ms < ?1
                     AND NOT EXISTS (SELECT 1 FROM certificate c WHERE c.spiffe_id = w.spiffe_id)
                     AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.spiffe_id = w.spiffe_id)
                     AND NOT EXISTS (SELECT 1 FROM join_token t WHERE t.spiffe_id = w.spiffe_id)
                     AND NOT EXISTS (SELECT 1 FROM role_binding b WHERE b.subject = w.spiffe_id)
                   LIMIT ?2)",
                values![given_before, limit],
            )?;
            change.operational();
            Ok(forgotten)
        })
        .await
    }

    /// Drops at most `limit` rows of the revision log, never the newest `keep`. Returns how many rows.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_revisions(&self, keep: u32, limit: u32) -> Result<u64, StoreError> {
        self.write(move |change| {
            let pruned = change.sql.execute(REVISIONS, values![keep, limit])?;
            change.operational();
            Ok(pruned)
        })
        .await
    }
}
