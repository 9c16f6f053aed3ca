//! The apps behind the proxies: real servers that we did not write, and small ones for what those cannot show
//! (every header line as it arrived; a request held open until the test lets go).

mod echo;
mod h2_requests;
mod iperf;
mod mariadb;
mod nats;
mod nginx;
pub(crate) mod postgres;
mod received;
mod recorder;
mod redis;
mod requests;

pub use echo::{TcpCounter, TcpEcho};
pub use h2_requests::{DROPS, H2App};
pub use iperf::{Iperf, iperf, iperf_received};
pub use mariadb::{MariaDb, mariadb};
pub use nats::{Nats, nats};
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use received::Received;
pub use recorder::{Conversation, Recorder, Said, Then};
pub use redis::Redis;
pub use requests::{RequestApp, header_values};

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

/// A directory that a server may enter after it dropped its privileges.
fn shared_directory(prefix: &str, parent: Option<&Path>) -> TempDir {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .expect("the temporary directory is writable")
}
