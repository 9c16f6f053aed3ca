//! What is printed: tables for people, JSON for scripts. Nothing that came from elsewhere can move a
//! terminal's cursor.

use std::io::{self, IsTerminal, Write};
use std::time::SystemTime;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde_json::Value;

use super::args::Format;
use super::error::CliError;
use crate::{duration, time, visible};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    format: Format,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    pub(super) fn is_csv(self) -> bool {
        self.format == Format::Csv
    }

    /// Tables.
    pub(super) fn is_for_people(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Whether people want to see all that is known.
    pub(super) fn is_wide(self) -> bool {
        self.format == Format::Wide
    }

    /// JSON as it is, or what `people` makes of it.
    pub(super) fn print(self, json: &Value, people: impl FnOnce() -> String) -> Result<(), CliError> {
        let text = if self.is_json() { format!("{json:#}\n") } else { people() };
        print(&text)
    }
}

/// To standard output; that nobody reads it any more (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A table without lines, as wide as it needs to be if it is not for a terminal.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(|name| Cell::new(name.to_uppercase())));
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row);
    }
    if table.is_empty() {
        return "nothing\n".to_owned();
    }
    format!("{}\n", table.trim_fmt())
}

/// A list of names and values.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    facts.iter().map(|(name, value)| format!("{name:width$}  {}\n", clean(value))).collect()
}

/// A plain cell.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(clean(text.as_ref()))
}

/// A cell whose colour says at a glance whether all is well.
pub(super) fn standing(word: &str) -> Cell {
    let color = match word {
        "active" | "valid" | "yes" | "+" => Color::Green,
        "revoked" | "retired" | "-" | "!" => Color::Red,
        "suspended" | "lapsed" | "expired" | "~" => Color::Yellow,
        _ => return cell(word),
    };
    cell(word).fg(color)
}

/// What is hidden in a text made visible: text in the store may come from anyone who may write there, before this
/// version refused it.
pub(super) fn clean(text: &str) -> String {
    visible::shown(text)
}

/// To standard error: it is not what was asked for, but one should know it.
pub(super) fn tell(warnings: &[String]) {
    for warning in warnings {
        eprintln!("signet: {}", clean(warning));
    }
}

/// `in 42m 10s`, or `3h ago`.
pub(super) fn relative(at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(left) if !left.is_zero() => format!("in {}", duration::rough(left)),
        _ => format!("{} ago", duration::rough(now.duration_since(at).unwrap_or_default())),
    }
}

/// RFC 3339, for JSON.
pub(super) fn instant(at: Option<&prost_types::Timestamp>) -> Value {
    at.map_or(Value::Null, |at| Value::String(time::rfc3339_millis(time::from_proto(Some(at)))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn terminal_escapes_are_shown_not_obeyed() {
        assert_eq!(clean("a\u{1b}[31m\nb\u{202e}"), "a\\u{1b}[31m\\nb\\u{202e}");
    }

    #[test]
    fn times_are_told_in_words() {
        let now = time::from_millis(10_000_000);
        assert_eq!(relative(now + Duration::from_secs(2_520), now), "in 42m");
        assert_eq!(relative(now - Duration::from_secs(3_600), now), "1h ago");
        assert_eq!(relative(now, now), "0s ago");
    }

    #[test]
    fn empty_table_says_so() {
        assert_eq!(table(&["a"], []), "nothing\n");
    }
}
