//! A process that the benchmark started: ended with its owner, and read from `/proc` while it runs.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);
const TAIL_BYTES: usize = 2000;
/// In `/proc` processor time is counted in these: `sysconf(_SC_CLK_TCK)`, 100 a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A child process; what it writes is appended to its log.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    last: Signal,
}

/// What a process holds and has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and kernel mode.
    pub(crate) cpu: Duration,
    /// Resident, in bytes.
    pub(crate) resident: u64,
    /// The most that was resident at any time, in bytes.
    pub(crate) peak: u64,
}

impl Process {
    /// Starts `command`. The last thing it gets, if nothing else ended it, is the signal `last`.
    pub(crate) fn start(name: &'static str, mut command: Command, log: &Path, last: Signal) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file: File = file.with_context(|| format!("cannot write {}", log.display()))?;
        let set: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        let ours = |name: &OsString| name.to_string_lossy().starts_with("SIGNET_") && !set.contains(name);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
            command.env_remove(variable);
        }
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log: log.to_owned(), last })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended.
    pub(crate) fn require_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.tail()),
        }
    }

    /// SIGKILL: no time to finish anything.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.require_alive()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + GRACE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} did not end within {GRACE:?}:\n{}", self.name, self.tail());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        usage_of(&self.id().to_string())
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(TAIL_BYTES);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.child), self.last);
            let _ = self.child.wait();
        }
    }
}

/// What this process has used.
pub(crate) fn own_usage() -> Result<Usage> {
    usage_of("self")
}

/// The processor time of a process and all of its children, ended ones included.
pub(crate) fn cpu_with_children(parent: u32) -> Result<Duration> {
    let mut sum = ticks(&fs::read_to_string(format!("/proc/{parent}/stat"))?, &[14, 15, 16, 17])?;
    for child in children(parent)? {
        // One that has ended meanwhile is among its parent's by now.
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        sum += ticks(&stat, &[14, 15])?;
    }
    Ok(sum)
}

/// The proportional share of memory of a process and all of its children, in bytes: pages that several processes
/// have in common are divided among them.
pub(crate) fn memory_with_children(parent: u32) -> Result<u64> {
    let mut sum = proportional(&parent.to_string())?;
    for child in children(parent)? {
        sum += proportional(&child)?;
    }
    Ok(sum)
}

fn proportional(process: &str) -> Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    kilobytes(&text, "Pss:").context("no Pss in smaps_rollup")
}

/// The processes whose parent that is.
fn children(parent: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        // Not a process, or one that has ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if field(&stat, 4) == Some(parent.into()) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// The value of the line that begins with `name`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn usage_of(process: &str) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    Ok(Usage {
        cpu: ticks(&stat, &[14, 15])?,
        resident: kilobytes(&status, "VmRSS:").context("no VmRSS in /proc")?,
        peak: kilobytes(&status, "VmHWM:").context("no VmHWM in /proc")?,
    })
}

fn ticks(stat: &str, fields: &[usize]) -> Result<Duration> {
    let values =
        fields.iter().map(|number| field(stat, *number).context("/proc/PID/stat is not as in proc(5)"));
    let ticks: u64 = values.sum::<Result<u64>>()?;
    Ok(TICK * u32::try_from(ticks)?)
}

/// Field `number` of proc(5), counted from 1; the second, a name in parentheses, may contain spaces.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "17 (a name) with) S 4 5 6 7 8 9 10 11 12 13 140 150 16 17";
        assert_eq!(field(stat, 4), Some(4));
        assert_eq!(ticks(stat, &[14, 15]).unwrap(), Duration::from_millis(2900));
        assert_eq!(field(stat, 40), None);
    }

    #[test]
    fn process_that_is_dropped_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let process = Process::start("sleep", command, &directory.path().join("log"), Signal::KILL).unwrap();
        let id = process.id();
        assert!(process.usage().unwrap().resident > 0);
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
