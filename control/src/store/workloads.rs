//! Workloads: who may have an identity at all.

use std::time::Duration;

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Mutation, NewWorkload, Workload, WorkloadStatus};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError, revocations, tokens};
use crate::audit::Action;

const COLUMNS: &str = "spiffe_id, owner, purpose, ttl_s, status, created_at_ms, revision";

impl Store {
    /// Registers a workload.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when its SPIFFE ID is taken.
    pub async fn create_workload(&self, new: NewWorkload, actor: Actor) -> Result<Workload, StoreError> {
        self.write(move |change| create(change, &new, &actor)).await
    }

    /// All workloads, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn workloads(&self) -> Result<Vec<Workload>, StoreError> {
        self.read(|sql| {
            let found = sql.rows(&format!("SELECT {COLUMNS} FROM workload ORDER BY spiffe_id"), &[])?;
            found.iter().map(workload).collect()
        })
        .await
    }

    /// One workload.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none of this name.
    pub async fn workload(&self, id: SpiffeId) -> Result<Workload, StoreError> {
        self.read(move |sql| require(sql, &id)).await
    }

    /// Suspends, resumes or retires a workload. Suspended and retired ones get no SVID, and their identity
    /// is listed as revoked; resuming lifts that, but not the revocation of single instances.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`Refusal::WorkloadRetired`] when it is retired and should be anything else.
    pub async fn set_workload_status(
        &self,
        id: SpiffeId,
        status: WorkloadStatus,
        reason: String,
        actor: Actor,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| set_status(change, &id, status, &reason, &actor)).await
    }
}

fn create(change: &mut Change<'_>, new: &NewWorkload, actor: &Actor) -> Result<Workload, StoreError> {
    let id = new.spiffe_id.as_str();
    if find(&change.sql, &new.spiffe_id)?.is_some() {
        return Err(StoreError::exists("workload", id));
    }
    let ttl = new.ttl.as_secs();
    change.audit(
        actor,
        Action::WorkloadCreated,
        id,
        &json!({ "owner": new.owner, "purpose": new.purpose, "ttl_s": ttl }),
    )?;
    let commit = change.revise(Topics::NONE, id)?;
    change.sql.execute(
        "INSERT INTO workload (spiffe_id, owner, purpose, ttl_s, status, created_at_ms, revision)
             VALUES (?1, ?2, ?3, ?4, 'active', ?5, ?6)",
        values![id, &new.owner, &new.purpose, ttl, change.at, commit.revision],
    )?;
    require(&change.sql, &new.spiffe_id)
}

fn set_status(
    change: &mut Change<'_>,
    id: &SpiffeId,
    status: WorkloadStatus,
    reason: &str,
    actor: &Actor,
) -> Result<Mutation, StoreError> {
    let current = require(&change.sql, id)?;
    if current.status == status {
        return Ok(Mutation {
            commit: change.newest(),
            effects: vec![format!("workload is {status} already: nothing changed")],
        });
    }
    if current.status == WorkloadStatus::Retired {
        return Err(Refusal::WorkloadRetired(id.clone()).into());
    }
    let mut effects = vec![format!("workload is {status}, was {}", current.status)];
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
    change.audit(
        actor,
        Action::WorkloadStatus,
        id.as_str(),
        &json!({ "from": current.status.as_str(), "to": status.as_str(), "reason": reason }),
    )?;
    let commit = change.revise(Topics::REVOCATIONS, id.as_str())?;
    write_status(change, id, status, commit.revision)?;
    Ok(Mutation { commit, effects })
}

pub(super) fn write_status(
    change: &Change<'_>,
    id: &SpiffeId,
    status: WorkloadStatus,
    revision: u64,
) -> Result<(), StoreError> {
    change.sql.execute(
        "UPDATE workload SET status = ?2, revision = ?3 WHERE spiffe_id = ?1",
        values![id.as_str(), status.as_str(), revision],
    )?;
    Ok(())
}

pub(super) fn require(sql: &Sql<'_>, id: &SpiffeId) -> Result<Workload, StoreError> {
    find(sql, id)?.ok_or_else(|| StoreError::missing("workload", id.as_str()))
}

pub(super) fn require_active(sql: &Sql<'_>, id: &SpiffeId) -> Result<Workload, StoreError> {
    let workload = require(sql, id)?;
    if workload.status == WorkloadStatus::Active {
        Ok(workload)
    } else {
        Err(Refusal::WorkloadNotActive { id: id.clone(), status: workload.status }.into())
    }
}

fn find(sql: &Sql<'_>, id: &SpiffeId) -> Result<Option<Workload>, StoreError> {
    let found = sql.find(
        &format!("SELECT {COLUMNS} FROM workload WHERE spiffe_id = ?1"),
        values![id.as_str()],
        workload,
    )?;
    Ok(found)
}

fn workload(row: &Row) -> Result<Workload, StoreError> {
    Ok(Workload {
        spiffe_id: row.parsed(0)?,
        owner: row.get(1)?,
        purpose: row.get(2)?,
        ttl: Duration::from_secs(row.get(3)?),
        status: row.parsed(4)?,
        created_at: row.get(5)?,
        revision: row.get(6)?,
    })
}
