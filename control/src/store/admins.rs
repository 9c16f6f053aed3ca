//! Identities with the admin role.

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::mesh::Topics;
use super::model::{Actor, Mutation};
use super::sql::values;
use super::{Store, StoreError};
use crate::audit::Action;

impl Store {
    /// Gives the admin role to an identity.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn grant_admin(&self, id: SpiffeId, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let granted = change.sql.execute(
                "INSERT INTO admin (spiffe_id, granted_at_ms, granted_by) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO NOTHING",
                values![id.as_str(), change.at, actor.as_str()],
            )?;
            if granted == 0 {
                let effects = vec![format!("`{id}` has the admin role already: nothing changed")];
                return Ok(Mutation { commit: change.newest(), effects });
            }
            change.audit(&actor, Action::AdminGranted, id.as_str(), &json!({}))?;
            let commit = change.revise(Topics::NONE, id.as_str())?;
            Ok(Mutation { commit, effects: vec![format!("`{id}` may do everything an operator may")] })
        })
        .await
    }

    /// Takes the admin role from an identity.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it does not have it.
    pub async fn withdraw_admin(&self, id: SpiffeId, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let withdrawn =
                change.sql.execute("DELETE FROM admin WHERE spiffe_id = ?1", values![id.as_str()])?;
            if withdrawn == 0 {
                return Err(StoreError::missing("admin", id.as_str()));
            }
            change.audit(&actor, Action::AdminWithdrawn, id.as_str(), &json!({}))?;
            let commit = change.revise(Topics::NONE, id.as_str())?;
            Ok(Mutation { commit, effects: vec![format!("`{id}` no longer has the admin role")] })
        })
        .await
    }

    /// All identities with the admin role.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn admins(&self) -> Result<Vec<SpiffeId>, StoreError> {
        self.read(|sql| {
            let admins =
                sql.all("SELECT spiffe_id FROM admin ORDER BY spiffe_id", &[], |row| row.parsed(0))?;
            Ok(admins)
        })
        .await
    }

    /// Whether an identity has the admin role.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_admin(&self, id: SpiffeId) -> Result<bool, StoreError> {
        self.read(move |sql| {
            let admin =
                sql.one("SELECT EXISTS (SELECT 1 FROM admin WHERE spiffe_id = ?1)", values![id.as_str()])?;
            Ok(admin)
        })
        .await
    }
}
