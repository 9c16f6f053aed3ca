//! A process that the test started: signalled by its own descriptor, so never another process that got the
//! same number; its output kept; ended when the test ends.
//!
//! Invariant: a process that ended without being told to, or that wrote a panic message, fails the test.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use tokio::sync::watch;

use crate::PATIENCE;
use crate::logs::Logs;

/// How long a process may take to end after it was asked to, when the test is over.
const GRACE: Duration = Duration::from_secs(5);
const LINES_SHOWN_ON_FAILURE: usize = 40;

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    id: u32,
    descriptor: OwnedFd,
    logs: Arc<Logs>,
    exit: watch::Receiver<Option<ExitStatus>>,
    ended: Arc<(Mutex<bool>, Condvar)>,
    stop_signal: Signal,
    may_end: bool,
}

impl Process {
    /// Starts `command`; `name` is for messages.
    #[must_use]
    pub fn start(name: &str, mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let id = child.id();
        let pid = Pid::from_child(&child);
        let descriptor =
            pidfd_open(pid, PidfdFlags::empty()).expect("the child is there until it is waited for");

        let logs = Arc::new(Logs::default());
        let readers = [
            child.stdout.take().map(|output| read_lines(output, Arc::clone(&logs))),
            child.stderr.take().map(|output| read_lines(output, Arc::clone(&logs))),
        ];
        let (exit, ended) = reap(child, readers.into_iter().flatten().collect());
        Self {
            name: name.to_owned(),
            id,
            descriptor,
            logs,
            exit,
            ended,
            stop_signal: Signal::TERM,
            may_end: false,
        }
    }

    /// Ends it with `signal` instead of SIGTERM when the test is over.
    #[must_use]
    pub fn stopped_by(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// This process may end by itself: doing so is not a failure.
    pub fn expect_end(&mut self) {
        self.may_end = true;
    }

    /// What it wrote.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Its resident memory in bytes, as the kernel counts it.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id)).unwrap_or_default();
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }

    /// The processor time it has used so far, in user and kernel mode.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        // In proc(5) utime and stime are fields 14 and 15, in ticks of 10 ms; the second, the name in
        // parentheses, may contain spaces.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id)).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The first JSON log line that `matches`, waiting for it up to [`PATIENCE`].
    ///
    /// # Panics
    /// When there is none in time; the newest lines are in the message.
    pub async fn wait_for_log(&self, what: &str, matches: impl FnMut(&Value) -> bool) -> Value {
        self.wait_for_logs(0, 1, what, matches).await.swap_remove(0)
    }

    /// As [`Process::wait_for_log`], until there are `count` such lines after `mark` (see [`Logs::mark`]; 0 for
    /// all).
    ///
    /// # Panics
    /// As [`Process::wait_for_log`].
    pub async fn wait_for_logs(
        &self,
        mark: u64,
        count: usize,
        what: &str,
        matches: impl FnMut(&Value) -> bool,
    ) -> Vec<Value> {
        let mut exit = self.exit.clone();
        let found = tokio::select! {
            // The exit is told after the last line was read: what is logged is found first.
            biased;
            found = self.logs.wait_for(mark, count, PATIENCE, matches) => found,
            () = async { let _ = exit.wait_for(Option::is_some).await; } => None,
        };
        found.unwrap_or_else(|| {
            let state =
                self.exit.borrow().map_or("it runs".to_owned(), |status| format!("it ended: {status}"));
            panic!(
                "{} did not log: {what} ({count}x); {state}; newest lines:\n{}",
                self.name,
                self.logs.tail(20)
            )
        })
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&mut self) {
        self.may_end = true;
        self.signal(Signal::TERM);
    }

    /// SIGUSR2: a proxy starts its program anew.
    pub fn start_successor(&self) {
        self.signal(Signal::USR2);
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.may_end = true;
        self.signal(Signal::KILL);
        self.exit(PATIENCE).await;
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it has not `within` that time.
    pub async fn exit(&mut self, within: Duration) -> ExitStatus {
        self.may_end = true;
        let waited = tokio::time::timeout(within, self.exit.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(status)) => status.expect("waited for it"),
            _ => panic!("{} still runs after {within:?}; newest lines:\n{}", self.name, self.logs.tail(20)),
        }
    }

    fn signal(&self, signal: Signal) {
        // It may have ended already, which is what the caller wants.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    fn ended_within(&self, time: Duration) -> bool {
        let (ended, woken) = &*self.ended;
        let mut ended = ended.lock();
        woken.wait_while_for(&mut ended, |ended| !*ended, time);
        *ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended_by_itself = !self.is_running() && !self.may_end;
        self.signal(self.stop_signal);
        if !self.ended_within(GRACE) {
            self.signal(Signal::KILL);
            self.ended_within(GRACE);
        }
        if thread::panicking() {
            let tail = self.logs.tail(LINES_SHOWN_ON_FAILURE);
            eprintln!("---- {} (process {}), newest lines ----\n{tail}\n----", self.name, self.id);
            return;
        }
        assert!(!ended_by_itself, "{} ended by itself; newest lines:\n{}", self.name, self.logs.tail(20));
        let text = self.logs.text();
        assert!(!text.contains("panicked at"), "{} panicked:\n{}", self.name, self.logs.tail(20));
    }
}

fn read_lines(output: impl Read + Send + 'static, logs: Arc<Logs>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut lines = BufReader::new(output).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            logs.push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

type Ended = Arc<(Mutex<bool>, Condvar)>;

/// Waits for the child on a thread of its own, and tells both kinds of waiters.
fn reap(
    mut child: Child,
    readers: Vec<thread::JoinHandle<()>>,
) -> (watch::Receiver<Option<ExitStatus>>, Ended) {
    let (sender, receiver) = watch::channel(None);
    let ended = Ended::default();
    let tell = Arc::clone(&ended);
    thread::spawn(move || {
        let status = child.wait().ok();
        // All that it wrote is in the log before anybody learns that it ended.
        for reader in readers {
            let _ = reader.join();
        }
        let _ = sender.send(status);
        *tell.0.lock() = true;
        tell.1.notify_all();
    });
    (receiver, ended)
}
