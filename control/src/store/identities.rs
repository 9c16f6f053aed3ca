//! Who holds an identity now: the newest SVID of every instance.

use std::time::SystemTime;

use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::model::{Counts, IssuedIdentity};
use super::sql::{Row, values};
use super::{Store, StoreError};

/// More than this is not for one answer.
const LIMIT: i64 = 100_000;

impl Store {
    /// The newest SVID of every instance, of one identity or of all; with `ended`, also of those that are
    /// revoked, lapsed or expired at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn identities(
        &self,
        id: Option<SpiffeId>,
        ended: bool,
        now: SystemTime,
    ) -> Result<Vec<IssuedIdentity>, StoreError> {
        self.read(move |sql| {
            let id = id.as_ref().map(SpiffeId::as_str);
            let found = sql.rows(
                "SELECT * FROM (
                   SELECT i.spiffe_id, w.owner, w.purpose, i.id, i.serial, i.not_before_ms, i.not_after_ms,
                          CASE WHEN i.status = 'lapsed' THEN 'lapsed'
                               WHEN i.status = 'revoked' OR w.status <> 'active' THEN 'revoked'
                               WHEN i.not_after_ms <= ?2 THEN 'expired'
                               ELSE i.status END AS standing,
                          i.attested_at_ms, i.renewals, i.version
                   FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id
                   WHERE CAST(?1 AS TEXT) IS NULL OR i.spiffe_id = ?1) AS found
                 WHERE ?3 = 1 OR standing IN ('active', 'departed')
                 ORDER BY spiffe_id, attested_at_ms, id LIMIT ?4",
                values![id, now, ended, LIMIT],
            )?;
            found.iter().map(identity).collect()
        })
        .await
    }

    /// Instances that go by what control told them, connected or not: they opened a stream once, did not say
    /// goodbye, and hold an SVID that has not ended at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn proxies(&self, now: SystemTime) -> Result<Vec<(SpiffeId, InstanceId)>, StoreError> {
        self.read(move |sql| {
            let proxies = sql.rows(
                "SELECT i.spiffe_id, i.id FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id
                 WHERE i.status = 'active' AND i.not_after_ms > ?1 AND i.watched = 1 AND w.status = 'active'
                 ORDER BY 1, 2 LIMIT ?2",
                values![now, LIMIT],
            )?;
            proxies.iter().map(|row| Ok((row.parsed(0)?, row.parsed(1)?))).collect()
        })
        .await
    }

    /// Whether an instance of this identity has an SVID that has not ended at `now`, and is neither revoked
    /// nor lapsed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instance_is_live(
        &self,
        instance: InstanceId,
        id: SpiffeId,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        self.read(move |sql| {
            sql.one(
                "SELECT EXISTS (SELECT 1 FROM instance
                   WHERE id = ?1 AND spiffe_id = ?2 AND status IN ('active', 'departed') AND not_after_ms > ?3)",
                values![instance.to_string(), id.as_str(), now],
            )
        })
        .await
    }

    /// Numbers for status and metrics.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn counts(&self, now: SystemTime) -> Result<Counts, StoreError> {
        self.read(move |sql| {
            let workloads = sql.one("SELECT count(*) FROM workload WHERE status <> 'retired'", &[])?;
            let live_svids = sql.one(
                "SELECT count(*) FROM instance WHERE status IN ('active', 'departed') AND not_after_ms > ?1",
                values![now],
            )?;
            Ok(Counts { workloads, live_svids })
        })
        .await
    }
}

fn identity(row: &Row) -> Result<IssuedIdentity, StoreError> {
    Ok(IssuedIdentity {
        spiffe_id: row.parsed(0)?,
        owner: row.get(1)?,
        purpose: row.get(2)?,
        instance: row.parsed(3)?,
        serial: row.get(4)?,
        not_before: row.get(5)?,
        not_after: row.get(6)?,
        status: match row.get::<String>(7)?.as_str() {
            "departed" => "departed",
            "revoked" => "revoked",
            "lapsed" => "lapsed",
            "expired" => "expired",
            _ => "active",
        },
        attested_at: row.get(8)?,
        renewals: row.get(9)?,
        version: row.get(10)?,
    })
}
