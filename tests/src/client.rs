//! Command-line clients: run to the end, or left running as a load, with their output kept.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::pods::Pod;
use crate::tools::tool;

/// No client of a scenario needs longer, unless it says so.
const USUAL_LIMIT: Duration = Duration::from_secs(60);

/// A client that will be run.
#[derive(Debug)]
pub struct Client {
    name: String,
    command: Command,
    input: Vec<u8>,
    limit: Duration,
}

/// What a client answered.
#[derive(Debug)]
pub struct Finished {
    /// What was run, for messages.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, as bytes.
    pub bytes: Vec<u8>,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

/// A client that runs beside the scenario.
#[derive(Debug)]
pub struct Running {
    task: JoinHandle<Finished>,
}

impl Client {
    /// One of the installed tools (see [`tool`]).
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self::at(&tool(program))
    }

    /// A program by its path.
    #[must_use]
    pub fn at(program: &Path) -> Self {
        Self::of(std::process::Command::new(program))
    }

    /// A program with what it needs already.
    #[must_use]
    pub fn of(command: std::process::Command) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        for variable in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(variable);
        }
        Self { name, command, input: Vec::new(), limit: USUAL_LIMIT }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in that directory.
    #[must_use]
    pub fn within(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it by that clock.
    #[must_use]
    pub fn by(mut self, clock: &Clock) -> Self {
        self.command.envs(clock.variables());
        self
    }

    /// Runs it as another user. Needs root.
    #[must_use]
    pub fn as_user(mut self, user: u32) -> Self {
        self.command.uid(user).gid(user);
        self
    }

    /// Runs it in `pod` as `user`.
    #[must_use]
    pub fn in_pod(mut self, pod: &Pod, user: u32) -> Self {
        self.command = Command::from(pod.wrap(self.command.as_std(), user));
        self.command.kill_on_drop(true);
        self
    }

    /// What it reads on standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to the end.
    ///
    /// # Panics
    /// When it does not start, or takes longer than its limit.
    pub async fn run(mut self) -> Finished {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        let mut stdin = child.stdin.take().expect("piped");
        let input = self.input;
        let feed = tokio::spawn(async move {
            // It may end without reading all of its input.
            let _ = stdin.write_all(&input).await;
        });
        let output = timeout(self.limit, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("{} took longer than {:?}", self.name, self.limit))
            .unwrap_or_else(|error| panic!("{} was lost: {error}", self.name));
        feed.abort();
        Finished {
            name: self.name,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }

    /// Starts it as a load beside the scenario.
    #[must_use]
    pub fn start(self) -> Running {
        Running { task: tokio::spawn(self.run()) }
    }
}

impl Running {
    /// Whether it has ended already.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// As [`Client::run`].
    pub async fn finish(self) -> Finished {
        match self.task.await {
            Ok(finished) => finished,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Finished {
    /// Checks that it ended with 0, and returns it.
    ///
    /// # Panics
    /// When it did not; with its output.
    #[must_use]
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(
            self.status.success(),
            "{} ended with {}:\n{}\n{}",
            self.name,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Its exit code; -1 when a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Both outputs, for messages.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// curl that neither reads its configuration nor shows progress, and ends with 0 for any HTTP status.
#[must_use]
pub fn curl() -> Client {
    Client::new("curl").args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "50"])
}

/// `curl URL` with headers on top of the body, as curl shows them with `--include`.
pub async fn curl_get(address: SocketAddr, path: &str) -> Finished {
    curl().args(["--include", &format!("http://{address}{path}")]).run().await.succeeded()
}

/// psql for one statement, unaligned, without a prompt for anything.
#[must_use]
pub fn psql(address: SocketAddr, statement: &str) -> Client {
    postgres_client("psql", address).args(["--no-psqlrc", "--tuples-only", "--no-align", "-c", statement])
}

/// As [`psql`], over the unix socket in `directory`, which is reached from every network namespace.
#[must_use]
pub fn psql_at(directory: &Path, port: u16, database: &str, statement: &str) -> Client {
    Client::new("psql")
        .env("PGHOST", directory)
        .env("PGPORT", port.to_string())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", database)
        .env("PGCONNECT_TIMEOUT", "20")
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "-c", statement])
}

/// One psql session that runs the statements of `script` one after the other, and ends at the first error.
#[must_use]
pub fn psql_script(address: SocketAddr, script: &str) -> Client {
    postgres_client("psql", address)
        .args(["--no-psqlrc", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1", "-f", "-"])
        .input(script)
}

/// pgbench with these arguments against the database `postgres`.
#[must_use]
pub fn pgbench(address: SocketAddr, arguments: &[&str]) -> Client {
    postgres_client("pgbench", address).args(arguments)
}

fn postgres_client(program: &str, address: SocketAddr) -> Client {
    Client::new(program)
        .env("PGHOST", address.ip().to_string())
        .env("PGPORT", address.port().to_string())
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "postgres")
        .env("PGSSLMODE", "disable")
        .env("PGGSSENCMODE", "disable")
        .env("PGCONNECT_TIMEOUT", "20")
}

/// One of the Redis clients with host and port set.
#[must_use]
pub fn redis(program: &str, address: SocketAddr) -> Client {
    Client::new(program).args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
}

/// A file with `length` bytes that do not compress and differ everywhere, the same in every run.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// Writes `bytes` to `name` in `directory`, and returns the path.
///
/// # Panics
/// When it cannot.
#[must_use]
pub fn file(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    path
}
