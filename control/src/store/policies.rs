//! Policy documents as they were applied.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::change::Change;
use super::model::{Commit, Mutation, NewPolicy, Policy, PolicyChange};
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::roles::{Permission, Scope};

impl Store {
    /// Applies documents, all or none. Equal ones are left alone; if all are, nothing is committed. `check`
    /// sees every document as it would be, in the commit itself: another apply may have come in between.
    /// `permission` is asked there too: the change touches the targets of the documents and of those that they
    /// replace.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`], [`Refusal::PoliciesDoNotFit`] with what `check` says, or when the store cannot be written.
    pub async fn apply_policies(
        &self,
        documents: Vec<NewPolicy>,
        permission: impl Permission,
        check: impl FnOnce(&[&str]) -> Result<(), String> + Send + 'static,
    ) -> Result<(Commit, Vec<(String, PolicyChange)>), StoreError> {
        self.write(move |change| apply(change, &documents, &permission, check)).await
    }

    /// All documents, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn policies(&self) -> Result<Vec<Policy>, StoreError> {
        self.read(all).await
    }

    /// Deletes a document, if `permission` reaches its target.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NotPermitted`].
    pub async fn delete_policy(
        &self,
        name: String,
        permission: impl Permission,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| delete(change, &name, &permission)).await
    }
}

fn apply(
    change: &mut Change<'_>,
    documents: &[NewPolicy],
    permission: &impl Permission,
    check: impl FnOnce(&[&str]) -> Result<(), String>,
) -> Result<(Commit, Vec<(String, PolicyChange)>), StoreError> {
    let current: BTreeMap<String, Policy> =
        all(&change.sql)?.into_iter().map(|policy| (policy.name.clone(), policy)).collect();
    let replaced = documents.iter().filter_map(|new| current.get(&new.name)).map(|old| &*old.target);
    let touched = documents.iter().map(|new| &*new.target).chain(replaced).map(Scope::of_target);
    let actor = permission.on_all(&touched.collect::<Vec<_>>())?;
    let mut together: BTreeMap<&str, &str> =
        current.values().map(|policy| (&*policy.name, &*policy.document)).collect();
    together.extend(documents.iter().map(|new| (&*new.name, &*new.document)));
    let together: Vec<_> = together.into_values().collect();
    check(&together).map_err(Refusal::PoliciesDoNotFit)?;
    let changes: Vec<_> = documents
        .iter()
        .map(|new| match current.get(&new.name) {
            None => (new, PolicyChange::Created),
            Some(old) if old.document != new.document => (new, PolicyChange::Updated),
            Some(_) => (new, PolicyChange::Unchanged),
        })
        .collect();
    let changed: Vec<_> = changes.iter().filter(|(_, kind)| *kind != PolicyChange::Unchanged).collect();
    let commit = if changed.is_empty() {
        change.newest()
    } else {
        let names: Vec<_> = changed.iter().map(|(new, _)| new.name.as_str()).collect();
        let before = changed.iter().filter_map(|(new, _)| current.get(&new.name)).map(|old| &*old.target);
        let targets: BTreeSet<_> = changed.iter().map(|(new, _)| &*new.target).chain(before).collect();
        change.revise_policies(&names.join(", "), targets)?
    };
    for (new, kind) in changed {
        change.sql.execute(
            "INSERT INTO policy (name, target, document, applied_at_ms, applied_by, revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (name) DO UPDATE SET target = excluded.target, document = excluded.document,
                   applied_at_ms = excluded.applied_at_ms, applied_by = excluded.applied_by,
                   revision = excluded.revision",
            values![&new.name, &new.target, &new.document, change.at, actor.as_str(), commit.revision],
        )?;
        change.audit(
            &actor,
            Action::PolicyApplied,
            &new.name,
            &json!({ "change": kind.as_str(), "target": new.target, "document": new.document }),
        )?;
    }
    Ok((commit, changes.into_iter().map(|(new, kind)| (new.name.clone(), kind)).collect()))
}

fn delete(change: &mut Change<'_>, name: &str, permission: &impl Permission) -> Result<Mutation, StoreError> {
    let target: Option<String> =
        change.sql.find("SELECT target FROM policy WHERE name = ?1", values![name], |row| row.get(0))?;
    let target = target.ok_or_else(|| StoreError::missing("policy", name))?;
    let actor = permission.on(&Scope::of_target(&target))?;
    change.sql.post("DELETE FROM policy WHERE name = ?1", values![name])?;
    change.audit(&actor, Action::PolicyDeleted, name, &json!({}))?;
    let commit = change.revise_policies(name, [target.as_str()])?;
    Ok(Mutation {
        commit,
        effects: vec![format!("policy `{name}` deleted: what only it allowed is denied now")],
    })
}

pub(super) fn all(sql: &Sql<'_>) -> Result<Vec<Policy>, StoreError> {
    let policies = sql.all(
        "SELECT name, target, document, applied_at_ms, applied_by FROM policy ORDER BY name",
        &[],
        |row| {
            Ok(Policy {
                name: row.get(0)?,
                target: row.get(1)?,
                document: row.get(2)?,
                applied_at: row.get(3)?,
                applied_by: row.get(4)?,
            })
        },
    )?;
    Ok(policies)
}
