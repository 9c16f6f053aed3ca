//! A disk of a few megabytes that a test fills up: a tmpfs of its own, unmounted with the test, or by the
//! next one when the test program was killed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use tempfile::TempDir;

use crate::tools::tool;

const PREFIX: &str = "signet-test-";
const BALLAST: &str = "ballast";

/// A mounted tmpfs.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be mounted; that needs root.
    #[must_use]
    pub fn of_megabytes(size: u32) -> Self {
        static LEFTOVERS: Once = Once::new();
        LEFTOVERS.call_once(remove_leftovers);
        let directory = tempfile::Builder::new().prefix("signet-disk-").tempdir().expect("a directory");
        let source = format!("{PREFIX}{}", std::process::id());
        let status = Command::new(tool("mount"))
            .args(["-t", "tmpfs", "-o", &format!("size={size}m,mode=0755"), &source])
            .arg(directory.path())
            .status()
            .expect("mount starts");
        assert!(status.success(), "cannot mount a tmpfs (that needs root)");
        Self { directory }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all the space that is left.
    ///
    /// # Panics
    /// When it fails otherwise than by being full.
    pub fn fill(&self) {
        let mut ballast = File::options().append(true).create(true).open(self.ballast()).expect("our disk");
        // The last pages too: a file that grows by little must not find room.
        for block in [[0; 65536].as_slice(), &[0; 512]] {
            let full = std::iter::repeat_with(|| ballast.write_all(block)).find_map(Result::err);
            let full = full.expect("it ends").kind();
            assert!(matches!(full, ErrorKind::StorageFull | ErrorKind::WriteZero), "{full}");
        }
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join(BALLAST)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.path());
    }
}

/// Those of test programs that are no more.
fn remove_leftovers() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (source, target) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let owner = source.strip_prefix(PREFIX);
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            unmount(Path::new(target));
            let _ = fs::remove_dir(target);
        }
    }
}

/// Lazily: who still has a file open keeps it, and only it.
fn unmount(path: &Path) {
    let _ = Command::new(tool("umount")).arg("--lazy").arg(path).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed() {
        let disk = SmallDisk::of_megabytes(1);
        let more = disk.path().join("more");
        fs::write(&more, "there is room").expect("it is empty");
        disk.fill();
        assert!(fs::write(disk.path().join("another"), [1; 4096]).is_err());
        disk.free();
        fs::write(more, [1; 4096]).expect("there is room again");
    }
}
