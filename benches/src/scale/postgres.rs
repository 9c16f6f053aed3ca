//! A PostgreSQL of our own, from Debian's programs, with its defaults: every commit is on disk before it is
//! answered.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::process::{Process, cpu_with_children};

const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A running server; its cluster goes with it.
pub(super) struct Postgres {
    process: Process,
    port: u16,
    _directory: TempDir,
}

impl Postgres {
    /// Makes a cluster in `parent`, starts it and waits until it takes connections.
    pub(super) async fn start(parent: &Path) -> Result<Self> {
        let programs = programs()?;
        let owner = owner()?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("signet-scale-postgres-").permissions(Permissions::from_mode(0o755));
        let directory = builder.tempdir_in(parent)?;
        let data = directory.path().join("data");
        fs::create_dir(&data)?;
        fs::set_permissions(&data, Permissions::from_mode(0o700))?;
        if let Some((user, group)) = owner {
            chown(&data, Some(user), Some(group))?;
            chown(directory.path(), Some(user), Some(group))?;
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(directory.path());
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command
        };
        let made = command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "-D"])
            .arg(&data)
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(directory.path());
        server.args(["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string()]);
        // SIGQUIT ends it and its children at once, without a checkpoint.
        let log = directory.path().join("postgres.log");
        let process = Process::start("postgres", server, &log, Signal::QUIT)?;
        let mut postgres = Self { process, port, _directory: directory };
        postgres.await_ready(&programs).await?;
        Ok(postgres)
    }

    /// For `signet-control run --store`.
    pub(super) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The processor time of all of its processes.
    pub(super) fn cpu(&self) -> Result<Duration> {
        cpu_with_children(self.process.id())
    }

    async fn await_ready(&mut self, programs: &Path) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let asked = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()?;
            if asked.success() {
                return Ok(());
            }
            self.process.require_alive()?;
            if Instant::now() > deadline {
                bail!("PostgreSQL is not ready within {START:?}:\n{}", self.process.tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Debian keeps the server programs of each version out of the path. The newest.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
    });
    let newest = versions.max_by_key(|(version, _)| *version);
    Ok(newest.context("PostgreSQL is missing: apt-get install postgresql")?.1)
}

/// It refuses to run as root: then it runs as the user that its package made.
fn owner() -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let entry = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let mut fields = entry.context("no user postgres: apt-get install postgresql")?.split(':').skip(1);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).context("/etc/passwd: no number");
    Ok(Some((number()?, number()?)))
}
