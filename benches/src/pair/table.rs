//! The figures as tables, for terminals and for Markdown alike.

use comfy_table::{CellAlignment, Table, presets};

use super::aims::{Outcome, outcomes};
use super::loads::{BINARY, BYTES_EACH, CPU_S_PER_GB, CPU_US, Load, MEMORY, P50, P99, P999, RATE, UNITS};
use super::peers::Peer;
use super::report::Report;
use crate::numbers::number;

const KILO: f64 = 1e3;
const MEGA: f64 = 1e6;

/// One line: which figure of which load, and in which unit it is shown.
pub(super) struct Row {
    pub(super) load: Load,
    pub(super) figure: &'static str,
    pub(super) what: &'static str,
    /// What the unit is in that of the figure.
    pub(super) unit: f64,
}

pub(super) const ROWS: &[Row] = &[
    row(Load::Http1, CPU_US, "CPU (us)"),
    row(Load::Http1, RATE, "a second"),
    row(Load::Opaque, CPU_US, "CPU (us)"),
    row(Load::Opaque, RATE, "a second"),
    row(Load::Grpc, CPU_US, "CPU (us)"),
    row(Load::Grpc, RATE, "a second"),
    row(Load::Connect, CPU_US, "CPU (us)"),
    row(Load::Connect, RATE, "a second"),
    row(Load::ConnectCold, CPU_US, "CPU (us)"),
    row(Load::ConnectCold, RATE, "a second"),
    row(Load::BulkToApp, CPU_S_PER_GB, "CPU (s per GB)"),
    row(Load::BulkToApp, RATE, "GB a second"),
    row(Load::BulkFromApp, CPU_S_PER_GB, "CPU (s per GB)"),
    row(Load::BulkFromApp, RATE, "GB a second"),
    row(Load::Latency, P50, "half within (us)"),
    row(Load::Latency, P99, "99 % within (us)"),
    row(Load::Latency, P999, "99.9 % within (us)"),
    row(Load::Latency, CPU_US, "CPU of one (us)"),
    Row { unit: KILO, ..row(Load::Idle, BYTES_EACH, "memory of one (KB)") },
    Row { unit: KILO, ..row(Load::IdleMany, BYTES_EACH, "memory of one (KB)") },
    row(Load::IdleMany, UNITS, "open"),
    Row { unit: MEGA, ..row(Load::Rest, MEMORY, "memory (MB)") },
    Row { unit: MEGA, ..row(Load::Rest, BINARY, "program (MB)") },
];

const fn row(load: Load, figure: &'static str, what: &'static str) -> Row {
    Row { load, figure, what, unit: 1.0 }
}

/// Where, with what, figures, aims.
pub(super) fn all(report: &Report) -> String {
    let mut text = format!("{}\n\n{}\n", preface(report), figures(report));
    let outcomes = outcomes(report);
    if !outcomes.is_empty() {
        text += &format!("\n{}\n", aims(&outcomes));
    }
    text
}

fn preface(report: &Report) -> String {
    let machine = &report.machine;
    let versions: Vec<String> =
        report.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let rounds = if report.rounds == 1 {
        "one round".to_owned()
    } else {
        format!("medians of {} rounds", report.rounds)
    };
    format!(
        "Measured {}: {}, {} cores shared with load and app, {} GB, {}, Linux {}; {rounds}.\n{}.",
        report.measured_at,
        machine.processor,
        machine.cores,
        machine.memory_gb,
        machine.system,
        machine.kernel,
        versions.join(", ")
    )
}

fn figures(report: &Report) -> String {
    let peers = report.peers();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let names = peers.iter().map(|peer| peer.name());
    table.set_header(["load", "pair's"].into_iter().chain(names));
    for row in ROWS {
        let cells: Vec<String> = peers.iter().map(|peer| row.shown(report, *peer)).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let head = [row.load.name().to_owned(), row.what.to_owned()];
            table.add_row(head.into_iter().chain(cells));
        }
    }
    right(&mut table, 2..peers.len() + 2);
    table.to_string()
}

fn aims(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["Signet's", "of", "ratio", "aim", ""]);
    for outcome in outcomes {
        table.add_row([
            outcome.what,
            outcome.of,
            &format!("{:.2}", outcome.ratio),
            &format!("{:.2}", outcome.aim),
            if outcome.met { "met" } else { "missed" },
        ]);
    }
    right(&mut table, 2..4);
    table.to_string()
}

fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

impl Row {
    /// The median in its unit, or that it failed.
    fn shown(&self, report: &Report, peer: Peer) -> String {
        match report.cell(self.load, peer) {
            None => String::new(),
            Some(cell) if !cell.failures.is_empty() => "failed".to_owned(),
            Some(_) => self.value(report, peer).map(number).unwrap_or_default(),
        }
    }

    pub(super) fn value(&self, report: &Report, peer: Peer) -> Option<f64> {
        Some(report.median(self.load, peer, self.figure)? / self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::super::loads::Sample;
    use super::*;

    #[test]
    fn cells_hold_a_figure_in_its_unit_or_say_that_they_failed() {
        let mut report = Report::empty();
        report.add(Load::Rest, Peer::Signet, Ok(Sample::from([(MEMORY, 14_200_000.0), (BINARY, 9e6)])));
        report.add(Load::Rest, Peer::Nginx, Err(anyhow::anyhow!("gone")));
        let table = figures(&report);
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(lines[0], ["", "load", "pair's", "Signet", "nginx", ""]);
        assert_eq!(lines[2], ["", "at rest", "memory (MB)", "14.2", "failed", ""]);
        assert_eq!(lines.len(), 4, "rows without a cell are left out: {table}");
    }
}
