//! `pair`: what a pair of proxies costs, Signet's and those of others. See [`signet_benches::pair`].

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use signet_benches::pair::{self, Effort, Load, Peer, Plan};
use signet_benches::programs;
use tokio::signal::unix::{SignalKind, signal};

/// Measures pairs of proxies side by side on this machine: client, proxy, mutual TLS, proxy, app.
#[derive(Debug, Parser)]
#[command(
    name = "pair",
    version,
    after_help = "Examples:\n  \
        cargo run --release -p signet-benches --bin pair\n  \
        cargo run --release -p signet-benches --bin pair -- --only http1 --only connect --peer signet --peer envoy\n  \
        cargo run --release -p signet-benches --bin pair -- --rounds 5 --json pair.json --write-readme\n  \
        SIGNET_BIN_DIR=target/e2e cargo run --profile e2e -p signet-benches --bin pair -- --quick"
)]
struct Arguments {
    /// Measure only this load; several times for several
    #[arg(long, value_enum, value_name = "LOAD")]
    only: Vec<Load>,
    /// Measure only this peer; several times for several
    #[arg(long, value_enum, value_name = "PEER")]
    peer: Vec<Peer>,
    /// How often everything is measured; the figures are medians [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// A second of each load: enough to see that everything works, too little for figures
    #[arg(long)]
    quick: bool,
    /// Write the figures of every round as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures into benches/README.md, and the plot beside it
    #[arg(long, conflicts_with_all = ["only", "peer", "quick"])]
    write_readme: bool,
    /// Measure the signet-proxy in this directory, with its signet-control, instead of building them
    #[arg(long, env = "SIGNET_BIN_DIR", value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Be the apps: what the benchmark starts for itself
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if arguments.serve {
        let served = runtime.block_on(pair::serve());
        // A read of standard input cannot be called off.
        runtime.shutdown_background();
        return served;
    }
    let plan = plan(arguments)?;
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Dropped, a run ends what it started.
        tokio::select! {
            report = Box::pin(pair::run(&plan)) => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })?;
    println!("{}", report.table());
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failures = report.failures();
    if !failures.is_empty() {
        bail!("{} measurements failed:\n{}", failures.len(), failures.join("\n"));
    }
    if arguments.write_readme {
        for path in pair::write_readme(&report)? {
            eprintln!("wrote {}", path.display());
        }
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let (peers, loads) = (chosen(&arguments.peer), chosen(&arguments.only));
    let find = |name| programs::find(name, arguments.bin_dir.as_deref());
    let signet = match peers.contains(&Peer::Signet) {
        true => Some((find("signet-proxy")?, find("signet-control")?)),
        false => None,
    };
    let (effort, rounds) = if arguments.quick { (Effort::quick(), 1) } else { (Effort::full(), 3) };
    Ok(Plan { peers, loads, rounds: arguments.rounds.unwrap_or(rounds), effort, signet })
}

/// Those, or all, in their order.
fn chosen<T: clap::ValueEnum + Copy + Ord>(named: &[T]) -> Vec<T> {
    let mut chosen = if named.is_empty() { T::value_variants().to_vec() } else { named.to_vec() };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}
