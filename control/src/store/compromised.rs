//! Authorities whose key somebody else may have: another one takes their place at once, everybody is told to renew, and
//! after a stated time nobody is believed by them.

use serde_json::json;
use signet_proto::spiffe::MAX_AUTHORITIES;

use super::authorities::{insert, remove, require, require_signing, stop_signing};
use super::bundle::announce;
use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, AuthorityKind, Compromise, KnownAuthority, Listing, Mutation, Phase};
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError, revocations, token_keys, tokens};
use crate::audit::Action;
use crate::time;

/// As many as a bundle has room for. What nothing live hangs on is removed, and needs no place.
const TOLD: i64 = MAX_AUTHORITIES as i64;

impl Store {
    /// Notes that an authority is compromised, and has its successor sign, or a successor of a root made known. All
    /// proxies below it are told to renew.
    ///
    /// # Errors
    /// When it is neither active nor retiring, or was noted before.
    pub async fn compromise_authority(
        &self,
        compromise: Compromise,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| compromised(change, &compromise, &actor)).await
    }

    /// Ends all trust in an authority: it and those below it are revoked by certificate and key; a root leaves the
    /// bundle, and join tokens, by which control can be known by it, are withdrawn. What nobody wants to be believed is not told as retired.
    ///
    /// # Errors
    /// When it signs still.
    pub async fn distrust_authority(
        &self,
        id: String,
        listings: Vec<Listing>,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| distrusted(change, &id, &listings, &actor)).await
    }
}

fn compromised(
    change: &mut Change<'_>,
    compromise: &Compromise,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let Compromise { id, successor, within, reason } = compromise;
    let found = require(&change.sql, id, &[Phase::Active, Phase::Retiring, Phase::Removed])?;
    let (kind, ends) = (found.kind, change.at + *within);
    // Told again it ends sooner, never later.
    if found.phase != Phase::Removed && found.distrusted_at.is_some_and(|before| before <= ends) {
        return Err(Refusal::AlreadyCompromised(id.clone()).into());
    }
    let mut effects = Vec::new();
    if let (Some(successor), Phase::Active) = (successor, found.phase) {
        require_signing(&change.sql, kind, id)?;
        match kind {
            AuthorityKind::Root => {
                insert(change, successor, Phase::Prepared)?;
                effects.push(format!("root {} is in the trust bundle, and signs soon", successor.id));
            }
            AuthorityKind::Intermediate => {
                stop_signing(change, id)?;
                insert(change, successor, Phase::Active)?;
                effects.push(format!("intermediate {} signs from now on", successor.id));
            }
        }
    }
    change.sql.execute("UPDATE authority SET distrusted_at_ms = ?2 WHERE id = ?1", values![id, ends])?;
    token_keys::erase(change, "id = ?1 AND active = 0", id)?;
    effects.push(format!("everybody whose SVID is below {kind} {id} is told to renew it now"));
    effects.push(format!("nobody is believed by it from {} on", time::rfc3339(ends)));
    let detail = json!({ "kind": kind.as_str(), "reason": reason, "trust_ends": time::rfc3339(ends) });
    change.audit(actor, Action::AuthorityCompromised, &found.subject, &detail)?;
    let told = successor.as_ref().filter(|_| kind == AuthorityKind::Root).map_or(id, |root| &root.id);
    Ok(Mutation { commit: announce(change, told, &found.subject, Topics::NONE)?, effects })
}

fn distrusted(
    change: &mut Change<'_>,
    id: &str,
    listings: &[Listing],
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let found = require(&change.sql, id, &[Phase::Retiring, Phase::Removed])?;
    let mut listed = Vec::new();
    for listing in listings {
        let below = require(&change.sql, &listing.id, &[Phase::Retiring, Phase::Removed])?;
        list(change, &below, listing, actor)?;
        if below.phase == Phase::Retiring {
            remove(change, &below.id)?;
        }
        listed.push(below.id);
    }
    let mut effects = vec![format!("nobody is believed by {} {id} any more", found.kind)];
    // Whoever has the key could show itself as control to who joins by it.
    if found.kind == AuthorityKind::Root {
        effects.extend(tokens::withdraw_all(change)?);
    }
    let detail = json!({ "kind": found.kind.as_str(), "authorities": listed, "effects": &effects });
    change.audit(actor, Action::AuthorityDistrusted, &found.subject, &detail)?;
    let commit = announce(change, id, &found.subject, Topics::REVOCATIONS)?;
    Ok(Mutation { commit, effects })
}

/// Until the authority itself has ended: as long as that its key could sign.
fn list(
    change: &Change<'_>,
    authority: &KnownAuthority,
    listing: &Listing,
    actor: &Actor,
) -> Result<(), StoreError> {
    const REASON: &str = "the authority is compromised";
    let name = revocations::certificate_name(&listing.issuer_sha256, &listing.serial);
    let key = crate::hex::encode(&listing.spki_sha256);
    for (kind, name) in [("certificate", &name), ("key", &key)] {
        revocations::list(change, kind, name, false, REASON, actor, authority.not_after)?;
    }
    Ok(())
}

/// Names of intermediates below what is compromised and believed still: of each as its SVIDs have it.
pub(super) fn superseded(sql: &Sql<'_>) -> Result<Vec<[u8; 32]>, StoreError> {
    let issuers: Vec<Option<[u8; 32]>> = sql.all(
        "SELECT (SELECT c.issuer_sha256 FROM certificate c WHERE c.authority = a.id LIMIT 1) FROM authority a
         WHERE a.kind = 'intermediate' AND a.active = 0 AND a.phase <> 'removed' AND a.phase <> 'prepared'
           AND (a.distrusted_at_ms IS NOT NULL
                OR a.issuer IN (SELECT id FROM authority WHERE distrusted_at_ms IS NOT NULL))
         ORDER BY a.created_at_ms DESC, a.id LIMIT ?1",
        values![TOLD],
        |row| row.get(0),
    )?;
    Ok(issuers.into_iter().flatten().collect())
}
