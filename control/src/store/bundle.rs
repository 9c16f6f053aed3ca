//! The trust bundle: all roots but those that were removed, and the keys of JWT-SVIDs. Its sequence is the revision of
//! its newest change. Beside it those of federated trust domains, as they were told.

use super::StoreError;
use super::change::Change;
use super::mesh::Topics;
use super::model::{BundleRead, Commit};
use super::sql::{Sql, values};
use super::{compromised, federation, jwt_keys};

/// Removed roots of which proxies are told.
const RETIRED: i64 = 8;

/// What proxies are told of roots.
pub(super) fn read(sql: &Sql<'_>) -> Result<BundleRead, StoreError> {
    let mut retired: Vec<Vec<u8>> = sql.all(
        "SELECT certificate FROM authority
         WHERE kind = 'root' AND active = 0 AND phase = 'removed' AND distrusted_at_ms IS NULL
         ORDER BY phase_at_ms DESC, id LIMIT ?1",
        values![RETIRED],
        |row| row.get(0),
    )?;
    retired.reverse();
    let (jwt_authorities, announced) = jwt_keys::published(sql)?;
    let sequence: u64 = sql.one("SELECT coalesce(max(announced), 0) FROM authority", &[])?;
    Ok(BundleRead {
        authorities: sql.all(
            "SELECT certificate FROM authority WHERE kind = 'root' AND (active = 1 OR phase <> 'removed')
             ORDER BY created_at_ms, id",
            &[],
            |row| row.get(0),
        )?,
        retired,
        superseded: compromised::superseded(sql)?,
        federated: federation::all(sql)?.into_iter().filter_map(|one| one.bundle).collect(),
        jwt_authorities,
        sequence: sequence.max(announced).max(1),
    })
}

/// A change of the trust bundle by this authority: the sequence of the bundle is the revision. The root that signs knows
/// it, too, whatever becomes of the other: a sequence never goes back.
pub(super) fn announce(
    change: &mut Change<'_>,
    id: &str,
    subject: &str,
    also: Topics,
) -> Result<Commit, StoreError> {
    let commit = change.revise(Topics::BUNDLE.with(also), subject)?;
    change.sql.post(
        "UPDATE authority SET announced = ?2 WHERE id = ?1 OR kind = 'root' AND active = 1",
        values![id, commit.revision],
    )?;
    Ok(commit)
}
