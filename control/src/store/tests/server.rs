//! One PostgreSQL for all tests of this process, ended with it; a database for each test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::NoTls;

use super::Location;
use crate::store::Server;
use crate::store::sql::postgres::drive;

const SCRIPT: &str = include_str!("server.sh");

static SERVER: OnceLock<(Child, String)> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A new, empty database.
pub(super) async fn database() -> Location {
    located(&url().await)
}

/// How to reach a new, empty database.
pub(super) async fn url() -> String {
    let (_, directory) = SERVER.get_or_init(start);
    let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    run(&format!("postgres://signet@/postgres?host={directory}"), &format!("CREATE DATABASE {name}")).await;
    format!("postgres://signet@/{name}?host={directory}")
}

pub(super) fn located(url: &str) -> Location {
    Location::Server(Server::parse(url, None, None).unwrap())
}

/// Statements of somebody else.
pub(super) async fn run(url: &str, statements: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap();
}

/// Ends every connection to a database, as a restart of the server would.
pub(super) async fn cut_all(location: &Location) {
    let Location::Server(server) = location else { panic!("an embedded store has no connections") };
    let (client, messages) = server.connect().await.unwrap();
    tokio::spawn(drive(messages));
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
}

/// Its standard input ends with this process, and so does it.
fn start() -> (Child, String) {
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let directory = ready.trim().to_owned();
    assert!(!directory.is_empty(), "PostgreSQL does not start: is Debian's package postgresql installed?");
    (child, directory)
}
