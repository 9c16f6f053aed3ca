//! The log: one line per event on standard error, text for people or JSON for machines.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object per line.
    Json,
}

/// Starts logging. `SIGNET_LOG` selects what (as `info` or `signet_control=debug`); usually `info`.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env("SIGNET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().with_current_span(true).with_span_list(false).try_init(),
    };
    if let Err(error) = started {
        // Only a second start in one process: whoever was first keeps the log.
        tracing::debug!(%error, "log was started before");
    }
}
