//! One process of the mesh: started, its log followed, ended by its id.
//!
//! The log is read line by line, written to a file, and kept as far as a reader or a check may need it. To
//! wait for a process to get somewhere is to wait for a line of its log, never to sleep.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Lines shown when something goes wrong.
const TAIL_LINES: usize = 12;
/// Log records kept for checks.
const RECORDS_KEPT: usize = 4096;
/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A running process and what it has logged.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    grown: watch::Receiver<()>,
}

#[derive(Default)]
struct Log {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    tail: VecDeque<String>,
    records: VecDeque<Value>,
}

/// A process that did not do what it should, with its own last words.
#[derive(Debug)]
pub(crate) struct Trouble {
    what: String,
    process: String,
    tail: Vec<String>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\nlast lines of {}:", self.what, self.process)?;
        self.tail.iter().try_for_each(|line| write!(out, "\n  | {line}"))
    }
}

impl std::error::Error for Trouble {}

impl Process {
    /// Starts `program`, its log going to `<directory>/<name>.log`. It is alone in its process group, so that
    /// Ctrl-C reaches only the demo, and holds a pipe to the demo as its standard input.
    pub(crate) fn start(name: &str, program: &Path, arguments: &[String], directory: &Path) -> Result<Self> {
        let path = directory.join(format!("{name}.log"));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| is_of_signet(name)) {
            command.env_remove(variable);
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stderr = child.stderr.take().context("no log of the started process")?;
        let log = Arc::new(Log { path, kept: Mutex::default() });
        let (grow, grown) = watch::channel(());
        tokio::spawn(follow(BufReader::new(stderr), file, Arc::clone(&log), grow));
        Ok(Self { name: name.to_owned(), child, log, grown })
    }

    /// Its name, as in the name of its log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its log is written.
    pub(crate) fn log_path(&self) -> &Path {
        &self.log.path
    }

    /// The last lines it logged.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.log.kept.lock().tail.iter().cloned().collect()
    }

    /// Waits until `wanted` finds what it looks for in a record of the log, past records included.
    pub(crate) async fn await_record<T>(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut grown = self.grown.clone();
        let search = async {
            loop {
                let found = self.log.kept.lock().records.iter().find_map(&wanted);
                if let Some(found) = found {
                    return Some(found);
                }
                if grown.changed().await.is_err() {
                    // The log has ended; its last record may be the one.
                    return self.log.kept.lock().records.iter().find_map(&wanted);
                }
            }
        };
        match tokio::time::timeout(within, search).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(self.trouble(format!("{} ended before it logged {what}", self.name))),
            Err(_) => Err(self.trouble(format!("{} did not log {what} within {within:?}", self.name))),
        }
    }

    /// Every record of the log that `wanted` accepts, as far as it is kept.
    pub(crate) fn records<T>(&self, wanted: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        self.log.kept.lock().records.iter().filter_map(wanted).collect()
    }

    /// An error about this process, with its last words.
    pub(crate) fn trouble(&self, what: impl Into<String>) -> anyhow::Error {
        let process = format!("{} ({})", self.name, self.log.path.display());
        Trouble { what: what.into(), process, tail: self.tail() }.into()
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn end(&mut self) {
        let id =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            // Failure means that it has ended already.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Signet's programs read their flags from such variables too. What a reader has set is not for the demo.
pub(crate) fn is_of_signet(variable: &OsStr) -> bool {
    variable.to_string_lossy().starts_with("SIGNET_")
}

/// Reads the log to its end. The demo's own apps and the proxies log JSON; anything else is kept as text.
async fn follow(
    lines: BufReader<tokio::process::ChildStderr>,
    mut file: File,
    log: Arc<Log>,
    grow: watch::Sender<()>,
) {
    let mut lines = lines.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let _ = writeln!(file, "{line}");
        let record = serde_json::from_str::<Value>(&line).ok().filter(is_notable);
        let mut kept = log.kept.lock();
        if let Some(record) = record {
            push_bounded(&mut kept.records, record, RECORDS_KEPT);
        }
        push_bounded(&mut kept.tail, line, TAIL_LINES);
        drop(kept);
        grow.send_replace(());
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, bound: usize) {
    if queue.len() == bound {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// Under load most records are of requests that passed; no check asks for one of those.
fn is_notable(record: &Value) -> bool {
    let field = |name| record.pointer(name).and_then(Value::as_str).unwrap_or_default();
    field("/target") != "access"
        || field("/fields/verdict") == "deny"
        || !matches!(field("/fields/close_reason"), "" | "finished")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_that_passed_are_not_kept_and_others_are() {
        let access = |verdict, reason| json!({"target": "access", "fields": {"verdict": verdict, "close_reason": reason}});
        assert!(!is_notable(&access("allow", "finished")));
        assert!(!is_notable(&access("allow", "")));
        assert!(is_notable(&access("deny", "")));
        assert!(is_notable(&access("allow", "revoked_identity")));
        assert!(is_notable(&json!({"target": "signet_proxy", "fields": {"message": "listening"}})));
    }

    #[tokio::test]
    async fn a_process_that_ends_too_early_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["-c".to_owned(), "echo no such thing >&2; exit 3".to_owned()];
        let process = Process::start("early", Path::new("/bin/sh"), &arguments, directory.path()).unwrap();
        let error = process.await_record("listening", GRACE, |_| None::<()>).await.unwrap_err().to_string();
        assert!(error.contains("early ended before it logged listening"), "{error}");
        assert!(error.contains("no such thing"), "{error}");
    }

    #[tokio::test]
    async fn a_record_that_came_before_the_question_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let script =
            r#"echo '{"fields":{"message":"listening","address":"127.0.0.1:9"}}' >&2; exec sleep 60"#;
        let arguments = ["-c".to_owned(), script.to_owned()];
        let mut process =
            Process::start("ready", Path::new("/bin/sh"), &arguments, directory.path()).unwrap();
        let wanted = |record: &Value| record.pointer("/fields/address")?.as_str().map(str::to_owned);
        assert_eq!(process.await_record("listening", GRACE, wanted).await.unwrap(), "127.0.0.1:9");
        assert_eq!(process.await_record("listening", GRACE, wanted).await.unwrap(), "127.0.0.1:9");
        process.end().await;
    }
}
