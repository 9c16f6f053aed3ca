//! How a proxy starts and ends beside its app.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use signet_proto::sealing::SealingKey;

use super::ConfigError;
use super::args::Keys;
use crate::living::drain::Patience;
use crate::mesh::sealed::read_key;

/// How a proxy starts and ends beside its app.
#[derive(Debug)]
pub struct Living {
    /// How much time callers and connections have at the end.
    pub patience: Patience,
    /// The process with which it ends.
    pub exit_with: Option<Pid>,
    /// Whether the admin listener may end it.
    pub allow_quit: bool,
    /// Whether the admin listener shows profiles of the process, for which its memory is watched from the start.
    pub profiles: bool,
    /// Where a new process takes over.
    pub upgrade_socket: Option<PathBuf>,
    /// The sealed copy on disk.
    pub sealing: Option<Sealing>,
}

/// A sealed copy on disk: where, and with which key.
#[derive(Debug)]
pub struct Sealing {
    /// The file.
    pub path: PathBuf,
    /// The key, read.
    pub key: SealingKey,
}

impl Living {
    /// Reads the key of the sealed copy, if there is to be one.
    pub(super) fn of(keys: &Keys) -> Result<Self, ConfigError> {
        let sealing = match (&keys.state_file, &keys.state_key) {
            (None, None) => None,
            (Some(path), Some(place)) if keys.svid_file.is_none() => {
                Some(Sealing { path: path.clone(), key: read_key(place)? })
            }
            (Some(_), Some(_)) => {
                let with = "`join`: an SVID from files is on disk already";
                return Err(ConfigError::Alone { key: "state-file", with });
            }
            (Some(_), None) => {
                let with = "`state-key`: nothing is kept in the clear";
                return Err(ConfigError::Alone { key: "state-file", with });
            }
            (None, Some(_)) => {
                let with = "`state-file`, the file that it seals";
                return Err(ConfigError::Alone { key: "state-key", with });
            }
        };
        Ok(Self {
            patience: Patience {
                grace: keys.drain_grace.map_or(Duration::from_secs(5), |grace| grace.0),
                upgrade: keys.upgrade_drain_timeout.map_or(Duration::from_secs(600), |timeout| timeout.0),
                deadline: keys.drain_timeout.map_or(Duration::from_secs(30), |timeout| timeout.0),
            },
            profiles: keys.profiles.unwrap_or_default(),
            allow_quit: keys.allow_quit.unwrap_or_default(),
            upgrade_socket: keys.upgrade_socket.clone(),
            exit_with: keys.exit_with_pid.map(|pid| pid.0),
            sealing,
        })
    }
}
