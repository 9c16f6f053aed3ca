//! `control-scale`: how control does with thousands of proxies. See [`signet_benches::scale`].

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum as _};
use signet_benches::programs;
use signet_benches::scale::{self, Measure, Plan, Progress, StoreKind};
use tokio::signal::unix::{SignalKind, signal};

/// Measures a real signet-control with many simulated proxies on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "control-scale",
    version,
    after_help = "Examples:\n  \
        cargo run --release -p signet-benches --bin control-scale -- --proxies 1000\n  \
        cargo run --release -p signet-benches --bin control-scale -- --proxies 10000 --store postgres --json out.json\n  \
        SIGNET_BIN_DIR=target/e2e cargo run --profile e2e -p signet-benches --bin control-scale -- --only svids"
)]
struct Arguments {
    /// Simulated proxies, each with an identity, an address and a connection of its own
    #[arg(long, default_value_t = 1000, value_name = "N")]
    proxies: usize,
    /// Control's store; for postgres a server of its own is started
    #[arg(long, value_enum, default_value = "sqlite")]
    store: StoreKind,
    /// Measure only this; several times for several
    #[arg(long, value_enum)]
    only: Vec<Measure>,
    /// Renewals
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    svids: usize,
    /// Connections that renewals reuse
    #[arg(long, default_value_t = 16, value_name = "K")]
    connections: usize,
    /// Calls that wait for their SVID at any moment
    #[arg(long, default_value_t = 256, value_name = "C")]
    in_flight: usize,
    /// Policy documents in force, each for one identity
    #[arg(long, default_value_t = 100, value_name = "N")]
    documents: usize,
    /// Peers whose endpoints each proxy follows
    #[arg(long, default_value_t = 4, value_name = "N")]
    upstreams: usize,
    /// Changes of policy that concern one proxy
    #[arg(long, default_value_t = 100, value_name = "N")]
    changes_for_one: usize,
    /// Changes of policy that concern all of them
    #[arg(long, default_value_t = 10, value_name = "N")]
    changes_for_all: usize,
    /// Write the figures as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to put the data: its disk is measured [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Measure the signet-control in this directory instead of building it
    #[arg(long, env = "SIGNET_BIN_DIR", value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let plan = plan(arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let progress = Progress::on_stderr();
        // Dropped, a run ends what it started.
        tokio::select! {
            report = Box::pin(scale::run(&plan, &progress)) => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })?;
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let all = Measure::value_variants();
    let measures: BTreeSet<Measure> = if arguments.only.is_empty() {
        all.iter().copied().collect()
    } else {
        arguments.only.iter().copied().collect()
    };
    Ok(Plan {
        proxies: arguments.proxies,
        store: arguments.store,
        svids: arguments.svids,
        connections: arguments.connections.min(arguments.proxies),
        in_flight: arguments.in_flight,
        documents: arguments.documents.min(arguments.proxies),
        upstreams: arguments.upstreams,
        changes_for_one: arguments.changes_for_one,
        changes_for_all: arguments.changes_for_all,
        measures,
        directory: arguments.directory.clone().unwrap_or_else(std::env::temp_dir),
        control: programs::find("signet-control", arguments.bin_dir.as_deref())?,
    })
}
