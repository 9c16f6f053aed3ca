//! What a proof entitles to: found by the selectors it proves, and found again in the commit of the issuance.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Entitled, Terms, WorkloadStatus};
use super::sql::{Sql, Value};
use super::{Refusal, Store, StoreError, registrations, workloads};
use crate::audit::Action;
use crate::registry::{Declaration, Name, Selector, choose, matching};

/// A proof that fits more workloads than this is too broad to choose by.
const MOST_MATCHES: usize = 64;

impl Store {
    /// The identity that a proof of these facts entitles to; `wanted` is the one asked for.
    ///
    /// # Errors
    /// [`Refusal::Unmatched`] when it is none, or not one. Whether it is active is decided in the commit.
    pub async fn entitled(
        &self,
        proven: BTreeSet<Selector>,
        wanted: Option<SpiffeId>,
    ) -> Result<Entitled, StoreError> {
        self.read(move |sql| {
            let (id, declaration) = find(sql, &proven, wanted.as_ref())?;
            let ttl = declaration.ttl.default.ok_or_else(|| {
                StoreError::Damaged(format!("workload `{}` without a ttl", declaration.name))
            })?;
            let template = match &declaration.name {
                Name::Template(template) => Some(template),
                Name::Identity(_) => None,
            };
            let dns = registrations::filled(&id, template, declaration.dns)?;
            let terms = Terms {
                ttl,
                ttl_min: declaration.ttl.min,
                ttl_max: declaration.ttl.max,
                dns: dns.iter().map(ToString::to_string).collect(),
                until: declaration.until,
            };
            Ok(Entitled { id, terms })
        })
        .await
    }
}

/// The same in the commit of an issuance for `id`, which gets a row of its own if a template gives it for the
/// first time.
pub(super) fn admit(
    change: &mut Change<'_>,
    id: &SpiffeId,
    proven: &BTreeSet<Selector>,
    actor: &Actor,
    template_limit: u64,
) -> Result<(), StoreError> {
    let (_, declaration) = find(&change.sql, proven, Some(id))?;
    if declaration.status != WorkloadStatus::Active
        || declaration.until.is_some_and(|until| until <= change.at)
    {
        return Err(Refusal::WorkloadNotActive { id: id.clone(), status: declaration.status }.into());
    }
    if let Name::Template(template) = &declaration.name {
        match registrations::find(&change.sql, &Name::Identity(id.clone()))? {
            // What an identity may do follows from the one template that gave it.
            Some(own) if own.template.as_ref() != Some(template) => {
                return Err(Refusal::OtherTemplate(id.clone()).into());
            }
            Some(_) => {}
            None => {
                let given = registrations::count_given(&change.sql, template)?;
                if given >= template_limit {
                    let template = template.to_string();
                    return Err(Refusal::TemplateFull { template, given }.into());
                }
                let detail = json!({ "template": template.as_str() });
                change.audit(actor, Action::WorkloadCreated, id.as_str(), &detail)?;
                let commit = change.revise(Topics::NONE, id.as_str())?;
                registrations::derive(change, id, template, commit.revision)?;
            }
        }
    }
    workloads::require_active(&change.sql, id, change.at).map(drop)
}

/// The same for a request that waits: the registration that gives the identity. Nothing is made of it yet.
pub(super) fn require(
    sql: &Sql<'_>,
    id: &SpiffeId,
    proven: &BTreeSet<Selector>,
    now: SystemTime,
) -> Result<Name, StoreError> {
    let (_, declaration) = find(sql, proven, Some(id))?;
    if declaration.status != WorkloadStatus::Active || declaration.until.is_some_and(|until| until <= now) {
        return Err(Refusal::WorkloadNotActive { id: id.clone(), status: declaration.status }.into());
    }
    if registrations::find(sql, &Name::Identity(id.clone()))?.is_some() {
        workloads::require_active(sql, id, now)?;
    }
    Ok(declaration.name)
}

fn find(
    sql: &Sql<'_>,
    proven: &BTreeSet<Selector>,
    wanted: Option<&SpiffeId>,
) -> Result<(SpiffeId, Declaration), StoreError> {
    let candidates = candidates(sql, proven)?;
    let mut registered = BTreeSet::new();
    // Once without knowing what is registered, to learn which names matter; retired ones do not compete.
    for found in matching(&candidates, proven, |_| false).found {
        let own = registrations::find(sql, &Name::Identity(found.id.clone()))?;
        if own.is_some_and(|own| own.template.is_none()) {
            registered.insert(found.id);
        }
    }
    let matches = matching(&candidates, proven, |id| registered.contains(id));
    for (name, error) in &matches.refused {
        tracing::info!(workload = %name, %error, "a proof fits, but gives no identity");
    }
    let found = choose(matches.found, wanted).map_err(Refusal::Unmatched)?;
    Ok((found.id, found.declaration.clone()))
}

/// Workloads all of whose selectors are among the proven ones.
fn candidates(sql: &Sql<'_>, proven: &BTreeSet<Selector>) -> Result<Vec<Declaration>, StoreError> {
    let alone = proven.iter().filter_map(|selector| Selector::any_of(selector.attestor()).ok());
    let asked: BTreeSet<String> =
        proven.iter().cloned().chain(alone).map(|found| found.to_string()).collect();
    let places: Vec<String> = (1..=asked.len()).map(|place| format!("?{place}")).collect();
    let query = format!(
        "SELECT name FROM selector WHERE selector IN ({}) GROUP BY name
         HAVING count(*) = (SELECT count(*) FROM selector AS own WHERE own.name = selector.name)
         ORDER BY name LIMIT {}",
        places.join(", "),
        MOST_MATCHES + 1
    );
    let asked: Vec<Value<'_>> = asked.iter().map(Value::from).collect();
    let names: Vec<String> = sql.all(&query, &asked, |row| row.get(0))?;
    if names.len() > MOST_MATCHES {
        return Err(Refusal::TooManyMatches.into());
    }
    let mut found = Vec::new();
    for name in names {
        let name: Name = name.parse().map_err(|error| StoreError::Damaged(format!("`{name}`: {error}")))?;
        let registered = registrations::require(sql, &name)?;
        if registered.declaration.status != WorkloadStatus::Retired {
            found.push(registered.declaration);
        }
    }
    Ok(found)
}
