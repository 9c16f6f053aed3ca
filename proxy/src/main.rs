//! `signet-proxy`: arguments, log, configuration, runtime.

#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signet_proxy::capture::rules::{self, Rules, State};
use signet_proxy::cli;
use signet_proxy::config::{Arguments, Capture, Command, Config, RunArguments, WaitArguments};
use signet_proxy::living::wait::until_ready;
use signet_proxy::profiles::{self, Sampled};
use signet_proxy::telemetry::log::{self, Filter};
use signet_proxy::telemetry::metrics;

/// The system's; what it gives is noted when the configuration says `profiles`.
#[global_allocator]
static ALLOCATOR: Sampled = Sampled;

/// What the configuration says cannot be done: another try will not help.
const EXIT_CONFIGURATION: u8 = 2;
/// The rules can be neither read nor changed.
const EXIT_CAPTURE: u8 = 3;
/// The program that was to be started cannot be; what shells say then.
const EXIT_PROGRAM: u8 = 127;

fn main() -> ExitCode {
    signet_proto::abort::on_panic();
    let arguments = match Arguments::read().command {
        Command::Run(arguments) => arguments,
        Command::Wait(arguments) => return wait(&arguments),
        Command::Capture(command) => return capture(&command),
        Command::Check(arguments) => return cli::check(*arguments),
        Command::Tap(arguments) => return cli::tap(&arguments),
        Command::Admin(arguments) => return cli::ask(arguments),
    };
    let (config, log) = match load(*arguments) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("signet-proxy: {error:#}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    if config.living.profiles {
        profiles::remember();
    }
    match run(config, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "signet-proxy ends");
            ExitCode::FAILURE
        }
    }
}

fn wait(arguments: &WaitArguments) -> ExitCode {
    let waited = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime");
    let ready =
        waited.and_then(|runtime| Ok(runtime.block_on(until_ready(&arguments.health, arguments.timeout.0))?));
    if let Err(error) = ready {
        eprintln!("signet-proxy: {error:#}");
        return ExitCode::FAILURE;
    }
    let Some((program, rest)) = arguments.program.split_first() else { return ExitCode::SUCCESS };
    let error = std::process::Command::new(program).args(rest).exec();
    eprintln!("signet-proxy: the proxy is ready, but {} cannot be run: {error}", program.display());
    ExitCode::from(EXIT_PROGRAM)
}

fn capture(command: &Capture) -> ExitCode {
    let done = match command {
        Capture::Install(arguments) => match Rules::try_from(&**arguments) {
            Ok(rules) if arguments.dry_run => {
                print!("{}", rules.table("signet capture"));
                Ok(ExitCode::SUCCESS)
            }
            Ok(rules) => rules::install(&rules).map(|()| {
                println!("installed: table inet signet");
                ExitCode::SUCCESS
            }),
            Err(error) => {
                eprintln!("signet-proxy: {error}");
                return ExitCode::from(EXIT_CONFIGURATION);
            }
        },
        Capture::Remove => rules::remove().map(|there| {
            println!("{}", if there { "removed: table inet signet" } else { "nothing to remove" });
            ExitCode::SUCCESS
        }),
        Capture::Check => rules::check().map(|state| match state {
            State::Installed => {
                println!("installed and unchanged: table inet signet");
                ExitCode::SUCCESS
            }
            State::Absent => {
                println!("absent: nothing is captured; `signet-proxy capture install` installs the rules");
                ExitCode::FAILURE
            }
            State::Altered(altered) => {
                println!("altered since they were installed; `signet-proxy capture install` replaces them");
                print!("{altered}");
                ExitCode::FAILURE
            }
        }),
    };
    done.unwrap_or_else(|error| {
        eprintln!("signet-proxy: {error}");
        ExitCode::from(EXIT_CAPTURE)
    })
}

fn load(arguments: RunArguments) -> anyhow::Result<(Config, Arc<Filter>)> {
    let config = Config::load(arguments)?;
    let log = log::install(config.log_format).context("`SIGNET_LOG`")?;
    Ok((config, log))
}

fn run(config: Config, log: Arc<Filter>) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let metrics = metrics::install().context("cannot install the metrics recorder")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(signet_proxy::run::run(config, metrics, log));
    runtime.shutdown_background();
    ended
}

/// Two descriptors a connection: the usual soft limit of 1024 is meant for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}
