//! A list that goes on: drawn anew when control says that it may have changed, and is found to have. For scripts, a
//! line of JSON for each row that came, changed or went. Ends with Ctrl-C.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

use serde_json::{Value, json};
use signet_proto::v1::FollowInventoryRequest;

use super::column::object;
use super::{IN_A_TABLE, List, Sorting, all, print};
use crate::cli::args::Listing;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output};

/// Rows that a script is told of, unless it says how many.
const FOR_SCRIPTS: usize = 10_000;
/// To the upper left corner, and nothing below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

pub(super) async fn run<L: List>(
    list: &L,
    asked: &Listing,
    sorting: &Sorting<L::Row>,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    if output.is_csv() {
        return Err(CliError::usage("--watch is for tables and JSON: a CSV file has an end"));
    }
    let mut client = session.admin().await?;
    let mut changes = client.follow_inventory(FollowInventoryRequest { follow: true }).await?.into_inner();
    let limit = asked.limit.unwrap_or(if output.is_json() { FOR_SCRIPTS } else { IN_A_TABLE });
    let mut known: Option<Vec<(String, Value)>> = None;
    while changes.message().await?.is_some() {
        let (rows, cut) = all(list, sorting, &mut client, Some(limit)).await?;
        let found: Vec<_> = rows.iter().map(|row| (L::key(row), object(L::COLUMNS, row))).collect();
        if known.as_ref() == Some(&found) {
            continue;
        }
        if output.is_json() {
            output::print(&differences(&known.unwrap_or_default(), &found))?;
        } else {
            let cells = rows.iter().map(|row| print::cells(output, L::COLUMNS, row));
            let table = output::table(&print::header(output, L::COLUMNS), cells);
            let clear = if io::stdout().is_terminal() { CLEAR } else { "" };
            let more = if cut { "and more: `--limit` says how many are shown\n" } else { "" };
            output::print(&format!("{clear}{table}{more}\n"))?;
        }
        known = Some(found);
    }
    Err(CliError::unreachable("control ended the watch: it shuts down, or was restarted"))
}

/// One line for each row that is not as it was.
fn differences(before: &[(String, Value)], now: &[(String, Value)]) -> String {
    let keyed = |rows: &[(String, Value)]| rows.iter().cloned().collect::<BTreeMap<_, _>>();
    let (before, after) = (keyed(before), keyed(now));
    let line = |change: &str, row: &Value| format!("{}\n", json!({ "change": change, "row": row }));
    let mut text = String::new();
    for (key, row) in now {
        match before.get(key) {
            None => text += &line("added", row),
            Some(old) if old != row => text += &line("changed", row),
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
    text.extend(gone.map(|(_, row)| line("removed", row)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_one_line() {
        let row = |key: &str, value: u64| (key.to_owned(), json!({ "n": value }));
        let lines =
            differences(&[row("a", 1), row("b", 1), row("c", 1)], &[row("d", 4), row("b", 2), row("c", 1)]);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> =
            lines.iter().map(|line| (line["change"].as_str().unwrap(), &line["row"]["n"])).collect();
        assert_eq!(told, [("added", &json!(4)), ("changed", &json!(2)), ("removed", &json!(1))]);
    }
}
