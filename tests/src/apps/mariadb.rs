//! MariaDB, whose server speaks first, with a fresh directory of tables.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;

use rustix::process::geteuid;
use tempfile::TempDir;

use super::shared_directory;
use crate::client::Client;
use crate::place::Place;
use crate::pods::APP_USER;
use crate::process::Process;
use crate::tools::tool;
use crate::{PATIENCE, eventually};

/// A running MariaDB that lets everybody in: what protects it is the proxy.
#[derive(Debug)]
pub struct MariaDb {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl MariaDb {
    /// Makes the tables, starts it on loopback and waits until it answers a query.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start() -> Self {
        Self::start_at(Place::Loopback).await
    }

    /// As [`MariaDb::start`], there; in a pod on port 3306.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_at(place: Place<'_>) -> Self {
        let seat = place.seat(3306);
        let directory = shared_directory("signet-mariadb-", None);
        // It refuses to run as root.
        let user = geteuid().is_root().then_some((APP_USER, APP_USER));
        if let Some((user, group)) = user {
            chown(directory.path(), Some(user), Some(group)).expect("root may give it away");
        }
        make_tables(directory.path(), user);

        let mut command = place.command(&tool("mariadbd"), user);
        command.arg("--no-defaults").args(options(directory.path()));
        command.args(["--skip-grant-tables", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0"]);
        command
            .args([format!("--bind-address={}", seat.host("*")), format!("--port={}", seat.listen.port())]);
        let process = Process::start("mariadbd", command);
        eventually("MariaDB answers", PATIENCE, async || {
            let answer = place.client(mariadb(seat.address, "select 1")).run().await;
            if answer.status.success() { Ok(()) } else { Err(answer.stderr) }
        })
        .await;
        Self { address: seat.address, _process: process, _directory: directory }
    }
}

/// The `mysql` client for these statements: rows without a header, as text.
#[must_use]
pub fn mariadb(address: SocketAddr, statements: &str) -> Client {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    Client::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--skip-ssl", "--user=root", "--connect-timeout=20"])
        .args(["--batch", "--skip-column-names", "--host", &host, "--port", &port, "--execute", statements])
}

fn make_tables(directory: &Path, user: Option<(u32, u32)>) {
    let output = Place::Loopback
        .command(&tool("mariadb-install-db"), user)
        .arg("--no-defaults")
        .args(options(directory))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
        .output()
        .expect("mariadb-install-db starts");
    assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
}

fn options(directory: &Path) -> [String; 4] {
    [
        format!("--datadir={}", directory.join("data").display()),
        format!("--socket={}", directory.join("socket").display()),
        format!("--pid-file={}", directory.join("pid").display()),
        "--innodb-log-file-size=4M".to_owned(),
    ]
}
