//! Who holds an identity now: the newest SVID of every instance.

use std::time::SystemTime;

use rusqlite::{Row, params};
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::model::{Counts, IssuedIdentity};
use super::{Store, StoreError, rows};
use crate::time;

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
        self.read(move |connection| {
            let now = time::to_millis(now);
            let mut statement = connection.prepare_cached(
                "SELECT i.spiffe_id, w.owner, w.purpose, i.id, i.serial, i.not_before_ms, i.not_after_ms,
                        CASE WHEN i.status = 'lapsed' THEN 'lapsed'
                             WHEN i.status = 'revoked' OR w.status <> 'active' THEN 'revoked'
                             WHEN i.not_after_ms <= ?2 THEN 'expired'
                             ELSE i.status END AS standing,
                        i.attested_at_ms, i.renewals, i.version
                 FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id
                 WHERE (?1 IS NULL OR i.spiffe_id = ?1) AND (?3 OR standing IN ('active', 'departed'))
                 ORDER BY i.spiffe_id, i.attested_at_ms, i.id LIMIT ?4",
            )?;
            let id = id.as_ref().map(SpiffeId::as_str);
            let found =
                statement.query_map(params![id, now, ended, LIMIT], identity)?.collect::<Result<_, _>>()?;
            Ok(found)
        })
        .await
    }

    /// Instances that go by what control told them, connected or not: they opened a stream once, did not say
    /// goodbye, and hold an SVID that has not ended at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn proxies(&self, now: SystemTime) -> Result<Vec<(SpiffeId, InstanceId)>, StoreError> {
        self.read(move |connection| {
            let proxies = connection
                .prepare_cached(
                    "SELECT i.spiffe_id, i.id FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id
                     WHERE i.status = 'active' AND i.not_after_ms > ?1 AND i.watched = 1
                       AND w.status = 'active'
                     ORDER BY 1, 2 LIMIT ?2",
                )?
                .query_map(params![time::to_millis(now), LIMIT], |row| {
                    Ok((rows::parsed(row, 0)?, rows::parsed(row, 1)?))
                })?
                .collect::<Result<_, _>>()?;
            Ok(proxies)
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
        self.read(move |connection| {
            let live = connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM instance
                       WHERE id = ?1 AND spiffe_id = ?2 AND status IN ('active', 'departed')
                         AND not_after_ms > ?3)",
                )?
                .query_row(params![instance.to_string(), id.as_str(), time::to_millis(now)], |row| {
                    row.get(0)
                })?;
            Ok(live)
        })
        .await
    }

    /// Numbers for status and metrics.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn counts(&self, now: SystemTime) -> Result<Counts, StoreError> {
        self.read(move |connection| {
            let counts = connection
                .prepare_cached(
                    "SELECT (SELECT count(*) FROM workload WHERE status <> 'retired'),
                            (SELECT count(*) FROM instance
                             WHERE status IN ('active', 'departed') AND not_after_ms > ?1)",
                )?
                .query_row([time::to_millis(now)], |row| {
                    Ok(Counts { workloads: rows::count(row, 0)?, live_svids: rows::count(row, 1)? })
                })?;
            Ok(counts)
        })
        .await
    }
}

fn identity(row: &Row<'_>) -> rusqlite::Result<IssuedIdentity> {
    Ok(IssuedIdentity {
        spiffe_id: rows::parsed(row, 0)?,
        owner: row.get(1)?,
        purpose: row.get(2)?,
        instance: rows::parsed(row, 3)?,
        serial: row.get(4)?,
        not_before: rows::instant(row, 5)?,
        not_after: rows::instant(row, 6)?,
        status: match row.get_ref(7)?.as_str()? {
            "departed" => "departed",
            "revoked" => "revoked",
            "lapsed" => "lapsed",
            "expired" => "expired",
            _ => "active",
        },
        attested_at: rows::instant(row, 8)?,
        renewals: rows::count(row, 9)?,
        version: row.get(10)?,
    })
}
