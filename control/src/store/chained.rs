//! What hangs on an authority: certificates that have not ended, tickets that know control by it, and proxies that have
//! not heard of it.

use std::time::{Duration, SystemTime};

use super::model::{AuthorityKind, Chained, KnownAuthority, Missing, Unacknowledged};
use super::sql::{Sql, values};
use super::{Store, StoreError};

/// So many certificates are counted, and no more.
const COUNTED: i64 = 10_000;
/// So many are named.
const NAMED: i64 = 10;
/// Replicas take a new root into the tickets they make within this.
const TICKETS: Duration = Duration::from_secs(5);
/// Certificates below an authority, `?1`, that have not ended at `?2`. Of a root those of revoked instances do not count;
/// of an intermediate they do: its revocation list names them until they end.
const BELOW: &str = "FROM certificate c WHERE c.authority IN (
                       SELECT id FROM authority WHERE id = ?1 UNION ALL SELECT id FROM authority WHERE issuer = ?1)
                     AND c.not_after_ms > ?2
                     AND (c.authority = ?1
                          OR NOT EXISTS (SELECT 1 FROM instance i WHERE i.id = c.instance AND i.status = 'revoked'))";

impl Store {
    /// What is live at `now` and chains to this authority.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn chained(&self, authority: KnownAuthority, now: SystemTime) -> Result<Chained, StoreError> {
        self.read(move |sql| to(sql, &authority, now)).await
    }

    /// Whether anything live at `now` does: no more is looked at than has to be.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_chained(&self, authority: KnownAuthority, now: SystemTime) -> Result<bool, StoreError> {
        self.read(move |sql| {
            let live = sql.one(&format!("SELECT EXISTS (SELECT 1 {BELOW})"), values![&authority.id, now])?;
            Ok(live || tickets(sql, &authority, now)?.0 > 0)
        })
        .await
    }

    /// Proxies that hold an SVID at `now`, once opened a stream, and have not said that they have `revision` in force.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unacknowledged(&self, revision: u64, now: SystemTime) -> Result<Missing, StoreError> {
        self.read(move |sql| unacknowledged(sql, revision, now)).await
    }
}

pub(super) fn to(sql: &Sql<'_>, authority: &KnownAuthority, now: SystemTime) -> Result<Chained, StoreError> {
    let (tickets, tickets_until) = tickets(sql, authority, now)?;
    let some: Vec<(String, u64, SystemTime)> = sql.all(
        &format!(
            "SELECT spiffe_id, count(*), max(not_after_ms) FROM (
               SELECT c.spiffe_id, c.not_after_ms {BELOW} LIMIT ?3) AS live
             GROUP BY spiffe_id ORDER BY 3 DESC, 1"
        ),
        values![&authority.id, now, COUNTED],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let certificates: u64 = some.iter().map(|(_, count, _)| count).sum();
    let uncounted = certificates >= COUNTED.unsigned_abs();
    let until = some.iter().map(|(.., until)| *until).max();
    let named = usize::try_from(NAMED).unwrap_or_default();
    let some = some.into_iter().take(named).map(|(id, ..)| id).collect();
    Ok(Chained { certificates, uncounted, until, some, tickets, tickets_until })
}

/// Unspent tickets made when no other root was known by which their joiner could believe control.
fn tickets(
    sql: &Sql<'_>,
    authority: &KnownAuthority,
    now: SystemTime,
) -> Result<(u64, Option<SystemTime>), StoreError> {
    if authority.kind != AuthorityKind::Root {
        return Ok((0, None));
    }
    let successor: Option<SystemTime> =
        sql.one("SELECT max(created_at_ms) FROM authority WHERE kind = 'root' AND active = 1", &[])?;
    let Some(successor) = successor else { return Ok((0, None)) };
    let found = sql.find(
        "SELECT count(*), max(expires_at_ms) FROM join_token
         WHERE expires_at_ms > ?1 AND spent_at_ms IS NULL AND created_at_ms < ?2",
        values![now, successor + TICKETS],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(found.unwrap_or_default())
}

pub(super) fn unacknowledged(sql: &Sql<'_>, revision: u64, now: SystemTime) -> Result<Missing, StoreError> {
    const MISSING: &str = "FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id
                             LEFT JOIN session s ON s.instance = i.id
                           WHERE i.status = 'active' AND i.not_after_ms > ?1 AND i.watched = 1
                             AND w.status = 'active' AND (s.in_force IS NULL OR s.in_force < ?2)";
    let some = sql.all(
        &format!(
            "SELECT i.spiffe_id, i.id, coalesce(s.open, 0), i.not_after_ms {MISSING}
             ORDER BY 3 DESC, 1, 2 LIMIT ?3"
        ),
        values![now, revision, NAMED],
        |row| {
            Ok(Unacknowledged {
                id: row.parsed(0)?,
                instance: row.parsed(1)?,
                connected: row.get(2)?,
                until: row.get(3)?,
            })
        },
    )?;
    let count = if some.len() < usize::try_from(NAMED).unwrap_or_default() {
        some.len() as u64
    } else {
        sql.one(&format!("SELECT count(*) {MISSING}"), values![now, revision])?
    };
    Ok(Missing { count, some })
}
