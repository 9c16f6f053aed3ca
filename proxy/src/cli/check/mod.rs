//! `signet-proxy check`: looks over a configuration and the machine under it, and says of each thing that is wrong
//! how to put it right. Changes nothing and spends no ticket.

mod control;
mod machine;
mod own;
mod report;

use clap::Args;
use http::Method;
use serde_json::Value;

pub use self::report::{Finding, Report, State};
use super::Output;
use super::client::Where;
use crate::config::{AdminEntrance, Config, RunArguments, Source};

/// Look over the configuration and the machine, and say how to put right what is wrong
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CheckArguments {
    /// The configuration, as for `run`.
    #[command(flatten)]
    pub run: RunArguments,

    /// table for people, json for scripts
    #[arg(long, default_value = "table")]
    pub output: Output,
}

const EXAMPLES: &str = "\
Examples:
  Before a proxy is started, or while it runs, with what `run` is given:
    signet-proxy check --config proxy.toml

  For scripts:
    signet-proxy check --config proxy.toml --output json | jq '.findings[] | select(.state == \"problem\")'

Of a proxy that runs, certificate and policy are asked for at its `admin-listen`.

Exit codes: 0 nothing is wrong (there may be warnings), 1 there is a problem.";

/// What a proxy with this configuration says of itself, if one runs.
#[derive(Debug, Default)]
struct Running {
    identity: Option<Value>,
    policy: Option<Value>,
}

/// Looks at everything.
pub async fn run(arguments: RunArguments) -> Report {
    let mut report = Report::default();
    let path = arguments.config.clone();
    let config = match Config::load(arguments) {
        Ok(config) => config,
        Err(error) => {
            let fix = "correct it: `signet-proxy run --help` has examples";
            report.add(Finding::problem("configuration", error.to_string(), fix));
            return report;
        }
    };
    report.add(Finding::ok("configuration", described(&config)));
    let running = Running::ask(&config).await;
    report.add(match &running.identity {
        Some(_) => Finding::ok("proxy", "one runs and answers at `admin-listen`"),
        None => Finding::ok("proxy", "none answers at `admin-listen`: checked as before a start"),
    });
    machine::file_permissions(&config, path.as_deref(), &mut report);
    machine::descriptors(&config, &mut report);
    match &config.source {
        Source::Control(joining) => control::reach(joining, &mut report).await,
        Source::Files(files) => own::files(files, &mut report).await,
        Source::Socket(socket, files) => {
            own::socket(socket, &mut report).await;
            own::files(files, &mut report).await;
        }
    }
    if let Some(files) = &config.crls {
        own::crls(files, &mut report).await;
    }
    own::certificate(&config, &running, &mut report);
    own::policy(&config, &running, &mut report);
    own::apps(&config, &mut report).await;
    machine::ports(&config, running.identity.is_some(), &mut report).await;
    machine::capture(&config, &mut report);
    report
}

fn described(config: &Config) -> String {
    format!(
        "read; identity from {}, {} inbound, {} outbound",
        config.source.name(),
        config.inbound.len(),
        config.outbound.len()
    )
}

impl Running {
    async fn ask(config: &Config) -> Self {
        let at = Where { admin: AdminEntrance(config.admin_listen.clone()) };
        let ask = async |path| {
            let body = at.ask(Method::GET, path, None).await.ok()?;
            serde_json::from_slice(&body).ok()
        };
        if at.ask(Method::GET, "/", None).await.is_err() {
            return Self::default();
        }
        // Without identity yet, it runs all the same.
        Self { identity: Some(ask("/identity").await.unwrap_or_default()), policy: ask("/policy").await }
    }
}
