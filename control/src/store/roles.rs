//! Who has which role, and whose something is that a call names.

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::mesh::Topics;
use super::model::{Actor, GrantedRole, Mutation};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::roles::{Binding, MAX_PER_SUBJECT, Role, Scope, Subject};

/// More than this is not for one answer.
const LIMIT: i64 = 100_000;

impl Store {
    /// Gives a role.
    ///
    /// # Errors
    /// [`Refusal::TooManyRoles`] when the subject has as many as it can.
    pub async fn grant_role(&self, binding: Binding, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let Binding { subject, role, scope } = &binding;
            let (who, on) = (subject.to_string(), scope.to_string());
            let held = of(&change.sql, &who)?;
            if held.contains(&binding) {
                let effects = vec![format!("`{who}` has the role {role} on {on} already: nothing changed")];
                return Ok(Mutation { commit: change.newest(), effects });
            }
            if held.len() >= MAX_PER_SUBJECT {
                return Err(Refusal::TooManyRoles.into());
            }
            change.sql.post(
                "INSERT INTO role_binding (subject, role, scope, granted_at_ms, granted_by)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                values![&who, role.as_str(), &on, change.at, actor.as_str()],
            )?;
            change.audit(
                &actor,
                Action::RoleGranted,
                &who,
                &json!({ "role": role.as_str(), "scope": on }),
            )?;
            let commit = change.revise(Topics::NONE, &who)?;
            Ok(Mutation { commit, effects: vec![format!("`{who}` has the role {role} on {on}")] })
        })
        .await
    }

    /// Takes a role away. No role is the last: root of control's machine is always admin.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the subject does not have just this one.
    pub async fn withdraw_role(&self, binding: Binding, actor: Actor) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let Binding { subject, role, scope } = &binding;
            let (who, on) = (subject.to_string(), scope.to_string());
            // First, while whoever withdraws their own role still has it.
            let detail = json!({ "role": role.as_str(), "scope": on });
            change.audit(&actor, Action::RoleWithdrawn, &who, &detail)?;
            let withdrawn = change.sql.execute(
                "DELETE FROM role_binding WHERE subject = ?1 AND role = ?2 AND scope = ?3",
                values![&who, role.as_str(), &on],
            )?;
            if withdrawn == 0 {
                return Err(StoreError::missing("role", &format!("{role} of {who} on {on}")));
            }
            if (*role, scope) == (Role::Admin, &Scope::Everything) {
                // A control of the version before this one, while both run, goes by this table.
                change.sql.post("DELETE FROM admin WHERE spiffe_id = ?1", values![&who])?;
            }
            let commit = change.revise(Topics::NONE, &who)?;
            Ok(Mutation { commit, effects: vec![format!("`{who}` no longer has the role {role} on {on}")] })
        })
        .await
    }

    /// All roles, by subject.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn roles(&self) -> Result<Vec<GrantedRole>, StoreError> {
        self.read(|sql| {
            sql.all(
                "SELECT subject, role, scope, granted_at_ms, granted_by FROM role_binding
                 ORDER BY subject, scope, role LIMIT ?1",
                values![LIMIT],
                |row| {
                    Ok(GrantedRole {
                        binding: binding(row)?,
                        granted_at: row.get(3)?,
                        granted_by: row.get(4)?,
                    })
                },
            )
        })
        .await
    }

    /// The roles of one subject.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn roles_of(&self, subject: Subject) -> Result<Vec<Binding>, StoreError> {
        self.read(move |sql| of(sql, &subject.to_string())).await
    }
}

pub(super) fn of(sql: &Sql<'_>, subject: &str) -> Result<Vec<Binding>, StoreError> {
    sql.all(
        "SELECT subject, role, scope FROM role_binding WHERE subject = ?1 ORDER BY scope, role",
        values![subject],
        binding,
    )
}

/// The roles of one subject, each with who gave it.
pub(super) fn granted(sql: &Sql<'_>, subject: &str) -> Result<Vec<(Binding, String)>, StoreError> {
    sql.all(
        "SELECT subject, role, scope, granted_by FROM role_binding WHERE subject = ?1 ORDER BY scope, role",
        values![subject],
        |row| Ok((binding(row)?, row.get(3)?)),
    )
}

/// Whether somebody still has all the roles that their call was judged by.
pub(super) fn require_held(sql: &Sql<'_>, who: &str, held: &[Binding]) -> Result<(), StoreError> {
    let now = of(sql, who)?;
    if held.iter().all(|binding| now.contains(binding)) { Ok(()) } else { Err(Refusal::RolesChanged.into()) }
}

/// The roles of all identities.
pub(super) fn of_identities(sql: &Sql<'_>) -> Result<Vec<(SpiffeId, Binding)>, StoreError> {
    let all = sql.all("SELECT subject, role, scope FROM role_binding ORDER BY subject", &[], binding)?;
    let identity = |binding: Binding| match &binding.subject {
        Subject::Identity(id) => Some((id.clone(), binding)),
        Subject::Unix(_) => None,
    };
    Ok(all.into_iter().filter_map(identity).collect())
}

fn binding(row: &Row) -> Result<Binding, StoreError> {
    Ok(Binding { subject: row.parsed(0)?, role: row.parsed(1)?, scope: row.parsed(2)? })
}
