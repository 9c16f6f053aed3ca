//! Instances: each attested proxy or operator, in the order of their identities.

use std::time::SystemTime;

use signet_proto::policy::Pattern;

use super::{Cursor, CursorError, Key, Listed, Page, Scan, text};
use crate::store::model::AttestedInstance;
use crate::store::sql::Row;
use crate::store::{Store, StoreError};

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceQuery {
    /// Of these identities; `None`: of all.
    pub of: Option<Pattern>,
    /// Which page.
    pub page: Page,
}

const KEYS: [Key; 2] = [text("i.spiffe_id"), text("i.id")];
const SELECT: &str = "SELECT i.spiffe_id, i.id, i.status, i.proof, i.evidence, i.address, i.version, i.attested_at_ms,
         i.renewals, i.serial, i.not_before_ms, i.not_after_ms, coalesce(w.owner, ''), coalesce(w.contact, ''),
         coalesce(w.purpose, ''), coalesce(w.status, 'active') = 'active', s.replica, coalesce(s.open, 0),
         coalesce(s.address, ''), coalesce(s.version, ''), s.seen_at_ms,
         (SELECT max(c.seen_at_ms) FROM certificate c WHERE c.instance = i.id)
       FROM instance i LEFT JOIN workload w ON w.spiffe_id = i.spiffe_id LEFT JOIN session s ON s.instance = i.id";

impl InstanceQuery {
    /// A place in their order.
    ///
    /// # Errors
    /// When it is none.
    pub fn place(text: &str) -> Result<Cursor, CursorError> {
        Cursor::parse(text, &KEYS)
    }
}

impl Store {
    /// One page of the instances; `take` says what becomes of each, or that it is passed over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn instances<T: Send + 'static>(
        &self,
        query: InstanceQuery,
        mut take: impl FnMut(AttestedInstance) -> Option<T> + Send + 'static,
    ) -> Result<Listed<T>, StoreError> {
        self.read(move |sql| {
            let mut scan = Scan::new(SELECT.to_owned(), &KEYS);
            if let Some(of) = &query.of {
                scan.within("i.spiffe_id", of);
            }
            scan.page(sql, &query.page, |row| Ok(take(read(row)?)))
        })
        .await
    }
}

fn read(row: &Row) -> Result<AttestedInstance, StoreError> {
    let (attested_at, open): (_, bool) = (row.get(7)?, row.get(17)?);
    let or = |first: String, second: String| if first.is_empty() { second } else { first };
    let seen: [Option<SystemTime>; 2] = [row.get(20)?, row.get(21)?];
    Ok(AttestedInstance {
        spiffe_id: row.parsed(0)?,
        instance: row.parsed(1)?,
        status: row.get(2)?,
        proof: row.get(3)?,
        evidence: row.get(4)?,
        address: or(row.get(18)?, row.get(5)?),
        version: or(row.get(19)?, row.get(6)?),
        attested_at,
        renewals: row.get(8)?,
        serial: row.get(9)?,
        not_before: row.get(10)?,
        not_after: row.get(11)?,
        owner: row.get(12)?,
        contact: row.get(13)?,
        purpose: row.get(14)?,
        workload_is_active: row.get(15)?,
        replica: row.get::<Option<String>>(16)?.filter(|_| open),
        last_seen: seen.into_iter().flatten().fold(attested_at, Ord::max),
    })
}
