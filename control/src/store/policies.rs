//! Policy documents as they were applied.

use std::collections::HashMap;

use rusqlite::{Connection, params};
use serde_json::json;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Commit, Mutation, NewPolicy, Policy, PolicyChange};
use super::{Store, StoreError, rows};
use crate::audit::Action;

impl Store {
    /// Applies documents, all or none. Equal ones are left alone; if all are, nothing is committed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn apply_policies(
        &self,
        documents: Vec<NewPolicy>,
        actor: Actor,
    ) -> Result<(Commit, Vec<(String, PolicyChange)>), StoreError> {
        self.write(move |change| apply(change, &documents, &actor)).await
    }

    /// All documents, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn policies(&self) -> Result<Vec<Policy>, StoreError> {
        self.read(all).await
    }

    /// Deletes a document.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_policy(&self, name: String, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| delete(change, &name, &actor)).await
    }
}

fn apply(
    change: &mut Change<'_>,
    documents: &[NewPolicy],
    actor: &Actor,
) -> Result<(Commit, Vec<(String, PolicyChange)>), StoreError> {
    let current: HashMap<String, String> =
        all(change.connection)?.into_iter().map(|policy| (policy.name, policy.document)).collect();
    let changes: Vec<_> = documents
        .iter()
        .map(|new| match current.get(&new.name) {
            None => (new, PolicyChange::Created),
            Some(old) if *old != new.document => (new, PolicyChange::Updated),
            Some(_) => (new, PolicyChange::Unchanged),
        })
        .collect();
    let changed: Vec<_> = changes.iter().filter(|(_, kind)| *kind != PolicyChange::Unchanged).collect();
    let commit = if changed.is_empty() {
        change.newest()?
    } else {
        let names: Vec<_> = changed.iter().map(|(new, _)| new.name.as_str()).collect();
        change.revise(Topics::POLICIES, &names.join(", "))?
    };
    for (new, kind) in changed {
        change
            .connection
            .prepare_cached(
                "INSERT INTO policy (name, target, document, applied_at_ms, applied_by, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (name) DO UPDATE SET target = excluded.target, document = excluded.document,
                   applied_at_ms = excluded.applied_at_ms, applied_by = excluded.applied_by,
                   revision = excluded.revision",
            )?
            .execute(params![
                new.name,
                new.target,
                new.document,
                change.at_millis(),
                actor.as_str(),
                rows::signed(commit.revision)
            ])?;
        change.audit(
            actor,
            Action::PolicyApplied,
            &new.name,
            &json!({ "change": kind.as_str(), "target": new.target, "document": new.document }),
        )?;
    }
    Ok((commit, changes.into_iter().map(|(new, kind)| (new.name.clone(), kind)).collect()))
}

fn delete(change: &mut Change<'_>, name: &str, actor: &Actor) -> Result<Mutation, StoreError> {
    let deleted = change.connection.prepare_cached("DELETE FROM policy WHERE name = ?1")?.execute([name])?;
    if deleted == 0 {
        return Err(StoreError::missing("policy", name));
    }
    change.audit(actor, Action::PolicyDeleted, name, &json!({}))?;
    let commit = change.revise(Topics::POLICIES, name)?;
    Ok(Mutation {
        commit,
        effects: vec![format!("policy `{name}` deleted: what only it allowed is denied now")],
    })
}

pub(super) fn all(connection: &Connection) -> Result<Vec<Policy>, StoreError> {
    let policies = connection
        .prepare_cached("SELECT name, target, document, applied_at_ms, applied_by FROM policy ORDER BY name")?
        .query_map([], |row| {
            Ok(Policy {
                name: row.get(0)?,
                target: row.get(1)?,
                document: row.get(2)?,
                applied_at: rows::instant(row, 3)?,
                applied_by: row.get(4)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(policies)
}
