//! What a reader sees: chapters, commands, values and results. Colour on a terminal, plain text elsewhere.
//!
//! Everything goes through one writer. A reader that goes away (`cargo demo | head`) is an error like any
//! other, so that the mesh is still taken down.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::checks::{Check, Checks};
use crate::mesh::Mesh;

/// Below this, a table is not squeezed into the terminal.
const NARROWEST_TERMINAL: u16 = 60;
/// Characters that a line of a table may take.
const TABLE_WIDTH: usize = 110;

/// The running account.
pub(crate) struct Account {
    out: Box<dyn Write + Send>,
    colour: bool,
    terminal: bool,
    chapter: u32,
}

#[derive(Clone, Copy)]
enum Ink {
    Heading,
    Command,
    Value,
    Faint,
    Good,
    Bad,
}

impl Account {
    /// On stdout, or on stderr when stdout is kept for JSON.
    pub(crate) fn new(json: bool) -> Self {
        let (out, terminal): (Box<dyn Write + Send>, bool) = if json {
            (Box::new(io::stderr()), io::stderr().is_terminal())
        } else {
            (Box::new(io::stdout()), io::stdout().is_terminal())
        };
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { out, colour: terminal && !refused, terminal, chapter: 0 }
    }

    /// Whether a person is watching, on something that can redraw a line.
    pub(crate) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The first line of all.
    pub(crate) fn title(&mut self, text: &str) -> Result<()> {
        let text = self.ink(Ink::Heading, text);
        self.line(&text)
    }

    /// A drawing, as it is.
    pub(crate) fn picture(&mut self, picture: &str) -> Result<()> {
        self.line("")?;
        picture.lines().try_for_each(|line| self.line(line))
    }

    /// An empty line.
    pub(crate) fn gap(&mut self) -> Result<()> {
        self.line("")
    }

    /// Starts a chapter and says what it is about to show.
    pub(crate) fn chapter(&mut self, title: &str, about: &str) -> Result<()> {
        self.chapter += 1;
        let heading = self.ink(Ink::Heading, &format!("{}. {title}", self.chapter));
        self.line("")?;
        self.line(&heading)?;
        for line in about.lines() {
            let line = self.ink(Ink::Faint, line.trim());
            self.line(&format!("   {line}"))?;
        }
        Ok(())
    }

    /// One sentence of the account.
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        self.line(&format!("   {text}"))
    }

    /// The command that was run, as a reader would type it.
    pub(crate) fn command(&mut self, command: &str) -> Result<()> {
        let command = self.ink(Ink::Command, &format!("$ {command}"));
        self.line(&format!("   {command}"))
    }

    /// A value with its name.
    pub(crate) fn value(&mut self, name: &str, value: &str) -> Result<()> {
        let value = self.ink(Ink::Value, value);
        self.line(&format!("     {name:<14} {value}"))
    }

    /// What a program printed or answered, word for word.
    pub(crate) fn quote(&mut self, text: &str) -> Result<()> {
        for line in text.trim_end().lines() {
            let line = self.ink(Ink::Value, line);
            self.line(&format!("     | {line}"))?;
        }
        Ok(())
    }

    /// A table that a program printed; if it is too wide to read, without its last column.
    pub(crate) fn table(&mut self, text: &str) -> Result<()> {
        let flush: Vec<&str> = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        self.quote(&narrowed(&flush.join("\n"), TABLE_WIDTH))
    }

    /// The result of a check, as it enters the summary.
    pub(crate) fn check(&mut self, check: &Check) -> Result<()> {
        let verdict = if check.ok { self.ink(Ink::Good, "ok") } else { self.ink(Ink::Bad, "NOT SO") };
        let figure = check.figure.as_ref().map(|figure| format!(" ({figure})")).unwrap_or_default();
        self.line(&format!("   {verdict}: {}{figure}", check.seen))
    }

    /// The last lines a process logged.
    pub(crate) fn tail(&mut self, process: &str, lines: &[String]) -> Result<()> {
        self.say(&format!("last lines of {process}:"))?;
        self.quote(&lines.join("\n"))
    }

    /// A line that changes while something goes on; on anything but a terminal it is a line now and then.
    pub(crate) fn progress(&self) -> Progress {
        Progress { bar: self.terminal.then(spinner), last: String::new() }
    }

    /// The table at the end; `complete` if the story got there.
    pub(crate) fn summary(&mut self, checks: &Checks, took: Duration, complete: bool) -> Result<()> {
        let (total, failed) = (checks.iter().count(), checks.iter().filter(|check| !check.ok).count());
        self.line("")?;
        if total > 0 {
            let heading = self.ink(Ink::Heading, "Summary");
            self.line(&heading)?;
            self.line(&self.rows(checks).trim_fmt())?;
            self.line("")?;
        }
        let verdict = if !complete {
            self.ink(
                Ink::Bad,
                &format!("The demo did not get to its end; {} of {total} checks held", total - failed),
            )
        } else if failed == 0 && total > 0 {
            self.ink(Ink::Good, &format!("All {total} checks held"))
        } else {
            self.ink(Ink::Bad, &format!("{failed} of {total} checks did not hold"))
        };
        self.line(&format!("{verdict}, in {:.0} s.", took.as_secs_f64()))
    }

    fn rows(&self, checks: &Checks) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["check", "what was seen", "figure", "ok"]);
        // Some terminals do not tell their width; there, lines are for them to break.
        if self.terminal && table.width().is_some_and(|width| width >= NARROWEST_TERMINAL) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        for check in checks.iter() {
            let figure = check.figure.as_ref().map(ToString::to_string).unwrap_or_default();
            let ok = if check.ok { "yes" } else { "NO" };
            table.add_row([check.name, check.seen.as_str(), figure.as_str(), ok]);
        }
        table
    }

    /// What to try while the mesh is left running.
    pub(crate) fn invitation(&mut self, mesh: &Mesh) -> Result<()> {
        self.line("")?;
        let heading = self.ink(Ink::Heading, "The mesh is running. Try, in another terminal:");
        self.line(&heading)?;
        for (what, command) in mesh.invitation() {
            let what = self.ink(Ink::Faint, &format!("# {what}"));
            self.line("")?;
            self.line(&what)?;
            let command = self.ink(Ink::Command, &command);
            self.line(&command)?;
        }
        self.line("")?;
        self.line("Ctrl-C ends it.")
    }

    /// Where the logs were left.
    pub(crate) fn kept(&mut self, directory: &Path) -> Result<()> {
        self.line(&format!("Logs and data: {}", directory.display()))
    }

    fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}")?;
        Ok(self.out.flush()?)
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Heading => "1",
            Ink::Command => "36",
            Ink::Value => "33",
            Ink::Faint => "2",
            Ink::Good => "1;32",
            Ink::Bad => "1;31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// The summary as one JSON object on stdout: `ok`, `seconds`, and per check its name, what was seen, figure and ok.
pub(crate) fn print_json(checks: &Checks, ok: bool, took: Duration) -> Result<()> {
    let summary = json!({
        "ok": ok,
        "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
        "checks": checks.iter().collect::<Vec<_>>(),
    });
    let mut out = io::stdout();
    serde_json::to_writer_pretty(&mut out, &summary)?;
    Ok(writeln!(out)?)
}

/// Columns are two spaces apart, and the first line names them.
fn narrowed(table: &str, width: usize) -> String {
    let last = table.lines().next().and_then(|header| header.trim_end().rfind("  "));
    let keep = match last {
        Some(last) if table.lines().any(|line| line.chars().count() > width) => last,
        _ => usize::MAX,
    };
    let lines = table.lines().map(|line| line.chars().take(keep).collect::<String>().trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A line that shows how far something is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Shows `text`: at once on a terminal.
    pub(crate) fn show(&mut self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.clone());
        }
        self.last = text;
    }

    /// On anything but a terminal, writes the latest text as a line of its own.
    pub(crate) fn mark(&self, account: &mut Account) -> Result<()> {
        if self.bar.is_none() { account.say(&self.last) } else { Ok(()) }
    }

    /// Ends it, leaving the latest text in the account.
    pub(crate) fn finish(self, account: &mut Account) -> Result<()> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        account.say(&self.last)
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("   {spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_too_wide_loses_its_last_column() {
        let table = "NAME   DIGEST\nroot   0123456789abcdef\nother  fedcba9876543210";
        assert_eq!(narrowed(table, 80), table);
        assert_eq!(narrowed(table, 20), "NAME\nroot\nother");
    }
}
