//! What it was measured on, and with which versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::Result;
use serde::Serialize;

use super::bed::Environment;
use super::peers::Peer;
use super::{Plan, tool};

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) memory_gb: u64,
    pub(super) kernel: String,
    pub(super) system: String,
}

impl Machine {
    pub(super) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = value(&read("/proc/cpuinfo"), "model name", ':');
        let memory = value(&read("/proc/meminfo"), "MemTotal", ':');
        let kilobytes: u64 =
            memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        Self {
            processor,
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gb: kilobytes.div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: value(&read("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"').to_owned(),
        }
    }
}

/// The versions of all that takes part, as each says it.
pub(super) async fn versions(plan: &Plan, environment: &Environment) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for &peer in plan.peers.iter().filter(|peer| **peer != Peer::None) {
        let mut version = short(&environment.programs.version(peer).await?);
        if peer == Peer::Signet {
            version = format!("{version} {}", revision().await);
        }
        versions.insert(peer.name().to_owned(), version.trim().to_owned());
    }
    for program in plan.loads.iter().flat_map(|load| load.tools()) {
        let argument = if *program == "wrk" { "-v" } else { "--version" };
        versions.insert((*program).to_owned(), short(&tool::version(&tool::find(program)?, argument).await?));
    }
    Ok(versions)
}

/// The commit of this checkout.
async fn revision() -> String {
    let git = Path::new("/usr/bin/git");
    if !git.is_file() {
        return String::new();
    }
    let mut command = tokio::process::Command::new(git);
    command.args(["describe", "--always", "--dirty", "--exclude=*"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let said = command.output().await.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).trim().to_owned()
}

/// The first word with digits and dots: a version among other words. Words may be paths.
fn short(said: &str) -> String {
    let mut words = said.split([' ', '/', ',']);
    let is_version = |word: &&str| {
        let word = word.trim_start_matches('v');
        word.contains('.') && word.starts_with(|letter: char| letter.is_ascii_digit())
    };
    words.find(is_version).unwrap_or(said).trim().to_owned()
}

/// The value of the first line with that key.
fn value(text: &str, key: &str, separator: char) -> String {
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_once(separator)).map_or("", |(_, value)| value.trim()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_among_words() {
        for (said, version) in [
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("stunnel 5.68 on x86_64-pc-linux-gnu platform", "5.68"),
            ("/a/b-1.40.0/envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0-3+b2"),
            ("h2load nghttp2/1.52.0", "1.52.0"),
            ("signet-proxy 0.1.0", "0.1.0"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(short(said), version);
        }
    }

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_gb > 0 && !machine.kernel.is_empty());
    }
}
