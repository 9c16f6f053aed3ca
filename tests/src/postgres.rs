//! PostgreSQL for control to keep its state in: durable, reached over TCP or a unix socket, stopped in every
//! way in which such a server stops.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::apps::postgres::{as_user, make_cluster, own_directory, unprivileged_user};
use crate::client::psql_at;
use crate::place::{Place, Seat};
use crate::pods::Pod;
use crate::process::Process;
use crate::{PATIENCE, eventually};

/// The role and the database of control; the role is nobody else.
const CONTROL: &str = "signet";

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order: clients are thrown out, everything is written.
    Fast,
    /// As by a crash, all processes at once: recovery at the next start.
    Immediate,
    /// Its first process by SIGKILL; the others notice.
    Killed,
}

/// A running PostgreSQL, and a database in it that belongs to control's role.
#[derive(Debug)]
pub struct Database {
    /// Where it listens.
    pub address: SocketAddr,
    process: Process,
    seat: Seat,
    pod: Option<Pod>,
    directory: TempDir,
}

impl Database {
    /// Makes a cluster, starts it on loopback and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback, None, &[]).await
    }

    /// As [`Database::start`], in a pod.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_in(pod: &Pod) -> Self {
        Self::start_at(Place::Pod(pod), None, &[]).await
    }

    /// As [`Database::start`], with its data in `directory`, in log files as small as they can be.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_on(directory: &Path) -> Self {
        Self::start_at(Place::Loopback, Some(directory), &["--wal-segsize=1"]).await
    }

    async fn start_at(place: Place<'_>, parent: Option<&Path>, options: &[&str]) -> Self {
        let seat = place.seat(5432);
        let directory = own_directory(parent);
        make_cluster(&data(directory.path()), unprivileged_user(), options);
        let pod = match place {
            Place::Loopback => None,
            Place::Pod(pod) => Some(pod.clone()),
        };
        let process = run(place, directory.path(), seat);
        let database = Self { address: seat.address, process, seat, pod, directory };
        database.answers("postgres").await;
        for statement in
            [format!("create role {CONTROL} login"), format!("create database {CONTROL} owner {CONTROL}")]
        {
            let _ =
                psql_at(database.socket(), database.port(), "postgres", &statement).run().await.succeeded();
        }
        database
    }

    /// For `signet-control --store`.
    #[must_use]
    pub fn url(&self) -> String {
        // Control takes an address that is not loopback only with TLS, or when it is told that the network is
        // safe.
        let safe = if self.pod.is_some() { "?sslmode=disable" } else { "" };
        format!("postgres://{CONTROL}@{}/{CONTROL}{safe}", self.address)
    }

    /// The same, over the unix socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        let (directory, port) = (self.socket().display(), self.port());
        format!("postgres:///{CONTROL}?host={directory}&port={port}&user={CONTROL}")
    }

    /// The directory with its unix socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.directory.path()
    }

    /// The port, which is part of the socket's name too.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Ends it that way, and waits until nothing of it is left.
    ///
    /// # Panics
    /// When something of it stays.
    pub async fn stop(&mut self, end: End) {
        let children = children(self.process.id());
        self.process.expect_end();
        match end {
            End::Killed => self.process.kill().await,
            End::Fast | End::Immediate => {
                let mode = if end == End::Fast { "fast" } else { "immediate" };
                let mut stop = as_user(Place::Loopback, "pg_ctl", unprivileged_user(), self.directory.path());
                stop.args(["stop", "-m", mode, "-D"]).arg(data(self.directory.path()));
                let stopped = tokio::process::Command::from(stop).output().await.expect("pg_ctl starts");
                assert!(stopped.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&stopped.stderr));
                self.process.exit(PATIENCE).await;
            }
        }
        // A new server refuses to start while one of them holds the shared memory.
        eventually("the processes of the server are gone", PATIENCE, async || {
            match children.iter().find(|process| Path::new("/proc").join(process).exists()) {
                None => Ok(()),
                Some(process) => Err(process.clone()),
            }
        })
        .await;
    }

    /// Starts it again on the same data, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_again(&mut self) {
        let place = self.pod.as_ref().map_or(Place::Loopback, Place::Pod);
        self.process = run(place, self.directory.path(), self.seat);
        self.answers(CONTROL).await;
    }

    /// [`Database::stop`] and [`Database::start_again`].
    ///
    /// # Panics
    /// As they do.
    pub async fn restart(&mut self, end: End) {
        self.stop(end).await;
        self.start_again().await;
    }

    async fn answers(&self, database: &str) {
        eventually("PostgreSQL answers", PATIENCE, async || {
            let answer = psql_at(self.socket(), self.port(), database, "select 1").run().await;
            if answer.status.success() {
                Ok(())
            } else {
                Err(format!("{}{}", answer.stderr, self.process.logs().tail(5)))
            }
        })
        .await;
    }
}

/// Every commit is on disk before it is answered, as PostgreSQL is without being told otherwise.
fn run(place: Place<'_>, directory: &Path, seat: Seat) -> Process {
    let mut command: Command = as_user(place, "postgres", unprivileged_user(), directory);
    command.arg("-D").arg(data(directory)).arg("-k").arg(directory);
    command.args([
        "-c",
        &format!("listen_addresses={}", seat.host("*")),
        "-p",
        &seat.listen.port().to_string(),
    ]);
    for setting in ["max_connections=200", "shared_buffers=32MB", "max_wal_size=64MB", "min_wal_size=32MB"] {
        command.args(["-c", setting]);
    }
    // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for its clients.
    Process::start("postgres", command).stopped_by(Signal::INT)
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn children(process: u32) -> Vec<String> {
    let listed = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    listed.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[tokio::test]
    async fn what_is_committed_outlives_every_end() {
        let mut database = Database::start().await;
        let psql = |url: String, statement: &str| {
            Client::new("psql")
                .args(["--no-psqlrc", "--tuples-only", "--no-align", &url, "-c", statement])
                .run()
        };
        let _ = psql(database.url(), "create table kept (name text)").await.succeeded();
        for (count, end) in (1..).zip([End::Fast, End::Immediate, End::Killed]) {
            let _ = psql(database.socket_url(), "insert into kept values ('here')").await.succeeded();
            database.restart(end).await;
            let kept = psql(database.url(), "select count(*) from kept").await.succeeded();
            assert_eq!(kept.stdout.trim(), count.to_string(), "after {end:?}");
        }
    }
}
