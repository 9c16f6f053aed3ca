//! Opening the database: the lock, the settings that make it crash-safe, the schema.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use signet_proto::spiffe::TrustDomain;

use super::StoreError;

/// Forward-only; the position, from 1, is the schema version (`user_version`).
const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_ground.sql"), include_str!("migrations/0002_roles.sql")];
/// `SGNT`: so that another program's database is not taken for ours.
const APPLICATION_ID: i64 = 0x5347_4e54;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Held while the store is open: two controls on one directory would each sign with their own idea of it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the open file")] File);

impl Lock {
    pub(super) fn acquire(data_dir: &Path) -> Result<Self, StoreError> {
        let open = |what: &Path, error: &dyn std::fmt::Display| {
            StoreError::Open(format!("{}: {error}", what.display()))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|error| open(data_dir, &error))?;
        let path = data_dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| open(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Open(format!(
                "another signet-control uses the data directory {}: stop it, or use another --data-dir",
                data_dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(open(&path, &error)),
        }
    }
}

pub(super) fn database_path(data_dir: &Path) -> PathBuf {
    data_dir.join("signet.db")
}

pub(super) fn open_for_writing(data_dir: &Path) -> Result<Connection, StoreError> {
    let path = database_path(data_dir);
    // Made here and not by SQLite, so that it is never readable by others, not even for a moment; its
    // companions (-wal, -shm) inherit the mode.
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
    Ok(connection)
}

pub(super) fn open_for_reading(data_dir: &Path) -> Result<Connection, StoreError> {
    let connection = open(&database_path(data_dir), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn open(path: &Path, mode: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| StoreError::Open(format!("{}: {error}", path.display())))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Each migration commits together with its version: a crash leaves either the old schema or the new one.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version: usize = version(connection)?;
    let known = MIGRATIONS.len();
    if version > known {
        return Err(StoreError::Open(format!(
            "its schema has version {version}, this program knows up to {known}: use a newer signet-control"
        )));
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
        transaction.commit()?;
        tracing::info!(version = index + 1, "store schema brought up to date");
    }
    Ok(())
}

fn version(connection: &Connection) -> Result<usize, StoreError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = version == 0 && application == 0 && tables == 0;
    if !empty && application != APPLICATION_ID {
        return Err(StoreError::Open("the database in the data directory is not Signet's".into()));
    }
    usize::try_from(version).map_err(|_| StoreError::Damaged(format!("schema version {version}")))
}

pub(super) fn pin_trust_domain(
    connection: &Connection,
    trust_domain: &TrustDomain,
) -> Result<(), StoreError> {
    let stored: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE name = 'trust_domain'", [], |row| row.get(0))
        .optional()?;
    match stored {
        Some(stored) if stored == trust_domain.as_str() => Ok(()),
        Some(stored) => Err(StoreError::Open(format!(
            "it belongs to trust domain `{stored}`, not `{trust_domain}`: use `--trust-domain {stored}` or \
             another --data-dir"
        ))),
        None => {
            connection.execute(
                "INSERT INTO meta (name, value) VALUES ('trust_domain', ?1)",
                params![trust_domain.as_str()],
            )?;
            Ok(())
        }
    }
}
