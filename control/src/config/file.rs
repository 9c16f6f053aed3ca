//! The settings file: TOML, unknown keys refused, every mistake with its line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Settings;

/// Nobody's settings are larger.
const MAX_BYTES: u64 = 256 * 1024;

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is not what is expected.
    #[error("{}:{line}: {key}{message}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Which key, with `: ` after it; empty if it is about the file.
        key: String,
        /// What is wrong, and what was expected.
        message: String,
    },
}

/// A settings file and its text, to find lines in.
#[derive(Debug)]
pub(super) struct File {
    pub(super) settings: Settings,
    text: String,
}

pub(super) fn read(path: &Path) -> Result<File, FileError> {
    let failed = |error| FileError::Read { path: path.to_owned(), error };
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(failed(io::Error::other(format!("expected at most {MAX_BYTES} bytes"))));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let settings = parse(path, &text)?;
    Ok(File { settings, text })
}

fn parse(path: &Path, text: &str) -> Result<Settings, FileError> {
    let wrong = |key: String, error: &toml::de::Error| FileError::Content {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_at(text, span.start)),
        key,
        message: error.message().trim().replace('\n', " "),
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| wrong(String::new(), &error))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = match error.path().to_string().as_str() {
            "." => String::new(),
            key => format!("{key}: "),
        };
        wrong(key, error.inner())
    })
}

impl File {
    /// Where a key is set, from 1.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let table = toml::de::DeTable::parse(&self.text).ok()?;
        let (found, _) = table.get_ref().iter().find(|(name, _)| name.get_ref() == key)?;
        Some(line_at(&self.text, found.span().start))
    }
}

impl File {
    /// Where the last of these keys is set, each in the table of the one before, or where the way to it ends.
    pub(super) fn line_of_path(&self, path: &[String]) -> usize {
        let Ok(whole) = toml::de::DeTable::parse(&self.text) else { return 1 };
        let (mut table, mut line) = (whole.get_ref(), 1);
        for key in path {
            let Some((found, value)) = table.iter().find(|(name, _)| name.get_ref() == key) else { break };
            line = line_at(&self.text, found.span().start);
            let toml::de::DeValue::Table(inner) = value.get_ref() else { break };
            table = inner;
        }
        line
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
