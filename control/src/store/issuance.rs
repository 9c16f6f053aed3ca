//! Every issuance: its certificate row and its audit event, in one commit.

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::model::{Actor, Attestation, Evidence, Issuance, Renewal};
use super::revocations::instance_of;
use super::sql::values;
use super::tokens::Redeemed;
use super::{
    Refusal, Store, StoreError, entitlement, lapse, leases, proof_uses, revocations, tokens, workloads,
};
use crate::audit::{Action, RequestId};
use crate::registry::Approval;
use crate::time;

impl Store {
    /// Records the first SVID of a new instance and spends its join token; or another first one, for the instance
    /// that spent it a moment ago with the same key.
    ///
    /// # Errors
    /// The [`Refusal`] that says why it must not be given out.
    pub async fn record_attestation(
        &self,
        issuance: Issuance,
        attestation: Attestation,
    ) -> Result<(), StoreError> {
        self.write(move |change| attest(change, &issuance, &attestation)).await
    }

    /// The instance that was attested a moment ago in the same way with the same key, and has not renewed since: its
    /// answer may be lost.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn attested_before(
        &self,
        id: SpiffeId,
        proof: String,
        spki_sha256: [u8; 32],
        since: SystemTime,
    ) -> Result<Option<InstanceId>, StoreError> {
        self.read(move |sql| {
            sql.find(
                "SELECT i.id FROM certificate c JOIN instance i ON i.id = c.instance
                 WHERE c.spki_sha256 = ?1 AND i.spiffe_id = ?2 AND i.proof = ?3 AND i.status = 'active'
                   AND i.renewals = 0 AND i.attested_at_ms >= ?4 LIMIT 1",
                values![&spki_sha256, id.as_str(), &proof, since],
                |row| row.parsed(0),
            )
        })
        .await
    }

    /// Records the next SVID of an instance.
    ///
    /// # Errors
    /// The [`Refusal`] that says why it must not be given out.
    pub async fn record_renewal(&self, issuance: Issuance, renewal: Renewal) -> Result<(), StoreError> {
        self.write(move |change| renew(change, &issuance, &renewal)).await
    }

    /// Records an SVID of control itself.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn record_own(&self, issuance: Issuance) -> Result<(), StoreError> {
        self.write(move |change| {
            insert(change, &issuance, None)?;
            audit(change, &issuance, &Actor::control(), Action::SvidIssued, &json!({ "own": true }))
        })
        .await
    }
}

fn attest(change: &mut Change<'_>, issuance: &Issuance, new: &Attestation) -> Result<(), StoreError> {
    let actor = Actor::anonymous(new.address).in_call(new.request_id);
    let again = match &new.evidence {
        Evidence::JoinToken { secret_sha256 } => {
            workloads::require_active(&change.sql, &issuance.spiffe_id, change.at)?;
            let key = &issuance.spki_sha256;
            let redeemed = tokens::redeem(change, secret_sha256, &issuance.spiffe_id, &new.instance, key)?;
            matches!(redeemed, Redeemed::Again)
        }
        Evidence::Proven(proven) => {
            if let Some(used) = &proven.used {
                proof_uses::bind(change, used, &issuance.spki_sha256)?;
            }
            entitlement::admit(change, &issuance.spiffe_id, &proven.selectors, &actor)?;
            instance_of(&change.sql, &new.instance.to_string())?.is_some()
        }
        Evidence::Svid { instance, presented } => {
            workloads::require_active(&change.sql, &issuance.spiffe_id, change.at)?;
            require_unlisted(change, presented)?;
            succeed(change, issuance, instance, new.request_id)?;
            false
        }
    };
    if workloads::require(&change.sql, &issuance.spiffe_id)?.approval != Approval::None {
        return Err(Refusal::ApprovalRequired.into());
    }
    require_own_key(change, issuance)?;
    let predecessor = match &new.evidence {
        Evidence::Svid { instance, .. } => Some(instance.to_string()),
        Evidence::JoinToken { .. } | Evidence::Proven(_) => None,
    };
    // Asked again: the same instance, with its newest SVID.
    change.sql.post(
        "INSERT INTO instance (id, spiffe_id, status, proof, version, attested_at_ms, renewals,
                                   serial, not_before_ms, not_after_ms, predecessor)
             VALUES (?1, ?2, 'active', ?8, ?3, ?4, 0, ?5, ?6, ?7, ?9)
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, serial = excluded.serial,
               not_before_ms = excluded.not_before_ms,
               not_after_ms = CASE WHEN instance.not_after_ms > excluded.not_after_ms
                 THEN instance.not_after_ms ELSE excluded.not_after_ms END",
        values![
            new.instance.to_string(),
            issuance.spiffe_id.as_str(),
            &new.version,
            change.at,
            &issuance.serial,
            issuance.not_before,
            issuance.not_after,
            new.evidence.proof(),
            predecessor
        ],
    )?;
    insert(change, issuance, Some(&new.instance))?;
    let mut detail = json!({
        "instance": new.instance.to_string(),
        "proof": new.evidence.proof(),
        "version": new.version,
        "again": again,
    });
    let more = match &new.evidence {
        Evidence::JoinToken { .. } => None,
        Evidence::Proven(proven) => Some(("evidence", proven.evidence.clone())),
        Evidence::Svid { instance, .. } => Some(("succeeds", json!(instance.to_string()))),
    };
    if let (Some(detail), Some((key, value))) = (detail.as_object_mut(), more) {
        detail.insert(key.to_owned(), value);
    }
    audit(change, issuance, &actor, Action::SvidIssued, &detail)
}

fn require_unlisted(change: &Change<'_>, presented: &[([u8; 32], Vec<u8>)]) -> Result<(), StoreError> {
    for (issuer_sha256, serial) in presented {
        if revocations::certificate_is_listed(&change.sql, issuer_sha256, serial)? {
            return Err(Refusal::CertificateRevoked.into());
        }
    }
    Ok(())
}

/// The instance whose SVID proved its successor ends as one that says goodbye.
fn succeed(
    change: &mut Change<'_>,
    issuance: &Issuance,
    instance: &InstanceId,
    request_id: Option<RequestId>,
) -> Result<(), StoreError> {
    let name = instance.to_string();
    // Once: one that has departed, perhaps for its successor, has no other.
    let ended = change.sql.execute(
        "UPDATE instance SET status = 'departed'
         WHERE id = ?1 AND spiffe_id = ?2 AND status = 'active' AND not_after_ms > ?3",
        values![&name, issuance.spiffe_id.as_str(), change.at],
    )?;
    if ended == 0 {
        return Err(Refusal::InstanceUnknown.into());
    }
    leases::remove(change, &name)?;
    change.audit(
        &Actor::identity(&issuance.spiffe_id).in_call(request_id),
        Action::InstanceDeparted,
        issuance.spiffe_id.as_str(),
        &json!({ "instance": name }),
    )
}

fn renew(change: &mut Change<'_>, issuance: &Issuance, renewal: &Renewal) -> Result<(), StoreError> {
    workloads::require_active(&change.sql, &issuance.spiffe_id, change.at)?;
    let instance = renewal.instance.to_string();
    require_live(change, issuance, &instance)?;
    require_unlisted(change, &renewal.presented)?;
    require_own_key(change, issuance)?;
    insert(change, issuance, Some(&renewal.instance))?;
    // A renewal that was asked for twice (its first answer was lost) must not shorten what is known.
    change.sql.post("UPDATE instance SET status = 'active', renewals = renewals + 1, version = ?2, serial = ?3,
                                 not_before_ms = ?4, not_after_ms = CASE WHEN not_after_ms > ?5 THEN not_after_ms ELSE ?5 END
             WHERE id = ?1", values![
            &instance,
            &renewal.version,
            &issuance.serial,
            issuance.not_before,
            issuance.not_after
        ])?;
    let actor = Actor::identity(&issuance.spiffe_id).in_call(renewal.request_id);
    audit(change, issuance, &actor, Action::SvidRenewed, &json!({ "instance": instance }))
}

/// The instance is this identity's, not revoked, and its newest SVID has not ended. If it was taken for lapsed
/// all the same, it comes back.
fn require_live(change: &mut Change<'_>, issuance: &Issuance, instance: &str) -> Result<(), StoreError> {
    let found: Option<(String, SystemTime)> = change.sql.find(
        "SELECT status, not_after_ms FROM instance WHERE id = ?1 AND spiffe_id = ?2",
        values![instance, issuance.spiffe_id.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (status, not_after) = found.ok_or(Refusal::InstanceUnknown)?;
    match status.as_str() {
        "active" | "departed" if not_after > change.at => Ok(()),
        "lapsed" if not_after > change.at => lapse::revive(change, instance, &issuance.spiffe_id).map(drop),
        "active" | "departed" | "lapsed" => Err(Refusal::InstanceLapsed.into()),
        _ => Err(Refusal::InstanceRevoked.into()),
    }
}

/// A key is one identity's: not revoked, not of a revoked instance, not certified for anyone else.
fn require_own_key(change: &Change<'_>, issuance: &Issuance) -> Result<(), StoreError> {
    if revocations::key_is_listed(&change.sql, &issuance.spki_sha256)? {
        return Err(Refusal::KeyRevoked.into());
    }
    let uses = change.sql.rows(
        "SELECT certificate.spiffe_id = ?2, coalesce(instance.status = 'revoked', false)
         FROM certificate LEFT JOIN instance ON instance.id = certificate.instance
         WHERE certificate.spki_sha256 = ?1",
        values![&issuance.spki_sha256, issuance.spiffe_id.as_str()],
    )?;
    for used in uses {
        if used.get(1)? {
            return Err(Refusal::KeyRevoked.into());
        }
        if !used.get::<bool>(0)? {
            return Err(Refusal::KeyOfAnother.into());
        }
    }
    Ok(())
}

fn insert(change: &Change<'_>, issuance: &Issuance, instance: Option<&InstanceId>) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO certificate (serial, issuer_sha256, spki_sha256, authority, spiffe_id, instance,
                                      not_before_ms, not_after_ms, issued_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        values![
            &issuance.serial,
            issuance.issuer_sha256,
            issuance.spki_sha256,
            &issuance.authority,
            issuance.spiffe_id.as_str(),
            instance.map(ToString::to_string),
            issuance.not_before,
            issuance.not_after,
            change.at
        ],
    )?;
    Ok(())
}

fn audit(
    change: &mut Change<'_>,
    issuance: &Issuance,
    actor: &Actor,
    action: Action,
    more: &serde_json::Value,
) -> Result<(), StoreError> {
    let mut detail = json!({
        "serial": crate::hex::encode(&issuance.serial),
        "not_after": time::rfc3339(issuance.not_after),
        "authority": issuance.authority,
    });
    if let (Some(detail), Some(more)) = (detail.as_object_mut(), more.as_object()) {
        detail.extend(more.clone());
    }
    change.audit(actor, action, issuance.spiffe_id.as_str(), &detail)
}
