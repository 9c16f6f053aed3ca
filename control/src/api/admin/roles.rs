//! GrantRole, WithdrawRole, ListRoles: nobody gives or takes more than they hold, or gives to whom they have no say in.

use signet_proto::v1;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use crate::roles::{Binding, Operator, Permission, Role, Scope, Sight, Subject};
use crate::store::model::{GrantedRole, Mutation};
use crate::time;

pub(super) async fn grant(
    rooms: &Rooms,
    operator: Operator,
    binding: Option<v1::RoleBinding>,
) -> Result<Mutation, Status> {
    let binding = parse(binding)?;
    // An admin has every role on their scope: so nobody gives more than they hold. And as nobody becomes who holds
    // more than they do, a gift would take an identity out of the hands of those who look after it.
    let scopes = [Some(binding.scope.clone()), holder(&binding.subject)];
    let scopes: Vec<Scope> = scopes.into_iter().flatten().collect();
    let actor = operator.on_all(&scopes).map_err(|refused| refused.to_status())?;
    if let Subject::Identity(id) = &binding.subject {
        let id = rooms.registry.parse(id.as_str()).map_err(|error| error.to_status())?;
        // A role for an identity that nobody can have is a mistyped name.
        rooms.store.workload(id).await.map_err(|error| error.to_status())?;
    }
    let domain = rooms.authority.trust_domain();
    if let Some(other) = binding.scope.trust_domain().filter(|scope| *scope != domain) {
        return Err(Status::invalid_argument(format!(
            "scope: expected identities of this trust domain, `{domain}`; found `{other}`"
        )));
    }
    rooms.store.grant_role(binding, actor).await.map_err(|error| error.to_status())
}

pub(super) async fn withdraw(
    rooms: &Rooms,
    operator: Operator,
    binding: Option<v1::RoleBinding>,
) -> Result<Mutation, Status> {
    let binding = parse(binding)?;
    let actor = operator.on(&binding.scope).map_err(|refused| refused.to_status())?;
    rooms.store.withdraw_role(binding, actor).await.map_err(|error| error.to_status())
}

pub(super) async fn list(rooms: &Rooms, sight: Sight) -> Result<v1::ListRolesResponse, Status> {
    let roles = rooms.store.roles().await.map_err(|error| error.to_status())?;
    let roles = roles.into_iter().filter(|granted| sight.sees_binding(&granted.binding)).map(message);
    Ok(v1::ListRolesResponse { roles: roles.collect() })
}

/// The identity that gets a role; local users belong to nobody.
fn holder(subject: &Subject) -> Option<Scope> {
    match subject {
        Subject::Identity(id) => Some(Scope::identity(id)),
        Subject::Unix(_) => None,
    }
}

/// Nothing has a default: a scope that was forgotten must not mean everything.
fn parse(message: Option<v1::RoleBinding>) -> Result<Binding, Status> {
    let wrong =
        |field: &str, error: &dyn std::fmt::Display| Status::invalid_argument(format!("{field}: {error}"));
    let message = message.ok_or_else(|| Status::invalid_argument("binding: missing"))?;
    let role = match message.role() {
        v1::Role::Viewer => Role::Viewer,
        v1::Role::Operator => Role::Operator,
        v1::Role::Approver => Role::Approver,
        v1::Role::Admin => Role::Admin,
        v1::Role::Unspecified => {
            return Err(wrong("role", &"expected viewer, operator, approver or admin"));
        }
    };
    let subject: Subject = message.subject.parse().map_err(|error| wrong("subject", &error))?;
    let scope: Scope = message.scope.parse().map_err(|error| wrong("scope", &error))?;
    Ok(Binding { subject, role, scope })
}

fn message(granted: GrantedRole) -> v1::GrantedRole {
    let Binding { subject, role, scope } = granted.binding;
    let role = match role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Approver => v1::Role::Approver,
        Role::Admin => v1::Role::Admin,
    };
    v1::GrantedRole {
        binding: Some(v1::RoleBinding {
            subject: subject.to_string(),
            role: role.into(),
            scope: scope.to_string(),
        }),
        granted_at: Some(time::to_proto(granted.granted_at)),
        granted_by: granted.granted_by,
    }
}
