//! What the kernel knows: processor time of a process, bytes that a listener has not read yet, descriptors.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::Process;

/// `/proc/PID/stat` counts in hundredths of a second on every architecture (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Processor time that the process has used so far, in user space and in the kernel.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn processor_time(process: &Process) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("it runs");
    // The name in parentheses may hold anything, so what follows the last one is counted: field 3 and on.
    let (_, fields) = stat.rsplit_once(')').expect("proc(5)");
    let ticks = |number: usize| -> u32 {
        fields.split_whitespace().nth(number - 3).and_then(|ticks| ticks.parse().ok()).expect("proc(5)")
    };
    TICK * (ticks(14) + ticks(15))
}

/// File descriptors that the process has open now.
#[must_use]
pub fn open_descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).map_or(0, Iterator::count)
}

/// How often the process has asked the kernel to read something, files and sockets alike.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn read_calls(process: &Process) -> u64 {
    let calls = std::fs::read_to_string(format!("/proc/{}/io", process.id())).expect("it runs, and is ours");
    let calls = calls.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("proc(5)");
    calls.parse().expect("a number")
}

/// Bytes that wait unread in the connections accepted at `listener`, those in its backlog included.
///
/// # Panics
/// When the kernel does not list its connections.
#[must_use]
pub fn unread_bytes(listener: SocketAddr) -> u64 {
    const LISTENING: &str = "0A";
    let SocketAddr::V4(listener) = listener else { panic!("an IPv4 listener: {listener}") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(listener.ip().octets()), listener.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("proc(5)");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|row| row.len() > 4 && row[1] == local && row[3] != LISTENING)
        .filter_map(|row| u64::from_str_radix(row[4].split_once(':')?.1, 16).ok())
        .sum()
}

/// Lets this process, and those it starts from now on, open as many files as the machine allows.
///
/// # Panics
/// When it allows fewer than `needed`.
pub fn allow_descriptors(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most >= needed, "{needed} open files are needed, and the hard limit is {most}");
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit everybody may");
}
