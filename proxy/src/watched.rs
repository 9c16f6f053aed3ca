//! Files that something else replaces: by writing, by renaming, or the way Kubernetes swaps a mounted folder.
//!
//! Mounts swap whole folders by symlink, so the folders are watched rather than the files. What changed is looked at twice
//! before it is taken, as a writer may be in the middle of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Writers need a moment to put all files in place.
const SETTLE: Duration = Duration::from_millis(100);
/// Until what could not be used is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// What is watched, and what is done with it.
pub(crate) trait Watched: Send {
    /// What tells one state of the files from another.
    type Seen: PartialEq + Send + Sync;

    /// How often they are looked at though nothing was heard: some filesystems send no events, nor is the target of a
    /// symlink watched.
    const LOOK_ANYWAY: Duration = Duration::from_secs(30);

    /// Where they are.
    fn folders(&self) -> BTreeSet<PathBuf>;

    /// The state of the files now.
    fn see(&self) -> impl Future<Output = Self::Seen> + Send;

    /// Brings what was seen into force. False if it cannot be used, which is to be said unless this is tried `again`.
    fn take(&mut self, seen: &Self::Seen, again: bool) -> impl Future<Output = bool> + Send;
}

/// Follows the files until `stop`, from the state that is in force.
///
/// # Errors
/// When the folders cannot be watched.
pub(crate) async fn follow<W: Watched>(
    mut watched: W,
    mut current: W::Seen,
    stop: CancellationToken,
) -> Result<(), notify::Error> {
    let (notice, mut noticed) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is no news; the end of somebody's writing is.
        let read = |event: notify::Event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            kind => kind.is_access(),
        };
        if !event.is_ok_and(read) {
            // A full queue already says that something changed.
            let _ = notice.try_send(());
        }
    })?;
    for folder in watched.folders() {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    // What was seen when the files were last looked at, if it is not in force, and whether it was refused.
    let mut unsettled: Option<(W::Seen, bool)> = None;
    let mut tried = Instant::now();
    loop {
        // Read after the watch began: what changed since the start is not missed.
        let seen = watched.see().await;
        unsettled = match unsettled {
            _ if seen == current => None,
            Some((before, true)) if seen == before && tried.elapsed() < AGAIN => Some((before, true)),
            Some((before, refused)) if seen == before => {
                tried = Instant::now();
                if watched.take(&seen, refused).await {
                    current = seen;
                    None
                } else {
                    Some((seen, true))
                }
            }
            _ => {
                unsettled = Some((seen, false));
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(SETTLE) => continue,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = noticed.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(W::LOOK_ANYWAY) => {}
        }
        let _ = noticed.try_recv();
    }
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
