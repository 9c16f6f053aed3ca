//! How a proxy starts and ends beside its app.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;

use super::args::Keys;
use crate::living::drain::Patience;

/// How a proxy starts and ends beside its app.
#[derive(Debug, Clone)]
pub struct Living {
    /// How much time callers and connections have at the end.
    pub patience: Patience,
    /// The process with which it ends.
    pub exit_with: Option<Pid>,
    /// Whether the admin listener may end it.
    pub allow_quit: bool,
    /// Where a new process takes over.
    pub upgrade_socket: Option<PathBuf>,
}

impl From<&Keys> for Living {
    fn from(keys: &Keys) -> Self {
        Self {
            patience: Patience {
                grace: keys.drain_grace.map_or(Duration::from_secs(5), |grace| grace.0),
                upgrade: keys.upgrade_drain_timeout.map_or(Duration::from_secs(600), |timeout| timeout.0),
                deadline: keys.drain_timeout.map_or(Duration::from_secs(30), |timeout| timeout.0),
            },
            allow_quit: keys.allow_quit.unwrap_or_default(),
            upgrade_socket: keys.upgrade_socket.clone(),
            exit_with: keys.exit_with_pid.map(|pid| pid.0),
        }
    }
}
