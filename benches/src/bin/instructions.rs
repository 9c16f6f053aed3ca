//! `instructions`: how many instructions each case of [`signet_benches::micro`] takes, by callgrind; the same on every
//! run, or nearly, however busy the machine is.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use signet_benches::micro::{self, COUNTED};

/// Each case is done that often.
const TIMES: u64 = 10;

/// Counts the instructions of what every connection, request and byte passes.
#[derive(Debug, Parser)]
#[command(name = "instructions", version)]
struct Arguments {
    /// Count only those whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the counts as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show the difference to the counts in this file
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Be measured: do this case, and nothing else
    #[arg(long, hide = true)]
    case: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut cases = micro::cases().map_err(|error| anyhow!(error))?;
    if let Some(name) = &arguments.case {
        let case = cases.iter_mut().find(|case| case.name == name).context("no such case")?;
        return (0..TIMES).try_for_each(|_| case.once().map_err(|error| anyhow!(error)));
    }
    let known = arguments.against.as_deref().map(read).transpose()?;
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|text| name.contains(text));
    let mut counts = BTreeMap::new();
    for name in cases.iter().map(|case| case.name).filter(|name| wanted(name)) {
        eprintln!("{name}");
        counts.insert(name.to_owned(), count(name)? / TIMES);
    }
    ensure!(!counts.is_empty(), "no case has that in its name");
    println!("{}", table(&counts, known.as_ref()));
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&counts)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} holds no counts", path.display()))
}

/// Of this program doing the case, without what comes before and after.
fn count(name: &str) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}/out", directory.path().display()));
    command.arg("--collect-atstart=no").arg(format!("--toggle-collect=*{COUNTED}*"));
    command.arg(std::env::current_exe()?).args(["--case", name]);
    let output = command.stdin(Stdio::null()).output();
    let output = output.context("valgrind is missing: apt-get install --no-install-recommends valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("valgrind ended ({}): {said}", output.status);
    }
    let collected = collected(&said).with_context(|| format!("valgrind says no count: {said}"))?;
    ensure!(
        collected > 0,
        "{name}: no function is called *{COUNTED}*: is the program stripped of its symbols?"
    );
    Ok(collected)
}

/// As in `==17== Collected : 123456`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

fn table(counts: &BTreeMap<String, u64>, known: Option<&BTreeMap<String, u64>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["instructions of one", "before", "now", "difference"]);
    for (name, now) in counts {
        let before = known.and_then(|known| known.get(name));
        let difference = before.filter(|before| **before > 0).map(|before| {
            let share = (*now as f64 / *before as f64 - 1.0) * 100.0;
            format!("{share:+.2} %")
        });
        let before = before.map(u64::to_string).unwrap_or_default();
        table.add_row([name, &before, &now.to_string(), &difference.unwrap_or_default()]);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_read_from_what_valgrind_says() {
        let said = "==17== Callgrind, a call-graph generating cache profiler\n==17== Events    : Ir\n\
            ==17== Collected : 1234567\n==17== \n==17== I   refs:      1,234,567\n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("==17== Command: false\n"), None);
    }

    #[test]
    fn difference_is_shown_where_there_is_something_to_compare_with() {
        let (now, before) = ([("a", 110), ("b", 5)], [("a", 100), ("c", 7)]);
        let map = |all: [(&str, u64); 2]| all.map(|(name, count)| (name.to_owned(), count)).into();
        let text = table(&map(now), Some(&map(before))).to_string();
        assert!(text.contains("+10.00 %"), "{text}");
        assert_eq!(text.matches('%').count(), 1, "{text}");
    }
}
