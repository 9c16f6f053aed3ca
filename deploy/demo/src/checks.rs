//! What was claimed, what was seen, and whether it was so.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A number worth reading in the summary.
#[derive(Clone, Debug)]
pub(crate) enum Figure {
    /// A duration, shown in milliseconds.
    Took(Duration),
    /// A count of something.
    Count(u64, &'static str),
}

impl fmt::Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Took(took) => write!(out, "{:.1} ms", took.as_secs_f64() * 1000.0),
            Self::Count(count, what) => write!(out, "{count} {what}"),
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let (value, unit) = match self {
            Self::Took(took) => ((took.as_secs_f64() * 1_000_000.0).round() / 1000.0, "ms"),
            Self::Count(count, what) => (num(*count), *what),
        };
        let mut figure = serializer.serialize_struct("Figure", 2)?;
        figure.serialize_field("value", &value)?;
        figure.serialize_field("unit", unit)?;
        figure.end()
    }
}

/// Counts of a demo are far below 2^53, where every integer has its own `f64`.
#[expect(clippy::cast_precision_loss, reason = "counts of a half-minute run are small")]
const fn num(count: u64) -> f64 {
    count as f64
}

/// One row of the summary.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    /// What had to be so.
    pub(crate) name: &'static str,
    /// What was seen, with the values.
    pub(crate) seen: String,
    /// The number that matters, if there is one.
    pub(crate) figure: Option<Figure>,
    /// Whether it was so.
    pub(crate) ok: bool,
}

/// All rows, in the order of the account.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    /// Adds a row.
    pub(crate) fn push(&mut self, check: Check) {
        self.0.push(check);
    }

    /// The rows.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Check> {
        self.0.iter()
    }

    /// Whether everything that was checked was so.
    pub(crate) fn all_hold(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|check| check.ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ok: bool) -> Check {
        Check { name: "a", seen: "b".to_owned(), figure: Some(Figure::Count(3, "failed")), ok }
    }

    #[test]
    fn nothing_checked_is_not_a_success() {
        assert!(!Checks::default().all_hold());
    }

    #[test]
    fn one_broken_check_breaks_the_run() {
        let mut checks = Checks::default();
        checks.push(row(true));
        assert!(checks.all_hold());
        checks.push(row(false));
        assert!(!checks.all_hold());
    }

    #[test]
    fn a_figure_reads_the_same_for_people_and_for_scripts() {
        let took = Figure::Took(Duration::from_micros(12_345));
        assert_eq!(took.to_string(), "12.3 ms");
        assert_eq!(serde_json::to_string(&took).unwrap(), r#"{"value":12.345,"unit":"ms"}"#);
    }
}
