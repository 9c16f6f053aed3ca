//! The admin role.

use serde_json::{Value, json};
use signet_proto::v1::{GrantAdminRequest, ListAdminsRequest, WithdrawAdminRequest};

use super::applied;
use crate::cli::args::AdminVerb;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};

pub(in crate::cli) async fn run(verb: AdminVerb, session: &Session, output: Output) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let mutation = match verb {
        AdminVerb::Grant { id } => client.grant_admin(GrantAdminRequest { spiffe_id: id }).await?,
        AdminVerb::Withdraw { id } => client.withdraw_admin(WithdrawAdminRequest { spiffe_id: id }).await?,
        AdminVerb::List => {
            let admins = client.list_admins(ListAdminsRequest {}).await?.into_inner().spiffe_ids;
            let json: Value = admins.iter().map(|id| json!({ "spiffe_id": id })).collect();
            return output
                .print(&json, || output::table(&["spiffe id"], admins.iter().map(|id| vec![cell(id)])));
        }
    };
    // Proxies are not concerned: there is nothing to wait for.
    applied::report(mutation.into_inner().into(), None, &mut client, output).await
}
