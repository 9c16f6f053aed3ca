//! The programs under measurement: built before, or what cargo builds from this checkout now.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The program `name` of the package of that name, in `folder`; without one, built in the profile `release`. Never
/// one that happens to be there: it might be older than the checkout.
///
/// # Errors
/// When it is not there, or does not build.
pub fn find(name: &str, folder: Option<&Path>) -> Result<PathBuf> {
    let program = match folder {
        Some(folder) => folder.join(name),
        None => build(name, "release")?,
    };
    program.canonicalize().with_context(|| format!("no program at {}", program.display()))
}

/// Builds it from this checkout in that profile.
///
/// # Errors
/// When it does not build.
pub fn build(name: &str, profile: &str) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--profile", profile, "--locked", "-p", name, "--bin", name])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start cargo: set SIGNET_BIN_DIR to a directory with {name}"))?;
    ensure!(output.status.success(), "{name} does not build");
    let messages = String::from_utf8(output.stdout)?;
    for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let named = message.pointer("/target/name").and_then(Value::as_str) == Some(name);
        if let Some(program) = message.get("executable").and_then(Value::as_str).filter(|_| named) {
            return Ok(PathBuf::from(program));
        }
    }
    bail!("cargo did not say where it put {name}")
}
