//! Workloads: who may have an identity at all.

use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Mutation, Registered, Workload, WorkloadStatus};
use super::registrations::{self, Listed};
use super::sql::Sql;
use super::{Refusal, Store, StoreError, revocations, roles, tokens};
use crate::audit::Action;
use crate::registry::{Declaration, Name, OwnerLabel, require_own_names};
use crate::roles::Permission;

impl Store {
    /// Registers a workload or template by hand: no document manages it until one adopts it.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`] when `permission` does not reach all that it can name;
    /// [`StoreError::Exists`] when its name is taken, be it by an identity that a template gave.
    pub async fn create_workload(
        &self,
        declaration: Declaration,
        permission: impl Permission,
    ) -> Result<Registered, StoreError> {
        self.write(move |change| {
            let name = declaration.name.clone();
            let actor = permission.on(&name.scope())?;
            require_no_gain(change, &permission, [&declaration])?;
            if registrations::find(&change.sql, &name)?.is_some() {
                return Err(StoreError::exists("workload", name.as_str()));
            }
            if !declaration.dns.is_empty() {
                let current = registrations::all(&change.sql, Listed::Registered)?;
                require_own_names(&current, [&declaration], &permission)?;
            }
            create(change, &declaration, None, &actor)?;
            let commit = change.revise(Topics::NONE, name.as_str())?;
            let held = declaration.status == WorkloadStatus::Suspended;
            registrations::write(change, &declaration, None, held, commit.revision)?;
            registrations::declare(change, &name, &actor)?;
            registrations::require(&change.sql, &name)
        })
        .await
    }

    /// All workloads and templates, and the identities that templates gave, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn workloads(&self) -> Result<Vec<Registered>, StoreError> {
        self.read(|sql| registrations::all(sql, Listed::All)).await
    }

    /// One workload.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none of this name.
    pub async fn workload(&self, id: SpiffeId) -> Result<Workload, StoreError> {
        self.read(move |sql| require(sql, &id)).await
    }

    /// Suspends, resumes or retires by hand. Suspended and retired ones get no SVID, and their identity
    /// is listed as revoked; resuming lifts that, but not the revocation of single instances. With a template
    /// go the identities that it gave; those suspended by themselves are resumed by themselves.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`Refusal::WorkloadRetired`] when it is retired and should be anything else.
    pub async fn set_workload_status(
        &self,
        name: impl Into<Name>,
        status: WorkloadStatus,
        reason: String,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        let name = name.into();
        self.write(move |change| set_status(change, &name, status, &reason, &actor)).await
    }
}

/// Whoever says what proves to be an identity can become it; so the roles that it has must be theirs too.
pub(super) fn require_no_gain<'d>(
    change: &Change<'_>,
    permission: &impl Permission,
    declarations: impl IntoIterator<Item = &'d Declaration>,
) -> Result<(), StoreError> {
    let mut provable = declarations.into_iter().filter(|declared| !declared.selectors.is_empty()).peekable();
    if provable.peek().is_none() {
        return Ok(());
    }
    let held = roles::of_identities(&change.sql)?;
    for declared in provable {
        for (id, binding) in held.iter().filter(|(id, _)| declared.name.gives(id)) {
            permission.may_become(id, std::slice::from_ref(binding))?;
        }
    }
    Ok(())
}

/// The audit event of a registration.
pub(super) fn create(
    change: &mut Change<'_>,
    declaration: &Declaration,
    label: Option<&OwnerLabel>,
    actor: &Actor,
) -> Result<(), StoreError> {
    let Declaration { name, owner, purpose, .. } = declaration;
    let ttl = declaration.ttl.default.unwrap_or_default().as_secs();
    let selectors: Vec<String> = declaration.selectors.iter().map(ToString::to_string).collect();
    change.audit(
        actor,
        Action::WorkloadCreated,
        name.as_str(),
        &json!({
            "owner": owner.team,
            "purpose": purpose,
            "ttl_s": ttl,
            "selectors": selectors,
            "status": declaration.status.as_str(),
            "approval": declaration.approval.as_str(),
            "managed_by": label.map(OwnerLabel::as_str),
        }),
    )
}

fn set_status(
    change: &mut Change<'_>,
    name: &Name,
    status: WorkloadStatus,
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let current = registrations::require(&change.sql, name)?;
    let before = current.declaration.status;
    // Who suspends by hand what a document suspended wants it to stay so.
    let takes_hold = status == WorkloadStatus::Suspended && !current.held;
    if before == status && !takes_hold {
        return Ok(Mutation {
            commit: change.newest(),
            effects: vec![format!("workload is {status} already: nothing changed")],
        });
    }
    require_not_retired(&current, status)?;
    let mut effects = vec![match before == status {
        true => format!("workload is {status} already; from now on it is resumed by hand only"),
        false => format!("workload is {status}, was {before}"),
    }];
    change.audit(
        actor,
        Action::WorkloadStatus,
        name.as_str(),
        &json!({ "from": before.as_str(), "to": status.as_str(), "reason": reason }),
    )?;
    let topics = if before == status { Topics::NONE } else { Topics::REVOCATIONS };
    let commit = change.revise(topics, name.as_str())?;
    if before != status {
        effects.extend(pass(change, name, status, reason, actor, commit.revision)?);
    }
    let held = status == WorkloadStatus::Suspended;
    registrations::write_status(change, name, status, held, commit.revision)?;
    Ok(Mutation { commit, effects })
}

/// Retired is for good.
pub(super) fn require_not_retired(current: &Registered, status: WorkloadStatus) -> Result<(), StoreError> {
    let Declaration { name, status: before, .. } = &current.declaration;
    if *before == WorkloadStatus::Retired && status != WorkloadStatus::Retired {
        return Err(Refusal::WorkloadRetired(name.to_string()).into());
    }
    Ok(())
}

/// What passing to another status does beside the row itself: the identity is listed or not, join tokens are
/// withdrawn, and the identities that a template gave go with it.
pub(super) fn pass(
    change: &Change<'_>,
    name: &Name,
    status: WorkloadStatus,
    reason: &str,
    actor: &Actor,
    revision: u64,
) -> Result<Vec<String>, StoreError> {
    let template = match name {
        Name::Identity(id) => return pass_identity(change, id, status, reason, actor),
        Name::Template(template) => template,
    };
    let mut passed = 0;
    for (id, before, held) in registrations::given(&change.sql, template)? {
        let stays = before == status
            || before == WorkloadStatus::Retired
            || (status == WorkloadStatus::Active && held);
        if stays {
            continue;
        }
        pass_identity(change, &id, status, reason, actor)?;
        let held = held && status == WorkloadStatus::Suspended;
        registrations::write_status(change, &Name::Identity(id), status, held, revision)?;
        passed += 1;
    }
    Ok(match passed {
        0 => Vec::new(),
        1 => vec!["with it the one identity that it gave".into()],
        passed => vec![format!("with it {passed} identities that it gave")],
    })
}

fn pass_identity(
    change: &Change<'_>,
    id: &SpiffeId,
    status: WorkloadStatus,
    reason: &str,
    actor: &Actor,
) -> Result<Vec<String>, StoreError> {
    let mut effects = Vec::new();
    if status == WorkloadStatus::Active {
        revocations::lift_identity(change, id)?;
        effects.push("identity is no longer listed as revoked".into());
    } else {
        revocations::list_identity(change, id, reason, actor)?;
        effects.push("identity is listed as revoked: its connections are closed".into());
    }
    if status == WorkloadStatus::Retired {
        effects.extend(tokens::withdraw(change, id)?);
    }
    Ok(effects)
}

/// Suspends what was revoked: lifted by hand only.
pub(super) fn hold(change: &Change<'_>, id: &SpiffeId, revision: u64) -> Result<(), StoreError> {
    registrations::write_status(
        change,
        &Name::Identity(id.clone()),
        WorkloadStatus::Suspended,
        true,
        revision,
    )
}

pub(super) fn require(sql: &Sql<'_>, id: &SpiffeId) -> Result<Workload, StoreError> {
    let found = registrations::find_alone(sql, &Name::Identity(id.clone()))?;
    let found = found.ok_or_else(|| StoreError::missing("workload", id.as_str()))?;
    Ok(workload(id, found))
}

/// The workload, if it may get an SVID at `now`.
pub(super) fn require_active(sql: &Sql<'_>, id: &SpiffeId, now: SystemTime) -> Result<Workload, StoreError> {
    let workload = require(sql, id)?;
    if workload.status != WorkloadStatus::Active {
        return Err(Refusal::WorkloadNotActive { id: id.clone(), status: workload.status }.into());
    }
    match workload.until {
        Some(until) if until <= now => Err(Refusal::WorkloadEnded { id: id.clone(), until }.into()),
        _ => Ok(workload),
    }
}

fn workload(id: &SpiffeId, registered: Registered) -> Workload {
    let Registered { declaration, template, held, created_at, revision, .. } = registered;
    Workload {
        spiffe_id: id.clone(),
        owner: declaration.owner.team,
        purpose: declaration.purpose,
        ttl: declaration.ttl.default.unwrap_or_default(),
        ttl_min: declaration.ttl.min,
        ttl_max: declaration.ttl.max,
        dns: declaration.dns.iter().map(ToString::to_string).collect(),
        status: declaration.status,
        until: declaration.until,
        approval: declaration.approval,
        template,
        held,
        created_at,
        revision,
    }
}
