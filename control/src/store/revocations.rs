//! Revocations: listed until long after the last certificate they cover has ended, never shorter.

use std::time::SystemTime;

use signet_proto::spiffe::SpiffeId;

use super::change::Change;
use super::model::{Actor, RevocationList};
use super::sql::{Sql, values};
use super::{StoreError, leases};

/// Lists the identity until its last certificate has ended.
pub(super) fn list_identity(
    change: &Change<'_>,
    id: &SpiffeId,
    reason: &str,
    actor: &Actor,
) -> Result<(), StoreError> {
    let until =
        last_end(change, "SELECT max(not_after_ms) FROM certificate WHERE spiffe_id = ?1", id.as_str())?;
    list(change, "identity", id.as_str(), false, reason, actor, until)
}

pub(super) fn lift_identity(change: &Change<'_>, id: &SpiffeId) -> Result<(), StoreError> {
    change
        .sql
        .execute("DELETE FROM revocation WHERE kind = 'identity' AND name = ?1", values![id.as_str()])?;
    Ok(())
}

pub(super) fn list_instance(
    change: &Change<'_>,
    instance: &str,
    lapsed: bool,
    reason: &str,
    actor: &Actor,
) -> Result<(), StoreError> {
    let until = last_end(change, "SELECT max(not_after_ms) FROM certificate WHERE instance = ?1", instance)?;
    list(change, "instance", instance, lapsed, reason, actor, until)
}

pub(super) fn list(
    change: &Change<'_>,
    kind: &str,
    name: &str,
    lapsed: bool,
    reason: &str,
    actor: &Actor,
    covers_until: SystemTime,
) -> Result<(), StoreError> {
    change.sql.execute(
        "INSERT INTO revocation (kind, name, lapsed, reason, revoked_by, at_ms, covers_until_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (kind, name) DO UPDATE SET
               lapsed = revocation.lapsed * excluded.lapsed, reason = excluded.reason,
               revoked_by = excluded.revoked_by,
               covers_until_ms = CASE WHEN revocation.covers_until_ms > excluded.covers_until_ms
                 THEN revocation.covers_until_ms ELSE excluded.covers_until_ms END",
        values![kind, name, lapsed, reason, actor.as_str(), change.at, covers_until],
    )?;
    Ok(())
}

/// The end of the last certificate, or now if there is none.
fn last_end(change: &Change<'_>, query: &str, name: &str) -> Result<SystemTime, StoreError> {
    let end: Option<SystemTime> = change.sql.one(query, values![name])?;
    Ok(end.unwrap_or(change.at).max(change.at))
}

pub(super) fn end_instance(change: &Change<'_>, instance: &str, status: &str) -> Result<(), StoreError> {
    change.sql.execute(
        "UPDATE instance SET status = ?2, ended_at_ms = ?3 WHERE id = ?1",
        values![instance, status, change.at],
    )?;
    if status == "revoked" {
        change.sql.post(
            "INSERT INTO revoked_proof (proof_sha256, ends_at_ms)
             SELECT proof_sha256, proof_ends_ms FROM instance WHERE id = ?1 AND proof_sha256 IS NOT NULL
             ON CONFLICT (proof_sha256) DO NOTHING",
            values![instance],
        )?;
    }
    leases::remove(change, instance)
}

/// An instance and all that proved themselves by its SVID, or by one of theirs: whoever had that key could have.
pub(super) fn line_of(sql: &Sql<'_>, instance: &str) -> Result<Vec<String>, StoreError> {
    sql.all(
        "WITH RECURSIVE line (id) AS (
           SELECT id FROM instance WHERE id = ?1
           UNION SELECT next.id FROM instance next JOIN line ON next.predecessor = line.id)
         SELECT id FROM line ORDER BY id",
        values![instance],
        |row| row.get(0),
    )
}

/// Instances that could still renew or be connected: everything not yet revoked.
pub(super) fn live_instances(sql: &Sql<'_>, id: &SpiffeId) -> Result<Vec<String>, StoreError> {
    let live = sql.all(
        "SELECT id FROM instance WHERE spiffe_id = ?1 AND status IN ('active', 'departed') ORDER BY id",
        values![id.as_str()],
        |row| row.get(0),
    )?;
    Ok(live)
}

/// Its SPIFFE ID, status, and the end of its newest SVID.
pub(super) fn instance_of(
    sql: &Sql<'_>,
    instance: &str,
) -> Result<Option<(String, String, SystemTime)>, StoreError> {
    let found = sql.find(
        "SELECT spiffe_id, status, not_after_ms FROM instance WHERE id = ?1",
        values![instance],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    Ok(found)
}

pub(super) fn is_listed(sql: &Sql<'_>, kind: &str, name: &str) -> Result<bool, StoreError> {
    let listed = sql
        .one("SELECT EXISTS (SELECT 1 FROM revocation WHERE kind = ?1 AND name = ?2)", values![kind, name])?;
    Ok(listed)
}

pub(super) fn certificate_name(issuer_sha256: &[u8], serial: &[u8]) -> String {
    format!("{}:{}", crate::hex::encode(issuer_sha256), crate::hex::encode(serial))
}

/// Everything listed, in a stable order, so that equal lists are equal messages.
pub(super) fn all(sql: &Sql<'_>) -> Result<RevocationList, StoreError> {
    let mut list = RevocationList::default();
    for row in sql.rows("SELECT kind, name, lapsed FROM revocation ORDER BY kind, name", &[])? {
        let (kind, name, lapsed): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let damaged = || StoreError::Damaged(format!("revocation `{kind}` `{name}`"));
        match kind.as_str() {
            "identity" => list.identities.push(name),
            "instance" => list.instances.push((name, lapsed)),
            "certificate" => {
                let (issuer, serial) = name.split_once(':').ok_or_else(damaged)?;
                list.certificates.push((
                    digest(issuer).ok_or_else(damaged)?,
                    crate::hex::decode(serial).ok_or_else(damaged)?,
                ));
            }
            "key" => list.keys.push(digest(&name).ok_or_else(damaged)?),
            _ => return Err(damaged()),
        }
    }
    Ok(list)
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    crate::hex::decode(hex)?.try_into().ok()
}
