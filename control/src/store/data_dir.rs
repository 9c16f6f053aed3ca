//! The data directory: one control at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use signet_proto::spiffe::InstanceId;

use super::StoreError;
use crate::audit::durable;

/// Held while control runs: two controls on one directory would each sign with their own idea of it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    #[expect(dead_code, reason = "the lock lasts as long as the open file")]
    lock: File,
}

impl DataDir {
    /// Makes the directory if need be, and claims it.
    ///
    /// # Errors
    /// When another control has it, or it cannot be made.
    pub fn claim(data_dir: &Path) -> Result<Self, StoreError> {
        let open = |what: &Path, error: &dyn std::fmt::Display| {
            StoreError::Open(format!("{}: {error}", what.display()))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|error| open(data_dir, &error))?;
        let path = data_dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| open(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: data_dir.to_owned(), lock: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Open(format!(
                "another signet-control uses the data directory {}: stop it, or use another --data-dir",
                data_dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(open(&path, &error)),
        }
    }

    /// The name of the replica that runs here, made at its first start: what it held before a restart is its own.
    ///
    /// # Errors
    /// When it can be neither read nor written.
    pub fn name(&self) -> Result<String, StoreError> {
        let path = self.path.join("replica");
        let failed = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
        match fs::read_to_string(&path) {
            Ok(name) => match name.trim().parse::<InstanceId>() {
                Ok(name) => Ok(name.to_string()),
                Err(error) => Err(failed(&error)),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let name = InstanceId::random().map_err(|error| failed(&error))?.to_string();
                durable::replace(&path, name.as_bytes()).map_err(|error| failed(&error))?;
                Ok(name)
            }
            Err(error) => Err(failed(&error)),
        }
    }
}
