//! The benchmark itself: Signet's pair carries each kind of load, checks hold, and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use signet_benches::programs;

#[test]
fn pair_of_ours_carries_each_load_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("pair.json");
    let loads = ["http1", "grpc", "connect", "connect-cold", "bulk-from-app"];
    let mut command = pair(&loads);
    command.arg("--json").arg(&json);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // Until the last of them has closed it.
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(living(&child), Vec::<String>::new(), "processes that were left behind");

    let report: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), loads.len());
    for cell in cells {
        assert_eq!(cell["failures"].as_array().unwrap().len(), 0, "{cell}");
        let sample = &cell["rounds"][0];
        let cpu = sample["cpu_us"].as_f64().or(sample["cpu_s_per_gb"].as_f64());
        assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{cell}");
        assert!(sample["units"].as_f64().is_some_and(|units| units > 0.0), "{cell}");
    }
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    let mut child = pair(&["latency"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    // Control runs by then, and a pair is on its way.
    let mut first = vec![0; 5];
    std::io::Read::read_exact(&mut said, &mut first).unwrap();
    assert_eq!(first, b"round", "{}", said.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // Until the last of them has closed it.
    let rest: Vec<String> = said.lines().map_while(Result::ok).collect();
    assert!(!child.wait().unwrap().success());
    assert_eq!(living(&child), Vec::<String>::new(), "processes that were left behind");
    assert!(rest.iter().any(|line| line.ends_with("error: interrupted")), "{rest:?}");
}

/// The benchmark in a process group of its own, which its children share.
fn pair(loads: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pair"));
    command.args(["--quick", "--peer", "signet"]).process_group(0).stdin(Stdio::null());
    command.arg("--bin-dir").arg(programs_under_test());
    for load in loads {
        command.args(["--only", load]);
    }
    command
}

/// Where `tests/run` has put them, or where cargo does.
fn programs_under_test() -> PathBuf {
    if let Some(directory) = env::var_os("SIGNET_BIN_DIR") {
        return directory.into();
    }
    programs::build("signet-control", "e2e").unwrap();
    let proxy = programs::build("signet-proxy", "e2e").unwrap();
    proxy.parent().unwrap().to_owned()
}

/// What still runs of the group that `leader` began: names of programs.
fn living(leader: &Child) -> Vec<String> {
    let group = leader.id().to_string();
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        // As in proc(5): number, (name), state, parent, group.
        let (before, after) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let alive = fields[0] != "Z" && fields[2] == group;
        alive.then(|| before.split_once('(').unwrap().1.to_owned())
    });
    stats.collect()
}
