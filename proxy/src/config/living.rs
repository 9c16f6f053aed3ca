//! How a proxy starts and ends beside its app.

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
}

impl From<&Keys> for Living {
    fn from(keys: &Keys) -> Self {
        Self {
            patience: Patience {
                grace: keys.drain_grace.map_or(Duration::from_secs(5), |grace| grace.0),
                deadline: keys.drain_timeout.map_or(Duration::from_secs(30), |timeout| timeout.0),
            },
            exit_with: keys.exit_with_pid.map(|pid| pid.0),
        }
    }
}
