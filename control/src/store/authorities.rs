//! The certificate authorities, with their sealed keys: each step of a rotation is one commit, and what it takes is
//! asked in that commit.
//!
//! ```text
//!            prepare                 activate                      retire
//!   (none) ──────────▶ prepared ──────────────────▶ active ─▶ retiring ──────────────────▶ removed
//!            bundle      │           acknowledged     the one     │       nothing live
//!            has it      ▼           by all proxies   before it   │       chains to it
//!                     (taken back)                    retires     key erased
//! ```
//!
//! Of roots one signs. Of intermediates one of each replica does, and perhaps one for those that have none
//! (`intermediates`).
//!
//! The key of what retires signs revocation lists still, so that they can be had as long as anything is believed by it. It
//! is erased with the removal, or as soon as it is known that somebody else may have it and another one signs.

use std::collections::BTreeSet;

use serde_json::json;

use super::bundle::announce;
use super::chained;
use super::change::Change;
use super::mesh::Topics;
use super::model::{
    Activation, Actor, AuthorityKind, AuthorityRecord, Below, Commit, JwtKeyRecord, KnownAuthority, Listing,
    Mutation, Phase,
};
use super::revocations::{certificate_name, is_listed};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError, jwt_keys, token_keys};
use crate::audit::Action;
use crate::time;

const COLUMNS: &str = "id, kind, CASE WHEN active = 1 THEN 'active' WHEN phase = '' THEN 'retiring' ELSE phase END,
                       phase_at_ms, issuer, subject, certificate, cross_certificate, not_before_ms, not_after_ms,
                       announced, distrusted_at_ms, (sealed_key IS NOT NULL OR token_key IS NOT NULL), replica";

/// Of those that may have signed what comes now: whoever was asked before it stopped is answered.
pub(super) const SIGNER: &str = "(active = 1 OR phase NOT IN ('prepared', 'removed'))";

impl Store {
    /// All authorities but intermediates that were removed and have ended: roots first, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn authorities(&self) -> Result<Vec<KnownAuthority>, StoreError> {
        let now = time::now();
        self.read(move |sql| {
            sql.all(
                &format!(
                    "SELECT {COLUMNS} FROM authority
                     WHERE kind = 'root' OR active = 1 OR phase <> 'removed' OR not_after_ms > ?1
                     ORDER BY kind DESC, created_at_ms, id"
                ),
                values![now],
                known,
            )
        })
        .await
    }

    /// Stores the first root, the first intermediate, and the first key of tokens together.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when there is a root already.
    pub async fn create_authorities(
        &self,
        root: AuthorityRecord,
        intermediate: AuthorityRecord,
        jwt: JwtKeyRecord,
    ) -> Result<Commit, StoreError> {
        self.write(move |change| {
            if !signing(&change.sql, AuthorityKind::Root)?.is_empty() {
                return Err(StoreError::exists("authority", "root"));
            }
            insert(change, &root, Phase::Active)?;
            insert(change, &intermediate, Phase::Active)?;
            jwt_keys::create(change, &jwt)?;
            let detail = json!({ "root": root.id, "intermediate": intermediate.id, "jwt": jwt.id });
            change.audit(&Actor::control(), Action::AuthorityCreated, &root.subject, &detail)?;
            announce(change, &root.id, &root.subject, Topics::NONE)
        })
        .await
    }

    /// Keeps a new authority that signs nothing yet. A root is in the trust bundle from then on.
    ///
    /// # Errors
    /// When there is another one of its kind on its way, or a replica runs that does not know of it.
    pub async fn prepare_authority(
        &self,
        new: AuthorityRecord,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            require_no_other(&change.sql, new.kind)?;
            match &new.issuer {
                Some(root) => drop(require_signing(&change.sql, AuthorityKind::Root, root)?),
                None => require_knowing_replicas(change)?,
            }
            insert(change, &new, Phase::Prepared)?;
            let detail = json!({ "kind": new.kind.as_str(), "not_after": time::rfc3339(new.not_after) });
            change.audit(&actor, Action::AuthorityPrepared, &new.subject, &detail)?;
            match new.kind {
                AuthorityKind::Root => {
                    let commit = announce(change, &new.id, &new.subject, Topics::NONE)?;
                    let effects = vec![
                        format!("root {} is in the trust bundle, and signs nothing yet", new.id),
                        format!("next: `signet ca activate {}`, once all proxies have it", new.id),
                    ];
                    Ok(Mutation { commit, effects })
                }
                AuthorityKind::Intermediate => {
                    let commit = change.revise(Topics::NONE, &new.subject)?;
                    let effects = vec![
                        format!("intermediate {} is made, and signs nothing yet", new.id),
                        format!("next: `signet ca activate {}`", new.id),
                    ];
                    Ok(Mutation { commit, effects })
                }
            }
        })
        .await
    }

    /// Makes a prepared authority the one that signs. The one before retires.
    ///
    /// # Errors
    /// When it is not prepared, another one signs than was thought, or proxies have not said that they know it.
    pub async fn activate_authority(
        &self,
        activation: Activation,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let Activation { id, replaces, listings, root, unacknowledged } = &activation;
            let prepared = require(&change.sql, id, &[Phase::Prepared])?;
            let previous =
                require_replaced(&change.sql, &prepared.replica, prepared.kind, replaces.as_deref())?;
            require_unlisted(&change.sql, listings)?;
            let mut effects = vec![format!("{} {id} signs from now on", prepared.kind)];
            let (mut unknown_to, mut below) = (0, Vec::new());
            if let Some((cross, first)) = root {
                let missing = chained::unacknowledged(&change.sql, prepared.announced, change.at)?;
                if missing.count > 0 && !unacknowledged {
                    let count = missing.count;
                    return Err(Refusal::NotAcknowledged {
                        id: id.clone(),
                        count,
                        missing: missing.to_string(),
                    }
                    .into());
                }
                if missing.count > 0 {
                    effects.push(format!("{} proxies do not know it: {missing}", missing.count));
                    unknown_to = missing.count;
                }
                let stopped = signing(&change.sql, AuthorityKind::Intermediate)?;
                for one in stopped.iter().chain(&previous) {
                    stop_signing(change, &one.id)?;
                }
                // Below the root that retires no other one begins.
                let others = "kind = 'intermediate' AND active = 0 AND phase = 'prepared' AND issuer <> ?1";
                token_keys::erase(change, others, id)?;
                change.sql.execute(&format!("DELETE FROM authority WHERE {others}"), values![id])?;
                sign_with(change, id, cross.as_deref())?;
                below = match first {
                    Below::New(first) => {
                        // A replica that came or went meanwhile would be without, or have one for nothing.
                        if !of_the_same(first, &stopped) {
                            return Err(Refusal::RotatedMeanwhile.into());
                        }
                        for new in first {
                            insert(change, new, Phase::Active)?;
                        }
                        first.iter().map(|new| new.id.clone()).collect()
                    }
                    Below::Prepared(first) => {
                        require(&change.sql, first, &[Phase::Prepared])?;
                        sign_with(change, first, None)?;
                        vec![first.clone()]
                    }
                };
                effects.extend(below.iter().map(|first| format!("intermediate {first} signs below it")));
            } else {
                if let Some(previous) = &previous {
                    stop_signing(change, &previous.id)?;
                }
                sign_with(change, id, None)?;
            }
            effects.extend(previous.iter().map(|previous| {
                format!(
                    "{} {} retires: it signs revocation lists only, what it signed stays good",
                    previous.kind, previous.id
                )
            }));
            let detail = json!({
                "kind": prepared.kind.as_str(),
                "previous": previous.as_ref().map(|previous| &previous.id),
                "intermediates": below,
                "unacknowledged": unknown_to,
            });
            change.audit(&actor, Action::AuthorityActivated, &prepared.subject, &detail)?;
            let commit = match previous.and_then(|previous| previous.distrusted_at) {
                // Now there is something better to renew to.
                Some(_) => announce(change, id, &prepared.subject, Topics::NONE)?,
                None => change.revise(Topics::NONE, &prepared.subject)?,
            };
            Ok(Mutation { commit, effects })
        })
        .await
    }

    /// Takes a retiring authority out, or a prepared one back.
    ///
    /// # Errors
    /// [`Refusal::StillChained`] as long as anything live chains to it.
    pub async fn retire_authority(&self, id: String, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let found = require(&change.sql, &id, &[Phase::Prepared, Phase::Retiring])?;
            if found.distrusted_at.is_some() {
                return Err(Refusal::AlreadyCompromised(id.clone()).into());
            }
            let mut alone = None;
            let (action, effect) = if found.phase == Phase::Prepared {
                alone = withdraw(change, &found)?;
                (Action::AuthorityWithdrawn, format!("{} {id} is taken back: it never signed", found.kind))
            } else {
                let chained = chained::to(&change.sql, &found, change.at)?;
                if !chained.is_none() {
                    return Err(Refusal::StillChained { id: id.clone(), chained: chained.to_string() }.into());
                }
                remove(change, &id)?;
                (
                    Action::AuthorityRemoved,
                    format!("{} {id} is removed: nothing is believed by it", found.kind),
                )
            };
            let detail = json!({ "kind": found.kind.as_str() });
            change.audit(&actor, action, &found.subject, &detail)?;
            let commit = match (found.kind, &alone) {
                (AuthorityKind::Intermediate, None) => change.revise(Topics::NONE, &found.subject)?,
                _ => announce(change, alone.as_deref().unwrap_or(&id), &found.subject, Topics::NONE)?,
            };
            let alone =
                alone.map(|root| format!("root {root} above it is kept elsewhere, and taken back with it"));
            Ok(Mutation { commit, effects: std::iter::once(effect).chain(alone).collect() })
        })
        .await
    }
}

/// Takes back what never signed: with a root what is below it, as nothing else makes that sign; with the only one below a
/// root that is kept elsewhere that root, which is returned, as nothing else would be signed below it.
fn withdraw(change: &Change<'_>, prepared: &KnownAuthority) -> Result<Option<String>, StoreError> {
    let delete = |which: &str, id: &str| {
        let which = format!("active = 0 AND phase = 'prepared' AND {which}");
        token_keys::erase(change, &which, id)?;
        change.sql.execute(&format!("DELETE FROM authority WHERE {which}"), values![id])
    };
    delete("issuer = ?1", &prepared.id)?;
    delete("id = ?1", &prepared.id)?;
    let Some(root) = &prepared.issuer else { return Ok(None) };
    let alone = "id = ?1 AND kind = 'root' AND sealed_key IS NULL AND token_key IS NULL
                 AND NOT EXISTS (SELECT 1 FROM authority AS below WHERE below.issuer = ?1)";
    Ok((delete(alone, root)? > 0).then(|| root.clone()))
}

pub(super) fn insert(change: &Change<'_>, new: &AuthorityRecord, phase: Phase) -> Result<(), StoreError> {
    let (sealed, token) = token_keys::columns(change, &new.key)?;
    let (active, phase) = if phase == Phase::Active { (true, "") } else { (false, phase.as_str()) };
    change.sql.execute(
        "INSERT INTO authority (id, kind, active, phase, phase_at_ms, issuer, subject, certificate, sealed_key,
                                not_before_ms, not_after_ms, created_at_ms, token_key, replica)
         VALUES (?1, ?2, ?3, ?4, ?11, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        values![
            &new.id,
            new.kind.as_str(),
            active,
            phase,
            new.issuer.as_deref(),
            &new.subject,
            &new.certificate,
            sealed,
            new.not_before,
            new.not_after,
            change.at,
            token,
            &new.replica
        ],
    )?;
    Ok(())
}

/// One that signs retires; a key that somebody else may have is erased.
pub(super) fn stop_signing(change: &Change<'_>, id: &str) -> Result<(), StoreError> {
    token_keys::erase(change, "id = ?1 AND active = 1 AND distrusted_at_ms IS NOT NULL", id)?;
    change.sql.execute(
        "UPDATE authority SET active = 0, phase = 'retiring', phase_at_ms = ?2 WHERE id = ?1 AND active = 1",
        values![id, change.at],
    )?;
    Ok(())
}

/// Whether each replica that signs is to go on, and no other begins.
fn of_the_same(new: &[AuthorityRecord], signing: &[KnownAuthority]) -> bool {
    let new: BTreeSet<&str> = new.iter().map(|one| one.replica.as_str()).collect();
    new == signing.iter().map(|one| one.replica.as_str()).collect()
}

pub(super) fn sign_with(change: &Change<'_>, id: &str, cross: Option<&[u8]>) -> Result<(), StoreError> {
    change.sql.execute(
        "UPDATE authority SET active = 1, phase = '', phase_at_ms = ?2, cross_certificate = ?3 WHERE id = ?1",
        values![id, change.at, cross],
    )?;
    Ok(())
}

/// It is removed, and its key erased.
pub(super) fn remove(change: &Change<'_>, id: &str) -> Result<(), StoreError> {
    token_keys::erase(change, "id = ?1", id)?;
    change.sql.execute(
        "UPDATE authority SET phase = 'removed', phase_at_ms = ?2 WHERE id = ?1",
        values![id, change.at],
    )?;
    Ok(())
}

/// The authority of this id, in one of these phases.
pub(super) fn require(sql: &Sql<'_>, id: &str, phases: &[Phase]) -> Result<KnownAuthority, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM authority WHERE id = ?1");
    let found = sql.find(&query, values![id], known)?.ok_or_else(|| StoreError::missing("authority", id))?;
    if phases.contains(&found.phase) {
        return Ok(found);
    }
    let needed = phases.iter().map(|phase| phase.as_str()).collect::<Vec<_>>().join(" or ");
    Err(Refusal::AuthorityPhase { kind: found.kind.as_str(), id: found.id, phase: found.phase, needed }
        .into())
}

/// Of what is to sign nothing is revoked.
fn require_unlisted(sql: &Sql<'_>, listings: &[Listing]) -> Result<(), StoreError> {
    for listing in listings {
        let certificate = certificate_name(&listing.issuer_sha256, &listing.serial);
        let key = crate::hex::encode(&listing.spki_sha256);
        if is_listed(sql, "certificate", &certificate)? || is_listed(sql, "key", &key)? {
            return Err(Refusal::AuthorityRevoked(listing.id.clone()).into());
        }
    }
    Ok(())
}

pub(super) fn require_signing(
    sql: &Sql<'_>,
    kind: AuthorityKind,
    id: &str,
) -> Result<KnownAuthority, StoreError> {
    let found = signing(sql, kind)?.into_iter().find(|found| found.id == id);
    found.ok_or_else(|| Refusal::RotatedMeanwhile.into())
}

/// What a replica signs with, or that it signs with nothing, is what was thought when its successor was made.
pub(super) fn require_replaced(
    sql: &Sql<'_>,
    replica: &str,
    kind: AuthorityKind,
    replaces: Option<&str>,
) -> Result<Option<KnownAuthority>, StoreError> {
    let found = signing(sql, kind)?.into_iter().find(|found| found.replica == replica);
    match found.as_ref().map(|found| found.id.as_str()) == replaces {
        true => Ok(found),
        false => Err(Refusal::RotatedMeanwhile.into()),
    }
}

/// One rotation of a kind at a time; an intermediate that retires is in nobody's way.
pub(super) fn require_no_other(sql: &Sql<'_>, kind: AuthorityKind) -> Result<(), StoreError> {
    let query = format!(
        "SELECT {COLUMNS} FROM authority
         WHERE kind = ?1 AND active = 0 AND (phase = 'prepared' OR kind = 'root' AND phase <> 'removed') LIMIT 1"
    );
    match sql.find(&query, values![kind.as_str()], known)? {
        None => Ok(()),
        Some(other) => {
            Err(Refusal::RotationUnderWay { kind: kind.as_str(), id: other.id, phase: other.phase }.into())
        }
    }
}

pub(super) fn require_knowing_replicas(change: &Change<'_>) -> Result<(), StoreError> {
    let older: Option<String> =
        change
            .sql
            .find("SELECT id FROM replica WHERE rotates = 0 ORDER BY id LIMIT 1", &[], |row| row.get(0))?;
    older.map_or(Ok(()), |replica| Err(Refusal::OlderReplica(replica).into()))
}

/// Those of a kind that sign: one root, and one intermediate of each replica.
pub(super) fn signing(sql: &Sql<'_>, kind: AuthorityKind) -> Result<Vec<KnownAuthority>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM authority WHERE kind = ?1 AND active = 1 ORDER BY replica");
    sql.all(&query, values![kind.as_str()], known)
}

pub(super) fn known(row: &Row) -> Result<KnownAuthority, StoreError> {
    let phase: String = row.get(2)?;
    let phase = Phase::ALL.into_iter().find(|known| known.as_str() == phase);
    Ok(KnownAuthority {
        id: row.get(0)?,
        kind: row.parsed(1)?,
        phase: phase.ok_or_else(|| StoreError::Damaged("an authority in no known phase".into()))?,
        phase_at: row.get(3)?,
        issuer: row.get(4)?,
        subject: row.get(5)?,
        certificate: row.get(6)?,
        cross_certificate: row.get(7)?,
        not_before: row.get(8)?,
        not_after: row.get(9)?,
        announced: row.get(10)?,
        distrusted_at: row.get(11)?,
        has_key: row.get(12)?,
        replica: row.get(13)?,
    })
}
