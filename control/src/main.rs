//! `signet-control`: settings, log, runtime, signals. Everything that is wrong on start is said in one line.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use signet_control::config::{Config, ConfigError, Task};
use signet_control::maintenance;
use signet_control::service::Service;
use signet_control::telemetry::{log, metrics};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    signet_proto::abort::on_panic();
    let (task, config) = match Config::load() {
        Ok(loaded) => loaded,
        Err(ConfigError::Usage(usage)) => usage.exit(),
        Err(error) => {
            eprintln!("signet-control: {error}");
            return ExitCode::from(2);
        }
    };
    log::start(config.log_format);
    if task != Task::Run {
        return match maintenance::run(&task, &config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("signet-control: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("signet-control: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut service = Service::start(config, metrics::install()?).await?;
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        error = service.failed() => Some(error),
    };
    tracing::info!("shutting down");
    service.stop().await;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// One descriptor per proxy: the soft limit of 1024 is for programs that use `select`.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
