//! Revocations: listed until long after the last certificate they cover has ended, never shorter.

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Mutation, RevocationList, RevocationTarget, WorkloadStatus};
use super::sql::{Sql, values};
use super::{Store, StoreError, leases, tokens, workloads};
use crate::audit::Action;

impl Store {
    /// Revokes. Revoking what is revoked already changes nothing and says so.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when control never issued anything for the target.
    pub async fn revoke(
        &self,
        target: RevocationTarget,
        reason: String,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| match &target {
            RevocationTarget::Identity(id) => revoke_identity(change, id, &reason, &actor),
            RevocationTarget::Instance(instance) => revoke_instance(change, instance, &reason, &actor),
            RevocationTarget::Serial(serial) => revoke_serial(change, serial, &reason, &actor),
        })
        .await
    }
}

fn revoke_identity(
    change: &mut Change<'_>,
    id: &SpiffeId,
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let workload = workloads::require(&change.sql, id)?;
    let instances = live_instances(&change.sql, id)?;
    if instances.is_empty()
        && (workload.held || workload.status == WorkloadStatus::Retired)
        && is_listed(&change.sql, "identity", id.as_str())?
    {
        return unchanged(change, format!("`{id}` is revoked already: nothing changed"));
    }
    list_identity(change, id, reason, actor)?;
    let mut effects = vec![format!("identity `{id}` is listed as revoked: its connections are closed")];
    for instance in &instances {
        end_instance(change, instance, "revoked")?;
        list_instance(change, instance, false, reason, actor)?;
        effects.push(format!("instance {instance} revoked"));
    }
    effects.extend(tokens::withdraw(change, id)?);
    change.audit(
        actor,
        Action::IdentityRevoked,
        id.as_str(),
        &json!({ "reason": reason, "instances": instances }),
    )?;
    let commit = change.revise(Topics::REVOCATIONS, id.as_str())?;
    if workload.status != WorkloadStatus::Retired {
        workloads::hold(change, id, commit.revision)?;
    }
    if workload.status == WorkloadStatus::Active {
        effects.push("workload suspended: it gets no SVID until `signet workload resume`".into());
    }
    Ok(Mutation { commit, effects })
}

fn revoke_instance(
    change: &mut Change<'_>,
    instance: &InstanceId,
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let instance = instance.to_string();
    let (id, status, _) =
        instance_of(&change.sql, &instance)?.ok_or_else(|| StoreError::missing("instance", &instance))?;
    if status == "revoked" {
        return unchanged(change, format!("instance {instance} is revoked already: nothing changed"));
    }
    let line = line_of(&change.sql, &instance)?;
    for instance in &line {
        end_instance(change, instance, "revoked")?;
        list_instance(change, instance, false, reason, actor)?;
    }
    change.audit(actor, Action::InstanceRevoked, &id, &json!({ "reason": reason, "instances": line }))?;
    let commit = change.revise(Topics::REVOCATIONS, &instance)?;
    Ok(Mutation {
        commit,
        effects: vec![
            format!("instance {instance} of `{id}` is listed as revoked: its connections are closed"),
            "its renewals are refused; other instances of the identity go on".into(),
        ],
    })
}

/// Whoever holds a certificate's key may have renewed with it: so the whole line of SVIDs that the
/// certificate belongs to ends, and its key with it.
fn revoke_serial(
    change: &mut Change<'_>,
    serial: &[u8],
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let name = crate::hex::encode(serial);
    let found = certificate(&change.sql, serial)?;
    let Certificate { issuer, key, id, instance, not_after, key_until } =
        found.ok_or_else(|| StoreError::missing("certificate with the serial", &name))?;
    let Some(instance) = instance else {
        return Err(super::Refusal::OwnIdentity.into());
    };
    let listed = certificate_name(&issuer, serial);
    if is_listed(&change.sql, "certificate", &listed)? {
        return unchanged(change, format!("certificate {name} is revoked already: nothing changed"));
    }
    list(change, "certificate", &listed, false, reason, actor, not_after)?;
    list(change, "key", &crate::hex::encode(&key), false, reason, actor, key_until)?;
    let mut effects = vec![format!("certificate {name} of `{id}` and its key are listed as revoked")];
    if instance_of(&change.sql, &instance)?.is_some_and(|(_, status, _)| status != "revoked") {
        for instance in line_of(&change.sql, &instance)? {
            end_instance(change, &instance, "revoked")?;
            list_instance(change, &instance, false, reason, actor)?;
        }
        effects
            .push(format!("instance {instance}, which it belongs to, is revoked: its renewals are refused"));
    }
    change.audit(
        actor,
        Action::CertificateRevoked,
        &id,
        &json!({ "reason": reason, "serial": name, "instance": instance }),
    )?;
    let commit = change.revise(Topics::REVOCATIONS, &name)?;
    Ok(Mutation { commit, effects })
}

/// An instance and all that proved themselves by its SVID, or by one of theirs: whoever had that key could have.
fn line_of(sql: &Sql<'_>, instance: &str) -> Result<Vec<String>, StoreError> {
    sql.all(
        "WITH RECURSIVE line (id) AS (
           SELECT id FROM instance WHERE id = ?1
           UNION SELECT next.id FROM instance next JOIN line ON next.predecessor = line.id)
         SELECT id FROM line ORDER BY id",
        values![instance],
        |row| row.get(0),
    )
}

struct Certificate {
    issuer: Vec<u8>,
    key: Vec<u8>,
    id: String,
    /// None: control's own.
    instance: Option<String>,
    not_after: SystemTime,
    /// The end of the last certificate with the same key.
    key_until: SystemTime,
}

fn certificate(sql: &Sql<'_>, serial: &[u8]) -> Result<Option<Certificate>, StoreError> {
    let found = sql.find(
        "SELECT issuer_sha256, spki_sha256, spiffe_id, instance, not_after_ms,
                    (SELECT max(not_after_ms) FROM certificate AS same
                     WHERE same.spki_sha256 = certificate.spki_sha256)
             FROM certificate WHERE serial = ?1",
        values![serial],
        |row| {
            Ok(Certificate {
                issuer: row.get(0)?,
                key: row.get(1)?,
                id: row.get(2)?,
                instance: row.get(3)?,
                not_after: row.get(4)?,
                key_until: row.get(5)?,
            })
        },
    )?;
    Ok(found)
}

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

fn list_instance(
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

/// Instances that could still renew or be connected: everything not yet revoked.
fn live_instances(sql: &Sql<'_>, id: &SpiffeId) -> Result<Vec<String>, StoreError> {
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

fn unchanged(change: &Change<'_>, effect: String) -> Result<Mutation, StoreError> {
    Ok(Mutation { commit: change.newest(), effects: vec![effect] })
}

fn is_listed(sql: &Sql<'_>, kind: &str, name: &str) -> Result<bool, StoreError> {
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
