//! Whether whoever approves is somebody else. Two names of one person are no two people: whoever has a part in a request
//! could make an identity, give it the role, and approve with that. So an approver does not count whom someone with a
//! part could become, or whose role comes from such a person. Admins of everything are beyond that: nothing here binds
//! who can rewrite the rules.

use std::collections::BTreeSet;
use std::fmt;

use super::HeldRequest;
use crate::roles::{Binding, Role, Scope, Subject};
use crate::store::sql::Sql;
use crate::store::{Refusal, StoreError, registrations, roles};

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
    /// Someone with a part could become them.
    Puppet,
    /// Their role comes from someone with a part.
    Appointed,
}

impl Part {
    /// What `actor` has to do with `request`, if anything; `declared_by` is who declared its workload.
    fn of(actor: &str, request: &HeldRequest, declared_by: &str) -> Option<Self> {
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
            Self::Puppet => "is an identity that someone with a part in it may give to anybody",
            Self::Appointed => {
                "has the role from someone with a part in it, and not from an admin of everything"
            }
        })
    }
}

/// Refuses an approver who is not somebody else.
pub(super) fn require(sql: &Sql<'_>, actor: &str, request: &HeldRequest) -> Result<(), StoreError> {
    let refused = |part| Err(Refusal::NotIndependent { actor: actor.to_owned(), part }.into());
    let declared_by = registrations::declared_by(sql, &request.registration)?;
    if let Some(part) = Part::of(actor, request, &declared_by) {
        return refused(part);
    }
    // Whoever has no role in the store has it from the machine that control runs on.
    let Ok(approver) = actor.parse::<Subject>() else { return Ok(()) };
    let parties = Parties { sql, request, declared_by: &declared_by };
    if let Subject::Identity(id) = &approver
        && parties.could_become(&Scope::identity(id))?
    {
        return refused(Part::Puppet);
    }
    let on = Scope::identity(&request.spiffe_id);
    if parties.is_appointed(&approver, Role::Approver, &on, &mut BTreeSet::new())? {
        return refused(Part::Appointed);
    }
    Ok(())
}

/// Everybody with a part in a request.
struct Parties<'a> {
    sql: &'a Sql<'a>,
    request: &'a HeldRequest,
    declared_by: &'a str,
}

impl Parties<'_> {
    /// Whether one of them may make a join token for `identity`, and is no admin of everything.
    fn could_become(&self, identity: &Scope) -> Result<bool, StoreError> {
        let asks = self.request.spiffe_id.as_str();
        let parties = [Some(asks), self.request.token_by.as_deref(), Some(self.declared_by)];
        for party in parties.into_iter().flatten() {
            let held = roles::of(self.sql, party)?;
            let makes =
                |binding: &Binding| binding.role.includes(Role::Operator) && binding.scope.covers(identity);
            if held.iter().any(makes) && !is_admin_of_everything(&held) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether all that gives `who` that role goes back to one of them.
    fn is_appointed(
        &self,
        who: &Subject,
        role: Role,
        on: &Scope,
        asked: &mut BTreeSet<String>,
    ) -> Result<bool, StoreError> {
        let name = who.to_string();
        let granted = roles::granted(self.sql, &name)?;
        if granted.is_empty() {
            return Ok(matches!(who, Subject::Identity(_)) && !asked.is_empty());
        }
        asked.insert(name);
        for (binding, by) in granted {
            if !binding.role.includes(role) || !binding.scope.covers(on) {
                continue;
            }
            if !self.is_tainted(&by, on, asked)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a role that `by` gave does not count.
    fn is_tainted(&self, by: &str, on: &Scope, asked: &mut BTreeSet<String>) -> Result<bool, StoreError> {
        // Control itself, in a migration.
        let Ok(grantor) = by.parse::<Subject>() else { return Ok(false) };
        let held = roles::of(self.sql, by)?;
        if is_admin_of_everything(&held) || (held.is_empty() && matches!(grantor, Subject::Unix(_))) {
            return Ok(false);
        }
        if Part::of(by, self.request, self.declared_by).is_some() || asked.contains(by) {
            return Ok(true);
        }
        self.is_appointed(&grantor, Role::Admin, on, asked)
    }
}

fn is_admin_of_everything(held: &[Binding]) -> bool {
    held.iter().any(|binding| binding.role == Role::Admin && binding.scope == Scope::Everything)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::store::requests::{Decision, HeldId, HeldState, Verdict};

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
}
