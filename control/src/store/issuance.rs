//! Every issuance: its certificate row and its audit event, in one commit.

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::InstanceId;

use super::change::Change;
use super::model::{Actor, Attestation, Issuance, Renewal};
use super::sql::values;
use super::tokens::Redeemed;
use super::{Refusal, Store, StoreError, lapse, revocations, tokens, workloads};
use crate::audit::Action;
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
    workloads::require_active(&change.sql, &issuance.spiffe_id)?;
    let redeemed = tokens::redeem(
        change,
        &new.secret_sha256,
        &issuance.spiffe_id,
        &new.instance,
        &issuance.spki_sha256,
    )?;
    require_own_key(change, issuance)?;
    // Asked again: the same instance, with its newest SVID.
    change.sql.post(
        "INSERT INTO instance (id, spiffe_id, status, proof, version, attested_at_ms, renewals,
                                   serial, not_before_ms, not_after_ms)
             VALUES (?1, ?2, 'active', 'join_token', ?3, ?4, 0, ?5, ?6, ?7)
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
            issuance.not_after
        ],
    )?;
    insert(change, issuance, Some(&new.instance))?;
    audit(
        change,
        issuance,
        &Actor::anonymous(new.address).in_call(new.request_id),
        Action::SvidIssued,
        &json!({
            "instance": new.instance.to_string(),
            "proof": "join_token",
            "version": new.version,
            "again": matches!(redeemed, Redeemed::Again),
        }),
    )
}

fn renew(change: &mut Change<'_>, issuance: &Issuance, renewal: &Renewal) -> Result<(), StoreError> {
    workloads::require_active(&change.sql, &issuance.spiffe_id)?;
    let instance = renewal.instance.to_string();
    require_live(change, issuance, &instance)?;
    for (issuer_sha256, serial) in &renewal.presented {
        if revocations::certificate_is_listed(&change.sql, issuer_sha256, serial)? {
            return Err(Refusal::CertificateRevoked.into());
        }
    }
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
