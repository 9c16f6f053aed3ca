//! Orders to renew at once: the newest on each scope. What they mean is told to proxies; who has followed them is told
//! by the certificates that were issued since.

use std::time::{Duration, SystemTime};

use serde_json::json;
use signet_proto::policy::Pattern;
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::mesh::Topics;
use super::model::{Mutation, RotationOrder};
use super::restrictions::prefix;
use super::sql::{Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::roles::{Permission, Scope};
use crate::time;

/// Orders at a time: each is forgotten a week later.
const MOST: u64 = 10_000;
/// So many renew in a second when many are meant: control issues more, and has other things to do.
const EACH_SECOND: u64 = 200;
/// So many are told of those that are left.
const TOLD: u32 = 100;
/// Proxies that go by what control tells them, with what they hold, in a scope.
const PROXIES: &str =
    "FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id JOIN certificate c ON c.serial = i.serial
     WHERE i.status = 'active' AND w.status = 'active' AND i.watched = 1 AND i.not_after_ms > ?1
       AND CASE WHEN CAST(?3 AS BIGINT) = 1 THEN substr(i.spiffe_id, 1, length(CAST(?2 AS TEXT))) = ?2
           ELSE i.spiffe_id = ?2 END";

/// How far an order is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Proxies that hold an SVID issued since.
    pub rotated: u64,
    /// How many hold an older one.
    pub left: u64,
    /// Some of them.
    pub left_some: Vec<(SpiffeId, InstanceId)>,
}

impl Store {
    /// Has the proxies of a scope renew at once.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`]; [`Refusal::TooManyRotations`].
    pub async fn order_rotation(
        &self,
        scope: Scope,
        reason: String,
        permission: impl Permission,
    ) -> Result<(Mutation, RotationOrder), StoreError> {
        self.write(move |change| order(change, &scope, &reason, &permission)).await
    }

    /// How far the proxies of a scope are with an order of that time.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rotated(
        &self,
        scope: Scope,
        issued_before: SystemTime,
        now: SystemTime,
    ) -> Result<Rotated, StoreError> {
        self.read(move |sql| {
            let (prefix, below) = prefix(&scope);
            let counted = format!(
                "SELECT count(*), coalesce(sum(CASE WHEN c.issued_at_ms < ?4 THEN 1 ELSE 0 END), 0) {PROXIES}"
            );
            let values = values![now, &prefix, below, issued_before];
            let counts = sql.row(&counted, values)?;
            let counts = counts.ok_or_else(|| StoreError::Damaged("a count without an answer".into()))?;
            let (all, left): (u64, u64) = (counts.get(0)?, counts.get(1)?);
            let some = format!(
                "SELECT i.spiffe_id, i.id {PROXIES} AND c.issued_at_ms < ?4 ORDER BY 1, 2 LIMIT {TOLD}"
            );
            let left_some = match left {
                0 => Vec::new(),
                _ => sql.all(&some, values, |row| Ok((row.parsed(0)?, row.parsed(1)?)))?,
            };
            Ok(Rotated { rotated: all.saturating_sub(left), left, left_some })
        })
        .await
    }
}

fn order(
    change: &mut Change<'_>,
    scope: &Scope,
    reason: &str,
    permission: &impl Permission,
) -> Result<(Mutation, RotationOrder), StoreError> {
    let actor = permission.on(scope)?;
    // What this one says, too, need not be said any more.
    for older in all(&change.sql)?.iter().filter(|older| scope.covers(&older.scope)) {
        change.sql.post("DELETE FROM rotation WHERE scope = ?1", values![older.scope.to_string()])?;
    }
    if change.sql.one::<u64>("SELECT count(*) FROM rotation", &[])? >= MOST {
        return Err(Refusal::TooManyRotations.into());
    }
    let (prefix, below) = prefix(scope);
    let meant: u64 =
        change.sql.one(&format!("SELECT count(*) {PROXIES}"), values![change.at, &prefix, below])?;
    let within = Duration::from_millis(meant.saturating_mul(1000) / EACH_SECOND);
    let on = scope.to_string();
    change.sql.post(
        "INSERT INTO rotation (scope, issued_before_ms, within_ms, reason, ordered_by) VALUES (?1, ?2, ?3, ?4, ?5)",
        values![&on, change.at, millis(within), reason, actor.as_str()],
    )?;
    let detail =
        json!({ "reason": reason, "proxies": meant, "issued_before": time::rfc3339_millis(change.at) });
    change.audit(&actor, Action::RotationOrdered, &on, &detail)?;
    let commit = match scope {
        Scope::Everything => change.revise(Topics::ROTATIONS, &on)?,
        Scope::Of(pattern @ (Pattern::Exact(_) | Pattern::Subtree(_))) => {
            change.revise_for(Topics::ROTATIONS, &on, [pattern.to_string().as_str()])?
        }
    };
    let order = RotationOrder { scope: scope.clone(), issued_before: change.at, within };
    let told = match within.is_zero() {
        true => format!("{meant} proxies on {on} renew their SVIDs now"),
        false => format!("{meant} proxies on {on} renew their SVIDs within {} s", within.as_secs_f64()),
    };
    Ok((Mutation { commit, effects: vec![told] }, order))
}

/// All of them, by scope.
pub(super) fn all(sql: &Sql<'_>) -> Result<Vec<RotationOrder>, StoreError> {
    sql.all("SELECT scope, issued_before_ms, within_ms FROM rotation ORDER BY scope", &[], |row| {
        Ok(RotationOrder {
            scope: row.parsed(0)?,
            issued_before: row.get(1)?,
            within: Duration::from_millis(row.get(2)?),
        })
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
