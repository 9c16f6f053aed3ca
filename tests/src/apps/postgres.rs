//! PostgreSQL on loopback TCP, with a fresh cluster in a temporary directory.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use super::shared_directory;
use crate::client::psql;
use crate::place::Place;
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// A running PostgreSQL that trusts everybody on loopback: what protects it is the proxy.
#[derive(Debug)]
pub struct Postgres {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Postgres {
    /// Makes a cluster, starts it on loopback and waits until it answers a query.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback).await
    }

    /// As [`Postgres::start`], there; in a pod on port 5432.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_at(place: Place<'_>) -> Self {
        let seat = place.seat(5432);
        let (directory, user) = (own_directory(None), unprivileged_user());
        let data = directory.path().join("data");
        make_cluster(&data, user, &[]);
        let mut command = as_user(place, "postgres", user, directory.path());
        command
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory.path())
            .args(["-c", &format!("listen_addresses={}", seat.host("*"))]);
        command.args(["-p", &seat.listen.port().to_string(), "-c", "fsync=off", "-c", "max_connections=200"]);
        // SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for its clients.
        let process = Process::start("postgres", command).stopped_by(Signal::INT);
        eventually("PostgreSQL answers", PATIENCE, async || {
            let answer = place.client(psql(seat.address, "select 1")).run().await;
            if answer.status.success() { Ok(()) } else { Err(answer.stderr) }
        })
        .await;
        Self { address: seat.address, _process: process, _directory: directory }
    }
}

/// A directory that belongs to the user who runs PostgreSQL, in `parent` or with other temporary files.
pub(crate) fn own_directory(parent: Option<&Path>) -> TempDir {
    let directory = shared_directory("signet-postgres-", parent);
    let data = directory.path().join("data");
    std::fs::create_dir(&data).expect("a new directory");
    std::fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("our own directory");
    if let Some((user, group)) = unprivileged_user() {
        chown(&data, Some(user), Some(group)).expect("root may give it away");
        chown(directory.path(), Some(user), Some(group)).expect("root may give it away");
    }
    directory
}

/// A cluster that trusts everybody who reaches it.
pub(crate) fn make_cluster(data: &Path, user: Option<(u32, u32)>, options: &[&str]) {
    let output = as_user(Place::Loopback, "initdb", user, data)
        .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"])
        .args(options)
        .arg("-D")
        .arg(data)
        .output()
        .expect("initdb starts");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    // In a pod it is called by the pod's address.
    let rules = data.join("pg_hba.conf");
    std::fs::write(rules, "local all all trust\nhost all all all trust\n").expect("our own directory");
}

/// A program of PostgreSQL's that will run there as that user.
pub(crate) fn as_user(
    place: Place<'_>,
    program: &str,
    user: Option<(u32, u32)>,
    directory: &Path,
) -> Command {
    let mut command = place.command(&tool(program), user);
    command.current_dir(directory);
    command
}

/// PostgreSQL refuses to run as root: then it runs as the user that its Debian package made.
pub(crate) fn unprivileged_user() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let postgres = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> =
        postgres.expect("the package postgresql made the user postgres").split(':').collect();
    Some((fields[2].parse().expect("a number"), fields[3].parse().expect("a number")))
}
