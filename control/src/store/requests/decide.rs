//! Approving and denying: who may, and what it does.

use std::fmt;
use std::str::FromStr;

use serde_json::json;

use super::{HeldId, HeldRequest, HeldState, hold, require};
use crate::audit::Action;
use crate::roles::{Permission, Scope};
use crate::store::change::Change;
use crate::store::mesh::Topics;
use crate::store::model::{Mutation, UnknownWord};
use crate::store::sql::values;
use crate::store::{Refusal, Store, StoreError, registrations, tokens};

/// What somebody decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may have its SVID, as far as they are asked.
    Approve,
    /// It gets none.
    Deny,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approved",
            Self::Deny => "denied",
        }
    }
}

impl FromStr for Verdict {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "approved" => Ok(Self::Approve),
            "denied" => Ok(Self::Deny),
            other => Err(UnknownWord(other.to_owned())),
        }
    }
}

/// The part that somebody has in a request, and so cannot approve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It would be them.
    Asks,
    /// They made the join token.
    MadeToken,
    /// They said last what proves the identity, or who has to agree.
    Declared,
    /// They approved it already.
    Approved,
}

impl Part {
    /// What `actor` has to do with `request`, if anything; `declared_by` is who declared its workload.
    #[must_use]
    pub fn of(actor: &str, request: &HeldRequest, declared_by: &str) -> Option<Self> {
        if actor == request.spiffe_id.as_str() {
            Some(Self::Asks)
        } else if request.token_by.as_deref() == Some(actor) {
            Some(Self::MadeToken)
        } else if declared_by == actor {
            Some(Self::Declared)
        } else if request.approvers().any(|approver| approver == actor) {
            Some(Self::Approved)
        } else {
            None
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asks => "is the identity that asks",
            Self::MadeToken => "made the join token that it came with",
            Self::Declared => "declared last what proves this workload or who approves it",
            Self::Approved => "approved it already",
        })
    }
}

impl Store {
    /// One person's decision about a request. `csr_sha256`, if it is said, is the signing request that they mean.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NotPermitted`]; [`Refusal::RequestDiffers`],
    /// [`Refusal::NotIndependent`], and whatever says that it is over.
    pub async fn decide_request(
        &self,
        id: HeldId,
        verdict: Verdict,
        csr_sha256: Option<[u8; 32]>,
        reason: String,
        permission: impl Permission,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| decide(change, id, verdict, csr_sha256, &reason, &permission)).await
    }
}

fn decide(
    change: &mut Change<'_>,
    id: HeldId,
    verdict: Verdict,
    csr_sha256: Option<[u8; 32]>,
    reason: &str,
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let request = require(&change.sql, id)?;
    let actor = permission.on(&Scope::identity(&request.spiffe_id))?;
    if let Some(meant) = csr_sha256.filter(|meant| *meant != request.csr_sha256) {
        return Err(Refusal::RequestDiffers {
            request: id.to_string(),
            found: crate::hex::encode(&request.csr_sha256),
            meant: crate::hex::encode(&meant),
        }
        .into());
    }
    hold::require_open(&request, change.at)?;
    if verdict == Verdict::Approve {
        let declared_by = registrations::declared_by(&change.sql, &request.registration)?;
        if let Some(part) = Part::of(actor.as_str(), &request, &declared_by) {
            return Err(Refusal::NotIndependent { actor: actor.to_string(), part }.into());
        }
    }
    // Who approved may still deny: then that counts.
    change.sql.post(
        "INSERT INTO held_decision (request, actor, verdict, reason, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (request, actor) DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason,
           at_ms = excluded.at_ms",
        values![id.to_string(), actor.as_str(), verdict.as_str(), reason, change.at],
    )?;
    let needed = hold::needed(&change.sql, &request.spiffe_id, &request.registration)?.approvers().max(1);
    let approvals = request.approvers().count() as u64 + u64::from(verdict == Verdict::Approve);
    let state = match verdict {
        Verdict::Deny => HeldState::Denied,
        Verdict::Approve if approvals >= u64::from(needed) => HeldState::Approved,
        Verdict::Approve => HeldState::Pending,
    };
    change.sql.post(
        "UPDATE held_request SET state = ?2, needed = ?3 WHERE id = ?1",
        values![id.to_string(), state.as_str(), needed],
    )?;
    if verdict == Verdict::Deny {
        tokens::spend_denied(change, id)?;
    }
    let action = match verdict {
        Verdict::Approve => Action::RequestApproved,
        Verdict::Deny => Action::RequestDenied,
    };
    let detail = json!({
        "request": id.to_string(),
        "csr_sha256": crate::hex::encode(&request.csr_sha256),
        "reason": reason,
        "approvals": approvals,
        "needed": needed,
    });
    change.audit(&actor, action, request.spiffe_id.as_str(), &detail)?;
    let commit = change.revise(Topics::NONE, request.spiffe_id.as_str())?;
    Ok(Mutation { commit, effects: vec![effect(&request, state, approvals, needed)] })
}

fn effect(request: &HeldRequest, state: HeldState, approvals: u64, needed: u32) -> String {
    let HeldRequest { id, spiffe_id, .. } = request;
    match state {
        HeldState::Denied => format!("request {id} of `{spiffe_id}` is denied for good"),
        HeldState::Approved => format!(
            "request {id} of `{spiffe_id}` is approved ({approvals} of {needed}): it gets its SVID when it asks again"
        ),
        _ => format!("request {id} of `{spiffe_id}` has {approvals} of {needed} approvals"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::Decision;
    use super::*;

    fn request(approved_by: &[&str]) -> HeldRequest {
        let decision = |actor: &&str| Decision {
            actor: (*actor).into(),
            verdict: Verdict::Approve,
            reason: String::new(),
            at: SystemTime::UNIX_EPOCH,
        };
        HeldRequest {
            id: HeldId::random().unwrap(),
            spiffe_id: "spiffe://td/orders".parse().unwrap(),
            registration: "spiffe://td/orders".parse().unwrap(),
            csr_sha256: [1; 32],
            spki_sha256: [2; 32],
            proof: "join_token".into(),
            evidence: "{}".into(),
            address: "127.0.0.1".into(),
            version: String::new(),
            token_by: Some("spiffe://td/people/ada".into()),
            state: HeldState::Pending,
            needed: 2,
            decisions: approved_by.iter().map(decision).collect(),
            created_at: SystemTime::UNIX_EPOCH,
            expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(60),
        }
    }

    #[test]
    fn whoever_had_a_part_in_a_request_is_no_approver_of_it() {
        let request = request(&["spiffe://td/people/eve"]);
        for (actor, part) in [
            ("spiffe://td/orders", Some(Part::Asks)),
            ("spiffe://td/people/ada", Some(Part::MadeToken)),
            ("unix:uid=0", Some(Part::Declared)),
            ("spiffe://td/people/eve", Some(Part::Approved)),
            ("spiffe://td/people/bob", None),
            ("spiffe://td/orders/below", None),
            ("unix:uid=1", None),
        ] {
            assert_eq!(Part::of(actor, &request, "unix:uid=0"), part, "{actor}");
        }
    }

    #[test]
    fn an_id_is_sixteen_hex_digits() {
        let id = HeldId::random().unwrap();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 16);
        for wrong in ["", "00", "zz00000000000000", "000000000000000000"] {
            assert!(wrong.parse::<HeldId>().is_err(), "{wrong}");
        }
    }
}
