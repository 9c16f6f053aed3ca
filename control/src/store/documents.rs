//! Documents applied together: one plan, made again in the commit from what is there then; all of it or nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Commit, Documents, NewPolicy, Registered, WorkloadStatus};
use super::registrations::{self, Listed};
use super::sql::Sql;
use super::{Refusal, Store, StoreError, policies, services, settings, workloads};
use crate::audit::Action;
use crate::registry::{
    Action as Planned, Change as PlannedChange, Declaration, FieldChange, Name, Plan, Write, require_own,
};
use crate::roles::Permission;

/// Why the audit says that an identity is revoked.
const BY_DOCUMENT: &str = "by its document";

impl Store {
    /// All that documents can say, as of one commit.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn documents(&self) -> Result<Documents, StoreError> {
        self.read(read).await
    }

    /// Applies what `decide` makes of what is there, in the commit itself; if that is nothing, nothing is committed.
    /// `permission` is asked before anything is told: it has to reach all that the plan is about.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`], what `decide` refuses, or when the store cannot be written.
    pub async fn apply_documents(
        &self,
        permission: impl Permission,
        decide: impl Fn(&Documents) -> (Plan, Result<(), Refusal>) + Send + 'static,
    ) -> Result<(Commit, Plan), StoreError> {
        self.write(move |change| {
            let current = read(&change.sql)?;
            let (plan, refused) = decide(&current);
            let actor = permission.on_all(&plan.touched(&current))?;
            refused?;
            require_own(&current, &plan, &permission)?;
            let declared = plan.writes().filter_map(|planned| match &planned.write {
                Write::Workload(declaration) => Some(&**declaration),
                _ => None,
            });
            workloads::require_no_gain(change, &permission, declared)?;
            let commit = apply(change, &current, &plan, &actor)?;
            Ok((commit, plan))
        })
        .await
    }
}

fn read(sql: &Sql<'_>) -> Result<Documents, StoreError> {
    let workloads = registrations::all(sql, Listed::Registered)?;
    let policies = policies::managed(sql)?;
    let newest = workloads.iter().map(|workload| workload.revision).max().unwrap_or_default();
    let (mesh, services) = (settings::read(sql)?, services::all(sql)?);
    // These leave no row behind: the log knows of their end.
    let logged = Topics::POLICIES.with(Topics::MESH).with(Topics::SERVICES).bits();
    let topics: Vec<String> =
        (0..=Topics::ALL.bits()).filter(|bits| bits & logged != 0).map(|bits| bits.to_string()).collect();
    let logged: Option<u64> =
        sql.one(&format!("SELECT max(revision) FROM revision WHERE topics IN ({})", topics.join(", ")), &[])?;
    Ok(Documents { workloads, policies, mesh, services, changed: newest.max(logged.unwrap_or_default()) })
}

fn apply(
    change: &mut Change<'_>,
    current: &Documents,
    plan: &Plan,
    actor: &Actor,
) -> Result<Commit, StoreError> {
    let workloads: BTreeMap<&Name, &Registered> =
        current.workloads.iter().map(|registered| (&registered.declaration.name, registered)).collect();
    let commit = revise(change, current, &workloads, plan)?;
    for planned in plan.writes() {
        match &planned.write {
            Write::Nothing => {}
            Write::Workload(declaration) => {
                let current = workloads.get(&declaration.name).copied();
                write_workload(change, current, declaration, planned, plan, actor, commit.revision)?;
            }
            Write::Retire(name) => retire(change, name, plan, actor, commit.revision)?,
            Write::Policy(new) => {
                policies::write(change, new, Some(&plan.label), actor, commit.revision)?;
                change.audit(actor, Action::PolicyApplied, &new.name, &policy_detail(new, planned, plan))?;
            }
            Write::Delete(_) => {
                policies::remove(change, &planned.name)?;
                let detail = json!({ "managed_by": plan.label.as_str(), "pruned": true });
                change.audit(actor, Action::PolicyDeleted, &planned.name, &detail)?;
            }
            Write::Mesh(Some(document)) => {
                settings::write(change, document, &plan.label, actor, commit.revision)?;
                let detail = json!({
                    "change": planned.action.as_str(),
                    "document": document,
                    "managed_by": plan.label.as_str(),
                });
                change.audit(actor, Action::MeshApplied, &planned.name, &detail)?;
            }
            Write::Service(new) => {
                services::write(change, new, &plan.label, actor, commit.revision)?;
                let detail = json!({
                    "change": planned.action.as_str(),
                    "document": new.document,
                    "managed_by": plan.label.as_str(),
                });
                change.audit(actor, Action::ServiceApplied, &planned.name, &detail)?;
            }
            Write::DeleteService => {
                services::remove(change, &planned.name)?;
                let detail = json!({ "managed_by": plan.label.as_str(), "pruned": true });
                change.audit(actor, Action::ServiceDeleted, &planned.name, &detail)?;
            }
            Write::Mesh(None) => {
                settings::remove(change)?;
                let detail = json!({ "managed_by": plan.label.as_str(), "pruned": true });
                change.audit(actor, Action::MeshDeleted, &planned.name, &detail)?;
            }
        }
    }
    Ok(commit)
}

/// One revision for all of it: for those whom the policies protect, or for everyone if identities are revoked or
/// resumed, or if the settings of the mesh or a service change: who calls whom is not written down.
fn revise(
    change: &mut Change<'_>,
    current: &Documents,
    workloads: &BTreeMap<&Name, &Registered>,
    plan: &Plan,
) -> Result<Commit, StoreError> {
    let mut topics = Topics::NONE;
    let mut targets: BTreeSet<&str> = BTreeSet::new();
    let targets_before: BTreeMap<&str, &str> =
        current.policies.iter().map(|managed| (&*managed.policy.name, &*managed.policy.target)).collect();
    let mut names = Vec::new();
    for planned in plan.writes() {
        names.push(planned.name.as_str());
        match &planned.write {
            Write::Nothing => {}
            Write::Workload(declaration) => {
                let before = workloads.get(&declaration.name).map(|registered| registered.declaration.status);
                if before.unwrap_or(WorkloadStatus::Active) != declaration.status {
                    topics = topics.with(Topics::REVOCATIONS);
                }
            }
            Write::Retire(_) => topics = topics.with(Topics::REVOCATIONS),
            Write::Policy(new) => {
                topics = topics.with(Topics::POLICIES);
                targets.insert(&new.target);
                targets.extend(targets_before.get(&*new.name));
            }
            Write::Delete(target) => {
                topics = topics.with(Topics::POLICIES);
                targets.insert(target);
            }
            Write::Mesh(_) => topics = topics.with(Topics::MESH),
            Write::Service(_) | Write::DeleteService => topics = topics.with(Topics::SERVICES),
        }
    }
    match (names.as_slice(), topics) {
        ([], _) => Ok(change.newest()),
        (names, topics @ Topics::POLICIES) => change.revise_for(topics, &subject(names), targets),
        (names, topics) => change.revise(topics, &subject(names)),
    }
}

/// Bounded, whatever is applied at once.
fn subject(names: &[&str]) -> String {
    const NAMED: usize = 8;
    let named = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED) {
        None | Some(0) => named,
        Some(more) => format!("{named} and {more} more"),
    }
}

fn write_workload(
    change: &mut Change<'_>,
    current: Option<&Registered>,
    declaration: &Declaration,
    planned: &PlannedChange,
    plan: &Plan,
    actor: &Actor,
    revision: u64,
) -> Result<(), StoreError> {
    let mut declaration = declaration.clone();
    // A template may have given the identity before: then it was suspended or retired by itself, if at all.
    let given = match current {
        Some(_) => None,
        None => registrations::find(&change.sql, &declaration.name)?,
    };
    let before = current.or(given.as_ref());
    let mut held = false;
    if let Some(before) = before {
        workloads::require_not_retired(before, declaration.status)?;
        held = before.held && declaration.status != WorkloadStatus::Retired;
        if before.held && declaration.status == WorkloadStatus::Active {
            declaration.status = WorkloadStatus::Suspended;
        }
    }
    if planned.action == Planned::Created {
        workloads::create(change, &declaration, Some(&plan.label), actor)?;
    } else {
        let detail = json!({ "managed_by": plan.label.as_str(), "changes": changes(planned) });
        change.audit(actor, Action::WorkloadUpdated, declaration.name.as_str(), &detail)?;
    }
    let status = before.map_or(WorkloadStatus::Active, |before| before.declaration.status);
    if status != declaration.status {
        workloads::pass(change, &declaration.name, declaration.status, BY_DOCUMENT, actor, revision)?;
    }
    registrations::write(change, &declaration, Some(&plan.label), held, revision)?;
    let decisive = |field: &FieldChange| matches!(&*field.field, "selectors" | "approval");
    if planned.action == Planned::Created || planned.fields.iter().any(decisive) {
        registrations::declare(change, &declaration.name, actor)?;
    }
    Ok(())
}

fn retire(
    change: &mut Change<'_>,
    name: &Name,
    plan: &Plan,
    actor: &Actor,
    revision: u64,
) -> Result<(), StoreError> {
    let detail =
        json!({ "to": WorkloadStatus::Retired.as_str(), "managed_by": plan.label.as_str(), "pruned": true });
    change.audit(actor, Action::WorkloadStatus, name.as_str(), &detail)?;
    workloads::pass(change, name, WorkloadStatus::Retired, BY_DOCUMENT, actor, revision)?;
    registrations::write_status(change, name, WorkloadStatus::Retired, false, revision)
}

fn policy_detail(new: &NewPolicy, planned: &PlannedChange, plan: &Plan) -> Value {
    json!({
        "change": planned.action.as_str(),
        "target": new.target,
        "document": new.document,
        "managed_by": plan.label.as_str(),
    })
}

fn changes(planned: &PlannedChange) -> Vec<Value> {
    let change =
        |field: &FieldChange| json!({ "field": field.field, "before": field.before, "after": field.after });
    planned.fields.iter().map(change).collect()
}
