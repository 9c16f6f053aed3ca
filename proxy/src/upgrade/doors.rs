//! Every listener of this process: taken over from its predecessor or bound anew, and kept at hand for a successor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::{Predecessor, UpgradeError};
use crate::capture::{Callers, Listener};
use crate::config::Entrance;

/// Where listeners come from.
#[derive(Debug)]
pub struct Doors {
    predecessor: Option<Predecessor>,
    shares: Option<Shares>,
    ours: CancellationToken,
}

/// The listeners once more, for a successor.
#[derive(Debug, Default)]
pub struct Shares(Vec<Share>);

#[derive(Debug)]
struct Share {
    name: String,
    sockets: Vec<OwnedFd>,
    left_behind: Arc<AtomicBool>,
}

impl Doors {
    /// Looks for a predecessor at `upgrade_socket`. Without such a path nothing is taken over, or handed over later.
    ///
    /// # Errors
    /// When there is one, and it hands nothing over.
    pub async fn find(upgrade_socket: Option<&Path>) -> Result<Self, UpgradeError> {
        let predecessor = match upgrade_socket {
            Some(path) => Predecessor::find(path).await?,
            None => None,
        };
        let ours = CancellationToken::new();
        if predecessor.is_none() {
            ours.cancel();
        }
        Ok(Self { predecessor, shares: upgrade_socket.map(|_| Shares::default()), ours })
    }

    /// A listener: the predecessor's, or a new one.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn open(&mut self, entrance: &Entrance, callers: Callers) -> io::Result<Listener> {
        let name = name(entrance, callers);
        let taken = self.predecessor.as_mut().and_then(|predecessor| predecessor.take(&name));
        let listener = match taken.map(|sockets| Listener::adopt(entrance, sockets)) {
            Some(Ok(listener)) => listener,
            Some(Err(error)) => {
                tracing::warn!(%error, name, "cannot take over this listener, binding it anew");
                Listener::bind(entrance, callers).await?
            }
            None => Listener::bind(entrance, callers).await?,
        };
        if let Some(Shares(shares)) = &mut self.shares {
            let sockets =
                listener.sockets().iter().map(BorrowedFd::try_clone_to_owned).collect::<io::Result<_>>()?;
            shares.push(Share { name, sockets, left_behind: listener.left_behind() });
        }
        Ok(listener)
    }

    /// The listener for successors.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn for_successors(&mut self, path: Option<&PathBuf>) -> io::Result<Option<Listener>> {
        match path {
            Some(path) => self.open(&Entrance::Unix(path.clone()), Callers::Ourselves).await.map(Some),
            None => Ok(None),
        }
    }

    /// Cancelled once nobody else answers at these doors.
    #[must_use]
    pub fn ours(&self) -> CancellationToken {
        self.ours.clone()
    }

    /// The process that runs already.
    pub fn predecessor(&mut self) -> Option<&mut Predecessor> {
        self.predecessor.as_mut()
    }

    /// What a successor gets.
    pub fn shares(&mut self) -> Shares {
        self.shares.take().unwrap_or_default()
    }

    /// Takes over, now that this process can serve. From here on the doors are ours, whatever the other one says.
    pub async fn take_over(&mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            match predecessor.relieve().await {
                Ok(()) => tracing::info!("took over from the running proxy"),
                Err(error) => {
                    tracing::warn!(%error, "took over from a proxy that did not hand over in peace");
                }
            }
        }
        self.ours.cancel();
    }
}

impl Shares {
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, Vec<BorrowedFd<'_>>)> {
        self.0.iter().map(|share| (share.name.as_str(), share.sockets.iter().map(AsFd::as_fd).collect()))
    }

    /// From now on what is in the file system belongs to somebody else.
    pub(super) fn leave_behind(&self) {
        for share in &self.0 {
            share.left_behind.store(true, Ordering::Relaxed);
        }
    }
}

/// By what two processes know that they mean the same listener.
fn name(entrance: &Entrance, callers: Callers) -> String {
    match entrance {
        Entrance::Port(port) if callers == Callers::All => format!("peers {port}"),
        Entrance::Port(port) => format!("app {port}"),
        other => other.to_string(),
    }
}
