//! What ends by itself: instances that left or stopped renewing, and revocations that cover nothing any more.
//!
//! Only an instance that said goodbye ends without a word to the others. That a stream is closed, or that an
//! instance never had one, proves nothing: behind a partition its connections can still be open, and an SVID
//! can be used without a proxy. So everything else that stops renewing is listed as lapsed.
//!
//! Lapse is a verdict of the clock, and clocks can be wrong for a while: it is lifted when the instance shows
//! an SVID that has not ended. A revocation is a person's verdict and is not.

use std::time::{Duration, SystemTime};

use serde_json::json;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::mesh::Topics;
use super::model::{Actor, Commit};
use super::revocations::{end_instance, instance_of, list};
use super::sql::values;
use super::{Refusal, Store, StoreError, leases};
use crate::audit::Action;
use crate::time;

/// How long proxies are told of an instance that stopped renewing. Its certificates have ended, so that this
/// only closes what is still open.
const LAPSED_LISTED: Duration = Duration::from_secs(24 * 3600);

/// At most `?3` that cover nothing that ended after `?1`, or, of lapsed instances, after `?2`; nothing after `?4`.
pub(super) const PRUNE: &str = "DELETE FROM revocation WHERE (kind, name) IN (
           SELECT kind, name FROM revocation
           WHERE covers_until_ms < ?4 AND covers_until_ms < CASE WHEN lapsed = 1 THEN CAST(?2 AS BIGINT) ELSE ?1 END
             AND NOT (kind = 'identity' AND EXISTS (
               SELECT 1 FROM certificate WHERE spiffe_id = revocation.name AND not_after_ms >= ?1))
             AND NOT (kind = 'instance' AND EXISTS (
               SELECT 1 FROM certificate WHERE instance = revocation.name
                 AND not_after_ms >= CASE WHEN revocation.lapsed = 1 THEN CAST(?2 AS BIGINT) ELSE ?1 END))
           LIMIT ?3)";

impl Store {
    /// Marks active instances whose newest SVID ended before `ended_before`, at most `limit` of them, and
    /// lists them. Returns which.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn lapse_instances(
        &self,
        ended_before: SystemTime,
        limit: u32,
    ) -> Result<Vec<InstanceId>, StoreError> {
        self.write(move |change| lapse(change, ended_before, limit)).await
    }

    /// Marks an instance that says goodbye: its endpoints are forgotten, and when its SVID ends it is not
    /// listed. What it holds stays good until then; a renewal or a new stream brings it back.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn depart_instance(
        &self,
        instance: InstanceId,
        id: SpiffeId,
        actor: Actor,
    ) -> Result<(), StoreError> {
        self.write(move |change| {
            let name = instance.to_string();
            let departed = change.sql.execute(
                "UPDATE instance SET status = 'departed'
                     WHERE id = ?1 AND spiffe_id = ?2 AND status = 'active'",
                values![&name, id.as_str()],
            )?;
            if departed == 0 {
                return Ok(());
            }
            leases::remove(change, &name)?;
            change.audit(&actor, Action::InstanceDeparted, id.as_str(), &json!({ "instance": name }))
        })
        .await
    }

    /// Whether any active instance's newest SVID ended before `ended_before`: cheap, to ask often.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn any_lapsed(&self, ended_before: SystemTime) -> Result<bool, StoreError> {
        self.read(move |sql| {
            let any = sql.one(
                "SELECT EXISTS (SELECT 1 FROM instance WHERE status = 'active' AND not_after_ms < ?1)",
                values![ended_before],
            )?;
            Ok(any)
        })
        .await
    }

    /// Brings back an instance that was taken for lapsed, though its newest SVID has not ended. Returns the
    /// newest commit once it is back, or if it was never away.
    ///
    /// # Errors
    /// [`Refusal::InstanceUnknown`], [`Refusal::InstanceRevoked`], or [`Refusal::InstanceLapsed`] if it truly
    /// has.
    pub async fn revive_instance(&self, instance: InstanceId, id: SpiffeId) -> Result<Commit, StoreError> {
        self.write(move |change| {
            let name = instance.to_string();
            let (of, status, not_after) = instance_of(&change.sql, &name)?.ok_or(Refusal::InstanceUnknown)?;
            match status.as_str() {
                _ if of != id.as_str() => Err(Refusal::InstanceUnknown.into()),
                "revoked" => Err(Refusal::InstanceRevoked.into()),
                "lapsed" if not_after > change.at => revive(change, &name, &id),
                "lapsed" => Err(Refusal::InstanceLapsed.into()),
                _ => Ok(change.newest()),
            }
        })
        .await
    }

    /// Drops at most `limit` revocations whose certificates had all ended at `ended_before`, and entries of
    /// lapsed instances whose time was over at `lapsed_before`. Returns how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_revocations(
        &self,
        ended_before: SystemTime,
        lapsed_before: SystemTime,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.write(move |change| prune(change, ended_before, lapsed_before, limit)).await
    }
}

fn lapse(
    change: &mut Change<'_>,
    ended_before: SystemTime,
    limit: u32,
) -> Result<Vec<InstanceId>, StoreError> {
    let lapsed: Vec<(String, String, SystemTime)> = change.sql.all(
        "SELECT id, spiffe_id, not_after_ms FROM instance
             WHERE status = 'active' AND not_after_ms < ?1 ORDER BY not_after_ms LIMIT ?2",
        values![ended_before, limit],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let actor = Actor::control();
    for (instance, id, not_after) in &lapsed {
        end_instance(change, instance, "lapsed")?;
        let until = (change.at + LAPSED_LISTED).max(*not_after);
        list(change, "instance", instance, true, "not renewed", &actor, until)?;
        change.audit(
            &actor,
            Action::InstanceLapsed,
            id,
            &json!({ "instance": instance, "svid_ended_at": time::rfc3339(*not_after) }),
        )?;
    }
    if !lapsed.is_empty() {
        change.revise(Topics::REVOCATIONS, "lapsed instances")?;
    }
    lapsed
        .iter()
        .map(|(instance, ..)| {
            instance.parse().map_err(|error| StoreError::Damaged(format!("instance `{instance}`: {error}")))
        })
        .collect()
}

/// Undoes the lapse of an instance whose newest SVID has not ended.
pub(super) fn revive(change: &mut Change<'_>, instance: &str, id: &SpiffeId) -> Result<Commit, StoreError> {
    change.sql.execute(
        "UPDATE instance SET status = 'active', ended_at_ms = NULL WHERE id = ?1",
        values![instance],
    )?;
    change.sql.execute(
        "DELETE FROM revocation WHERE kind = 'instance' AND name = ?1 AND lapsed = 1",
        values![instance],
    )?;
    change.audit(
        &Actor::identity(id),
        Action::InstanceRevived,
        id.as_str(),
        &json!({ "instance": instance, "because": "it showed an SVID that has not ended" }),
    )?;
    change.revise(Topics::REVOCATIONS, instance)
}

/// `covers_until` is trusted only together with the certificates themselves: whatever it says, an entry
/// with a certificate that has not ended stays.
fn prune(
    change: &mut Change<'_>,
    ended_before: SystemTime,
    lapsed_before: SystemTime,
    limit: u32,
) -> Result<u64, StoreError> {
    let pruned = change
        .sql
        .execute(PRUNE, values![ended_before, lapsed_before, limit, ended_before.max(lapsed_before)])?;
    if pruned > 0 {
        change.audit(
            &Actor::control(),
            Action::RevocationsPruned,
            "revocations",
            &json!({ "count": pruned, "ended_before": time::rfc3339(ended_before) }),
        )?;
        change.revise(Topics::REVOCATIONS, "pruned")?;
    }
    Ok(pruned)
}
