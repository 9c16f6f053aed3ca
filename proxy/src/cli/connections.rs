//! `signet-proxy admin connections`: what is open at a running proxy, towards peers too, and closing one of them.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use clap::Args;
use comfy_table::{Cell, ContentArrangement, Table, presets};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::Output;
use super::client::{ClientError, Where};

/// Show what is open: connections that were accepted, and those to peers, which calls share
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConnectionsArguments {
    /// Close this one instead: its id, as shown
    #[arg(long, value_name = "CONNECTION")]
    pub close: Option<String>,

    /// Only of this caller; `/*` at the end for a subtree
    #[arg(long, value_name = "ID")]
    pub source: Option<String>,

    /// Only to this callee; `/*` at the end for a subtree
    #[arg(long, value_name = "ID")]
    pub destination: Option<String>,

    /// Only inbound or outbound
    #[arg(long, value_name = "inbound|outbound")]
    pub direction: Option<String>,

    /// Only to this port of the app
    #[arg(long)]
    pub port: Option<u16>,

    /// Only with an address that begins with this
    #[arg(long, value_name = "PREFIX")]
    pub remote: Option<String>,

    /// Only what policy allowed or denied, or was not asked about
    #[arg(long, value_name = "allow|deny|none")]
    pub verdict: Option<String>,

    /// Only what is open for longer
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<String>,

    /// What comes first [default: age]
    #[arg(long, value_name = "age|newest|bytes|requests")]
    pub sort: Option<String>,

    /// At most so many of each kind [default: 100]
    #[arg(long)]
    pub limit: Option<usize>,

    /// table for people, json for scripts
    #[arg(long, default_value = "table")]
    pub output: Output,
}

const EXAMPLES: &str = "\
Examples:
  Who talks to us, the largest first:
    signet-proxy admin connections --direction inbound --sort bytes

  What is kept open to the database, and closing one of it:
    signet-proxy admin connections --destination spiffe://prod.example/db
    signet-proxy admin connections --close p17";

impl ConnectionsArguments {
    fn path(&self) -> String {
        let (port, limit) =
            (self.port.map(|port| port.to_string()), self.limit.map(|limit| limit.to_string()));
        let filters = [
            ("source", &self.source),
            ("destination", &self.destination),
            ("direction", &self.direction),
            ("port", &port),
            ("remote", &self.remote),
            ("verdict", &self.verdict),
            ("older-than", &self.older_than),
            ("sort", &self.sort),
            ("limit", &limit),
        ];
        let mut path = String::from("/connections?");
        for (name, value) in filters.iter().filter_map(|(name, value)| Some((name, value.as_deref()?))) {
            let _ = write!(path, "{name}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        path
    }
}

/// Prints them, or closes one.
///
/// # Errors
/// When the proxy does not answer, or nobody reads.
pub async fn run(arguments: &ConnectionsArguments, at: &Where) -> Result<(), ClientError> {
    if let Some(id) = &arguments.close {
        let path = format!("/connections/{}/close", utf8_percent_encode(id, NON_ALPHANUMERIC));
        let _ = at.ask(Method::POST, &path, None).await?;
        return print(&format!("closing {id}\n"));
    }
    let answer = at.ask(Method::GET, &arguments.path(), None).await?;
    if arguments.output == Output::Json {
        return print(&String::from_utf8_lossy(&answer));
    }
    let answer: Value =
        serde_json::from_slice(&answer).map_err(|error| ClientError::Broken(error.to_string()))?;
    print(&tables(&answer))
}

/// That nobody reads it any more (`| head`) is no failure.
fn print(text: &str) -> Result<(), ClientError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ClientError::Output(error)),
        _ => Ok(()),
    }
}

fn tables(answer: &Value) -> String {
    const ACCEPTED: &[(&str, &str)] = &[
        ("id", "id"),
        ("direction", "direction"),
        ("source", "source"),
        ("destination", "destination"),
        ("port", "port"),
        ("remote", "remote"),
        ("protocol", "protocol"),
        ("age", "age_seconds"),
        ("in", "bytes_in"),
        ("out", "bytes_out"),
        ("requests", "requests"),
        ("now", "requests_in_flight"),
        ("verdict", "verdict"),
        ("rule", "rule"),
    ];
    const TO_PEERS: &[(&str, &str)] = &[
        ("id", "id"),
        ("destination", "destination"),
        ("address", "address"),
        ("port", "port"),
        ("alpn", "alpn"),
        ("state", "state"),
        ("age", "age_seconds"),
        ("in", "bytes_in"),
        ("out", "bytes_out"),
        ("calls", "calls"),
        ("now", "calls_in_flight"),
    ];
    let mut text = String::new();
    for (title, rows, open, columns) in [
        ("Accepted", "connections", "open", ACCEPTED),
        ("To peers, shared by calls", "to_peers", "open_to_peers", TO_PEERS),
    ] {
        let rows = answer.get(rows).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let open = answer.get(open).and_then(Value::as_u64).unwrap_or_default();
        let _ = writeln!(text, "{title}: {} of {open}", rows.len());
        if !rows.is_empty() {
            let _ = writeln!(text, "{}\n", table(columns, rows));
        }
    }
    text
}

fn table(columns: &[(&str, &str)], rows: &[Value]) -> String {
    let mut table = Table::new();
    let header = columns.iter().map(|(name, _)| Cell::new(name.to_uppercase()));
    table.load_style(presets::NOTHING).set_header(header);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(columns.iter().map(|(_, key)| Cell::new(shown(key, row.get(key)))));
    }
    table.trim_fmt()
}

/// What came over the network has no part in how a terminal looks.
fn shown(key: &str, value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::Number(number)) if key.starts_with("bytes_") => {
            volume(number.as_u64().unwrap_or_default())
        }
        Some(Value::Number(number)) if key == "age_seconds" => age(number.as_f64().unwrap_or_default()),
        Some(Value::String(text)) => text.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        Some(other) => other.to_string(),
    }
}

fn volume(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

fn age(seconds: f64) -> String {
    match seconds as u64 {
        whole @ 0..=119 => format!("{whole}s"),
        whole @ 120..=7199 => format!("{}m{}s", whole / 60, whole % 60),
        whole => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_say_how_many_there_are_and_let_nothing_move_the_cursor() {
        let row = json!({ "id": "p7", "destination": "spiffe://td/db\u{1b}[2J", "state": "idle", "age_seconds": 61.5,
            "bytes_in": 2048, "bytes_out": 12, "calls": 3, "calls_in_flight": 0, "alpn": null });
        let text = tables(&json!({ "open": 5, "connections": [], "open_to_peers": 2, "to_peers": [row] }));
        assert!(text.starts_with("Accepted: 0 of 5\nTo peers, shared by calls: 1 of 2\n"), "{text}");
        assert!(text.contains("2.0 KiB") && text.contains("12 B") && text.contains("61s"), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("p7") && text.contains(" -"), "{text}");
        assert_eq!(
            (age(125.0), age(7260.0), volume(3 << 30)),
            ("2m5s".into(), "2h1m".into(), "3.0 GiB".into())
        );
    }
}
