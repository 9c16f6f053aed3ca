//! What an apply will do, before it does it: pure, so that `diff` shows exactly what `apply` commits, and
//! the commit itself plans again from what is there then.
//!
//! Rules
//! - A document of another owner is a conflict, unless it is taken over. What nobody manages is adopted.
//! - Pruning touches only what carries the same label: a workload is retired, for good, a policy deleted.
//!   More than half of either is not pruned without being asked for twice.
//! - Retired is final. What was suspended by hand, or revoked, is resumed by hand: no document lifts it.
//! - One conflict and nothing is applied.

mod fields;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use signet_proto::policy::{Document, parse_json};
use signet_proto::settings::{self, Settings};
use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::Service;

use super::declaration::{Declaration, Name};
use super::document::{DocumentSet, Placed};
use super::label::OwnerLabel;
use crate::roles::Scope;
use crate::store::model::{
    Documents, ManagedMesh, ManagedPolicy, ManagedService, NewPolicy, NewService, Registered, WorkloadStatus,
};

/// How a set of documents is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Take away what carries the label and is not in the set.
    pub prune: bool,
    /// Also if that is more than half.
    pub prune_all: bool,
    /// Change the label of documents that another one manages.
    pub take_over: bool,
}

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A workload or template.
    Workload,
    /// A policy.
    Policy,
    /// The settings of the mesh.
    Mesh,
    /// How a service is called.
    Service,
}

/// What happens to one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is new.
    Created,
    /// It changes.
    Updated,
    /// It is as it was.
    Unchanged,
    /// A workload that is not in the set any more ends for good.
    Retired,
    /// A policy, a service, or the settings of the mesh, that is not in the set any more.
    Deleted,
    /// It cannot be applied: see [`Refused`].
    Conflict,
}

/// One field that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// As in the document, such as `ttl.max` or `rules.checkout-charges`.
    pub field: String,
    /// Empty: was not there.
    pub before: String,
    /// Empty: is not there any more.
    pub after: String,
}

/// What is written for one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// The workload becomes this.
    Workload(Box<Declaration>),
    /// The workload is retired.
    Retire(Name),
    /// The policy becomes this.
    Policy(NewPolicy),
    /// The policy is deleted; its target, which has to be told.
    Delete(String),
    /// The settings of the mesh become these, as JSON; `None`: there are none any more.
    Mesh(Option<String>),
    /// The service's document becomes this.
    Service(NewService),
    /// The service's document is deleted.
    DeleteService,
}

/// One document of the set, or one that is pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub kind: Kind,
    /// A SPIFFE ID, a template, the name of a policy, or `mesh`.
    pub name: String,
    /// What happens.
    pub action: Action,
    /// What of it changes.
    pub fields: Vec<FieldChange>,
    /// File and line; `None` for what is pruned.
    pub place: Option<(Arc<str>, usize)>,
    /// What is written.
    pub write: Write,
}

/// Why nothing of a plan is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Another label manages a document.
    #[error(
        "{place}: `{name}` is managed by `{managed_by}`, not by `{label}`: change it there, or move it with `--take-over`"
    )]
    Managed {
        /// File and line.
        place: String,
        /// Of the document.
        name: String,
        /// Whose it is.
        managed_by: OwnerLabel,
        /// Who applies.
        label: OwnerLabel,
    },
    /// A retired workload would come back.
    #[error("{place}: `{name}` is retired for good: choose another SPIFFE ID")]
    Retired {
        /// File and line.
        place: String,
        /// Of the workload.
        name: String,
    },
    /// Too much would be pruned.
    #[error(
        "{pruned} of {managed} {what} that `{label}` manages are not in the set, more than half: \
         is it complete? If so, add `--prune-all`"
    )]
    PruneTooMuch {
        /// Workloads or policies.
        what: &'static str,
        /// How many would go.
        pruned: usize,
        /// Of how many.
        managed: usize,
        /// Whose.
        label: OwnerLabel,
    },
}

/// What an apply will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who applies.
    pub label: OwnerLabel,
    /// One for each document of the set and for each that is pruned: workloads first, by name.
    pub changes: Vec<Change>,
    /// Why nothing of it is applied; empty: it can be.
    pub refused: Vec<Refused>,
    /// What one should know about it.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether it would change nothing.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Unchanged)
    }

    /// All that it is about, whether or not it changes; everything, if that is nothing.
    #[must_use]
    pub fn touched(&self, current: &Documents) -> Vec<Scope> {
        let targets: BTreeMap<&str, &str> =
            current.policies.iter().map(|managed| (&*managed.policy.name, &*managed.policy.target)).collect();
        let mut scopes = Vec::new();
        for change in &self.changes {
            match (change.kind, &change.write) {
                (Kind::Workload, _) => {
                    scopes.push(change.name.parse().map_or(Scope::Everything, |name: Name| name.scope()));
                }
                (Kind::Policy, write) => {
                    // Also whom it protects now: a document is not taken away by its name.
                    scopes.extend(targets.get(&*change.name).map(|target| Scope::of_target(target)));
                    if let Write::Policy(new) = write {
                        scopes.push(Scope::of_target(&new.target));
                    }
                }
                (Kind::Mesh, _) => scopes.push(Scope::Everything),
                (Kind::Service, _) => scopes.push(Scope::of_target(&change.name)),
            }
        }
        if scopes.is_empty() {
            scopes.push(Scope::Everything);
        }
        scopes
    }

    /// The changes that write something.
    pub fn writes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.write != Write::Nothing)
    }
}

impl Kind {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Policy => "policy",
            Self::Mesh => "mesh",
            Self::Service => "service",
        }
    }
}

impl Action {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
            Self::Retired => "retired",
            Self::Deleted => "deleted",
            Self::Conflict => "conflict",
        }
    }
}

/// What applying `wanted` as `label` does to `current`. Declarations are settled: their usual life is filled in.
#[must_use]
pub fn plan(current: &Documents, wanted: &DocumentSet, label: &OwnerLabel, options: PlanOptions) -> Plan {
    let mut planner = Planner {
        label,
        options,
        plan: Plan { label: label.clone(), changes: Vec::new(), refused: Vec::new(), warnings: Vec::new() },
    };
    planner.workloads(&current.workloads, &wanted.workloads);
    planner.policies(&current.policies, &wanted.policies);
    planner.mesh(current.mesh.as_ref(), wanted.mesh.first());
    planner.services(&current.services, &wanted.services);
    let mut plan = planner.plan;
    plan.changes.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    plan
}

struct Planner<'a> {
    label: &'a OwnerLabel,
    options: PlanOptions,
    plan: Plan,
}

impl Planner<'_> {
    fn workloads(&mut self, current: &[Registered], wanted: &[Placed<Declaration>]) {
        let mut left: BTreeMap<&Name, &Registered> =
            current.iter().map(|registered| (&registered.declaration.name, registered)).collect();
        for placed in wanted {
            let change = self.workload(left.remove(&placed.document.name), placed);
            self.plan.changes.push(change);
        }
        // What has ended is not pruned again, and does not count as managed.
        let alive = |registered: &&Registered| registered.declaration.status != WorkloadStatus::Retired;
        let own = |registered: &&Registered| registered.managed_by.as_ref() == Some(self.label);
        let managed = current.iter().filter(own).filter(alive).count();
        let absent: Vec<&Registered> = left.into_values().filter(own).filter(alive).collect();
        self.prune("workloads", managed, absent, retire);
    }

    fn workload(&mut self, current: Option<&Registered>, placed: &Placed<Declaration>) -> Change {
        let mut wanted = placed.document.clone();
        let Some(current) = current else {
            return self
                .of_set(Kind::Workload, wanted.name.to_string(), Action::Created, placed)
                .writing(fields::of_workload(&wanted), Write::Workload(Box::new(wanted)));
        };
        let name = wanted.name.to_string();
        if self.is_foreign(&name, current.managed_by.as_ref(), placed) {
            return self.of_set(Kind::Workload, name, Action::Conflict, placed);
        }
        let (before, after) = (current.declaration.status, wanted.status);
        if before == WorkloadStatus::Retired && after != WorkloadStatus::Retired {
            let place = self.place(placed);
            self.plan.refused.push(Refused::Retired { place, name: name.clone() });
            return self.of_set(Kind::Workload, name, Action::Conflict, placed);
        }
        if current.held && before == WorkloadStatus::Suspended && after == WorkloadStatus::Active {
            wanted.status = WorkloadStatus::Suspended;
            self.plan.warnings.push(format!(
                "`{name}` stays suspended: it was suspended by hand or revoked; `signet resume` lifts that"
            ));
        }
        if before != WorkloadStatus::Retired && after == WorkloadStatus::Retired {
            self.plan.warnings.push(retires(&name));
        }
        let mut changed = fields::between_workloads(&current.declaration, &wanted);
        changed.extend(self.relabelled(current.managed_by.as_ref()));
        if changed.is_empty() {
            return self.of_set(Kind::Workload, name, Action::Unchanged, placed);
        }
        self.of_set(Kind::Workload, name, Action::Updated, placed)
            .writing(changed, Write::Workload(Box::new(wanted)))
    }

    fn policies(&mut self, current: &[ManagedPolicy], wanted: &[Placed<Document>]) {
        let mut left: BTreeMap<&str, &ManagedPolicy> =
            current.iter().map(|managed| (&*managed.policy.name, managed)).collect();
        for placed in wanted {
            let change = self.policy(left.remove(&*placed.document.name), placed);
            self.plan.changes.push(change);
        }
        let own = |managed: &&ManagedPolicy| managed.managed_by.as_ref() == Some(self.label);
        let managed = current.iter().filter(own).count();
        let absent: Vec<&ManagedPolicy> = left.into_values().filter(own).collect();
        self.prune("policies", managed, absent, delete);
    }

    fn policy(&mut self, current: Option<&ManagedPolicy>, placed: &Placed<Document>) -> Change {
        let wanted = &placed.document;
        let name = wanted.name.clone();
        let write = || {
            Write::Policy(NewPolicy {
                name: wanted.name.clone(),
                target: wanted.whom.to_string(),
                document: wanted.to_json(),
            })
        };
        let Some(current) = current else {
            return self
                .of_set(Kind::Policy, name, Action::Created, placed)
                .writing(fields::of_policy(wanted), write());
        };
        if self.is_foreign(&name, current.managed_by.as_ref(), placed) {
            return self.of_set(Kind::Policy, name, Action::Conflict, placed);
        }
        let mut changed = match parse_json(&current.policy.document) {
            Ok(before) => fields::between_policies(&before, wanted),
            Err(_) => fields::replacing_unreadable(wanted),
        };
        changed.extend(self.relabelled(current.managed_by.as_ref()));
        if changed.is_empty() {
            return self.of_set(Kind::Policy, name, Action::Unchanged, placed);
        }
        self.of_set(Kind::Policy, name, Action::Updated, placed).writing(changed, write())
    }

    fn mesh(&mut self, current: Option<&ManagedMesh>, wanted: Option<&Placed<Settings>>) {
        let managed_by = current.and_then(|current| current.managed_by.as_ref());
        let Some(placed) = wanted else {
            // The one document is always all of them: `--prune` alone is enough.
            if self.options.prune && managed_by == Some(self.label) {
                self.plan.changes.push(reset());
                self.plan.warnings.push("without its document the mesh is strict".into());
            }
            return;
        };
        let name = Kind::Mesh.as_str().to_owned();
        if self.is_foreign(&name, managed_by, placed) {
            let conflict = self.of_set(Kind::Mesh, name, Action::Conflict, placed);
            self.plan.changes.push(conflict);
            return;
        }
        let action = if current.is_some() { Action::Updated } else { Action::Created };
        let before = current.map(|current| settings::parse_json(&current.document));
        let mut changed = fields::of_mesh(before, &placed.document);
        if current.is_some() {
            changed.extend(self.relabelled(managed_by));
        }
        let change = match changed.is_empty() && current.is_some() {
            true => self.of_set(Kind::Mesh, name, Action::Unchanged, placed),
            false => self
                .of_set(Kind::Mesh, name, action, placed)
                .writing(changed, Write::Mesh(Some(placed.document.to_json()))),
        };
        self.plan.changes.push(change);
    }

    fn services(&mut self, current: &[ManagedService], wanted: &[Placed<Service>]) {
        let mut left: BTreeMap<&SpiffeId, &ManagedService> =
            current.iter().map(|managed| (&managed.service.id, managed)).collect();
        for placed in wanted {
            let change = self.service(left.remove(&placed.document.id), placed);
            self.plan.changes.push(change);
        }
        let own = |managed: &&ManagedService| managed.managed_by.as_ref() == Some(self.label);
        let managed = current.iter().filter(own).count();
        let absent: Vec<&ManagedService> = left.into_values().filter(own).collect();
        self.prune("services", managed, absent, delete_service);
    }

    fn service(&mut self, current: Option<&ManagedService>, placed: &Placed<Service>) -> Change {
        let wanted = &placed.document;
        let name = wanted.id.to_string();
        let managed_by = current.and_then(|current| current.managed_by.as_ref());
        if current.is_some() && self.is_foreign(&name, managed_by, placed) {
            return self.of_set(Kind::Service, name, Action::Conflict, placed);
        }
        let before = current.map(|current| current.service.document.as_str());
        let mut changed = fields::of_service(before, wanted);
        if current.is_some() {
            changed.extend(self.relabelled(managed_by));
        }
        if current.is_some() && changed.is_empty() {
            return self.of_set(Kind::Service, name, Action::Unchanged, placed);
        }
        let action = if current.is_some() { Action::Updated } else { Action::Created };
        let write = NewService { id: wanted.id.clone(), document: wanted.to_json() };
        self.of_set(Kind::Service, name, action, placed).writing(changed, Write::Service(write))
    }

    fn prune<T>(&mut self, what: &'static str, managed: usize, absent: Vec<T>, end: impl Fn(T) -> Change) {
        if !self.options.prune {
            return;
        }
        let pruned = absent.len();
        if pruned.saturating_mul(2) > managed && !self.options.prune_all {
            let label = self.label.clone();
            self.plan.refused.push(Refused::PruneTooMuch { what, pruned, managed, label });
        }
        for change in absent.into_iter().map(end) {
            if change.kind == Kind::Workload {
                self.plan.warnings.push(retires(&change.name));
            }
            self.plan.changes.push(change);
        }
    }

    /// Whether another label manages it; if so, that is told.
    fn is_foreign<T>(&mut self, name: &str, managed_by: Option<&OwnerLabel>, placed: &Placed<T>) -> bool {
        match managed_by {
            Some(other) if other != self.label && !self.options.take_over => {
                let (place, name) = (self.place(placed), name.to_owned());
                let (managed_by, label) = (other.clone(), self.label.clone());
                self.plan.refused.push(Refused::Managed { place, name, managed_by, label });
                true
            }
            _ => false,
        }
    }

    fn relabelled(&self, managed_by: Option<&OwnerLabel>) -> Option<FieldChange> {
        (managed_by != Some(self.label)).then(|| FieldChange {
            field: "managed_by".into(),
            before: managed_by.map(ToString::to_string).unwrap_or_default(),
            after: self.label.to_string(),
        })
    }

    fn place<T>(&self, placed: &Placed<T>) -> String {
        format!("{}:{}", placed.file, placed.line)
    }

    fn of_set<T>(&self, kind: Kind, name: String, action: Action, placed: &Placed<T>) -> Change {
        let place = Some((placed.file.clone(), placed.line));
        Change { kind, name, action, fields: Vec::new(), place, write: Write::Nothing }
    }
}

impl Change {
    fn writing(self, fields: Vec<FieldChange>, write: Write) -> Self {
        Self { fields, write, ..self }
    }
}

fn retire(registered: &Registered) -> Change {
    let Declaration { name, status, .. } = &registered.declaration;
    let field = FieldChange {
        field: "status".into(),
        before: status.to_string(),
        after: WorkloadStatus::Retired.to_string(),
    };
    Change {
        kind: Kind::Workload,
        name: name.to_string(),
        action: Action::Retired,
        fields: vec![field],
        place: None,
        write: Write::Retire(name.clone()),
    }
}

fn delete(managed: &ManagedPolicy) -> Change {
    Change {
        kind: Kind::Policy,
        name: managed.policy.name.clone(),
        action: Action::Deleted,
        fields: Vec::new(),
        place: None,
        write: Write::Delete(managed.policy.target.clone()),
    }
}

fn delete_service(managed: &ManagedService) -> Change {
    Change {
        kind: Kind::Service,
        name: managed.service.id.to_string(),
        action: Action::Deleted,
        fields: Vec::new(),
        place: None,
        write: Write::DeleteService,
    }
}

fn reset() -> Change {
    Change {
        kind: Kind::Mesh,
        name: Kind::Mesh.as_str().to_owned(),
        action: Action::Deleted,
        fields: Vec::new(),
        place: None,
        write: Write::Mesh(None),
    }
}

fn retires(name: &str) -> String {
    format!("`{name}` is retired for good: its identity is revoked, and nobody can register it again")
}
