//! Files that belong together, replaced together.
//!
//! ```text
//!   DIR/key.pem ──▶ current/key.pem      DIR/current ──▶ generation-1700000000000-4711/
//! ```
//!
//! A new generation is written whole; then one rename of `current` makes all of it seen. Whoever opens the
//! files one after another resolves `current` once.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::time;

const CURRENT: &str = "current";
const GENERATION: &str = "generation-";
/// A renewal takes a fraction of a second.
const LOCK_DEADLINE: Duration = Duration::from_secs(15);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Where the files are now. Without generations (files put there by hand): the directory itself.
pub(super) fn current(directory: &Path) -> PathBuf {
    match fs::read_link(directory.join(CURRENT)) {
        Ok(generation) => directory.join(generation),
        Err(_) => directory.to_owned(),
    }
}

/// Waits until nobody else changes the files. Held as long as the file is.
///
/// # Errors
/// When somebody holds it for too long, or it cannot be made.
pub(super) async fn lock(directory: &Path) -> io::Result<File> {
    make(directory, 0o700)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))?;
    let taken = async {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_RETRY).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    };
    tokio::time::timeout(LOCK_DEADLINE, taken).await.map_err(|_| io::ErrorKind::WouldBlock)??;
    Ok(file)
}

/// Replaces the files, each with its mode, all or none. The generation before stays, for who is reading it.
///
/// # Errors
/// When they cannot be written; those before stay in place.
pub(super) fn write(directory: &Path, files: &[(&str, &[u8], u32)]) -> io::Result<()> {
    make(directory, 0o700)?;
    let name = format!("{GENERATION}{}-{}", time::to_millis(time::now()), std::process::id());
    let generation = directory.join(&name);
    make(&generation, 0o755)?;
    for (file, content, mode) in files {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(*mode).open(generation.join(file))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    File::open(&generation)?.sync_all()?;
    let before = fs::read_link(directory.join(CURRENT)).ok();
    point(directory, CURRENT, Path::new(&name))?;
    for (file, ..) in files {
        let to = Path::new(CURRENT).join(file);
        if fs::read_link(directory.join(file)).ok().as_deref() != Some(&to) {
            point(directory, file, &to)?;
        }
    }
    File::open(directory)?.sync_all()?;
    for entry in fs::read_dir(directory)?.flatten() {
        let old = PathBuf::from(entry.file_name());
        let is_generation = entry.file_name().to_string_lossy().starts_with(GENERATION);
        if is_generation && old != Path::new(&name) && Some(&old) != before.as_ref() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Makes a symbolic link, or turns one, in one step.
fn point(directory: &Path, name: &str, to: &Path) -> io::Result<()> {
    let draft = directory.join(format!(".{name}.{}", std::process::id()));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(to, &draft)?;
    fs::rename(&draft, directory.join(name))
}

fn make(directory: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn put(directory: &Path, word: &str) {
        let files = [("key.pem", word.as_bytes(), 0o600), ("svid.pem", word.as_bytes(), 0o644)];
        write(directory, &files).unwrap();
        // A generation is named by its millisecond.
        let written = std::time::Instant::now();
        while written.elapsed() < Duration::from_millis(2) {}
    }

    #[test]
    fn files_put_there_by_hand_give_way_to_a_generation() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key.pem"), "by hand").unwrap();
        assert_eq!(current(directory.path()), directory.path());
        put(directory.path(), "one");
        assert_eq!(fs::read_to_string(directory.path().join("key.pem")).unwrap(), "one");
        assert_eq!(fs::read_to_string(current(directory.path()).join("svid.pem")).unwrap(), "one");
        let mode = fs::metadata(directory.path().join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn reader_never_sees_files_of_two_generations() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "0");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..50 {
                    put(directory.path(), &round.to_string());
                }
            });
            while !writer.is_finished() {
                let current = current(directory.path());
                let read = |name: &str| fs::read_to_string(current.join(name));
                // Two generations later it is gone; that is not a mixture.
                if let (Ok(key), Ok(svid)) = (read("key.pem"), read("svid.pem")) {
                    assert_eq!(key, svid);
                }
            }
        });
        let kept = fs::read_dir(directory.path()).unwrap().flatten();
        let generations = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with(GENERATION));
        assert_eq!(generations.count(), 2, "the one in use and the one before");
    }

    #[tokio::test]
    async fn only_one_changes_the_files_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(200), lock(directory.path())).await;
        assert!(waiting.is_err());
        drop(held);
        lock(directory.path()).await.unwrap();
    }
}
