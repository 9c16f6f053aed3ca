//! `signet-demo`: a whole Signet mesh on one machine, shown working.
//!
//! It builds the binaries, starts control, three workloads with a proxy each and the apps behind them, tells
//! what happens with the real values in it, and ends with a table of what was checked. What is shown is what
//! was seen from outside: answers, logs, metrics and the output of `signet`. Nothing here is linked with the
//! code it shows. Exits with 0 only if every check held.

#![forbid(unsafe_code)]

mod account;
mod app;
mod binaries;
mod checks;
mod http;
mod load;
mod mesh;
mod metrics;
mod operator;
mod probe;
mod process;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::checks::Checks;
use crate::mesh::Mesh;

/// Brings up a whole Signet mesh on this machine and shows it working.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", version)]
struct Arguments {
    /// Leave the mesh running at the end, with the commands to try, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the summary as JSON on stdout; the account goes to stderr
    #[arg(long)]
    json: bool,
    /// Use the binaries in this folder instead of building them
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One of the apps behind the proxies; the demo starts these itself
    #[command(hide = true, subcommand)]
    App(app::App),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = runtime().and_then(|runtime| match arguments.role {
        Some(Role::App(app)) => runtime.block_on(app.run()).map(|()| true),
        None => runtime.block_on(demo(&arguments)),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// The whole run; true when every check held. Whatever happens, no process outlives it.
async fn demo(arguments: &Arguments) -> Result<bool> {
    let mut interrupt = Interrupt::new()?;
    let mut account = Account::new(arguments.json);
    account.title("Signet: three workloads that talk only through mutual TLS, on this machine")?;
    account.picture(mesh::PICTURE)?;

    let binaries = tokio::select! {
        found = Binaries::find(arguments.binaries.as_deref(), &mut account) => found?,
        () = interrupt.wait() => anyhow::bail!("interrupted while building"),
    };
    let started = Instant::now();
    let directory = tempfile::Builder::new()
        .prefix("signet-demo-")
        .tempdir()
        .context("cannot make a temporary folder")?;
    let mut mesh = Mesh::new(directory.path(), binaries);
    let mut checks = Checks::default();

    let mut interrupted = false;
    let outcome = tokio::select! {
        told = story::tell(&mut account, &mut mesh, &mut checks) => told,
        () = interrupt.wait() => { interrupted = true; Err(anyhow::anyhow!("interrupted")) }
    };
    let good = outcome.is_ok() && checks.all_hold();
    let mut shown = account.summary(&checks, started.elapsed(), outcome.is_ok());
    if arguments.keep && outcome.is_ok() && shown.is_ok() {
        shown = account.invitation(&mesh);
        interrupt.wait().await;
    }
    mesh.end().await;
    if (arguments.keep || !good) && !interrupted {
        account.kept(&directory.keep())?;
    }
    if arguments.json {
        account::print_json(&checks, good, started.elapsed())?;
    }
    outcome.and(shown).map(|()| good)
}

/// Ctrl-C and SIGTERM. The processes of the mesh are in process groups of their own, so that only the demo
/// gets these and ends the mesh in order.
struct Interrupt {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Interrupt {
    fn new() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
