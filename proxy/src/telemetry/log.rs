//! The log: text for people, JSON for collectors, to standard error.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the log of this process. `SIGNET_LOG` holds directives such as `info,signet_proxy=debug`.
///
/// # Errors
/// When `SIGNET_LOG` cannot be read as directives.
pub fn install(format: Format) -> Result<(), ParseError> {
    let directives = std::env::var("SIGNET_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::from_str(&directives)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
    Ok(())
}
