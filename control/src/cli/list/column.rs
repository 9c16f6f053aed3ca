//! The columns of a list: each says once what is in it, for people, for scripts and for sorting.

use std::cmp::Ordering;
use std::time::SystemTime;

use comfy_table::Cell;
use serde_json::{Map, Value};

use super::super::output::{self, cell, standing};
use crate::time;

/// One of them.
pub(in crate::cli) struct Column<R> {
    /// In the head of the table, and of `--sort`.
    pub(in crate::cli) name: &'static str,
    /// In JSON and CSV.
    pub(in crate::cli) key: &'static str,
    /// Where it is shown.
    pub(in crate::cli) shown: Shown,
    /// What is in it.
    pub(in crate::cli) field: fn(&R) -> Field,
}

/// In which tables a column is; JSON and CSV have all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Shown {
    Always,
    Wide,
    Never,
}

/// What is in a column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Field {
    Text(String),
    /// One of a few words.
    Word(String),
    Count(u64),
    Bytes(u64),
    Flag(bool),
    Time(Option<SystemTime>),
    /// A time far away: told as it is.
    Date(Option<SystemTime>),
    /// For people, and for scripts.
    Both(String, Value),
}

impl<R> Column<R> {
    pub(in crate::cli) const fn new(name: &'static str, key: &'static str, field: fn(&R) -> Field) -> Self {
        Self { name, key, shown: Shown::Always, field }
    }

    pub(in crate::cli) const fn wide(name: &'static str, key: &'static str, field: fn(&R) -> Field) -> Self {
        Self { name, key, shown: Shown::Wide, field }
    }

    pub(in crate::cli) const fn hidden(
        name: &'static str,
        key: &'static str,
        field: fn(&R) -> Field,
    ) -> Self {
        Self { name, key, shown: Shown::Never, field }
    }

    /// The name, as one word.
    pub(in crate::cli) fn word(&self) -> String {
        self.name.replace(' ', "-")
    }

    pub(super) fn is_called(&self, text: &str) -> bool {
        self.word() == text || self.key == text
    }
}

/// A row for scripts.
pub(in crate::cli) fn object<R>(columns: &[Column<R>], row: &R) -> Value {
    let fields = columns.iter().map(|column| (column.key.to_owned(), (column.field)(row).json()));
    Value::Object(fields.collect::<Map<_, _>>())
}

impl Field {
    /// A time of a message.
    pub(in crate::cli) fn time(at: Option<&prost_types::Timestamp>) -> Self {
        Self::Time(at.map(|at| time::from_proto(Some(at))))
    }

    pub(super) fn cell(&self, now: SystemTime) -> Cell {
        match self {
            Self::Word(word) => standing(word),
            Self::Flag(flag) => standing(if *flag { "yes" } else { "no" }),
            Self::Time(Some(at)) => cell(output::relative(*at, now)),
            Self::Bytes(count) => cell(size(*count)),
            _ => {
                let text = self.text();
                cell(if text.is_empty() { "-" } else { &text })
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Text(text) | Self::Word(text) => Value::from(text.as_str()),
            Self::Count(count) | Self::Bytes(count) => Value::from(*count),
            Self::Flag(flag) => Value::from(*flag),
            Self::Time(at) | Self::Date(at) => at.map(time::rfc3339_millis).into(),
            Self::Both(_, json) => json.clone(),
        }
    }

    /// In full, for CSV.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) | Self::Word(text) | Self::Both(text, _) => text.clone(),
            Self::Count(count) | Self::Bytes(count) => count.to_string(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Time(at) => at.map(time::rfc3339_millis).unwrap_or_default(),
            Self::Date(at) => at.map(time::rfc3339).unwrap_or_default(),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Self::Text(text) | Self::Word(text) | Self::Both(text, _) => text.is_empty(),
            Self::Time(at) | Self::Date(at) => at.is_none(),
            Self::Count(_) | Self::Bytes(_) | Self::Flag(_) => false,
        }
    }

    /// Compares two of the same column.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Count(mine) | Self::Bytes(mine), Self::Count(theirs) | Self::Bytes(theirs)) => {
                mine.cmp(theirs)
            }
            (Self::Time(mine) | Self::Date(mine), Self::Time(theirs) | Self::Date(theirs)) => {
                mine.cmp(theirs)
            }
            (Self::Flag(mine), Self::Flag(theirs)) => mine.cmp(theirs),
            _ => self.text().cmp(&other.text()),
        }
    }
}

/// `3.4 MB`; as people count, in thousands.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let (mut whole, mut tenths, mut unit) = (bytes, 0, "B");
    for larger in UNITS {
        if whole < 1000 {
            break;
        }
        (whole, tenths, unit) = (whole / 1000, whole % 1000 / 100, larger);
    }
    if unit == "B" || whole >= 100 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_few_digits() {
        let told = [0, 999, 1000, 1234, 99_950, 123_456, 5_000_000_000, u64::MAX].map(size);
        assert_eq!(told, ["0 B", "999 B", "1.0 kB", "1.2 kB", "99.9 kB", "123 kB", "5.0 GB", "18446 PB"]);
    }
}
