//! Revocation lists that other authorities publish (RFC 5280), from files that something else keeps fresh.
//!
//! A list that can be used comes into force with a snapshot, and whoever it names is cut (invariants 4 and 5). One that
//! breaks a rule, is older than the one before, or is not signed by who it says changes nothing, is counted and said. A
//! file that is gone takes nothing back. At the start a list that cannot be used ends the process, as any other mistake in
//! a file does: without it somebody could come in who should not.

mod ends;
mod places;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::handshake::{
    ConfigError, ExpiredLists, Intake, ListRefused, ListState, Lists, MAX_CRLS, list_signers,
};
use signet_proto::spiffe::{CrlError, RevocationList, revocation_lists};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

pub use self::ends::{tell_ends, told};
use self::places::{Found, content, look};
use crate::mesh::Mesh;
use crate::telemetry::metrics;
use crate::watched::{self, Watched, folder_of};

/// Where lists are, and what becomes of those that are out of date.
#[derive(Debug, Clone)]
pub struct CrlFiles {
    /// Files, and folders with them.
    pub places: Vec<PathBuf>,
    /// What becomes of new peers whose issuer's list is past its nextUpdate.
    pub expired: ExpiredLists,
}

/// Why a list is not used. What is in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrlFileError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There are too many, or they are too large.
    #[error("`crl-file`: {found}, and at most {most} are read")]
    TooMuch {
        /// What there is.
        found: String,
        /// What is read.
        most: String,
    },
    /// A file holds no list, or one that breaks a rule.
    #[error("{path}: {error}")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        error: CrlError,
    },
    /// A list is not taken beside those in force.
    #[error(transparent)]
    Refused(#[from] ListRefused),
    /// The TLS library refused our parameters.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading was broken off.
    #[error("reading revocation lists was broken off: {0}")]
    Task(#[from] JoinError),
}

impl CrlFileError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "unreadable",
            Self::TooMuch { .. } => "too_large",
            Self::List { error, .. } => error.reason(),
            Self::Refused(refused) => refused.reason(),
            Self::Config(_) | Self::Task(_) => "failed",
        }
    }
}

/// Lists as they were read from files.
#[derive(Debug)]
pub struct Read {
    found: Found,
    lists: Vec<RevocationList>,
    problems: Vec<CrlFileError>,
}

impl Read {
    /// The lists.
    pub fn lists(&self) -> impl Iterator<Item = &RevocationList> {
        self.lists.iter()
    }
}

/// Reads the files as they are now; for the start.
///
/// # Errors
/// When one cannot be read, or a list in them breaks a rule.
pub async fn read(files: &CrlFiles) -> Result<Read, CrlFileError> {
    let found = look(&files.places).await;
    let Read { found, lists, problems } = parse(found).await;
    match problems.into_iter().next() {
        Some(problem) => Err(problem),
        None => Ok(Read { found, lists, problems: Vec::new() }),
    }
}

/// Brings into force what was read; for the start, when it is known whom we believe.
///
/// # Errors
/// When a list is from the future, or one too many.
pub async fn load(files: &CrlFiles, read: Read, mesh: &Mesh) -> Result<Found, CrlFileError> {
    mesh.update(|inputs| inputs.lists = Lists::default().when_expired(files.expired))?;
    if read.lists.is_empty() {
        tracing::warn!(places = ?files.places, "no revocation list is there: nobody is revoked by one until it comes");
    }
    for refused in adopt(mesh, read.lists).await? {
        if refused.is_missed() {
            return Err(refused.into());
        }
        tell(&refused.into());
    }
    Ok(read.found)
}

/// Follows the files until `stop`, from what [`load`] took.
///
/// # Errors
/// When the folders cannot be watched.
pub async fn follow(
    files: CrlFiles,
    current: Found,
    mesh: Arc<Mesh>,
    stop: CancellationToken,
) -> Result<(), notify::Error> {
    watched::follow(Following { files, mesh }, current, stop).await
}

struct Following {
    files: CrlFiles,
    mesh: Arc<Mesh>,
}

impl Watched for Following {
    type Seen = Found;

    /// They are not read for that.
    const LOOK_ANYWAY: Duration = Duration::from_secs(1);

    fn folders(&self) -> BTreeSet<PathBuf> {
        let inside = self.files.places.iter().filter(|place| place.is_dir()).cloned();
        self.files.places.iter().map(|place| folder_of(place)).chain(inside).collect()
    }

    async fn see(&self) -> Found {
        look(&self.files.places).await
    }

    async fn take(&mut self, seen: &Found, again: bool) -> bool {
        let Read { lists, mut problems, .. } = parse(seen.clone()).await;
        match adopt(&self.mesh, lists).await {
            Ok(refused) => problems.extend(refused.into_iter().map(Into::into)),
            Err(error) => problems.push(error),
        }
        if !again {
            problems.iter().for_each(tell);
        }
        problems.is_empty()
    }
}

fn tell(problem: &CrlFileError) {
    metrics::crl_came(problem.reason());
    tracing::error!(error = %problem, "a revocation list is not used; what is in force stays in force");
}

/// Reads what was found, each list by itself.
async fn parse(found: Found) -> Read {
    let (mut lists, mut problems) = (Vec::new(), Vec::new());
    match found.within_bounds() {
        Err(error) => problems.push(error),
        Ok(paths) => {
            for path in paths {
                match parsed(path.clone()).await {
                    Ok(each) => {
                        for list in each {
                            match list {
                                Ok(list) => lists.push(list),
                                Err(error) => problems.push(CrlFileError::List { path: path.clone(), error }),
                            }
                        }
                    }
                    Err(error) => problems.push(error),
                }
            }
        }
    }
    Read { found, lists, problems }
}

#[expect(clippy::disallowed_methods, reason = "one at a time, and a large list holds up no connection")]
async fn parsed(path: PathBuf) -> Result<Vec<Result<RevocationList, CrlError>>, CrlFileError> {
    tokio::task::spawn_blocking(move || {
        let content = content(&path)?;
        revocation_lists(&content, MAX_CRLS).map_err(|error| CrlFileError::List { path, error })
    })
    .await?
}

/// Brings lists into force beside those that are, and returns what was refused.
#[expect(clippy::disallowed_methods, reason = "one at a time, and a large list holds up no connection")]
async fn adopt(mesh: &Mesh, read: Vec<RevocationList>) -> Result<Vec<ListRefused>, CrlFileError> {
    let (lists, bundles) = (mesh.lists(), mesh.bundles());
    let intake = move || -> Intake {
        let authorities: Vec<_> = bundles.iter().flat_map(list_signers).collect();
        lists.with(read, &authorities, signet_proto::clock::now())
    };
    let Intake { lists, taken, refused } = tokio::task::spawn_blocking(intake).await?;
    if !taken.is_empty() {
        // Nobody else changes them.
        let applied = mesh.update(|inputs| inputs.lists = lists)?;
        for list in taken.iter().filter(|list| list.state() != ListState::Unusable) {
            let content = list.content();
            let waits = list.state() == ListState::Waiting;
            metrics::crl_came("taken");
            tracing::info!(
                issuer = content.issuer(),
                number = content.number(),
                entries = content.len(),
                next_update =
                    jiff::Timestamp::try_from(content.next_update()).ok().map(tracing::field::display),
                waits,
                cut = applied.closed.values().sum::<u64>(),
                "took a revocation list"
            );
        }
    }
    Ok(refused)
}
