//! Approving and denying: who may, and what it does.

use std::str::FromStr;

use serde_json::json;

use super::{HeldId, HeldRequest, HeldState, hold, independence, require};
use crate::audit::Action;
use crate::roles::{Permission, Scope};
use crate::store::change::Change;
use crate::store::mesh::Topics;
use crate::store::model::{Mutation, UnknownWord};
use crate::store::sql::values;
use crate::store::{Refusal, Store, StoreError, tokens};

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
        independence::require(&change.sql, actor.as_str(), &request)?;
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
    use super::*;

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
