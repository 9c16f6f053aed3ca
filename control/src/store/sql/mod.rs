//! One small trait over the engines: a session that runs statements in transactions. Everything above it is
//! written once, in SQL that both engines read alike.
//!
//! The portable dialect: parameters are `?1`, `?2` ...; whole numbers and times are 64 bits, truth is 0 or 1 (or a
//! comparison); `CASE` instead of `iif`, `max` and `min` only as aggregates; a parameter of no obvious type has a
//! `CAST`; no alias is used where it was made. Tables differ by engine and are in `migrations/`.

pub(super) mod postgres;
mod row;
pub(super) mod sqlite;
mod value;

use std::cell::Cell;

use super::StoreError;

pub(super) use row::Cell as RowCell;
pub(super) use row::{FromCell, Row};
pub(super) use value::Value;

/// Parameters of a statement, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::sql::Value::from($value)),*] as &[$crate::store::sql::Value<'_>] };
}
pub(super) use values;

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// One consistent picture; never waits for a writer.
    Read,
    /// The same for as long as it takes.
    Copy,
    /// The only writer of this store until it ends, on whatever replica.
    Write,
    /// The same for as long as it takes, while there may not be any table yet.
    Schema,
}

/// One connection to an engine, used by one thread. Statements may be sent together: what is wrong with a
/// [`Session::post`] shows at the next call, at the latest at `commit`.
pub(super) trait Session: Send {
    /// Opens a transaction; reconnects first if need be.
    fn begin(&self, purpose: Purpose) -> Result<(), StoreError>;
    /// Commits. An error means that nothing of it happened, but for [`StoreError::Unknown`].
    fn commit(&self) -> Result<(), StoreError>;
    /// Gives up; never fails, as a lost connection has the same meaning.
    fn rollback(&self);
    /// Marks a place inside a transaction to come back to; one at a time.
    fn savepoint(&self) -> Result<(), StoreError>;
    /// Forgets the savepoint and keeps what came after it.
    fn release(&self) -> Result<(), StoreError>;
    /// Undoes what came after the savepoint, and forgets it.
    fn undo(&self) -> Result<(), StoreError>;
    /// Whether the transaction can go on: engines end it by themselves when the disk is full or a connection lost.
    fn is_usable(&self) -> bool;
    /// Runs a statement. Returns how many rows it changed.
    fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError>;
    /// Runs a statement whose count nobody needs.
    fn post(&self, sql: &str, values: &[Value<'_>]) -> Result<(), StoreError>;
    /// Runs a query, or a statement that returns rows.
    fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError>;
    /// Several statements without parameters.
    fn batch(&self, sql: &str) -> Result<(), StoreError>;
    /// Does what the engine wants done when nobody uses the store any more.
    fn close(&self) {}
}

/// What domain code runs statements with: a session inside a transaction, that knows whether anything was changed.
pub(super) struct Sql<'a> {
    session: &'a dyn Session,
    changed: Cell<bool>,
}

impl<'a> Sql<'a> {
    pub(super) fn new(session: &'a dyn Session) -> Self {
        Self { session, changed: Cell::new(false) }
    }

    /// Runs a statement that changes rows. Returns how many it changed.
    pub(super) fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let count = self.session.execute(sql, values)?;
        if count > 0 {
            self.changed.set(true);
        }
        Ok(count)
    }

    /// Runs a statement that changes rows, for whoever does not ask how many.
    pub(super) fn post(&self, sql: &str, values: &[Value<'_>]) -> Result<(), StoreError> {
        self.changed.set(true);
        self.session.post(sql, values)
    }

    /// All rows of a query.
    pub(super) fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.session.rows(sql, values)
    }

    /// What `read` makes of each row of a query.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.session.rows(sql, values)?.iter().map(read).collect()
    }

    /// What `read` makes of the first row of a query, if it has any.
    pub(super) fn find<T>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnOnce(&Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.row(sql, values)?.as_ref().map(read).transpose()
    }

    /// The first row of a query, if it has any.
    pub(super) fn row(&self, sql: &str, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(self.session.rows(sql, values)?.into_iter().next())
    }

    /// The one value of a query that always has one row.
    pub(super) fn one<T: FromCell>(&self, sql: &str, values: &[Value<'_>]) -> Result<T, StoreError> {
        self.row(sql, values)?.ok_or_else(|| StoreError::Damaged("a query without a row".into()))?.get(0)
    }

    /// Whether any row was changed.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.get()
    }
}
