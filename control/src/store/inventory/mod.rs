//! Lists of what there is, in pages: each call looks at a bounded number of rows, whatever is asked for.
//!
//! Rows come in the order of an index, from where the page before ended. What an index narrows (an identity, a
//! subtree, an end) is in the query; everything else is asked of each row, by whoever takes the page. So a page may be
//! short, or empty, and the list still go on: only that there is no place to go on from is the end of it.

mod certificates;
mod connections;
mod cursor;
mod instances;
mod outsiders;

use signet_proto::policy::Pattern;

pub use certificates::{CertificateOrder, CertificateQuery};
pub use connections::{ConnectionOrder, ConnectionQuery};
pub use cursor::{Cursor, CursorError};
pub use instances::InstanceQuery;
pub use outsiders::OutsiderQuery;

use super::StoreError;
use super::sql::{Row, Sql, Value};
use cursor::Part;

/// Rows that one call looks at.
const LOOKED_AT: usize = 2000;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// What was taken.
    pub rows: Vec<T>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Cursor>,
}

/// Which page is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// From the end.
    pub descending: bool,
    /// Where the page before ended.
    pub after: Option<Cursor>,
    /// At most so many rows.
    pub limit: usize,
}

/// A query in the order of an index.
struct Scan<'v> {
    /// Up to `WHERE`; the columns of `keys` first.
    select: String,
    keys: &'static [Key],
    conditions: Vec<String>,
    values: Vec<Value<'v>>,
}

/// A column of an order, and of what kind it is.
#[derive(Clone, Copy)]
struct Key {
    column: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Bytes,
}

const fn number(column: &'static str) -> Key {
    Key { column, kind: Kind::Number }
}

const fn text(column: &'static str) -> Key {
    Key { column, kind: Kind::Text }
}

const fn bytes(column: &'static str) -> Key {
    Key { column, kind: Kind::Bytes }
}

impl<'v> Scan<'v> {
    fn new(select: String, keys: &'static [Key]) -> Self {
        Self { select, keys, conditions: Vec::new(), values: Vec::new() }
    }

    /// Narrows it; `?` stands for the value.
    fn only(&mut self, condition: &str, value: impl Into<Value<'v>>) {
        let place = self.bind(value.into());
        self.conditions.push(condition.replace('?', &place));
    }

    /// Narrows it to the identities meant.
    fn within(&mut self, column: &str, pattern: &Pattern) {
        match pattern {
            Pattern::Exact(id) => self.only(&format!("{column} = ?"), id.as_str().to_owned()),
            Pattern::Subtree(subtree) => {
                // `0` is what comes after `/`.
                self.only(&format!("{column} > ?"), format!("{}/", subtree.root()));
                self.only(&format!("{column} < ?"), format!("{}0", subtree.root()));
            }
        }
    }

    fn bind(&mut self, value: Value<'v>) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    /// The rows from where `page` begins; `take` says what becomes of each, or that it is passed over.
    fn page<T>(
        mut self,
        sql: &Sql<'_>,
        page: &Page,
        mut take: impl FnMut(&Row) -> Result<Option<T>, StoreError>,
    ) -> Result<Listed<T>, StoreError> {
        let (operator, direction) = if page.descending { ("<", "DESC") } else { (">", "ASC") };
        // Always from somewhere: so the index of the order is the one that is used.
        let from = match &page.after {
            Some(Cursor(parts)) => parts.clone(),
            None => self.keys.iter().map(|key| key.kind.end(page.descending)).collect(),
        };
        let places: Vec<String> = from.into_iter().map(|part| self.bind(part.into())).collect();
        let keys: Vec<&str> = self.keys.iter().map(|key| key.column).collect();
        self.conditions.push(format!("({}) {operator} ({})", keys.join(", "), places.join(", ")));
        let order: Vec<String> = keys.iter().map(|key| format!("{key} {direction}")).collect();
        let query = format!(
            "{} WHERE {} ORDER BY {} LIMIT {LOOKED_AT}",
            self.select,
            self.conditions.join(" AND "),
            order.join(", ")
        );
        let found = sql.rows(&query, &self.values)?;
        let mut listed = Listed { rows: Vec::new(), next: None };
        for (looked_at, row) in found.iter().enumerate() {
            listed.rows.extend(take(row)?);
            let last = looked_at + 1 == found.len();
            if listed.rows.len() >= page.limit || last && found.len() == LOOKED_AT {
                let more = !last || found.len() == LOOKED_AT;
                listed.next = more.then(|| Cursor::of(row, self.keys)).transpose()?;
                break;
            }
        }
        Ok(listed)
    }
}

impl Kind {
    /// Before the first, or after the last.
    fn end(self, last: bool) -> Part {
        match (self, last) {
            (Self::Number, false) => Part::Number(i64::MIN),
            (Self::Number, true) => Part::Number(i64::MAX),
            (Self::Text, false) => Part::Text(String::new()),
            (Self::Text, true) => Part::Text(char::MAX.to_string()),
            (Self::Bytes, false) => Part::Bytes(Vec::new()),
            (Self::Bytes, true) => Part::Bytes(vec![u8::MAX; 33]),
        }
    }
}
