//! What takes many away at once: a subtree, a team, an authority.

use serde_json::json;
use signet_proto::policy::{Pattern, Subtree};
use signet_proto::spiffe::{SpiffeId, certificate_handle};

use super::{Ended, end_identity, is_revoked, unchanged};
use crate::audit::Action;
use crate::count::many;
use crate::registry::{Name, Template};
use crate::roles::{Permission, Scope};
use crate::store::change::Change;
use crate::store::mesh::Topics;
use crate::store::model::{Actor, AuthorityKind, Mutation, Phase, WorkloadStatus};
use crate::store::revocations::{certificate_name, is_listed, list};
use crate::store::sql::{Sql, values};
use crate::store::{Refusal, StoreError, registrations};

/// So many of them are told by name.
const TOLD: usize = 20;

/// Those whom a subtree or a team means.
struct Chosen {
    identities: Vec<SpiffeId>,
    /// Active or suspended: they can give further identities.
    templates: Vec<(Template, WorkloadStatus, bool)>,
}

pub(super) fn revoke_subtree(
    change: &mut Change<'_>,
    subtree: &Subtree,
    reason: &str,
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let whole = Pattern::Subtree(subtree.clone());
    let actor = permission.on(&Scope::Of(whole.clone()))?;
    let identities = change.sql.all(
        "SELECT spiffe_id FROM workload WHERE substr(spiffe_id, 1, length(?1)) = ?1 ORDER BY spiffe_id",
        values![&**subtree.prefix()],
        |row| row.parsed(0),
    )?;
    let (mut inside, mut across) = (Vec::new(), Vec::new());
    for template in templates(&change.sql, None)? {
        let given = Pattern::Subtree(template.0.subtree());
        if whole.covers(&given) {
            inside.push(template);
        } else if given.covers(&whole) && template.1 == WorkloadStatus::Active {
            across.push(template.0);
        }
    }
    let chosen = Chosen { identities, templates: inside };
    let mut mutation = revoke_chosen(change, &chosen, &format!("{whole}"), reason, &actor)?;
    mutation.effects.extend(across.iter().map(|template| {
        format!(
            "template `{template}` can give more identities below it, and others too, and goes on: `signet freeze \
             --on '{whole}'` stops new ones"
        )
    }));
    Ok(mutation)
}

pub(super) fn revoke_owner(
    change: &mut Change<'_>,
    owner: &str,
    reason: &str,
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let identities = change.sql.all(
        "SELECT spiffe_id FROM workload WHERE owner = ?1 ORDER BY spiffe_id",
        values![owner],
        |row| row.parsed(0),
    )?;
    let chosen = Chosen { identities, templates: templates(&change.sql, Some(owner))? };
    let named = chosen.identities.iter().cloned().map(Name::Identity);
    let given = chosen.templates.iter().map(|(template, ..)| Name::Template(template.clone()));
    let scopes: Vec<Scope> = named.chain(given).map(|name| name.scope()).collect();
    if scopes.is_empty() {
        // Whether a team has anything is for those who may look at everything.
        permission.on(&Scope::Everything)?;
        return Err(StoreError::missing("workload of the owner", owner));
    }
    let actor = permission.on_all(&scopes)?;
    revoke_chosen(change, &chosen, &format!("owner {owner}"), reason, &actor)
}

fn revoke_chosen(
    change: &mut Change<'_>,
    chosen: &Chosen,
    what: &str,
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let mut identities = Vec::new();
    for id in &chosen.identities {
        if !is_revoked(change, id)? {
            identities.push(id);
        }
    }
    let templates: Vec<_> = chosen
        .templates
        .iter()
        .filter(|(_, status, held)| *status != WorkloadStatus::Retired && !held)
        .collect();
    if chosen.identities.is_empty() && chosen.templates.is_empty() {
        return Err(StoreError::missing("workload below", what));
    }
    if identities.is_empty() && templates.is_empty() {
        return unchanged(change, format!("all of {what} is revoked already: nothing changed"));
    }
    let commit = change.revise(Topics::REVOCATIONS, what)?;
    let (mut instances, mut tokens) = (0, 0);
    for id in &identities {
        let ended = end_identity(change, id, reason, actor, commit.revision)?;
        let Ended { instances: of_it, tokens: withdrawn, .. } = ended;
        instances += of_it.len();
        tokens += usize::from(withdrawn.is_some());
    }
    for (template, before, _) in &templates {
        let (name, to) = (Name::Template(template.clone()), WorkloadStatus::Suspended);
        registrations::write_status(change, &name, to, true, commit.revision)?;
        let detail = json!({ "from": before.as_str(), "to": to.as_str(), "reason": reason });
        change.audit(actor, Action::WorkloadStatus, template.as_str(), &detail)?;
    }
    let mut effects: Vec<String> =
        identities.iter().take(TOLD).map(|id| format!("identity `{id}` revoked")).collect();
    if let Some(more @ 1..) = identities.len().checked_sub(TOLD) {
        effects.push(format!("and {more} more"));
    }
    effects.push(format!(
        "listed as revoked and suspended: {} with {}; join tokens of {tokens} withdrawn",
        many(identities.len() as u64, "identity", "identities"),
        many(instances as u64, "instance", "instances")
    ));
    effects.extend(templates.iter().map(|(template, ..)| {
        format!("template `{template}` suspended: it gives no identity until `signet resume`")
    }));
    Ok(Mutation { commit, effects })
}

fn templates(
    sql: &Sql<'_>,
    owner: Option<&str>,
) -> Result<Vec<(Template, WorkloadStatus, bool)>, StoreError> {
    sql.all(
        "SELECT name, status, held FROM template WHERE owner = coalesce(CAST(?1 AS TEXT), owner) ORDER BY name",
        values![owner],
        |row| Ok((row.parsed(0)?, row.parsed(1)?, row.get(2)?)),
    )
}

/// Everything that an intermediate signed, whoever holds it: nobody is believed by it from then on, and who holds
/// nothing else has to prove anew who it is. Who has renewed since another one signs goes on.
pub(super) fn revoke_issuer(
    change: &mut Change<'_>,
    named: &str,
    reason: &str,
    permission: &impl Permission,
) -> Result<Mutation, StoreError> {
    let actor = permission.on(&Scope::Everything)?;
    let wanted = named.replace(':', "").to_ascii_lowercase();
    let rows = change.sql.rows(
        "SELECT id, kind, active, subject, certificate, not_after_ms, phase FROM authority ORDER BY id",
        &[],
    )?;
    for row in rows {
        let (id, kind, signs): (String, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let certificate: Vec<u8> = row.get(4)?;
        let handle = certificate_handle(&certificate)
            .map_err(|error| StoreError::Damaged(format!("authority `{id}`: {error}")))?;
        let fingerprint = crate::hex::encode(&crate::sha256(&certificate));
        if ![&id, &fingerprint, &crate::hex::encode(&handle.serial)].contains(&&wanted) {
            continue;
        }
        if kind == AuthorityKind::Root.as_str() {
            return Err(Refusal::RootIssuer.into());
        }
        // It could be activated later, by which nobody is believed.
        if row.get::<String>(6)? == Phase::Prepared.as_str() {
            let needed = format!("retiring or removed (`signet ca retire {id}` takes this one back)");
            let kind = AuthorityKind::Intermediate.as_str();
            return Err(Refusal::AuthorityPhase { kind, id, phase: Phase::Prepared, needed }.into());
        }
        if signs || signed_own(&change.sql, &id)? {
            return Err(Refusal::IssuerInUse(id).into());
        }
        let listed = certificate_name(&handle.issuer_sha256, &handle.serial);
        let subject: String = row.get(3)?;
        if is_listed(&change.sql, "certificate", &listed)? {
            return unchanged(change, format!("`{subject}` is revoked already: nothing changed"));
        }
        let until = row.get(5)?;
        list(change, "certificate", &listed, false, reason, &actor, until)?;
        list(change, "key", &crate::hex::encode(&handle.spki_sha256), false, reason, &actor, until)?;
        let holders = holders(change, &id)?;
        let detail = json!({ "reason": reason, "subject": subject, "instances": holders });
        change.audit(&actor, Action::AuthorityRevoked, &id, &detail)?;
        let commit = change.revise(Topics::REVOCATIONS, &id)?;
        return Ok(Mutation {
            commit,
            effects: vec![
                format!("`{subject}` and its key are listed as revoked: nobody is believed by it"),
                format!(
                    "{} nothing else: who they are has to be proven anew",
                    many(holders, "instance holds", "instances hold")
                ),
            ],
        });
    }
    Err(StoreError::missing("intermediate", named))
}

/// Whether control itself, at any replica, shows an SVID of it: without control nobody comes back.
fn signed_own(sql: &Sql<'_>, authority: &str) -> Result<bool, StoreError> {
    if sql.one("SELECT EXISTS (SELECT 1 FROM replica WHERE shown_by = ?1)", values![authority])? {
        return Ok(true);
    }
    let newest: Option<String> = sql.find(
        "SELECT authority FROM certificate WHERE instance IS NULL
         ORDER BY issued_at_ms DESC, not_after_ms DESC LIMIT 1",
        &[],
        |row| row.get(0),
    )?;
    Ok(newest.is_some_and(|newest| newest == authority))
}

/// Instances whose newest SVID it signed, and has not ended.
fn holders(change: &Change<'_>, authority: &str) -> Result<u64, StoreError> {
    change.sql.one(
        "SELECT count(*) FROM instance i JOIN certificate c ON c.serial = i.serial
         WHERE c.authority = ?1 AND i.status IN ('active', 'departed') AND i.not_after_ms > ?2",
        values![authority, change.at],
    )
}
