//! Who may do what.

use serde_json::{Value, json};
use signet_proto::v1::{
    self, GrantRoleRequest, GrantedRole, ListRolesRequest, RoleBinding, WithdrawRoleRequest,
};

use super::applied::{self, Expect};
use crate::cli::args::{RoleOf, RoleVerb};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::roles::Role;
use crate::time;

pub(in crate::cli) async fn run(verb: RoleVerb, session: &Session, output: Output) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let mutation = match verb {
        RoleVerb::Grant(role) => {
            client.grant_role(GrantRoleRequest { binding: Some(binding(&role)) }).await?
        }
        RoleVerb::Withdraw(role) => {
            client.withdraw_role(WithdrawRoleRequest { binding: Some(binding(&role)) }).await?
        }
        RoleVerb::List => {
            return list(&client.list_roles(ListRolesRequest {}).await?.into_inner().roles, output);
        }
    };
    // Proxies are not concerned: there is nothing to wait for.
    applied::report(mutation.into_inner().into(), None, Expect::Connected, &mut client, output).await
}

fn list(roles: &[GrantedRole], output: Output) -> Result<(), CliError> {
    let bindings = || roles.iter().filter_map(|granted| Some((granted.binding.as_ref()?, granted)));
    let json: Value = bindings()
        .map(|(binding, granted)| {
            json!({
                "subject": binding.subject,
                "role": name(binding),
                "scope": binding.scope,
                "granted_at": output::instant(granted.granted_at.as_ref()),
                "granted_by": granted.granted_by,
            })
        })
        .collect();
    output.print(&json, || {
        let now = time::now();
        let rows = bindings().map(|(binding, granted)| {
            vec![
                cell(&binding.subject),
                cell(name(binding)),
                cell(&binding.scope),
                cell(output::relative(time::from_proto(granted.granted_at.as_ref()), now)),
                cell(&granted.granted_by),
            ]
        });
        output::table(&["subject", "role", "on", "granted", "by"], rows)
    })
}

fn binding(asked: &RoleOf) -> RoleBinding {
    let role = match asked.role {
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Approver => v1::Role::Approver,
        Role::Admin => v1::Role::Admin,
    };
    RoleBinding { subject: asked.subject.to_string(), role: role.into(), scope: asked.on.to_string() }
}

fn name(binding: &RoleBinding) -> &'static str {
    match binding.role() {
        v1::Role::Viewer => "viewer",
        v1::Role::Operator => "operator",
        v1::Role::Approver => "approver",
        v1::Role::Admin => "admin",
        v1::Role::Unspecified => "unknown",
    }
}
