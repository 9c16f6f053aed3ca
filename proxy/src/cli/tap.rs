//! `signet-proxy tap`: what a running proxy sees, line by line.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::Output;
use super::client::{ClientError, Where};

/// A line of a proxy is shorter.
const LONGEST_LINE: usize = 64 * 1024;

/// Show connections and requests as they come
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TapArguments {
    /// Only of this caller; `/*` at the end for a subtree
    #[arg(long, value_name = "ID")]
    pub source: Option<String>,

    /// Only to this callee; `/*` at the end for a subtree
    #[arg(long, value_name = "ID")]
    pub destination: Option<String>,

    /// Only to this port of the app
    #[arg(long)]
    pub port: Option<u16>,

    /// Only inbound or outbound
    #[arg(long, value_name = "inbound|outbound")]
    pub direction: Option<String>,

    /// Only what policy allowed or denied, or was not asked about
    #[arg(long, value_name = "allow|deny|none")]
    pub verdict: Option<String>,

    /// Only connections or requests
    #[arg(long, value_name = "connection|request")]
    pub kind: Option<String>,

    /// Only requests with this method
    #[arg(long)]
    pub method: Option<String>,

    /// Only requests whose path begins with this
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,

    /// Only requests with this status; `5xx` for a class
    #[arg(long)]
    pub status: Option<String>,

    /// End after so many lines
    #[arg(long)]
    pub count: Option<u64>,

    /// table for people, json for scripts (an object a line)
    #[arg(long, default_value = "table")]
    pub output: Output,

    /// Which proxy.
    #[command(flatten)]
    pub at: Where,
}

const EXAMPLES: &str = "\
Examples:
  What is denied, and by which rule:
    signet-proxy tap --verdict deny

  Requests of the shop that fail, as JSON:
    signet-proxy tap --source 'spiffe://prod.example/shop/*' --status 5xx --output json

Who does not read in time misses lines; how many is said. Ends with the proxy, or with Ctrl-C.";

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The proxy did not answer, or not as one does.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nobody reads us.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl TapArguments {
    fn path(&self) -> String {
        let port = self.port.map(|port| port.to_string());
        let filters = [
            ("source", &self.source),
            ("destination", &self.destination),
            ("port", &port),
            ("direction", &self.direction),
            ("verdict", &self.verdict),
            ("kind", &self.kind),
            ("method", &self.method),
            ("path", &self.path),
            ("status", &self.status),
        ];
        let given = filters.iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let mut path = String::from("/tap?");
        for (name, value) in given {
            let _ = write!(path, "{name}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        path
    }
}

/// Prints until the proxy ends, or the wanted number of lines is there.
///
/// # Errors
/// When the proxy does not answer, or nobody reads.
pub async fn run(arguments: &TapArguments) -> Result<(), TapError> {
    let response = arguments.at.open(Method::GET, &arguments.path(), None).await?;
    let (mut body, mut rest, mut printed) = (response.into_body(), Vec::new(), 0);
    let mut out = io::stdout().lock();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
        rest.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            match arguments.output {
                Output::Json => out.write_all(&line)?,
                Output::Table => writeln!(out, "{}", shown(&line))?,
            }
            out.flush()?;
            printed += 1;
            if arguments.count == Some(printed) {
                return Ok(());
            }
        }
        if rest.len() > LONGEST_LINE {
            return Err(ClientError::Broken("a line without end".into()).into());
        }
    }
    Ok(())
}

/// One event in columns, the time of day first.
fn shown(line: &[u8]) -> String {
    let Ok(event) = serde_json::from_slice::<Value>(line) else {
        return String::from_utf8_lossy(line).trim_end().escape_debug().to_string();
    };
    let text = |key: &str| match event.get(key) {
        Some(Value::String(text)) => text.escape_debug().to_string(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    if text("event") == "dropped" {
        return format!("({} events were missed)", text("count"));
    }
    let time = text("time");
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time).trim_end_matches('Z');
    let time = time.get(..12).unwrap_or(time);
    let arrow = if text("direction") == "inbound" { "->|" } else { "|->" };
    let mut columns = format!(
        "{time} {arrow} {:<7} #{:<5} {:<9} {} -> {}:{}",
        text("event"),
        text("connection"),
        text("protocol"),
        text("source"),
        text("destination"),
        text("port"),
    );
    if event.get("method").is_some() {
        let _ = write!(columns, "  {} {} {}", text("method"), text("path"), text("status"));
    }
    if text("verdict") != "none" {
        let rule = match event.get("rule") {
            Some(_) => format!("{}/{}", text("policy"), text("rule")),
            None => "no rule".to_owned(),
        };
        let _ = write!(columns, "  {} by {rule}", text("verdict"));
    }
    if event.get("duration_ms").is_some() {
        let _ = write!(
            columns,
            "  {} ms, {} in, {} out",
            text("duration_ms"),
            text("bytes_in"),
            text("bytes_out")
        );
        if text("close_reason") != "finished" {
            let _ = write!(columns, "  {}", text("close_reason"));
        }
    }
    if event.get("detail").is_some() {
        let _ = write!(columns, ": {}", text("detail"));
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_client_wrote() {
        let line = br#"{"event":"request","time":"2026-03-01T10:20:30.123456Z","connection":7,"direction":"inbound",
            "protocol":"http/1.1","source":"spiffe://td/a","destination":"spiffe://td/b","port":80,"verdict":"deny",
            "policy":"orders","rule":"no-batch","method":"GET","path":"/x\u001b[2J\n","status":403,"duration_ms":0.5,
            "bytes_in":0,"bytes_out":12,"close_reason":"denied"}"#;
        let shown = shown(line);
        assert!(shown.starts_with("10:20:30.123 ->| request #7"), "{shown}");
        assert!(shown.contains(r"GET /x\u{1b}[2J\n 403  deny by orders/no-batch  0.5 ms"), "{shown}");
        assert_eq!(shown.lines().count(), 1);
        assert_eq!(super::shown(br#"{"event":"dropped","count":7}"#), "(7 events were missed)");
    }
}
