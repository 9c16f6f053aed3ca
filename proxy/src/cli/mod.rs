//! What `signet-proxy` does besides running: it asks a running proxy over its admin listener ([`client`], [`tap`]),
//! and looks over a configuration and the machine under it ([`check`]).

pub mod check;
pub mod client;
pub mod connections;
pub mod tap;

use std::io::Write;
use std::process::ExitCode;

use self::check::{CheckArguments, State};
use self::client::{AskArguments, Verb};
use self::tap::TapArguments;

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

/// Looks everything over, and prints what was found.
#[must_use]
pub fn check(arguments: CheckArguments) -> ExitCode {
    let CheckArguments { run, output } = arguments;
    let mut worst = State::Ok;
    let printed = once(async {
        let report = check::run(run).await;
        worst = report.worst();
        match output {
            Output::Table => print!("{report}"),
            Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        }
        Ok(())
    });
    if worst == State::Problem { ExitCode::FAILURE } else { printed }
}

/// Prints what happens, until the proxy ends.
#[must_use]
pub fn tap(arguments: &TapArguments) -> ExitCode {
    once(async { tap::run(arguments).await.map_err(Into::into) })
}

/// Prints what a proxy answers.
#[must_use]
pub fn ask(arguments: AskArguments) -> ExitCode {
    let AskArguments { verb, request, at } = arguments;
    once(async {
        if let Some(Verb::Connections(arguments)) = verb {
            return Ok(connections::run(&arguments, &at).await?);
        }
        let (method, path, body) = client::parts(request)?;
        let answer = at.ask(method, &path, body).await?;
        Ok(std::io::stdout().write_all(&answer)?)
    })
}

/// For what is asked once and done.
fn once(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
