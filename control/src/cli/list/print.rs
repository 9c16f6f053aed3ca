//! Rows as a table, JSON or CSV. The latter two are written as they come, so that any number of them needs no memory.

use comfy_table::Cell;

use super::column::{Column, Shown, object};
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, clean};
use crate::time;

/// Prints one list.
pub(super) struct Printer {
    output: Output,
    table: Vec<Vec<Cell>>,
    written: u64,
}

impl Printer {
    pub(super) fn new(output: Output) -> Self {
        Self { output, table: Vec::new(), written: 0 }
    }

    pub(super) fn rows<R>(&mut self, columns: &[Column<R>], rows: &[R]) -> Result<(), CliError> {
        let mut text = String::new();
        for row in rows {
            if self.output.is_for_people() {
                self.table.push(cells(self.output, columns, row));
            } else if self.output.is_csv() {
                if self.written == 0 {
                    text += &record(columns.iter().map(|column| column.key.to_owned()))?;
                }
                text += &record(columns.iter().map(|column| clean(&(column.field)(row).text())))?;
            } else {
                text += if self.written == 0 { "[\n" } else { ",\n" };
                text += &object(columns, row).to_string();
            }
            self.written += 1;
        }
        output::print(&text)
    }

    /// `more`: there would be further rows.
    pub(super) fn end<R>(self, columns: &[Column<R>], more: bool) -> Result<(), CliError> {
        let Self { output, table, written } = self;
        if output.is_for_people() {
            output::print(&output::table(&header(output, columns), table))?;
            if more {
                eprintln!("and more: `--limit` says how many are shown");
            }
            return Ok(());
        }
        if output.is_csv() {
            let none = record(columns.iter().map(|column| column.key.to_owned()))?;
            return if written == 0 { output::print(&none) } else { Ok(()) };
        }
        output::print(if written == 0 { "[]\n" } else { "\n]\n" })
    }
}

pub(super) fn header<R>(output: Output, columns: &[Column<R>]) -> Vec<&'static str> {
    shown(output, columns).map(|column| column.name).collect()
}

pub(super) fn cells<R>(output: Output, columns: &[Column<R>], row: &R) -> Vec<Cell> {
    let now = time::now();
    shown(output, columns).map(|column| (column.field)(row).cell(now)).collect()
}

fn shown<R>(output: Output, columns: &[Column<R>]) -> impl Iterator<Item = &Column<R>> {
    columns.iter().filter(move |column| match column.shown {
        Shown::Always => true,
        Shown::Wide => output.is_wide(),
        Shown::Never => false,
    })
}

/// A line as RFC 4180 writes it.
fn record(fields: impl Iterator<Item = String>) -> Result<String, CliError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields).map_err(|error| CliError::failed(error.to_string()))?;
    let line = writer.into_inner().map_err(|error| CliError::failed(error.to_string()))?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}
