//! The operators' command line: one file per group of verbs, one way to connect, to print and to fail.
//!
//! For people: tables, durations in words, errors that say what to do next. For scripts: `-o json` with stable
//! field names, and exit codes.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | refused or failed |
//! | 2 | wrong usage |
//! | 3 | control cannot be reached |
//! | 4 | no such thing |
//! | 5 | not permitted |
//! | 6 | done, but not everybody whom it takes something from, or who is to renew, has confirmed it |
//!
//! `signet diff` is as diff(1): 1 means that there are differences, and what is 1 elsewhere is 2.

mod args;
mod connect;
mod credentials;
mod error;
mod files;
mod generations;
mod list;
mod output;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Verb};
use connect::Session;
use error::CliError;
use list::{Certificates, Connections, Identities, Instances, Outsiders, Workloads};
use output::Output;
use signet_proto::v1::WorkloadStatus;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => usage.exit(),
    };
    let output = Output::new(cli.output);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("cannot start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(Box::pin(run(cli, output))));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("  {hint}");
            }
            if let Some(request) = error.request() {
                eprintln!("  request {request}, as control's log and audit name it");
            }
            error.exit_code()
        }
    }
}

async fn run(cli: Cli, output: Output) -> Result<(), CliError> {
    let session = Session::new(cli.control, cli.credentials);
    if output.is_csv() && !cli.verb.is_list() {
        return Err(
            CliError::usage("--output csv is for lists").with_hint("for scripts, use `--output json`")
        );
    }
    match cli.verb {
        Verb::Status => verbs::authority::status(&session, output).await,
        Verb::Workload(verb) => verbs::workload::run(verb, &session, output).await,
        Verb::Apply(apply) => verbs::documents::apply(apply, &session, output).await,
        Verb::Diff(diff) => verbs::documents::diff(diff, &session, output).await,
        Verb::Export(export) => verbs::documents::export(export, &session).await,
        Verb::Validate(validate) => verbs::documents::validate(&validate, output),
        Verb::Token(verb) => verbs::workload::token(verb, &session, output).await,
        Verb::Policy(verb) => verbs::policy::run(verb, &session, output).await,
        Verb::Mesh(verb) => verbs::mesh::run(verb, &session, output).await,
        Verb::Explain(call) => verbs::policy::explain(call, &session, output).await,
        Verb::Identities(query) => {
            list::run(&Identities::from(&query), &query.listing, &session, output).await
        }
        Verb::Certificates(query) => {
            list::run(&Certificates::from(&query), &query.listing, &session, output).await
        }
        Verb::Instances(query) => list::run(&Instances::from(&query), &query.listing, &session, output).await,
        Verb::Connections(query) => match Outsiders::asked(&query) {
            Some(outsiders) => list::run(&outsiders, &query.listing, &session, output).await,
            None => list::run(&Connections::from(&query), &query.listing, &session, output).await,
        },
        Verb::Workloads(query) => list::run(&Workloads::from(&query), &query.listing, &session, output).await,
        Verb::Revoke(what) => verbs::identities::revoke(what, &session, output).await,
        Verb::Suspend(change) => {
            verbs::identities::set_status(change, WorkloadStatus::Suspended, &session, output).await
        }
        Verb::Resume(change) => {
            verbs::identities::set_status(change, WorkloadStatus::Active, &session, output).await
        }
        Verb::Retire(change) => {
            verbs::identities::set_status(change, WorkloadStatus::Retired, &session, output).await
        }
        Verb::Rotate(rotation) => verbs::identities::rotate(rotation, &session, output).await,
        Verb::Audit(verb) => verbs::audit::run(verb, &session, output).await,
        Verb::Ca(verb) => verbs::ca::run(verb, &session, output).await,
        Verb::Federation(verb) => verbs::federation::run(verb, &session, output).await,
        Verb::Bundle { format } => verbs::authority::bundle(format, &session).await,
        Verb::Role(verb) => verbs::role::run(verb, &session, output).await,
        Verb::Requests(verb) => verbs::requests::run(verb, &session, output).await,
        Verb::Freeze(what) => verbs::freeze::run(what, &session, output).await,
        Verb::Unfreeze { on, reason } => verbs::freeze::lift(&on, reason, &session, output).await,
        Verb::Login(login) => verbs::login::run(login, output).await,
        Verb::Completion { shell } => output::print(&args::completion(shell)),
    }
}
