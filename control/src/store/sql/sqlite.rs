//! The embedded engine: one SQLite database in the data directory, in WAL mode, every commit synced.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};

use super::{Purpose, Row, RowCell, Session, Value};
use crate::store::StoreError;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const STATEMENTS: usize = 128;

pub(in crate::store) fn database_path(data_dir: &Path) -> PathBuf {
    data_dir.join("signet.db")
}

/// One connection to the database.
pub(in crate::store) struct SqliteSession {
    connection: Connection,
    writes: bool,
}

impl SqliteSession {
    /// Opens the database, or makes it, readable by nobody else, not even for a moment; its companions (-wal,
    /// -shm) inherit the mode.
    pub(in crate::store) fn writer(data_dir: &Path) -> Result<Self, StoreError> {
        let path = database_path(data_dir);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .and_then(|_| File::open(data_dir)?.sync_all())
            .map_err(|error| StoreError::Open(format!("{}: {error}", path.display())))?;
        let connection = open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self { connection, writes: true })
    }

    /// In WAL mode it sees the last commit and never waits for the writer.
    pub(in crate::store) fn reader(data_dir: &Path) -> Result<Self, StoreError> {
        let connection = open(&database_path(data_dir), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Self { connection, writes: false })
    }
}

fn open(path: &Path, mode: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| StoreError::Open(format!("{}: {error}", path.display())))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    // Plans do not depend on the values: no statement is prepared again because of one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

impl Session for SqliteSession {
    fn begin(&self, purpose: Purpose) -> Result<(), StoreError> {
        self.batch(match purpose {
            Purpose::Read | Purpose::Copy => "BEGIN DEFERRED",
            Purpose::Write | Purpose::Schema => "BEGIN IMMEDIATE",
        })
    }

    fn commit(&self) -> Result<(), StoreError> {
        self.batch("COMMIT")
    }

    fn rollback(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.batch("ROLLBACK");
        }
    }

    fn savepoint(&self) -> Result<(), StoreError> {
        self.execute("SAVEPOINT job", &[]).map(drop)
    }

    fn release(&self) -> Result<(), StoreError> {
        self.execute("RELEASE job", &[]).map(drop)
    }

    fn undo(&self) -> Result<(), StoreError> {
        self.batch("ROLLBACK TO job; RELEASE job")
    }

    fn is_usable(&self) -> bool {
        !self.connection.is_autocommit()
    }

    fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        Ok(self.connection.prepare_cached(sql)?.execute(params_from_iter(values))? as u64)
    }

    fn post(&self, sql: &str, values: &[Value<'_>]) -> Result<(), StoreError> {
        self.execute(sql, values).map(drop)
    }

    fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut found = statement.query(params_from_iter(values))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let cells =
                (0..columns).map(|column| row.get_ref(column).map_err(StoreError::from).and_then(cell));
            rows.push(Row(cells.collect::<Result<_, _>>()?));
        }
        Ok(rows)
    }

    fn batch(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch(sql)?)
    }

    fn close(&self) {
        if self.writes
            && let Err(error) = self.batch("PRAGMA wal_checkpoint(TRUNCATE)")
        {
            tracing::warn!(%error, "store closed without a checkpoint; the next start catches up");
        }
    }
}

fn cell(value: ValueRef<'_>) -> Result<RowCell, StoreError> {
    Ok(match value {
        ValueRef::Null => RowCell::Null,
        ValueRef::Integer(number) => RowCell::Integer(number),
        ValueRef::Real(_) => return Err(StoreError::Damaged("a fraction where none is stored".into())),
        ValueRef::Text(text) => RowCell::Text(
            String::from_utf8(text.to_vec()).map_err(|error| StoreError::Damaged(error.to_string()))?,
        ),
        ValueRef::Blob(bytes) => RowCell::Bytes(bytes.to_vec()),
    })
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match &error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged(error.to_string()),
                _ => Self::Io(error.to_string()),
            },
            _ => Self::Io(error.to_string()),
        }
    }
}
