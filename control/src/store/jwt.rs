//! Every JWT-SVID: whoever could renew now gets one, and the audit names it.

use serde_json::json;

use super::change::Change;
use super::facts::{Asked, Facts, Standing};
use super::model::{Actor, JwtIssuance};
use super::quota::{self, Issued};
use super::restrictions::Freeze;
use super::sql::values;
use super::{Store, StoreError, jwt_keys, lapse, restrictions};
use crate::audit::Action;
use crate::time;

impl Store {
    /// Records a token before it is given out.
    ///
    /// # Errors
    /// The refusal that says why it must not be: the same as of a renewal.
    pub async fn record_jwt(&self, issuance: JwtIssuance) -> Result<(), StoreError> {
        let quota = self.limits.issuance_quota;
        self.write(move |change| issue(change, &issuance, quota)).await
    }
}

fn issue(change: &mut Change<'_>, issuance: &JwtIssuance, quota: u64) -> Result<(), StoreError> {
    let JwtIssuance { jti, spiffe_id: id, instance, spki_sha256, presented, audience, key, .. } = issuance;
    let asked = Asked {
        id,
        instance,
        spki_sha256,
        presented,
        secret_sha256: None,
        // Nothing that is certified.
        authority: "",
        proof_sha256: None,
    };
    let facts = Facts::read(&change.sql, &asked)?;
    let standing = facts.judge_renewal(id, change.at)?;
    facts.require_end(issuance.expires_at)?;
    if facts.freeze() == Some(Freeze::All) {
        restrictions::require_not_frozen(&change.sql, id)?;
    }
    jwt_keys::require_good(&change.sql, issuance)?;
    let before = change.sql.find(
        "SELECT since_ms, issued FROM jwt_count WHERE spiffe_id = ?1",
        values![id.as_str()],
        |row| Ok(Issued { since: row.get(0)?, count: row.get(1)? }),
    )?;
    let issued = Issued::one_more(before, id, quota, change.at)?;
    match standing {
        Standing::Live => {}
        Standing::TakenForLapsed => lapse::revive(change, &instance.to_string(), id).map(drop)?,
    }
    let detail = json!({
        "jti": jti,
        "instance": instance.to_string(),
        "audience": audience,
        "key": key,
        "not_after": time::rfc3339(issuance.expires_at),
    });
    let actor = Actor::identity(id).in_call(issuance.request_id);
    change.audit(&actor, Action::JwtIssued, id.as_str(), &detail)?;
    issued.keep(change, quota::TOKENS, id, quota)
}
