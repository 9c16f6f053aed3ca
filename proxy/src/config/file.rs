//! The TOML file: the flags' keys, and a table per listener. A mistake is told with file, line, column and key.

use std::path::{Path, PathBuf};

use super::args::Keys;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}:{column}: {key}{message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The key, quoted and followed by a colon, if it is known.
        key: String,
        /// What was expected.
        message: String,
    },
}

/// Reads a configuration file; also as it is written.
pub(super) fn read(path: &Path) -> Result<(Keys, toml::Table), FileError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| FileError::Read { path: path.to_path_buf(), error })?;
    let keys = parse(path, &text)?;
    Ok((keys, text.parse().unwrap_or_default()))
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Keys, FileError> {
    let wrong = |error: &toml::de::Error, key: &str| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let key = if key.is_empty() || key == "." { String::new() } else { format!("`{key}`: ") };
        FileError::Parse { path: path.to_path_buf(), line, column, key, message: error.message().to_owned() }
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| wrong(&error, ""))?;
    serde_path_to_error::deserialize(deserializer)
        .map_err(|error| wrong(error.inner(), &error.path().to_string()))
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
