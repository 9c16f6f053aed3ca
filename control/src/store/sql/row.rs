//! What comes out of a statement. What does not read as what it should be is damage, and said so.

use std::fmt::Display;
use std::str::FromStr;
use std::time::SystemTime;

use super::super::StoreError;
use crate::time;

/// One column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Row(pub(in crate::store) Vec<Cell>);

/// What a column can be read as.
pub(in crate::store) trait FromCell: Sized {
    /// What is expected, for the error.
    const EXPECTED: &'static str;
    fn from_cell(cell: &Cell) -> Option<Self>;
}

impl Row {
    /// The column as a `T`.
    pub(in crate::store) fn get<T: FromCell>(&self, column: usize) -> Result<T, StoreError> {
        self.0
            .get(column)
            .and_then(T::from_cell)
            .ok_or_else(|| StoreError::Damaged(format!("column {column} is not {}", T::EXPECTED)))
    }

    /// The column's text, parsed.
    pub(in crate::store) fn parsed<T>(&self, column: usize) -> Result<T, StoreError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text: String = self.get(column)?;
        text.parse().map_err(|error| StoreError::Damaged(format!("`{text}`: {error}")))
    }
}

impl FromCell for i64 {
    const EXPECTED: &'static str = "a number";
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromCell for u64 {
    const EXPECTED: &'static str = "a count";
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell)?.try_into().ok()
    }
}

impl FromCell for u32 {
    const EXPECTED: &'static str = "a small count";
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell)?.try_into().ok()
    }
}

impl FromCell for u16 {
    const EXPECTED: &'static str = "a port";
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell)?.try_into().ok()
    }
}

impl FromCell for bool {
    const EXPECTED: &'static str = "0 or 1";
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Integer(0) => Some(false),
            Cell::Integer(1) => Some(true),
            _ => None,
        }
    }
}

impl FromCell for String {
    const EXPECTED: &'static str = "a text";
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromCell for Vec<u8> {
    const EXPECTED: &'static str = "bytes";
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl FromCell for [u8; 32] {
    const EXPECTED: &'static str = "32 bytes";
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Bytes(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        }
    }
}

impl FromCell for SystemTime {
    const EXPECTED: &'static str = "a time";
    fn from_cell(cell: &Cell) -> Option<Self> {
        i64::from_cell(cell).map(time::from_millis)
    }
}

impl<T: FromCell> FromCell for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Null => Some(None),
            other => T::from_cell(other).map(Some),
        }
    }
}
