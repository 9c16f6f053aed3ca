//! From columns to types. What does not parse is damage, and said so.

use std::error::Error;
use std::str::FromStr;
use std::time::SystemTime;

use rusqlite::Row;
use rusqlite::types::Type;

use super::StoreError;
use crate::time;

pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    row.get_ref(column)?
        .as_str()?
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn instant(row: &Row<'_>, column: usize) -> rusqlite::Result<SystemTime> {
    row.get(column).map(time::from_millis)
}

pub(super) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

pub(super) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Damaged(format!("negative number {number}")))
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    crate::hex::encode(bytes)
}
