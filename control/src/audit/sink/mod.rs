//! Where copies of the audit go: a file, or a collector over HTTP. Each gets lines ([`super::Line`]), in order and at
//! least once.

mod file;
mod http;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use tokio::sync::Mutex;

pub(super) use file::{FileSink, Held, newest_in_file};
use http::HttpSink;
pub use http::{HttpAddress, HttpError};

/// A disk that takes longer is treated like a collector that is down.
const FILE_DEADLINE: Duration = Duration::from_secs(30);

/// Where a copy goes, as `audit-sink` says it: `file:/path`, `https://host/path`, or `http://` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkAddress {
    /// An absolute path.
    File(PathBuf),
    /// A collector.
    Http(HttpAddress),
}

/// Not an address of a sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected `file:/absolute/path`, `https://host/path` or `http://127.0.0.1:port/path`, found `{found}`: {why}"
)]
pub struct SinkAddressError {
    found: String,
    why: &'static str,
}

impl SinkAddress {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Http(_) => None,
        }
    }
}

impl FromStr for SinkAddress {
    type Err = SinkAddressError;

    fn from_str(text: &str) -> Result<Self, SinkAddressError> {
        let wrong = |why| SinkAddressError { found: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("file:") {
            let path = Path::new(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() && path.file_name().is_some() {
                Ok(Self::File(path.to_owned()))
            } else {
                Err(wrong("the path is not absolute"))
            };
        }
        HttpAddress::parse(text).map(Self::Http).map_err(wrong)
    }
}

impl fmt::Display for SinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Http(address) => address.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for SinkAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Why a sink did not take what it was sent. Nothing is lost by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The file.
    #[error("{path}: {error}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The disk does not answer.
    #[error("{path}: the disk did not answer in time", path = path.display())]
    Stalled {
        /// Which file.
        path: PathBuf,
    },
    /// The collector.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// An open sink.
#[derive(Debug)]
pub struct Sink {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Written by one thread at a time, which may hang with its disk.
    File {
        path: PathBuf,
        file: Arc<Mutex<FileSink>>,
    },
    Http(Box<HttpSink>),
}

impl Sink {
    /// Prepares it; whether it can be reached is seen when something is sent.
    ///
    /// # Errors
    /// When this machine trusts no certificate authority, which `https` needs.
    pub fn open(address: SinkAddress) -> Result<Self, SinkError> {
        let name = address.to_string();
        let kind = match address {
            SinkAddress::File(path) => {
                Kind::File { file: Arc::new(Mutex::new(FileSink::new(path.clone()))), path }
            }
            SinkAddress::Http(address) => Kind::Http(Box::new(HttpSink::new(address)?)),
        };
        Ok(Self { name, kind })
    }

    /// Its address: how its positions are stored and its metrics labelled.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it holds already, if it can say.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) async fn held(&self) -> Result<Option<Held>, SinkError> {
        match &self.kind {
            Kind::File { path, file } => on_disk(path, file, FileSink::held).await.map(Some),
            Kind::Http(_) => Ok(None),
        }
    }

    /// Hands over whole lines. `Some`: the collector says up to which event it has everything.
    ///
    /// # Errors
    /// When it does not take them; it may have taken some.
    pub(super) async fn send(&self, lines: String) -> Result<Option<u64>, SinkError> {
        match &self.kind {
            Kind::File { path, file } => {
                on_disk(path, file, move |file| file.append(&lines)).await.map(|()| None)
            }
            Kind::Http(http) => Ok(http.post(lines).await?),
        }
    }
}

/// Does one thing on a thread that may block. As long as it hangs there is no second one.
async fn on_disk<T: Send + 'static>(
    path: &Path,
    file: &Arc<Mutex<FileSink>>,
    work: impl FnOnce(&mut FileSink) -> std::io::Result<T> + Send + 'static,
) -> Result<T, SinkError> {
    let stalled = || SinkError::Stalled { path: path.to_owned() };
    let mut file = Arc::clone(file).try_lock_owned().map_err(|_| stalled())?;
    #[expect(clippy::disallowed_methods, reason = "one thread per sink at most: it takes the lock with it")]
    let done = tokio::task::spawn_blocking(move || work(&mut file));
    let failed = |error| SinkError::File { path: path.to_owned(), error };
    match tokio::time::timeout(FILE_DEADLINE, done).await {
        Ok(Ok(result)) => result.map_err(failed),
        Ok(Err(error)) => Err(failed(std::io::Error::other(error))),
        Err(_) => Err(stalled()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_files_and_collectors() {
        for good in [
            "file:/var/log/signet/audit.jsonl",
            "https://collector.example/audit",
            "https://collector.example:9443/",
            "http://127.0.0.1:9000/audit",
            "http://[::1]:9000/audit",
            "http://localhost:9000/audit?team=a",
        ] {
            let address: SinkAddress = good.parse().unwrap();
            assert_eq!(address.to_string().parse::<SinkAddress>().unwrap(), address, "{good}");
        }
        assert_eq!("file:///a/b".parse(), Ok(SinkAddress::File("/a/b".into())));
    }

    #[test]
    fn what_would_not_work_or_be_read_by_others_is_refused() {
        for (wrong, why) in [
            ("", "not a URL"),
            ("collector.example", "no scheme"),
            ("file:audit.jsonl", "not absolute"),
            ("file:/", "not absolute"),
            ("ftp://a/b", "https"),
            ("http://collector.example/audit", "this machine"),
            ("http://10.0.0.1/audit", "this machine"),
            ("https://user:secret@collector.example/", "user"),
            ("https:///audit", ""),
            ("https://collector.example:0/", "port"),
            ("https://collector.example:/", "port"),
            ("https://collector.example:99999/", "port"),
            ("https://collector.example:x/", "port"),
            ("https://collector.example/#audit", "URL"),
            ("https://[[::1]]/", ""),
            ("https://collector_.example..x/", "host"),
        ] {
            let error = wrong.parse::<SinkAddress>().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
