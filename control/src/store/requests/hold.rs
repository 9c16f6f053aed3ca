//! Holding a request, and letting it through once it is approved.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::{HeldId, HeldRequest, HeldState, find};
use crate::attest::Proven;
use crate::audit::{Action, RequestId};
use crate::registry::{Approval, Name};
use crate::store::change::Change;
use crate::store::model::{Actor, Evidence, Issuance};
use crate::store::restrictions::InForce;
use crate::store::sql::{Sql, values};
use crate::store::tokens::Redeemed;
use crate::store::{Refusal, Store, StoreError, entitlement, proof_uses, registrations, tokens, workloads};

/// Of one identity.
const MOST_OF_ONE: u64 = 100;
/// Of one registration: a template's proofs are many, and must not keep out the requests of everybody else.
const MOST_OF_REGISTRATION: u64 = 1_000;
/// Of all.
const MOST: u64 = 10_000;

/// What is known of a request that was proven and needs approval.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Who it wants to be.
    pub spiffe_id: SpiffeId,
    /// SHA-256 of the signing request.
    pub csr_sha256: [u8; 32],
    /// SHA-256 of its public key.
    pub spki_sha256: [u8; 32],
    /// What proved it.
    pub evidence: Evidence,
    /// From where.
    pub address: IpAddr,
    /// Version of the program that asked.
    pub version: String,
    /// In which call.
    pub request_id: Option<RequestId>,
    /// How long it may wait.
    pub life: Duration,
}

impl Store {
    /// Records a request, or finds it recorded. Nothing else changes: its join token stays unspent.
    ///
    /// # Errors
    /// [`Refusal::RequestDenied`] and [`Refusal::RequestExpired`] for one that is over;
    /// [`Refusal::TooManyRequests`]; and all that refuses the proof.
    pub async fn hold_request(&self, new: NewRequest) -> Result<HeldRequest, StoreError> {
        self.write(move |change| hold(change, &new)).await
    }

    /// Whether any request's time is over: cheap, to ask often.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn any_request_expired(&self, now: SystemTime) -> Result<bool, StoreError> {
        self.read(move |sql| {
            sql.one(
                "SELECT EXISTS (SELECT 1 FROM held_request
                   WHERE state IN ('pending', 'approved') AND expires_at_ms <= ?1)",
                values![now],
            )
        })
        .await
    }

    /// Marks at most `limit` requests whose time is over. Returns how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn expire_requests(&self, now: SystemTime, limit: u32) -> Result<u64, StoreError> {
        self.write(move |change| {
            let over = change.sql.all(
                "SELECT id, spiffe_id FROM held_request
                 WHERE state IN ('pending', 'approved') AND expires_at_ms <= ?1 ORDER BY expires_at_ms LIMIT ?2",
                values![now, limit],
                |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?)),
            )?;
            for (request, id) in &over {
                change.sql.post("UPDATE held_request SET state = 'expired' WHERE id = ?1", values![request])?;
                change.audit(&Actor::control(), Action::RequestExpired, id, &json!({ "request": request }))?;
            }
            Ok(over.len() as u64)
        })
        .await
    }
}

fn hold(change: &mut Change<'_>, new: &NewRequest) -> Result<HeldRequest, StoreError> {
    let registration = require_proven(change, new)?;
    let needed = needed(&change.sql, &new.spiffe_id, &registration)?.approvers();
    if let Some(mut known) = of_csr(&change.sql, &new.csr_sha256, &new.spiffe_id)? {
        require_open(&known, change.at)?;
        if needed > 0 && known.needed != needed {
            change.sql.post(
                "UPDATE held_request SET needed = ?2, state = 'pending' WHERE id = ?1",
                values![known.id.to_string(), needed],
            )?;
            change.operational();
            (known.needed, known.state) = (needed, HeldState::Pending);
        }
        return Ok(known);
    }
    require_room(&change.sql, &new.spiffe_id, &registration)?;
    // A proof that is good with one key asks with one: people are not shown the same job over and over.
    if let Evidence::Proven(Proven { proof, one_key: true, .. }) = &new.evidence {
        proof_uses::bind(change, proof, &new.spki_sha256)?;
    }
    let (token_sha256, token_by) = match &new.evidence {
        Evidence::JoinToken { secret_sha256 } => {
            (Some(*secret_sha256), tokens::creator(&change.sql, secret_sha256)?)
        }
        Evidence::Proven(_) | Evidence::Svid { .. } => (None, None),
    };
    let evidence = match &new.evidence {
        Evidence::Proven(proven) => proven.evidence.clone(),
        Evidence::JoinToken { .. } | Evidence::Svid { .. } => json!({}),
    };
    let request = HeldRequest {
        id: HeldId::random()?,
        spiffe_id: new.spiffe_id.clone(),
        registration,
        csr_sha256: new.csr_sha256,
        spki_sha256: new.spki_sha256,
        proof: new.evidence.proof().to_owned(),
        evidence: evidence.to_string(),
        address: new.address.to_string(),
        version: new.version.clone(),
        token_by,
        state: HeldState::Pending,
        // Lifted in this moment: one approval would do, and none is asked for when it comes again.
        needed: needed.max(1),
        decisions: Vec::new(),
        created_at: change.at,
        expires_at: change.at + new.life,
    };
    let name = request.id.to_string();
    change.sql.post(
        "INSERT INTO held_request (id, spiffe_id, registration, csr_sha256, spki_sha256, proof, evidence, address,
                                   version, token_sha256, token_by, needed, state, created_at_ms, expires_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'pending', ?13, ?14)",
        values![
            &name,
            request.spiffe_id.as_str(),
            request.registration.as_str(),
            request.csr_sha256,
            request.spki_sha256,
            &request.proof,
            &request.evidence,
            &request.address,
            &request.version,
            token_sha256,
            request.token_by.as_deref(),
            request.needed,
            request.created_at,
            request.expires_at
        ],
    )?;
    let detail = json!({
        "request": name,
        "csr_sha256": crate::hex::encode(&request.csr_sha256),
        "proof": request.proof,
        "evidence": evidence,
        "token_created_by": request.token_by,
        "needed": request.needed,
        "expires_at": crate::time::rfc3339(request.expires_at),
    });
    let actor = Actor::anonymous(new.address).in_call(new.request_id);
    change.audit(&actor, Action::RequestMade, new.spiffe_id.as_str(), &detail)?;
    Ok(request)
}

/// The proof is still good; returns by which registration.
fn require_proven(change: &Change<'_>, new: &NewRequest) -> Result<Name, StoreError> {
    match &new.evidence {
        Evidence::Proven(proven) => {
            entitlement::require(&change.sql, &new.spiffe_id, &proven.selectors, change.at)
        }
        Evidence::JoinToken { secret_sha256 } => {
            let workload = workloads::require_active(&change.sql, &new.spiffe_id, change.at)?;
            tokens::require_redeemable(&change.sql, secret_sha256, &new.spiffe_id, change.at)?;
            Ok(workload.template.map_or(Name::Identity(workload.spiffe_id), Name::Template))
        }
        // Who succeeds a live instance needs no approval.
        Evidence::Svid { .. } => Err(Refusal::ApprovalRequired.into()),
    }
}

fn require_room(sql: &Sql<'_>, id: &SpiffeId, registration: &Name) -> Result<(), StoreError> {
    let of_one = sql.one::<u64>(
        "SELECT count(*) FROM held_request WHERE spiffe_id = ?1 AND state IN ('pending', 'approved')",
        values![id.as_str()],
    )?;
    let of_registration = sql.one::<u64>(
        "SELECT count(*) FROM held_request WHERE registration = ?1 AND state IN ('pending', 'approved')",
        values![registration.as_str()],
    )?;
    let of_all = "SELECT count(*) FROM held_request WHERE state IN ('pending', 'approved')";
    if of_one >= MOST_OF_ONE
        || of_registration >= MOST_OF_REGISTRATION
        || sql.one::<u64>(of_all, &[])? >= MOST
    {
        return Err(Refusal::TooManyRequests.into());
    }
    Ok(())
}

/// How many have to agree, by what the registration and the rules say now.
pub(super) fn needed(sql: &Sql<'_>, id: &SpiffeId, registration: &Name) -> Result<Approval, StoreError> {
    let declared = registrations::find(sql, registration)?;
    let declared = declared.map_or(Approval::None, |registered| registered.declaration.approval);
    Ok(declared.max(InForce::of(sql, id)?.approval))
}

/// An approval to be recorded with the issuance.
pub(in crate::store) struct Approved {
    pub(in crate::store) request: HeldId,
    pub(in crate::store) by: Vec<String>,
}

/// Uses an approval of just this signing request for just this identity, by as many as `needed` now.
pub(in crate::store) fn admit(
    change: &Change<'_>,
    issuance: &Issuance,
    csr_sha256: &[u8; 32],
    needed: Approval,
) -> Result<Approved, StoreError> {
    let found = of_csr(&change.sql, csr_sha256, &issuance.spiffe_id)?.ok_or(Refusal::ApprovalRequired)?;
    require_open(&found, change.at)?;
    let by: Vec<String> = found.approvers().map(str::to_owned).collect();
    if (by.len() as u64) < u64::from(needed.approvers()) {
        return Err(Refusal::ApprovalRequired.into());
    }
    Ok(Approved { request: found.id, by })
}

/// Whatever was asked for with this signing request has been issued, approved or because nobody has to any more.
pub(in crate::store) fn use_up(
    change: &Change<'_>,
    csr_sha256: &[u8; 32],
    id: &SpiffeId,
) -> Result<(), StoreError> {
    change.sql.post(
        "UPDATE held_request SET state = 'used'
         WHERE csr_sha256 = ?1 AND spiffe_id = ?2 AND state IN ('pending', 'approved')",
        values![csr_sha256, id.as_str()],
    )
}

/// What a join token that is refused means after all for the request that is held with it: while people decide, the
/// token's time stands still for that one; and who was denied is told so, rather than that the token is spent.
pub(in crate::store) fn excuse(
    change: &Change<'_>,
    csr_sha256: &[u8; 32],
    id: &SpiffeId,
    secret_sha256: &[u8; 32],
    refusal: Refusal,
) -> Result<Redeemed, StoreError> {
    let of_token = "csr_sha256 = ?1 AND spiffe_id = ?2 AND token_sha256 = ?3";
    let held = find(&change.sql, of_token, values![csr_sha256, id.as_str(), secret_sha256])?;
    match (held, refusal) {
        (Some(held), _) if held.state == HeldState::Denied => Err(denied(&held).into()),
        (Some(held), Refusal::TokenExpired) if require_open(&held, change.at).is_ok() => Ok(Redeemed::Now),
        (_, refusal) => Err(refusal.into()),
    }
}

/// Whether anything that came with the token waits for people, or was denied by them.
pub(in crate::store) fn holds(
    sql: &Sql<'_>,
    secret_sha256: &[u8; 32],
    now: SystemTime,
) -> Result<bool, StoreError> {
    sql.one(
        "SELECT EXISTS (SELECT 1 FROM held_request WHERE token_sha256 = ?1
           AND state IN ('pending', 'approved', 'denied') AND expires_at_ms > ?2)",
        values![secret_sha256, now],
    )
}

/// Nothing of this identity waits any more.
pub(in crate::store) fn expire_all_of(change: &Change<'_>, id: &SpiffeId) -> Result<u64, StoreError> {
    change.sql.execute(
        "UPDATE held_request SET state = 'expired' WHERE spiffe_id = ?1 AND state IN ('pending', 'approved')",
        values![id.as_str()],
    )
}

/// Nothing that came with a join token waits any more.
pub(in crate::store) fn expire_all_with_tokens(change: &Change<'_>) -> Result<u64, StoreError> {
    change.sql.execute(
        "UPDATE held_request SET state = 'expired'
         WHERE token_sha256 IS NOT NULL AND state IN ('pending', 'approved')",
        &[],
    )
}

pub(super) fn require_open(request: &HeldRequest, now: SystemTime) -> Result<(), Refusal> {
    match request.state {
        HeldState::Pending | HeldState::Approved if request.expires_at > now => Ok(()),
        HeldState::Pending | HeldState::Approved | HeldState::Expired => {
            Err(Refusal::RequestExpired(request.id.to_string()))
        }
        HeldState::Denied => Err(denied(request)),
        HeldState::Used => Err(Refusal::RequestUsed(request.id.to_string())),
    }
}

fn denied(request: &HeldRequest) -> Refusal {
    let by = request.decisions.iter().rfind(|decision| decision.verdict == super::Verdict::Deny);
    let reason = by.map(|decision| decision.reason.clone()).unwrap_or_default();
    Refusal::RequestDenied { request: request.id.to_string(), reason }
}

fn of_csr(sql: &Sql<'_>, csr_sha256: &[u8; 32], id: &SpiffeId) -> Result<Option<HeldRequest>, StoreError> {
    find(sql, "csr_sha256 = ?1 AND spiffe_id = ?2", values![csr_sha256, id.as_str()])
}
