//! A wall clock that a test sets: processes that run by it see the time of day jump, as after a sleep, while whatever
//! waits in them waits no less (`libfaketime`, of Debian's `faketime`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::tools::tool;

/// The time of day of all that run by it.
#[derive(Debug, Clone)]
pub struct Clock(Arc<TempDir>);

impl Default for Clock {
    /// The machine's, until it is set.
    fn default() -> Self {
        let directory = tempfile::Builder::new().prefix("signet-clock-").tempdir().expect("a directory");
        let clock = Self(Arc::new(directory));
        clock.set_ahead(Duration::ZERO);
        clock
    }
}

impl Clock {
    /// Puts it that far ahead of the machine's.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn set_ahead(&self, by: Duration) {
        self.set(&format!("+{}\n", by.as_secs()));
    }

    /// Puts it that far behind the machine's.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn set_behind(&self, by: Duration) {
        self.set(&format!("-{}\n", by.as_secs()));
    }

    fn set(&self, offset: &str) {
        // Put in place at once: processes read it whenever they look at the clock.
        let draft = self.0.path().join("new");
        fs::write(&draft, offset).expect("our own directory");
        fs::rename(draft, self.offset()).expect("our own directory");
    }

    /// Has a process run by it.
    pub(crate) fn drive(&self, command: &mut Command) {
        command.envs(self.variables());
    }

    /// What has a process run by it.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("LD_PRELOAD", library()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    fn offset(&self) -> PathBuf {
        self.0.path().join("offset")
    }
}

/// Where Debian puts it, in a directory of the architecture.
fn library() -> PathBuf {
    let _ = tool("faketime");
    let architectures = fs::read_dir("/usr/lib").expect("there are libraries");
    architectures
        .filter_map(Result::ok)
        .map(|entry| entry.path().join(Path::new("faketime/libfaketimeMT.so.1")))
        .find(|library| library.is_file())
        .expect("faketime comes with its library")
}
