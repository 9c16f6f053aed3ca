//! The settings of the mesh as they were applied: at most one document.

use serde_json::json;
use signet_proto::settings;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, ManagedMesh, Mutation};
use super::sql::{Sql, values};
use super::{Store, StoreError};
use crate::audit::Action;
use crate::registry::{Kind, OwnerLabel};
use crate::roles::{Permission, Scope};

impl Store {
    /// The document, if somebody applied one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn mesh_settings(&self) -> Result<Option<ManagedMesh>, StoreError> {
        self.read(read).await
    }

    /// Deletes the document, if `permission` reaches everything.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`], [`StoreError::NotFound`].
    pub async fn delete_mesh_settings(&self, permission: impl Permission) -> Result<Mutation, StoreError> {
        self.write(move |change| delete(change, &permission)).await
    }
}

fn delete(change: &mut Change<'_>, permission: &impl Permission) -> Result<Mutation, StoreError> {
    let actor = permission.on(&Scope::Everything)?;
    let name = Kind::Mesh.as_str();
    if read(&change.sql)?.is_none() {
        return Err(StoreError::missing("document of kind", settings::KIND));
    }
    remove(change)?;
    change.audit(&actor, Action::MeshDeleted, name, &json!({}))?;
    let commit = change.revise(Topics::MESH, name)?;
    let effect = "settings of the mesh deleted: it is strict now, and each proxy's configuration says what becomes of unknown destinations";
    Ok(Mutation { commit, effects: vec![effect.to_owned()] })
}

impl Store {
    /// What a passphrase is mixed with, the same for all replicas and in every backup: this one, unless there is one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn seal_salt(&self, new: String) -> Result<String, StoreError> {
        self.write(move |change| {
            change.operational();
            change.sql.execute(
                "INSERT INTO meta (name, value) VALUES ('seal_salt', ?1) ON CONFLICT (name) DO NOTHING",
                values![&new],
            )?;
            change.sql.one("SELECT value FROM meta WHERE name = 'seal_salt'", &[])
        })
        .await
    }
}

/// Writes the document, whether or not there is one.
pub(super) fn write(
    change: &Change<'_>,
    document: &str,
    managed_by: &OwnerLabel,
    actor: &Actor,
    revision: u64,
) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO mesh_settings (id, document, applied_at_ms, applied_by, revision, managed_by)
             VALUES (1, ?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET document = excluded.document,
               applied_at_ms = excluded.applied_at_ms, applied_by = excluded.applied_by,
               revision = excluded.revision, managed_by = excluded.managed_by",
        values![document, change.at, actor.as_str(), revision, managed_by.as_str()],
    )
}

/// Removes the document.
pub(super) fn remove(change: &Change<'_>) -> Result<(), StoreError> {
    change.sql.post("DELETE FROM mesh_settings WHERE id = 1", &[])
}

pub(super) fn read(sql: &Sql<'_>) -> Result<Option<ManagedMesh>, StoreError> {
    sql.find(
        "SELECT document, applied_at_ms, applied_by, revision, managed_by FROM mesh_settings WHERE id = 1",
        &[],
        |row| {
            let managed_by = match row.get::<String>(4)?.as_str() {
                "" => None,
                _ => Some(row.parsed(4)?),
            };
            Ok(ManagedMesh {
                document: row.get(0)?,
                applied_at: row.get(1)?,
                applied_by: row.get(2)?,
                revision: row.get(3)?,
                managed_by,
            })
        },
    )
}
