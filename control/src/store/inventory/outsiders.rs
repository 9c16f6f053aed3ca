//! Addresses without identity, as proxies reported them: the last one seen first.

use std::time::SystemTime;

use signet_proto::policy::Pattern;

use super::{Cursor, CursorError, Key, Listed, Page, Scan, number, text};
use crate::inventory::{Outsider, Way};
use crate::store::{Store, StoreError, outsiders};

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsiderQuery {
    /// Which end they are.
    pub way: Way,
    /// Only with these workloads; `None`: with all.
    pub workload: Option<Pattern>,
    /// Only those last seen after this.
    pub since: Option<SystemTime>,
    /// Which page, by when they were last seen.
    pub page: Page,
}

const BY_LAST: [Key; 4] = [number("last_at_ms"), text("workload"), text("address"), number("port")];

impl OutsiderQuery {
    /// A place in the list.
    ///
    /// # Errors
    /// When it is none.
    pub fn place(text: &str) -> Result<Cursor, CursorError> {
        Cursor::parse(text, &BY_LAST)
    }
}

impl Store {
    /// One page of them; `take` says what becomes of each, or that it is passed over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn outsiders<T: Send + 'static>(
        &self,
        query: OutsiderQuery,
        mut take: impl FnMut(Outsider) -> Option<T> + Send + 'static,
    ) -> Result<Listed<T>, StoreError> {
        self.read(move |sql| {
            let OutsiderQuery { way, workload, since, page } = query;
            let keys: Vec<&str> = BY_LAST.iter().map(|key| key.column).collect();
            let select = format!("SELECT {}, {} FROM outsider", keys.join(", "), outsiders::COLUMNS);
            let mut scan = Scan::new(select, &BY_LAST);
            scan.only("way = ?", outsiders::number(way));
            if let Some(since) = since {
                scan.only("last_at_ms > ?", since);
            }
            scan.page(sql, &page, |row| {
                let outsider = outsiders::read(row, BY_LAST.len())?;
                let meant = workload.as_ref().is_none_or(|wanted| wanted.matches(&outsider.workload));
                Ok(if meant { take(outsider) } else { None })
            })
        })
        .await
    }
}
