//! Policy documents as they were applied.

use serde_json::json;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, ManagedPolicy, Mutation, NewPolicy, Policy};
use super::sql::{Sql, values};
use super::{Store, StoreError};
use crate::audit::Action;
use crate::registry::OwnerLabel;
use crate::roles::{Permission, Scope};

impl Store {
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

/// Writes one document, whether or not it is there.
pub(super) fn write(
    change: &Change<'_>,
    new: &NewPolicy,
    managed_by: Option<&OwnerLabel>,
    actor: &Actor,
    revision: u64,
) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO policy (name, target, document, applied_at_ms, applied_by, revision, managed_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (name) DO UPDATE SET target = excluded.target, document = excluded.document,
               applied_at_ms = excluded.applied_at_ms, applied_by = excluded.applied_by,
               revision = excluded.revision, managed_by = excluded.managed_by",
        values![
            &new.name,
            &new.target,
            &new.document,
            change.at,
            actor.as_str(),
            revision,
            managed_by.map(OwnerLabel::as_str).unwrap_or_default()
        ],
    )
}

/// Removes one document.
pub(super) fn remove(change: &Change<'_>, name: &str) -> Result<(), StoreError> {
    change.sql.post("DELETE FROM policy WHERE name = ?1", values![name])
}

fn delete(change: &mut Change<'_>, name: &str, permission: &impl Permission) -> Result<Mutation, StoreError> {
    let target: Option<String> =
        change.sql.find("SELECT target FROM policy WHERE name = ?1", values![name], |row| row.get(0))?;
    let target = target.ok_or_else(|| StoreError::missing("policy", name))?;
    let actor = permission.on(&Scope::of_target(&target))?;
    change.sql.post("DELETE FROM policy WHERE name = ?1", values![name])?;
    change.audit(&actor, Action::PolicyDeleted, name, &json!({}))?;
    let commit = change.revise_for(Topics::POLICIES, name, [target.as_str()])?;
    Ok(Mutation {
        commit,
        effects: vec![format!("policy `{name}` deleted: what only it allowed is denied now")],
    })
}

pub(super) fn all(sql: &Sql<'_>) -> Result<Vec<Policy>, StoreError> {
    Ok(managed(sql)?.into_iter().map(|managed| managed.policy).collect())
}

pub(super) fn managed(sql: &Sql<'_>) -> Result<Vec<ManagedPolicy>, StoreError> {
    sql.all(
        "SELECT name, target, document, applied_at_ms, applied_by, managed_by FROM policy ORDER BY name",
        &[],
        |row| {
            let policy = Policy {
                name: row.get(0)?,
                target: row.get(1)?,
                document: row.get(2)?,
                applied_at: row.get(3)?,
                applied_by: row.get(4)?,
            };
            let managed_by = match row.get::<String>(5)?.as_str() {
                "" => None,
                _ => Some(row.parsed(5)?),
            };
            Ok(ManagedPolicy { policy, managed_by })
        },
    )
}
