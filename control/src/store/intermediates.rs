//! Intermediates, one of each replica: nobody signs with that of another, so that a leaked one concerns what its replica
//! signed and nothing else.
//!
//! ```text
//!   replica `a` ─ signs with ─▶ its own ─ half of its life ─▶ another one, in one step
//!   replica `b` ─ is forgotten ─▶ its own retires; when it comes back it makes another
//!   a replica without one, an embedded store, a root elsewhere ─▶ the one that is nobody's (replica '')
//! ```
//!
//! The one that is nobody's retires when every replica has its own.

use serde_json::json;

use super::authorities::{insert, require, require_replaced, require_signing, stop_signing};
use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, AuthorityKind, KnownAuthority, Phase, Replacement};
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::time;

impl Store {
    /// Has other intermediates sign in the place of those of these replicas, in one step: intermediates travel in the
    /// chain, so that nobody has to learn of them first.
    ///
    /// # Errors
    /// [`Refusal::RotatedMeanwhile`] unless those to be replaced sign now, below the active root, and a replica that had
    /// none is known to run.
    pub async fn replace_intermediates(
        &self,
        replacements: Vec<Replacement>,
        actor: Actor,
    ) -> Result<(), StoreError> {
        self.write(move |change| {
            for replacement in &replacements {
                replace(change, replacement, &actor)?;
            }
            // Other replicas take theirs over when they hear of it.
            let subject = replacements.first().map_or("", |first| first.new.subject.as_str());
            change.revise(Topics::NONE, subject).map(drop)
        })
        .await
    }

    /// Has an intermediate retire with which nobody signs: that of a replica that is gone, or nobody's, when every
    /// replica has its own.
    ///
    /// # Errors
    /// [`Refusal::RotatedMeanwhile`] when somebody does.
    pub async fn stop_intermediate(&self, id: String, actor: Actor) -> Result<(), StoreError> {
        let own = self.signs_as().to_owned();
        self.write(move |change| {
            let found = require(&change.sql, &id, &[Phase::Active])?;
            if found.kind != AuthorityKind::Intermediate
                || found.replica == own
                || is_needed(&change.sql, &found)?
            {
                return Err(Refusal::RotatedMeanwhile.into());
            }
            stop_signing(change, &id)?;
            let detail = json!({ "replica": found.replica });
            change.audit(&actor, Action::AuthorityStopped, &found.subject, &detail)?;
            change.revise(Topics::NONE, &found.subject).map(drop)
        })
        .await
    }

    /// Replicas that run, or did a moment ago.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn replicas(&self) -> Result<Vec<String>, StoreError> {
        self.read(move |sql| sql.all("SELECT id FROM replica ORDER BY id", &[], |row| row.get(0))).await
    }
}

fn replace(change: &mut Change<'_>, replacement: &Replacement, actor: &Actor) -> Result<(), StoreError> {
    let Replacement { new, replaces } = replacement;
    let replica = new.replica.as_str();
    let previous = require_replaced(&change.sql, replica, AuthorityKind::Intermediate, replaces.as_deref())?;
    require_signing(&change.sql, AuthorityKind::Root, new.issuer.as_deref().unwrap_or_default())?;
    // Otherwise nobody would find out that it is gone.
    if previous.is_none() && !replica.is_empty() && !runs(&change.sql, replica)? {
        return Err(Refusal::RotatedMeanwhile.into());
    }
    if let Some(previous) = &previous {
        stop_signing(change, &previous.id)?;
    }
    insert(change, new, Phase::Active)?;
    let action = if previous.is_some() { Action::AuthorityRotated } else { Action::AuthorityCreated };
    let detail = json!({
        "replica": replica,
        "previous": previous.map(|previous| previous.subject),
        "not_after": time::rfc3339(new.not_after),
    });
    change.audit(actor, action, &new.subject, &detail)
}

fn runs(sql: &Sql<'_>, replica: &str) -> Result<bool, StoreError> {
    sql.one("SELECT EXISTS (SELECT 1 FROM replica WHERE id = ?1)", values![replica])
}

/// Whether its replica runs; of the one that is nobody's, whether one runs that has none of its own.
fn is_needed(sql: &Sql<'_>, one: &KnownAuthority) -> Result<bool, StoreError> {
    if !one.replica.is_empty() {
        return runs(sql, &one.replica);
    }
    let without = "SELECT NOT EXISTS (SELECT 1 FROM replica) OR EXISTS (
                     SELECT 1 FROM replica r WHERE NOT EXISTS (
                       SELECT 1 FROM authority a
                       WHERE a.kind = 'intermediate' AND a.active = 1 AND a.replica = r.id))";
    sql.one(without, &[])
}
