//! Keys of JWT-SVIDs, one after another: published before they sign, and for as long as a token that they signed is good.
//!
//! ```text
//!            prepare                activate                        retire
//!   (none) ──────────▶ prepared ─────────────────▶ active ─▶ retiring ───────▶ (forgotten)
//!            bundle      │          acknowledged     the one     │       its last token
//!            has it      ▼          by all proxies   before it   │       has ended
//!                     (taken back)                   retires     key erased
//! ```

use std::time::Duration;

use serde_json::json;

use super::chained::unacknowledged;
use super::change::Change;
use super::mesh::Topics;
use super::model::{
    Actor, Commit, JwtActivation, JwtCompromise, JwtIssuance, JwtKeyRecord, KnownJwtKey, Mutation, Phase, jwk,
};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::time;

const COLUMNS: &str = "id, phase, phase_at_ms, public_key, ends_ms, announced";
/// What rotates, as the audit and refusals name it.
pub(super) const KIND: &str = "jwt";

impl Store {
    /// All of them, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn jwt_keys(&self) -> Result<Vec<KnownJwtKey>, StoreError> {
        let query = format!("SELECT {COLUMNS} FROM jwt_key ORDER BY created_at_ms, id");
        self.read(move |sql| sql.all(&query, &[], known)).await
    }

    /// The sealed key of one that may still sign.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sealed_jwt_key(&self, id: String) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |sql| {
            let found =
                sql.find("SELECT sealed_key FROM jwt_key WHERE id = ?1", values![&id], |row| row.get(0))?;
            Ok(found.flatten())
        })
        .await
    }

    /// Keeps a new key that signs nothing yet, and is in the trust bundle from then on.
    ///
    /// # Errors
    /// When there is another one on its way, or a replica runs that would not publish it.
    pub async fn prepare_jwt_key(&self, new: JwtKeyRecord, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            if let Some(other) = in_phase(&change.sql, Phase::Prepared)? {
                return Err(
                    Refusal::RotationUnderWay { kind: KIND, id: other.id, phase: Phase::Prepared }.into()
                );
            }
            require_knowing_replicas(&change.sql)?;
            insert(change, &new, Phase::Prepared)?;
            change.audit(&actor, Action::AuthorityPrepared, &subject(&new.id), &json!({ "kind": KIND }))?;
            let effects = vec![
                format!("key {} is in the trust bundle, and signs no tokens yet", new.id),
                format!("next: `signet ca activate {}`, once all proxies have it", new.id),
            ];
            Ok(Mutation { commit: announce(change, &new.id)?, effects })
        })
        .await
    }

    /// Has a prepared key sign. The one before is erased, and published until the last token it signed has ended.
    ///
    /// # Errors
    /// When it is not prepared, another one signs than was thought, or proxies have not said that they know it.
    pub async fn activate_jwt_key(
        &self,
        activation: JwtActivation,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let JwtActivation { id, replaces, longest, unacknowledged: anyway } = &activation;
            let prepared = require(&change.sql, id, &[Phase::Prepared])?;
            let previous = in_phase(&change.sql, Phase::Active)?;
            if previous.as_ref().map(|key| &key.id) != replaces.as_ref() {
                return Err(Refusal::RotatedMeanwhile.into());
            }
            let missing = unacknowledged(&change.sql, prepared.announced, change.at)?;
            if missing.count > 0 && !anyway {
                let (id, count, missing) = (id.clone(), missing.count, missing.to_string());
                return Err(Refusal::NotAcknowledged { id, count, missing }.into());
            }
            let mut effects = vec![format!("key {id} signs tokens from now on")];
            if missing.count > 0 {
                effects.push(format!("{} proxies do not know it: {missing}", missing.count));
            }
            if let Some(previous) = &previous {
                retire_signing(change, *longest)?;
                effects.push(format!(
                    "key {} retires: it is erased, its tokens stay good until they end",
                    previous.id
                ));
            }
            sign_with(change, id)?;
            let previous = previous.map(|key| key.id);
            let detail = json!({ "kind": KIND, "previous": previous, "unacknowledged": missing.count });
            change.audit(&actor, Action::AuthorityActivated, &subject(id), &detail)?;
            // Everybody knows both keys already.
            Ok(Mutation { commit: change.revise(Topics::NONE, &subject(id))?, effects })
        })
        .await
    }

    /// Takes a retiring key out of the trust bundle, or a prepared one back.
    ///
    /// # Errors
    /// [`Refusal::StillChained`] as long as a token that it signed is good.
    pub async fn retire_jwt_key(&self, id: String, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let found = require(&change.sql, &id, &[Phase::Prepared, Phase::Retiring])?;
            let (action, effect) = if found.phase == Phase::Prepared {
                (Action::AuthorityWithdrawn, format!("key {id} is taken back: it never signed"))
            } else {
                match found.ends {
                    Some(ends) if ends > change.at => {
                        let chained = format!("tokens, the last of which ends {}", time::rfc3339(ends));
                        return Err(Refusal::StillChained { id: id.clone(), chained }.into());
                    }
                    _ => {}
                }
                (Action::AuthorityRemoved, format!("key {id} is removed: no token is believed by it"))
            };
            change.audit(&actor, action, &subject(&id), &json!({ "kind": KIND }))?;
            Ok(Mutation { commit: forget(change, &id)?, effects: vec![effect] })
        })
        .await
    }

    /// Ends the trust in a key, and has another one sign at once, whoever knows it.
    ///
    /// # Errors
    /// When it is neither active nor retiring.
    pub async fn compromise_jwt_key(
        &self,
        compromise: JwtCompromise,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let JwtCompromise { id, successor, within, reason } = &compromise;
            let found = require(&change.sql, id, &[Phase::Active, Phase::Retiring])?;
            let ends = change.at + *within;
            let ends = found.ends.map_or(ends, |before| before.min(ends));
            let mut effects = Vec::new();
            if found.phase == Phase::Active {
                retire_signing(change, *within)?;
                let next = match in_phase(&change.sql, Phase::Prepared)? {
                    Some(prepared) => prepared.id,
                    None => {
                        insert(change, successor, Phase::Prepared)?;
                        successor.id.clone()
                    }
                };
                sign_with(change, &next)?;
                effects.push(format!("key {next} signs tokens from now on"));
            }
            let detail = json!({ "kind": KIND, "reason": reason, "trust_ends": time::rfc3339(ends) });
            change.audit(&actor, Action::AuthorityCompromised, &subject(id), &detail)?;
            effects.push(format!("no token is believed by key {id} from {} on", time::rfc3339(ends)));
            let commit = if within.is_zero() {
                change.audit(&actor, Action::AuthorityDistrusted, &subject(id), &json!({ "kind": KIND }))?;
                forget(change, id)?
            } else {
                change.sql.execute("UPDATE jwt_key SET ends_ms = ?2 WHERE id = ?1", values![id, ends])?;
                announce(change, id)?
            };
            Ok(Mutation { commit, effects })
        })
        .await
    }
}

/// The keys that are in the trust bundle, as JWKs, and the revision with which they changed last.
pub(super) fn published(sql: &Sql<'_>) -> Result<(Vec<String>, u64), StoreError> {
    let keys: Vec<(String, Vec<u8>, u64)> =
        sql.all("SELECT id, public_key, announced FROM jwt_key ORDER BY created_at_ms, id", &[], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let announced = keys.iter().map(|(.., announced)| *announced).max().unwrap_or_default();
    Ok((keys.iter().map(|(id, public_key, _)| jwk(id, public_key).to_string()).collect(), announced))
}

/// The first key of a mesh, in the commit that makes its authorities.
pub(super) fn create(change: &Change<'_>, new: &JwtKeyRecord) -> Result<(), StoreError> {
    insert(change, new, Phase::Active)
}

/// What signed it is believed until it ends: whoever was asked before its key retired is answered.
pub(super) fn require_good(sql: &Sql<'_>, issuance: &JwtIssuance) -> Result<(), StoreError> {
    let good = sql.one(
        "SELECT EXISTS (SELECT 1 FROM jwt_key WHERE id = ?1
                        AND (phase = 'active' OR phase = 'retiring' AND ends_ms >= ?2))",
        values![&issuance.key, issuance.expires_at],
    )?;
    if good { Ok(()) } else { Err(Refusal::SignerRemoved.into()) }
}

/// As the audit names it.
pub(super) fn subject(id: &str) -> String {
    format!("Signet JWT Key {id}")
}

fn insert(change: &Change<'_>, new: &JwtKeyRecord, phase: Phase) -> Result<(), StoreError> {
    change.sql.execute(
        "INSERT INTO jwt_key (id, phase, phase_at_ms, public_key, sealed_key, created_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?3)",
        values![&new.id, phase.as_str(), change.at, &new.public_key, &new.sealed_key],
    )?;
    Ok(())
}

/// The one that signs retires, and is erased; what it signed is believed for `longest` at most.
fn retire_signing(change: &Change<'_>, longest: Duration) -> Result<(), StoreError> {
    change.sql.execute(
        "UPDATE jwt_key SET phase = 'retiring', phase_at_ms = ?1, ends_ms = ?2, sealed_key = NULL
         WHERE phase = 'active'",
        values![change.at, change.at + longest],
    )?;
    Ok(())
}

fn sign_with(change: &Change<'_>, id: &str) -> Result<(), StoreError> {
    change.sql.execute(
        "UPDATE jwt_key SET phase = 'active', phase_at_ms = ?2 WHERE id = ?1",
        values![id, change.at],
    )?;
    Ok(())
}

fn forget(change: &mut Change<'_>, id: &str) -> Result<Commit, StoreError> {
    change.sql.execute("DELETE FROM jwt_key WHERE id = ?1", values![id])?;
    announce(change, id)
}

/// A change of the trust bundle: its sequence is the revision. Every key knows it, so that a sequence never goes back.
fn announce(change: &mut Change<'_>, id: &str) -> Result<Commit, StoreError> {
    let commit = change.revise(Topics::BUNDLE, &subject(id))?;
    change.sql.post("UPDATE jwt_key SET announced = ?1", values![commit.revision])?;
    Ok(commit)
}

fn in_phase(sql: &Sql<'_>, phase: Phase) -> Result<Option<KnownJwtKey>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM jwt_key WHERE phase = ?1");
    sql.find(&query, values![phase.as_str()], known)
}

fn require(sql: &Sql<'_>, id: &str, phases: &[Phase]) -> Result<KnownJwtKey, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM jwt_key WHERE id = ?1");
    let found = sql.find(&query, values![id], known)?.ok_or_else(|| StoreError::missing("JWT key", id))?;
    if phases.contains(&found.phase) {
        return Ok(found);
    }
    let needed = phases.iter().map(|phase| phase.as_str()).collect::<Vec<_>>().join(" or ");
    Err(Refusal::AuthorityPhase { kind: KIND, id: found.id, phase: found.phase, needed }.into())
}

fn require_knowing_replicas(sql: &Sql<'_>) -> Result<(), StoreError> {
    let older: Option<String> =
        sql.find("SELECT id FROM replica WHERE jwt = 0 ORDER BY id LIMIT 1", &[], |row| row.get(0))?;
    older.map_or(Ok(()), |replica| Err(Refusal::OlderReplica(replica).into()))
}

fn known(row: &Row) -> Result<KnownJwtKey, StoreError> {
    let phase: String = row.get(1)?;
    let phase = Phase::ALL.into_iter().find(|known| known.as_str() == phase);
    Ok(KnownJwtKey {
        id: row.get(0)?,
        phase: phase.ok_or_else(|| StoreError::Damaged("a JWT key in no known phase".into()))?,
        phase_at: row.get(2)?,
        public_key: row.get(3)?,
        ends: row.get(4)?,
        announced: row.get(5)?,
    })
}
