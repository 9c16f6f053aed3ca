//! Join tokens: redeemed at most once, by a conditional update in the commit of the issuance itself.
//!
//! The answer to a redeem can get lost. So for a while the same secret with the same key gives the same instance
//! another SVID: whoever asks proved to hold the key, and could have renewed with what was lost.

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::model::{ASK_AGAIN, Actor, NewToken, Token};
use super::requests::{self, HeldId};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError, roles, workloads};
use crate::audit::Action;
use crate::roles::{Permission, Scope};
use crate::time;

/// Refused presentations of one token that the audit names one by one; whoever has an old token must not be
/// able to fill the audit with it.
const AUDITED_REFUSALS: i64 = 10;
/// What spent a token whose request was denied.
const DENIED: &str = "denied";

impl Store {
    /// Stores a join token for an active workload, if `permission` reaches that and all that it may.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`], [`StoreError::NotFound`] or [`Refusal::WorkloadNotActive`].
    pub async fn create_token(&self, new: NewToken, permission: impl Permission) -> Result<(), StoreError> {
        self.write(move |change| {
            let id = &new.spiffe_id;
            let actor = permission.on(&Scope::identity(id))?;
            permission.may_become(id, &roles::of(&change.sql, id.as_str())?)?;
            create(change, &new, &actor)
        })
        .await
    }

    /// What a secret stands for, if it can be redeemed at `now`. Asked before any work is done for the
    /// caller; whether it still can is decided again in the commit of the issuance.
    ///
    /// # Errors
    /// The [`Refusal`] that says why not.
    pub async fn redeemable_token(
        &self,
        secret_sha256: [u8; 32],
        now: SystemTime,
    ) -> Result<Token, StoreError> {
        self.read(move |sql| {
            let Some(found) = find(sql, &secret_sha256)? else {
                return Err(Refusal::TokenUnknown.into());
            };
            let redeemed_by = found.redeemed_by(now);
            // What came with it may be held: then that is what its time is about, or why it is worthless.
            if redeemed_by.is_none()
                && !(found.may_be_held(now) && requests::holds(sql, &secret_sha256, now)?)
            {
                found.require_redeemable(now)?;
            }
            let workload = workloads::require_active(sql, &found.spiffe_id, now)?;
            Ok(Token { workload, redeemed_by })
        })
        .await
    }

    /// Records that a token was presented and refused, if the token is known at all: whether it is.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub async fn refuse_token(
        &self,
        secret_sha256: [u8; 32],
        because: &'static str,
        actor: Actor,
    ) -> Result<bool, StoreError> {
        // Nobody who has proven nothing makes the writer work without bound.
        let counted = self.read(move |sql| {
            let query = "SELECT refusals < ?2 FROM join_token WHERE secret_sha256 = ?1";
            sql.find(query, values![secret_sha256, AUDITED_REFUSALS], |row| row.get::<bool>(0))
        });
        match counted.await? {
            None => return Ok(false),
            Some(false) => return Ok(true),
            Some(true) => {}
        }
        self.write(move |change| {
            let Some(found) = find(&change.sql, &secret_sha256)? else { return Ok(false) };
            let counted = change.sql.execute(
                "UPDATE join_token SET refusals = refusals + 1 WHERE secret_sha256 = ?1 AND refusals < ?2",
                values![secret_sha256, AUDITED_REFUSALS],
            )?;
            if counted > 0 {
                let detail = json!({ "because": because, "token": token_name(&secret_sha256) });
                change.audit(&actor, Action::TokenRefused, found.spiffe_id.as_str(), &detail)?;
            }
            Ok(true)
        })
        .await
    }
}

/// How the audit names a token: enough to tell two apart, nothing to redeem.
fn token_name(secret_sha256: &[u8; 32]) -> String {
    crate::hex::encode(secret_sha256.get(..8).unwrap_or_default())
}

fn create(change: &mut Change<'_>, new: &NewToken, actor: &Actor) -> Result<(), StoreError> {
    workloads::require_active(&change.sql, &new.spiffe_id, change.at)?;
    change.sql.execute(
        "INSERT INTO join_token (secret_sha256, spiffe_id, created_at_ms, created_by, expires_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        values![new.secret_sha256, new.spiffe_id.as_str(), change.at, actor.as_str(), new.expires_at],
    )?;
    change.audit(
        actor,
        Action::TokenCreated,
        new.spiffe_id.as_str(),
        &json!({ "token": token_name(&new.secret_sha256), "expires_at": time::rfc3339(new.expires_at) }),
    )
}

/// What redeeming a token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redeemed {
    /// It is unspent: a new instance.
    Now,
    /// The same instance asks again; it must have the same key, and not have renewed since.
    Again,
}

/// Spends the token for `instance`, as it was judged to be redeemable. Of any number of redeems at the same time exactly
/// one succeeds: the update counts one row only for the first.
pub(super) fn spend(
    change: &Change<'_>,
    secret_sha256: &[u8; 32],
    instance: &InstanceId,
) -> Result<(), StoreError> {
    let spent = change.sql.execute(
        "UPDATE join_token SET spent_at_ms = ?2, spent_by = ?3 WHERE secret_sha256 = ?1 AND spent_at_ms IS NULL",
        values![secret_sha256, change.at, instance.to_string()],
    )?;
    if spent == 1 { Ok(()) } else { Err(Refusal::TokenSpent.into()) }
}

/// Makes the unspent tokens of a workload worthless. Says how many there were.
pub(super) fn withdraw(change: &Change<'_>, id: &SpiffeId) -> Result<Option<String>, StoreError> {
    let withdrawn = change.sql.execute(
        "UPDATE join_token SET spent_at_ms = ?2, spent_by = 'withdrawn'
             WHERE spiffe_id = ?1 AND spent_at_ms IS NULL AND expires_at_ms > ?2",
        values![id.as_str(), change.at],
    )?;
    requests::expire_all_of(change, id)?;
    Ok((withdrawn > 0).then(|| format!("{withdrawn} unused join token(s) withdrawn")))
}

/// Makes all unspent tokens worthless, and what came with one and waits for approval. Says how many there were.
pub(super) fn withdraw_all(change: &Change<'_>) -> Result<Option<String>, StoreError> {
    let withdrawn = change.sql.execute(
        "UPDATE join_token SET spent_at_ms = ?1, spent_by = 'withdrawn'
             WHERE spent_at_ms IS NULL AND expires_at_ms > ?1",
        values![change.at],
    )?;
    requests::expire_all_with_tokens(change)?;
    Ok((withdrawn > 0).then(|| format!("{withdrawn} unused join token(s) withdrawn: make new ones")))
}

/// Who made a token.
pub(super) fn creator(sql: &Sql<'_>, secret_sha256: &[u8; 32]) -> Result<Option<String>, StoreError> {
    let query = "SELECT created_by FROM join_token WHERE secret_sha256 = ?1";
    sql.find(query, values![secret_sha256], |row| row.get(0))
}

/// The token can be redeemed, or could be if what came with it were approved.
pub(super) fn require_redeemable(
    sql: &Sql<'_>,
    secret_sha256: &[u8; 32],
    id: &SpiffeId,
    now: SystemTime,
) -> Result<(), StoreError> {
    let found = find(sql, secret_sha256)?.filter(|found| found.spiffe_id == *id);
    let found = found.ok_or(Refusal::TokenUnknown)?;
    if found.may_be_held(now) && requests::holds(sql, secret_sha256, now)? {
        return Ok(());
    }
    Ok(found.require_redeemable(now)?)
}

/// The token that a denied request came with is good for nothing else.
pub(super) fn spend_denied(change: &Change<'_>, request: HeldId) -> Result<(), StoreError> {
    change.sql.post(
        "UPDATE join_token SET spent_at_ms = ?2, spent_by = ?3 WHERE spent_at_ms IS NULL
           AND secret_sha256 IN (SELECT token_sha256 FROM held_request WHERE id = ?1)",
        values![request.to_string(), change.at, DENIED],
    )
}

/// The instance that asks again is as its attestation left it, and has this key.
pub(super) fn require_fresh(
    sql: &Sql<'_>,
    instance: &InstanceId,
    spki_sha256: &[u8; 32],
) -> Result<(), StoreError> {
    let fresh: bool = sql.one(
        "SELECT EXISTS (SELECT 1 FROM instance JOIN certificate ON certificate.instance = instance.id
               WHERE instance.id = ?1 AND instance.status = 'active' AND instance.renewals = 0
                 AND certificate.spki_sha256 = ?2)",
        values![instance.to_string(), spki_sha256],
    )?;
    if fresh { Ok(()) } else { Err(Refusal::TokenSpent.into()) }
}

/// A join token as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) spiffe_id: SpiffeId,
    pub(super) expires_at: SystemTime,
    /// When, and by which instance, or `withdrawn` or `denied`.
    pub(super) spent: Option<(SystemTime, String)>,
}

/// What [`Found::read`] reads.
pub(super) const COLUMNS: &str = "spiffe_id, expires_at_ms, coalesce(spent_at_ms, 0), spent_by";

impl Found {
    /// From the columns that begin at `first`.
    pub(super) fn read(row: &Row, first: usize) -> Result<Self, StoreError> {
        Ok(Self {
            spiffe_id: row.parsed(first)?,
            expires_at: row.get(first + 1)?,
            spent: match row.get(first + 3)? {
                Some(by) => Some((row.get(first + 2)?, by)),
                None => None,
            },
        })
    }

    /// What it means that `instance` of `id` presents it at `now`.
    pub(super) fn judge(
        &self,
        id: &SpiffeId,
        instance: &InstanceId,
        now: SystemTime,
    ) -> Result<Redeemed, Refusal> {
        if self.spiffe_id != *id {
            return Err(Refusal::TokenUnknown);
        }
        if self.redeemed_by(now) == Some(*instance) {
            return Ok(Redeemed::Again);
        }
        self.require_redeemable(now).map(|()| Redeemed::Now)
    }

    /// The instance that spent it, if that was not long ago.
    fn redeemed_by(&self, now: SystemTime) -> Option<InstanceId> {
        let (at, by) = self.spent.as_ref()?;
        let lately = now.duration_since(*at).is_ok_and(|since| since < ASK_AGAIN);
        lately.then(|| by.parse().ok()).flatten()
    }

    /// Whether it makes a difference that something is held that came with it.
    fn may_be_held(&self, now: SystemTime) -> bool {
        match &self.spent {
            None => self.expires_at <= now,
            Some((_, by)) => by == DENIED,
        }
    }

    fn require_redeemable(&self, now: SystemTime) -> Result<(), Refusal> {
        if self.spent.is_some() {
            Err(Refusal::TokenSpent)
        } else if self.expires_at <= now {
            Err(Refusal::TokenExpired)
        } else {
            Ok(())
        }
    }
}

fn find(sql: &Sql<'_>, secret_sha256: &[u8; 32]) -> Result<Option<Found>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM join_token WHERE secret_sha256 = ?1");
    sql.find(&query, values![secret_sha256], |row| Found::read(row, 0))
}
