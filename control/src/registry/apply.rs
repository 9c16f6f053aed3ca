//! Documents applied, compared and written out: what `signet apply`, `diff` and `export` ask for.

use std::collections::BTreeMap;

use signet_proto::document::ParseError;
use signet_proto::policy::{CompileError, Document, PolicySet, parse_json};
use signet_proto::settings::{self, Exception};
use signet_proto::spiffe::TrustDomain;
use signet_proto::traffic;

use super::claims::require_own;
use super::document::{DocumentSet, File, SetError, mesh_yaml, policy_yaml, service_yaml, workload_yaml};
use super::label::OwnerLabel;
use super::plan::{Plan, PlanOptions, Write, plan};
use super::{Registry, TtlBounds};
use crate::roles::{Permission, Refused, Scope, Sight};
use crate::store::model::{Documents, NewService, WorkloadStatus};
use crate::store::{Refusal, StoreError};
use crate::time;

/// Reasons that one refusal tells.
const TOLD: usize = 20;

/// Which kinds of documents are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Workloads and templates.
    pub workloads: bool,
    /// Policies.
    pub policies: bool,
    /// The settings of the mesh.
    pub mesh: bool,
    /// How services are called.
    pub services: bool,
}

impl Parts {
    /// All kinds.
    pub const ALL: Self = Self { workloads: true, policies: true, mesh: true, services: true };
    /// Policies alone.
    pub const POLICIES: Self = Self { workloads: false, policies: true, mesh: false, services: false };
}

/// Documents to be applied.
#[derive(Debug, Clone)]
pub struct Application {
    /// Where they are.
    pub files: Vec<File>,
    /// Which kinds may be in them.
    pub parts: Parts,
    /// Who manages them.
    pub label: OwnerLabel,
    /// How.
    pub options: PlanOptions,
    /// Only say what it would do.
    pub dry_run: bool,
    /// Refuse if documents have changed after this revision.
    pub expected_revision: Option<u64>,
}

/// What was done, or would be.
#[derive(Debug)]
pub struct Applied {
    /// The revision it became; of a dry run and of no change: that of the last change of documents.
    pub revision: u64,
    /// When that was; `None` for a dry run.
    pub committed_at: Option<std::time::SystemTime>,
    /// What it does to each document.
    pub plan: Plan,
}

/// Why documents are not applied or written out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// They are not a set of documents.
    #[error(transparent)]
    Set(#[from] SetError),
    /// There is none.
    #[error(
        "no document in what is applied: expected `kind: Workload`, `kind: Policy`, `kind: Service` or `kind: Mesh`"
    )]
    Empty,
    /// Another kind where only policies are applied.
    #[error("{0}: expected policies alone: `signet apply` takes all kinds")]
    OnlyPolicies(String),
    /// They do not go together with what is in force.
    #[error("{0}")]
    Policies(CompileError),
    /// A stored policy cannot be written out.
    #[error("`{name}` cannot be written out: {error}")]
    Unreadable {
        /// Which.
        name: String,
        /// Why.
        error: ParseError,
    },
    /// Whoever asks may not: their roles do not reach all that the documents are about.
    #[error(transparent)]
    NotPermitted(#[from] Refused),
    /// Control is shutting down.
    #[error("control is shutting down")]
    Closed,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Registry {
    /// Applies documents, all or none; or says what that would do. `permission` has to reach all that they are
    /// about, and all that is pruned or replaced.
    ///
    /// # Errors
    /// What is wrong with them, or why they cannot be applied.
    pub async fn apply(
        &self,
        application: Application,
        permission: impl Permission,
    ) -> Result<Applied, ApplyError> {
        let Application { files, parts, label, options, dry_run, expected_revision } = application;
        let (domain, bounds) = (self.trust_domain.clone(), self.ttl);
        let wanted = self.aside(move || read(&files, parts, &domain, bounds)).await??;
        if wanted.is_empty() && !options.prune_all {
            return Err(ApplyError::Empty);
        }
        if !wanted.is_empty() {
            // Before anything is told of other documents; in the commit it is decided.
            permission.on_all(&scopes(&wanted))?;
        }
        if !dry_run {
            let decide = move |current: &Documents| {
                let plan = plan(current, &wanted, &label, options);
                let refused = refuse(current, &plan, expected_revision);
                (plan, refused)
            };
            let (commit, plan) = self.store.apply_documents(permission, decide).await?;
            return Ok(Applied { revision: commit.revision, committed_at: Some(commit.at), plan });
        }
        let current = self.store.documents().await?;
        let compare = move || {
            let plan = plan(&current, &wanted, &label, options);
            let (touched, together, changed) =
                (plan.touched(&current), together(&current, &plan), current.changed);
            (touched, current, together, changed, plan)
        };
        let (touched, current, together, revision, plan) = self.aside(compare).await?;
        permission.on_all(&touched)?;
        require_own(&current, &plan, &permission).map_err(StoreError::from)?;
        together.map_err(ApplyError::Policies)?;
        Ok(Applied { revision, committed_at: None, plan })
    }

    /// Documents as YAML, in canonical form and order, the mesh's first, then workloads; as far as `sight` reaches, without what is
    /// retired, and without identities that templates gave.
    ///
    /// # Errors
    /// When a stored document cannot be read.
    pub async fn export(
        &self,
        parts: Parts,
        label: Option<OwnerLabel>,
        sight: Sight,
    ) -> Result<String, ApplyError> {
        let documents = self.store.documents().await?;
        self.aside(move || write(&documents, parts, label.as_ref(), &sight)).await?
    }

    /// Reading and writing of many documents takes long enough to hold up calls.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApplyError> {
        let _permit = self.reading.acquire().await.map_err(|_| ApplyError::Closed)?;
        #[expect(clippy::disallowed_methods, reason = "bounded by the permit, and by the size of a set")]
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| ApplyError::Closed)
    }
}

/// Reads the files, and settles what is in them in this mesh.
fn read(
    files: &[File],
    parts: Parts,
    domain: &TrustDomain,
    bounds: TtlBounds,
) -> Result<DocumentSet, ApplyError> {
    let mut set = DocumentSet::read(files)?;
    let workload = set.workloads.first().filter(|_| !parts.workloads);
    let mesh = set.mesh.first().filter(|_| !parts.mesh);
    let service = set.services.first().filter(|_| !parts.services);
    let other = workload.map(|placed| (&placed.file, placed.line));
    let other = other.or(service.map(|placed| (&placed.file, placed.line)));
    if let Some((file, line)) = other.or(mesh.map(|placed| (&placed.file, placed.line))) {
        return Err(ApplyError::OnlyPolicies(format!("{file}:{line}")));
    }
    let mut mistakes = Vec::new();
    for placed in &mut set.workloads {
        match placed.document.clone().settle(domain, bounds) {
            Ok(settled) => placed.document = settled,
            Err(mistake) => mistakes.push(ParseError {
                file: placed.file.to_string(),
                line: placed.line,
                column: 1,
                key: mistake.field.into(),
                message: mistake.message,
            }),
        }
    }
    for placed in &set.policies {
        let Document { direction, whom, .. } = &placed.document;
        if whom.trust_domain() != domain {
            mistakes.push(ParseError {
                file: placed.file.to_string(),
                line: placed.line,
                column: 1,
                key: direction.whom_field().into(),
                message: format!("expected one of trust domain `{domain}`, found `{whom}`"),
            });
        }
    }
    for placed in &set.mesh {
        let foreign = |exception: &&Exception| exception.target.trust_domain() != domain;
        let exceptions = |key, exceptions: &[Exception]| {
            exceptions.iter().find(foreign).map(|exception| (key, exception.target.to_string()))
        };
        let (permissive, strict) = (
            exceptions("permissive", &placed.document.permissive),
            exceptions("strict", &placed.document.strict),
        );
        mistakes.extend(permissive.into_iter().chain(strict).map(|(key, target)| ParseError {
            file: placed.file.to_string(),
            line: placed.line,
            column: 1,
            key: key.into(),
            message: format!("expected targets of trust domain `{domain}`, found `{target}`"),
        }));
    }
    if mistakes.is_empty() {
        return Ok(set);
    }
    mistakes.truncate(TOLD);
    Err(SetError::Mistakes(mistakes).into())
}

/// All that the documents are about.
fn scopes(set: &DocumentSet) -> Vec<Scope> {
    let workloads = set.workloads.iter().map(|placed| placed.document.name.scope());
    let policies = set.policies.iter().map(|placed| Scope::Of(placed.document.whom.clone()));
    let services = set.services.iter().map(|placed| Scope::of_target(placed.document.id.as_str()));
    workloads.chain(policies).chain(services).chain(set.mesh.iter().map(|_| Scope::Everything)).collect()
}

/// What stands against a plan: decided in the commit.
fn refuse(current: &Documents, plan: &Plan, expected: Option<u64>) -> Result<(), Refusal> {
    if let Some(expected) = expected
        && current.changed > expected
    {
        return Err(Refusal::NotApplied(format!(
            "documents have changed at revision {}, after {expected}: look at the difference again",
            current.changed
        )));
    }
    if !plan.refused.is_empty() {
        let mut told: Vec<String> = plan.refused.iter().take(TOLD).map(ToString::to_string).collect();
        if plan.refused.len() > TOLD {
            told.push(format!("and {} more", plan.refused.len() - TOLD));
        }
        return Err(Refusal::NotApplied(told.join("\n")));
    }
    together(current, plan).map_err(|error| Refusal::PoliciesDoNotFit(error.to_string()))
}

/// Whether the policies that would be in force go together. One that cannot be read denies what it can, until it
/// is replaced or deleted; it stops nobody.
fn together(current: &Documents, plan: &Plan) -> Result<(), CompileError> {
    let mut documents: BTreeMap<&str, &str> =
        current.policies.iter().map(|managed| (&*managed.policy.name, &*managed.policy.document)).collect();
    for change in plan.writes() {
        match &change.write {
            Write::Policy(new) => {
                documents.insert(&new.name, &new.document);
            }
            Write::Delete(_) => {
                documents.remove(&*change.name);
            }
            _ => {}
        }
    }
    let readable: Vec<Document> = documents.into_values().filter_map(|json| parse_json(json).ok()).collect();
    PolicySet::compile(readable).map(drop)
}

fn write(
    documents: &Documents,
    parts: Parts,
    label: Option<&OwnerLabel>,
    sight: &Sight,
) -> Result<String, ApplyError> {
    let mine = |managed_by: Option<&OwnerLabel>| label.is_none() || label == managed_by;
    let mut texts = Vec::new();
    let settings = documents.mesh.iter().filter(|managed| parts.mesh && mine(managed.managed_by.as_ref()));
    for managed in settings.filter(|_| sight.sees(&Scope::Everything)) {
        let text = settings::parse_json(&managed.document).and_then(|settings| mesh_yaml(&settings));
        texts.push(text.map_err(|error| ApplyError::Unreadable { name: settings::KIND.into(), error })?);
    }
    if parts.workloads {
        for registered in &documents.workloads {
            let declaration = &registered.declaration;
            let alive = declaration.status != WorkloadStatus::Retired;
            if mine(registered.managed_by.as_ref()) && alive && sight.sees(&declaration.name.scope()) {
                let name = declaration.name.to_string();
                let text = workload_yaml(declaration);
                texts.push(text.map_err(|error| ApplyError::Unreadable { name, error })?);
            }
        }
    }
    if parts.policies {
        for managed in &documents.policies {
            let policy = &managed.policy;
            if mine(managed.managed_by.as_ref()) && sight.sees(&Scope::of_target(&policy.target)) {
                let text = parse_json(&policy.document).and_then(|document| policy_yaml(&document));
                let name = policy.name.clone();
                texts.push(text.map_err(|error| ApplyError::Unreadable { name, error })?);
            }
        }
    }
    if parts.services {
        for managed in &documents.services {
            let NewService { id, document } = &managed.service;
            if mine(managed.managed_by.as_ref()) && sight.sees(&Scope::of_target(id.as_str())) {
                let text = traffic::parse_json(document).and_then(|service| service_yaml(&service));
                texts.push(text.map_err(|error| ApplyError::Unreadable { name: id.to_string(), error })?);
            }
        }
    }
    Ok(texts.join("---\n"))
}

impl Applied {
    /// When it was committed, for messages.
    #[must_use]
    pub fn committed_at(&self) -> Option<prost_types::Timestamp> {
        self.committed_at.map(time::to_proto)
    }
}
