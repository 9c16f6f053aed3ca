//! Taking away: an identity, an instance, a certificate or a key; and, in [`wide`], all of a subtree or a team, and
//! all that an authority signed. One commit each, judged in it: who may take away is asked about what it is found
//! to belong to.

mod wide;

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Mutation, RevocationTarget, WorkloadStatus};
use super::revocations::{
    certificate_name, end_instance, instance_of, is_listed, line_of, list, list_identity, list_instance,
    live_instances,
};
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError, tokens, workloads};
use crate::audit::Action;
use crate::roles::{Permission, Scope};

impl Store {
    /// Revokes. Revoking what is revoked already changes nothing and says so.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when control never issued anything for the target; [`StoreError::NotPermitted`] when
    /// `permission` does not reach all identities that it belongs to.
    pub async fn revoke(
        &self,
        target: RevocationTarget,
        reason: String,
        permission: impl Permission,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| match &target {
            RevocationTarget::Identity(id) => {
                let actor = permission.on(&Scope::identity(id))?;
                revoke_identity(change, id, &reason, &actor)
            }
            RevocationTarget::Instance(instance) => revoke_instance(change, instance, &reason, &permission),
            RevocationTarget::Serial(serial) => revoke_serial(change, serial, &reason, &permission),
            RevocationTarget::Key(key) => revoke_key(change, key, &reason, &permission),
            RevocationTarget::Subtree(subtree) => wide::revoke_subtree(change, subtree, &reason, &permission),
            RevocationTarget::Owner(owner) => wide::revoke_owner(change, owner, &reason, &permission),
            RevocationTarget::Issuer(named) => wide::revoke_issuer(change, named, &reason, &permission),
        })
        .await
    }
}

/// What ended with an identity.
struct Ended {
    instances: Vec<String>,
    tokens: Option<String>,
    /// Whether it got SVIDs until now.
    was_active: bool,
}

fn revoke_identity(
    change: &mut Change<'_>,
    id: &SpiffeId,
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    workloads::require(&change.sql, id)?;
    if is_revoked(change, id)? {
        return unchanged(change, format!("`{id}` is revoked already: nothing changed"));
    }
    let commit = change.revise(Topics::REVOCATIONS, id.as_str())?;
    let Ended { instances, tokens, was_active } = end_identity(change, id, reason, actor, commit.revision)?;
    let mut effects = vec![format!("identity `{id}` is listed as revoked: its connections are closed")];
    effects.extend(instances.iter().map(|instance| format!("instance {instance} revoked")));
    effects.extend(tokens);
    if was_active {
        effects.push("workload suspended: it gets no SVID until `signet resume`".into());
    }
    Ok(Mutation { commit, effects })
}

/// Whether revoking it would change nothing.
fn is_revoked(change: &Change<'_>, id: &SpiffeId) -> Result<bool, StoreError> {
    let workload = workloads::require(&change.sql, id)?;
    Ok((workload.held || workload.status == WorkloadStatus::Retired)
        && live_instances(&change.sql, id)?.is_empty()
        && is_listed(&change.sql, "identity", id.as_str())?)
}

/// Lists it and its instances, withdraws its tokens and suspends its workload.
fn end_identity(
    change: &mut Change<'_>,
    id: &SpiffeId,
    reason: &str,
    actor: &Actor,
    revision: u64,
) -> Result<Ended, StoreError> {
    let workload = workloads::require(&change.sql, id)?;
    let instances = live_instances(&change.sql, id)?;
    list_identity(change, id, reason, actor)?;
    for instance in &instances {
        end_instance(change, instance, "revoked")?;
        list_instance(change, instance, false, reason, actor)?;
    }
    let tokens = tokens::withdraw(change, id)?;
    if workload.status != WorkloadStatus::Retired {
        workloads::hold(change, id, revision)?;
    }
    let detail = json!({ "reason": reason, "instances": instances });
    change.audit(actor, Action::IdentityRevoked, id.as_str(), &detail)?;
    Ok(Ended { instances, tokens, was_active: workload.status == WorkloadStatus::Active })
}

fn revoke_instance(
    change: &mut Change<'_>,
    instance: &InstanceId,
    reason: &str,
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let instance = instance.to_string();
    let (id, status, _) =
        instance_of(&change.sql, &instance)?.ok_or_else(|| StoreError::missing("instance", &instance))?;
    let actor = permission.on(&scope_of(&id)?)?;
    if status == "revoked" {
        return unchanged(change, format!("instance {instance} is revoked already: nothing changed"));
    }
    let line = end_line(change, &instance, reason, &actor)?;
    let detail = json!({ "reason": reason, "instances": line });
    change.audit(&actor, Action::InstanceRevoked, &id, &detail)?;
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
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let name = crate::hex::encode(serial);
    let Certificate { issuer, key, id, instance, not_after, key_until } =
        certificate(&change.sql, serial)?
            .ok_or_else(|| StoreError::missing("certificate with the serial", &name))?;
    let actor = permission.on(&scope_of(&id)?)?;
    let Some(instance) = instance else {
        return Err(Refusal::OwnIdentity.into());
    };
    let listed = certificate_name(&issuer, serial);
    if is_listed(&change.sql, "certificate", &listed)? {
        return unchanged(change, format!("certificate {name} is revoked already: nothing changed"));
    }
    list(change, "certificate", &listed, false, reason, &actor, not_after)?;
    list(change, "key", &crate::hex::encode(&key), false, reason, &actor, key_until)?;
    let mut effects = vec![format!("certificate {name} of `{id}` and its key are listed as revoked")];
    if !end_line(change, &instance, reason, &actor)?.is_empty() {
        effects
            .push(format!("instance {instance}, which it belongs to, is revoked: its renewals are refused"));
    }
    let detail = json!({ "reason": reason, "serial": name, "instance": instance });
    change.audit(&actor, Action::CertificateRevoked, &id, &detail)?;
    let commit = change.revise(Topics::REVOCATIONS, &name)?;
    Ok(Mutation { commit, effects })
}

/// A key with every instance that ever had a certificate for it, and what proved itself by those.
fn revoke_key(
    change: &mut Change<'_>,
    key: &[u8; 32],
    reason: &str,
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let name = crate::hex::encode(key);
    let holders: Vec<(String, Option<String>)> = change.sql.all(
        "SELECT DISTINCT spiffe_id, instance FROM certificate WHERE spki_sha256 = ?1 ORDER BY 1, 2",
        values![key],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if holders.is_empty() {
        return Err(StoreError::missing("certificate for the key", &name));
    }
    let scopes = holders.iter().map(|(id, _)| scope_of(id)).collect::<Result<Vec<_>, _>>()?;
    let actor = permission.on_all(&scopes)?;
    if holders.iter().any(|(_, instance)| instance.is_none()) {
        return Err(Refusal::OwnIdentity.into());
    }
    if is_listed(&change.sql, "key", &name)? {
        return unchanged(change, format!("key {name} is revoked already: nothing changed"));
    }
    let until: Option<SystemTime> =
        change.sql.one("SELECT max(not_after_ms) FROM certificate WHERE spki_sha256 = ?1", values![key])?;
    list(change, "key", &name, false, reason, &actor, until.unwrap_or(change.at).max(change.at))?;
    let mut effects = vec![format!("key {name} is listed as revoked: no certificate for it is believed")];
    for (id, instance) in &holders {
        let line = match instance {
            Some(instance) => end_line(change, instance, reason, &actor)?,
            None => Vec::new(),
        };
        effects.extend(line.iter().map(|ended| format!("instance {ended} of `{id}` revoked")));
        let detail = json!({ "reason": reason, "key_sha256": name, "instances": line });
        change.audit(&actor, Action::KeyRevoked, id, &detail)?;
    }
    let commit = change.revise(Topics::REVOCATIONS, &name)?;
    Ok(Mutation { commit, effects })
}

/// Ends an instance and all that proved themselves by its SVID. Returns which; none if it is revoked already.
fn end_line(
    change: &Change<'_>,
    instance: &str,
    reason: &str,
    actor: &Actor,
) -> Result<Vec<String>, StoreError> {
    if instance_of(&change.sql, instance)?.is_none_or(|(_, status, _)| status == "revoked") {
        return Ok(Vec::new());
    }
    let line = line_of(&change.sql, instance)?;
    for instance in &line {
        end_instance(change, instance, "revoked")?;
        list_instance(change, instance, false, reason, actor)?;
    }
    Ok(line)
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
    sql.find(
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
    )
}

fn scope_of(id: &str) -> Result<Scope, StoreError> {
    let id: SpiffeId = id.parse().map_err(|error| StoreError::Damaged(format!("`{id}`: {error}")))?;
    Ok(Scope::identity(&id))
}

fn unchanged(change: &Change<'_>, effect: String) -> Result<Mutation, StoreError> {
    Ok(Mutation { commit: change.newest(), effects: vec![effect] })
}
