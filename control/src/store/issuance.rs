//! Every issuance: its certificate row and its audit event, in one commit.

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::authorities::SIGNER;
use super::change::Change;
use super::facts::{Asked, Facts, Standing};
use super::model::{Actor, Attestation, Evidence, Issuance, Renewal};
use super::requests::{self, Approved};
use super::restrictions::Freeze;
use super::sql::values;
use super::tokens::Redeemed;
use super::{
    Limits, Refusal, Store, StoreError, entitlement, lapse, leases, proof_uses, quota, restrictions, tokens,
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
        let limits = self.limits;
        self.write(move |change| attest(change, &issuance, &attestation, limits)).await
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
        let quota = self.limits.issuance_quota;
        self.write(move |change| renew(change, &issuance, &renewal, quota)).await
    }

    /// Records an SVID of control itself.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn record_own(&self, issuance: Issuance) -> Result<(), StoreError> {
        let replica = self.replica().to_owned();
        self.write(move |change| {
            let signer = format!("SELECT EXISTS (SELECT 1 FROM authority WHERE id = ?1 AND {SIGNER})");
            if !change.sql.one::<bool>(&signer, values![&issuance.authority])? {
                return Err(Refusal::SignerRemoved.into());
            }
            insert(change, &issuance, None)?;
            let shown = "UPDATE replica SET shown_by = ?2 WHERE id = ?1";
            change.sql.execute(shown, values![&replica, &issuance.authority])?;
            audit(change, &issuance, &Actor::control(), Action::SvidIssued, &json!({ "own": true }))
        })
        .await
    }
}

fn attest(
    change: &mut Change<'_>,
    issuance: &Issuance,
    new: &Attestation,
    limits: Limits,
) -> Result<(), StoreError> {
    let id = &issuance.spiffe_id;
    let actor = Actor::anonymous(new.address).in_call(new.request_id);
    if let Evidence::Proven(proven) = &new.evidence {
        entitlement::admit(change, id, &proven.selectors, &actor, limits.template_limit)?;
    }
    let facts = Facts::read(
        &change.sql,
        &match &new.evidence {
            Evidence::JoinToken { secret_sha256 } => {
                Asked { secret_sha256: Some(secret_sha256), ..Asked::about(issuance, &new.instance) }
            }
            Evidence::Proven(proven) => {
                Asked { proof_sha256: Some(&proven.proof.sha256), ..Asked::about(issuance, &new.instance) }
            }
            Evidence::Svid { instance, presented } => Asked { presented, ..Asked::about(issuance, instance) },
        },
    )?;
    facts.require_active(id, change.at)?;
    let again = match &new.evidence {
        Evidence::JoinToken { secret_sha256 } => {
            let redeemed = match facts.token()?.judge(id, &new.instance, change.at) {
                Err(refusal) => requests::excuse(change, &new.csr_sha256, id, secret_sha256, refusal)?,
                Ok(redeemed) => redeemed,
            };
            if redeemed == Redeemed::Again {
                tokens::require_fresh(&change.sql, &new.instance, &issuance.spki_sha256)?;
            }
            redeemed == Redeemed::Again
        }
        Evidence::Proven(_) => {
            facts.require_good_proof()?;
            facts.has_instance()
        }
        Evidence::Svid { .. } => {
            facts.require_unlisted()?;
            false
        }
    };
    facts.require_own_key()?;
    facts.require_signer()?;
    let issued = facts.one_more(id, limits.issuance_quota, change.at)?;
    let approved = require_let_in(change, issuance, new, &facts, again)?;
    match &new.evidence {
        Evidence::JoinToken { .. } if again => {}
        Evidence::JoinToken { secret_sha256 } => tokens::spend(change, secret_sha256, &new.instance)?,
        Evidence::Proven(proven) => {
            if proven.one_key {
                proof_uses::bind(change, &proven.proof, &issuance.spki_sha256)?;
            }
        }
        Evidence::Svid { instance, .. } => succeed(change, issuance, instance, new.request_id)?,
    }
    requests::use_up(change, &new.csr_sha256, id)?;
    let predecessor = match &new.evidence {
        Evidence::Svid { instance, .. } => Some(instance.to_string()),
        Evidence::JoinToken { .. } | Evidence::Proven(_) => None,
    };
    let proof = match &new.evidence {
        Evidence::Proven(proven) => Some(proven.proof),
        Evidence::JoinToken { .. } | Evidence::Svid { .. } => None,
    };
    // Asked again: the same instance, with its newest SVID.
    change.sql.post(
        "INSERT INTO instance (id, spiffe_id, status, proof, version, attested_at_ms, renewals,
                                   serial, not_before_ms, not_after_ms, predecessor, address, evidence,
                                   proof_sha256, proof_ends_ms)
             VALUES (?1, ?2, 'active', ?8, ?3, ?4, 0, ?5, ?6, ?7, ?9, ?10, ?11, ?12, ?13)
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
            predecessor.as_deref(),
            new.address.to_string(),
            new.evidence.facts(),
            proof.map(|proof| proof.sha256),
            proof.map(|proof| proof.ends)
        ],
    )?;
    if let Some(predecessor) = &predecessor {
        // What proved the first of a line proves the others: revoked with any of them.
        change.sql.post(
            "UPDATE instance SET proof_sha256 = (SELECT p.proof_sha256 FROM instance p WHERE p.id = ?2),
                                 proof_ends_ms = (SELECT p.proof_ends_ms FROM instance p WHERE p.id = ?2)
             WHERE id = ?1",
            values![new.instance.to_string(), predecessor],
        )?;
    }
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
    if let (Some(detail), Some(Approved { request, by })) = (detail.as_object_mut(), approved) {
        detail.insert("request".to_owned(), json!(request.to_string()));
        detail.insert("approved_by".to_owned(), json!(by));
    }
    audit(change, issuance, &actor, Action::SvidIssued, &detail)?;
    issued.keep(change, quota::SVIDS, id, limits.issuance_quota)
}

/// A new instance may come in: nothing is frozen, and as many agreed as have to. One that was let in before, and
/// whoever succeeds one that is live, needs no approval.
fn require_let_in(
    change: &Change<'_>,
    issuance: &Issuance,
    new: &Attestation,
    facts: &Facts,
    again: bool,
) -> Result<Option<Approved>, StoreError> {
    facts.require_end(issuance.not_after)?;
    if facts.freeze().is_some() {
        restrictions::require_not_frozen(&change.sql, &issuance.spiffe_id)?;
    }
    let known = again || matches!(new.evidence, Evidence::Svid { .. });
    match facts.approval() {
        needed if known || needed == Approval::None => Ok(None),
        needed => requests::admit(change, issuance, &new.csr_sha256, needed).map(Some),
    }
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
        return succeed_again(change, issuance, &name);
    }
    leases::remove(change, &name)?;
    change.audit(
        &Actor::identity(&issuance.spiffe_id).in_call(request_id),
        Action::InstanceDeparted,
        issuance.spiffe_id.as_str(),
        &json!({ "instance": name }),
    )
}

/// An answer that was lost is asked for again: with the same key, by which nobody but the successor is served. What
/// was made then is not used.
fn succeed_again(change: &Change<'_>, issuance: &Issuance, predecessor: &str) -> Result<(), StoreError> {
    let unused = change.sql.execute(
        "UPDATE instance SET status = 'departed'
         WHERE predecessor = ?1 AND spiffe_id = ?2 AND status = 'active' AND renewals = 0
           AND id IN (SELECT instance FROM certificate WHERE spki_sha256 = ?3)",
        values![predecessor, issuance.spiffe_id.as_str(), &issuance.spki_sha256],
    )?;
    if unused == 0 { Err(Refusal::InstanceUnknown.into()) } else { Ok(()) }
}

fn renew(
    change: &mut Change<'_>,
    issuance: &Issuance,
    renewal: &Renewal,
    quota: u64,
) -> Result<(), StoreError> {
    let instance = renewal.instance.to_string();
    let asked = Asked { presented: &renewal.presented, ..Asked::about(issuance, &renewal.instance) };
    let facts = Facts::read(&change.sql, &asked)?;
    let standing = facts.judge_renewal(&issuance.spiffe_id, change.at)?;
    facts.require_end(issuance.not_after)?;
    facts.require_signer()?;
    if facts.freeze() == Some(Freeze::All) {
        restrictions::require_not_frozen(&change.sql, &issuance.spiffe_id)?;
    }
    let issued = facts.one_more(&issuance.spiffe_id, quota, change.at)?;
    match standing {
        Standing::Live => {}
        Standing::TakenForLapsed => lapse::revive(change, &instance, &issuance.spiffe_id).map(drop)?,
    }
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
    audit(change, issuance, &actor, Action::SvidRenewed, &json!({ "instance": instance }))?;
    issued.keep(change, quota::SVIDS, &issuance.spiffe_id, quota)
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
