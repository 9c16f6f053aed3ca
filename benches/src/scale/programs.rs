//! The program under measurement: one that was built before, or what cargo builds from this checkout now.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// `signet-control` in `folder`; without one, built in the profile `release`. Never one that happens to be there:
/// it might be older than the checkout.
///
/// # Errors
/// When it is not there, or does not build.
pub fn find_control(folder: Option<&Path>) -> Result<PathBuf> {
    let program = match folder {
        Some(folder) => folder.join("signet-control"),
        None => build()?,
    };
    program.canonicalize().with_context(|| format!("no program at {}", program.display()))
}

fn build() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "-p", "signet-control", "--bin", "signet-control"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo: set SIGNET_BIN_DIR to a directory with signet-control")?;
    ensure!(output.status.success(), "signet-control does not build");
    let messages = String::from_utf8(output.stdout)?;
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let named = message.pointer("/target/name").and_then(Value::as_str) == Some("signet-control");
        if let Some(program) = message.get("executable").and_then(Value::as_str).filter(|_| named) {
            return Ok(PathBuf::from(program));
        }
    }
    bail!("cargo did not say where it put signet-control")
}
