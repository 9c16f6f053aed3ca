//! Requests for an intermediate below a root that is kept elsewhere, and what came back: at most one waits.

use serde_json::json;

use super::authorities::{insert, require, require_knowing_replicas, require_no_other};
use super::bundle::announce;
use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, AuthorityKind, AuthorityRecord, AuthorityRequest, KeptKey, Mutation, Phase};
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError, token_keys};
use crate::audit::Action;
use crate::time;

impl Store {
    /// The request that waits.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn authority_request(&self) -> Result<Option<AuthorityRequest>, StoreError> {
        self.read(waiting).await
    }

    /// Keeps a request, unless there is one already that is not to be dropped. Returns the one that is there.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn create_authority_request(
        &self,
        new: AuthorityRequest,
        anew: bool,
        actor: Actor,
    ) -> Result<AuthorityRequest, StoreError> {
        self.write(move |change| {
            if let Some(first) = waiting(&change.sql)? {
                if !anew {
                    return Ok(first);
                }
                token_keys::end(change, &first.key)?;
                change.sql.post("DELETE FROM authority_request", &[])?;
            }
            let (sealed, token) = token_keys::columns(change, &new.key)?;
            change.sql.post(
                "INSERT INTO authority_request (one, id, subject, pem, request, sealed_key, token_key, created_at_ms)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                values![&new.id, &new.subject, &new.pem, &new.request, sealed, token, change.at],
            )?;
            change.audit(&actor, Action::AuthorityRequested, &new.subject, &json!({ "id": new.id }))?;
            Ok(new.clone())
        })
        .await
    }

    /// Turns the request into a prepared authority; with a `root` that nobody knows yet, that one too.
    ///
    /// # Errors
    /// When the request is another one, or a rotation is under way.
    pub async fn install_authority(
        &self,
        intermediate: AuthorityRecord,
        root: Option<AuthorityRecord>,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| install(change, &intermediate, root.as_ref(), &actor)).await
    }
}

fn install(
    change: &mut Change<'_>,
    intermediate: &AuthorityRecord,
    root: Option<&AuthorityRecord>,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    if change.sql.execute("DELETE FROM authority_request WHERE id = ?1", values![&intermediate.id])? != 1 {
        return Err(Refusal::RotatedMeanwhile.into());
    }
    require_no_other(&change.sql, AuthorityKind::Intermediate)?;
    match root {
        Some(root) => {
            require_no_other(&change.sql, AuthorityKind::Root)?;
            require_knowing_replicas(change)?;
            insert(change, root, Phase::Prepared)?;
        }
        None => {
            let issuer = intermediate.issuer.as_deref().unwrap_or_default();
            drop(require(&change.sql, issuer, &[Phase::Prepared, Phase::Active])?);
        }
    }
    token_keys::intend_again(change, &intermediate.key)?;
    insert(change, intermediate, Phase::Prepared)?;
    let detail = json!({
        "kind": intermediate.kind.as_str(),
        "root": intermediate.issuer,
        "not_after": time::rfc3339(intermediate.not_after),
    });
    change.audit(actor, Action::AuthorityPrepared, &intermediate.subject, &detail)?;
    let below = format!("intermediate {} is installed", intermediate.id);
    let Some(root) = root else {
        let commit = change.revise(Topics::NONE, &intermediate.subject)?;
        return Ok(Mutation { commit, effects: vec![below] });
    };
    let effects = vec![
        below,
        format!("root {} above it is in the trust bundle, and is kept elsewhere", root.id),
        format!("next: `signet ca activate {}`, once all proxies have it: both sign then", root.id),
    ];
    Ok(Mutation { commit: announce(change, &root.id, &root.subject, Topics::NONE)?, effects })
}

fn waiting(sql: &Sql<'_>) -> Result<Option<AuthorityRequest>, StoreError> {
    let query = "SELECT id, subject, pem, request, sealed_key, token_key FROM authority_request";
    sql.find(query, &[], |row| {
        let (sealed, token): (Option<Vec<u8>>, Option<String>) = (row.get(4)?, row.get(5)?);
        let key = sealed.map(KeptKey::Sealed).or(token.map(KeptKey::Token)).unwrap_or(KeptKey::Elsewhere);
        Ok(AuthorityRequest {
            id: row.get(0)?,
            subject: row.get(1)?,
            pem: row.get(2)?,
            request: row.get(3)?,
            key,
        })
    })
}
