//! Who holds what when control was away for long: for recovery.

use std::time::SystemTime;

use super::Opened;
use super::sql::sqlite::database_path;
use super::sql::{Purpose, Sql, values};
use super::{Location, Store, StoreError, aside, schema};

/// So many identities are named for each way of proving.
const NAMED: usize = 50;

/// Instances that proved themselves one way, and were not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comeback {
    /// `join_token`, `svid`, or an attestor.
    pub proof: String,
    /// How many hold an SVID that has not ended.
    pub live: u64,
    /// How many do not.
    pub ended: u64,
    /// Their identities, as far as they are named.
    pub identities: Vec<String>,
    /// Whether there are more.
    pub more: bool,
}

impl Store {
    /// Whether there is a store at all. None is made by asking.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn is_filled(location: &Location) -> Result<bool, StoreError> {
        if let Location::Directory(directory) = location
            && !database_path(directory).exists()
        {
            return Ok(false);
        }
        aside(|| {
            let opened = Opened::open(location, super::EMBEDDED)?;
            opened.writer.begin(Purpose::Read)?;
            let sql = Sql::new(&*opened.writer);
            let filled = schema::version(&sql, opened.engine).and_then(|version| match version {
                None => Ok(false),
                Some(_) => sql.one("SELECT EXISTS (SELECT 1 FROM authority)", &[]),
            });
            opened.writer.rollback();
            filled
        })
    }

    /// Who can come back at `now`, by their way of proving themselves.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn comebacks(&self, now: SystemTime) -> Result<Vec<Comeback>, StoreError> {
        self.read(move |sql| {
            let counted = sql.rows(
                "SELECT proof, count(*), sum(CASE WHEN not_after_ms > ?1 THEN 1 ELSE 0 END) FROM instance
                 WHERE status IN ('active', 'lapsed') GROUP BY proof ORDER BY proof",
                values![now],
            )?;
            let mut comebacks = Vec::new();
            for row in counted {
                let (proof, all, live): (String, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let mut identities: Vec<String> = sql.all(
                    "SELECT DISTINCT i.spiffe_id FROM instance i JOIN workload w ON w.spiffe_id = i.spiffe_id
                     WHERE i.status IN ('active', 'lapsed') AND i.proof = ?1 AND w.status = 'active'
                     ORDER BY 1 LIMIT ?2",
                    values![&proof, NAMED as u64 + 1],
                    |row| row.get(0),
                )?;
                let more = identities.len() > NAMED;
                identities.truncate(NAMED);
                comebacks.push(Comeback { proof, live, ended: all.saturating_sub(live), identities, more });
            }
            Ok(comebacks)
        })
        .await
    }

    /// When the last SVID ends that is good at `now`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn last_end(&self, now: SystemTime) -> Result<Option<SystemTime>, StoreError> {
        self.read(move |sql| {
            sql.one("SELECT max(not_after_ms) FROM certificate WHERE not_after_ms > ?1", values![now])
        })
        .await
    }
}
