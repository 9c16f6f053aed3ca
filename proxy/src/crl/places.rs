//! Where lists are on disk, and what tells one state of the files from another without reading them: lists are large.

use std::fs::File;
use std::io::{Error, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use signet_proto::handshake::MAX_CRLS;

use super::CrlFileError;

/// Of all files together.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// What counts as a list in a folder: writers put files of other names beside them.
const ENDINGS: [&str; 3] = ["crl", "pem", "der"];

/// What is there at one time: each file, and how it looks from outside; none where it cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found(Vec<(PathBuf, Option<Stamp>)>);

/// Whatever is written anew, renamed over or swapped by symlink differs in one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks at files, and into folders.
pub(super) async fn look(places: &[PathBuf]) -> Found {
    let mut found = Vec::new();
    for place in places {
        match tokio::fs::metadata(place).await {
            Ok(metadata) if metadata.is_dir() => match inside(place).await {
                Ok(files) => {
                    for file in files {
                        let stamp = tokio::fs::metadata(&file).await.ok();
                        found.push((file, stamp.map(|metadata| Stamp::of(&metadata))));
                    }
                }
                Err(_) => found.push((place.clone(), None)),
            },
            metadata => found.push((place.clone(), metadata.ok().map(|metadata| Stamp::of(&metadata)))),
        }
    }
    Found(found)
}

/// The lists of a folder, in one order; at most one more than are read.
async fn inside(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut entries = tokio::fs::read_dir(folder).await?;
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let ending = path.extension().and_then(|ending| ending.to_str());
        if !hidden && ending.is_some_and(|ending| ENDINGS.contains(&ending)) && files.len() <= MAX_CRLS {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Found {
    /// The files, if they are not more than are read.
    pub(super) fn within_bounds(&self) -> Result<Vec<PathBuf>, CrlFileError> {
        let bytes: u64 = self.0.iter().filter_map(|(_, stamp)| *stamp).map(|stamp| stamp.length).sum();
        if self.0.len() > MAX_CRLS {
            let found = format!("{} files or more", self.0.len());
            return Err(CrlFileError::TooMuch { found, most: format!("{MAX_CRLS} files") });
        }
        if bytes > MOST_BYTES {
            let found = format!("files of {bytes} bytes together");
            return Err(CrlFileError::TooMuch { found, most: format!("{MOST_BYTES} bytes") });
        }
        Ok(self.0.iter().map(|(path, _)| path.clone()).collect())
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What is in a file; it may have grown since it was looked at.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, CrlFileError> {
    let read = || {
        // A pipe without a writer would be waited for.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(Error::other("expected a file"));
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(Error::other(format!("more than {MOST_BYTES} bytes")));
        }
        Ok(bytes)
    };
    read().map_err(|error| CrlFileError::Read { path: path.to_path_buf(), error })
}
