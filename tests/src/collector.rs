//! A collector of spans that we did not write: OpenTelemetry's own messages, in Python, and Prometheus' own reader of
//! OpenMetrics.

use std::path::Path;

use serde_json::Value;

use crate::client::Client;
use crate::logs::{field, is_message};
use crate::process::Process;
use crate::tools::collector_python;

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    address: String,
}

impl Collector {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::of(python("127.0.0.1:0"), "http://127.0.0.1").await
    }

    /// The same over TLS, with this certificate and key.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn proving(certificate: &Path, key: &Path) -> Self {
        let mut command = python("127.0.0.1:0");
        command.args([certificate, key]);
        Self::of(command, "https://localhost").await
    }

    async fn of(command: std::process::Command, place: &str) -> Self {
        let process = Process::start("collector.py", command);
        let listening = process.wait_for_log("listening", |event| is_message(event, "listening")).await;
        Self { process, address: format!("{place}:{}", field(&listening, "port")) }
    }

    /// For `--otlp-endpoint`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.clone()
    }

    /// Waits for a span, and returns its fields.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn span(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let is_it = |event: &Value| is_message(event, "span") && matches(&event["fields"]);
        self.process.wait_for_log(what, is_it).await["fields"].clone()
    }

    /// The spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Value> {
        let all = self.process.logs().events(|event| is_message(event, "span"));
        all.into_iter().map(|event| event["fields"].clone()).collect()
    }
}

/// The exemplars of a scrape, as Prometheus' own parser reads it.
///
/// # Panics
/// When it cannot be read.
pub async fn exemplars(openmetrics: &str) -> Vec<Value> {
    let read = Client::of(python("openmetrics")).input(openmetrics).run().await.succeeded();
    serde_json::from_str(&read.stdout).expect("a list")
}

fn python(argument: &str) -> std::process::Command {
    let mut command = collector_python();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/collector.py")).arg(argument);
    command
}
