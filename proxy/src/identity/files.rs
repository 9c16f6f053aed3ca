//! SVIDs that something else keeps on disk: another CA's agent, a secrets mount. Watched, because they rotate; and the
//! policy beside them, which is watched alone where the SVID comes from a socket.
//!
//! Chain, key and bundle are read together and taken only if they fit together; a half-written set, or one
//! that does not verify, changes nothing, is counted, and is read again at the next event (invariant 3).
//! Mounts swap whole folders by symlink, so the folders are watched rather than the files.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use signet_proto::handshake::{
    ConfigError, KeyError, Revocations, Svid, SvidMismatch, Trust, VerifyError, WorkloadKey,
};
use signet_proto::policy::{ParseError, PolicySet};
use signet_proto::spiffe::{BundleError, TrustBundle};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::mesh::Mesh;
use crate::telemetry::metrics;

/// Writers need a moment to put all files in place.
const SETTLE: Duration = Duration::from_millis(100);
/// Some filesystems send no events; looking costs little.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
const LARGEST_FILE: u64 = 1024 * 1024;

/// Where the parts are.
#[derive(Debug, Clone)]
pub struct Files {
    /// Absent: something else brings the identity.
    pub identity: Option<IdentityFiles>,
    /// YAML policy documents; without, nobody may call.
    pub policy: Option<PathBuf>,
}

/// Where those are that say who we are and whom we believe.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    /// PEM chain, leaf first.
    pub svid: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM authorities of our trust domain.
    pub bundle: PathBuf,
}

/// Why a set of files was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The key file.
    #[error("{path}: {error}")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// Chain and key.
    #[error("{path}: {error}")]
    Svid {
        /// The chain's.
        path: PathBuf,
        /// Why.
        error: SvidMismatch,
    },
    /// The bundle file.
    #[error("{path}: {error}")]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        error: BundleError,
    },
    /// The SVID does not chain to the bundle, or is outside its validity.
    #[error("{path}: {error}")]
    Unbelievable {
        /// The chain's.
        path: PathBuf,
        /// Why.
        error: VerifyError,
    },
    /// The policy file.
    #[error(transparent)]
    Policy(#[from] ParseError),
    /// The policies do not go together.
    #[error("{path}: {error}")]
    Compile {
        /// Which.
        path: PathBuf,
        /// Why.
        error: signet_proto::policy::CompileError,
    },
    /// The TLS library refused our parameters.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The folders cannot be watched.
    #[error("cannot watch for changes: {0}")]
    Watch(#[from] notify::Error),
}

/// The contents of the files at one time. Not to be printed: there is a key among them.
#[derive(PartialEq, Eq)]
pub struct Contents {
    identity: Option<IdentityContents>,
    documents: Option<Zeroizing<Vec<u8>>>,
}

#[derive(PartialEq, Eq)]
struct IdentityContents {
    chain: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    authorities: Zeroizing<Vec<u8>>,
}

/// A set that fits together.
struct Loaded {
    identity: Option<(Svid, TrustBundle)>,
    policy: PolicySet,
}

/// Takes the files as they are now; for the start, where a mistake should end the process.
///
/// # Errors
/// When they cannot be read or do not fit together.
pub async fn load(files: &Files, mesh: &Mesh) -> Result<Contents, FilesError> {
    let contents = Contents::read(files).await?;
    adopt(mesh, contents.parse(files)?)?;
    Ok(contents)
}

/// Follows the files until `stop`, from what [`load`] took.
///
/// # Errors
/// When the folders cannot be watched.
pub async fn follow(
    files: Files,
    mut current: Contents,
    mesh: Arc<Mesh>,
    stop: CancellationToken,
) -> Result<(), FilesError> {
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
    for folder in folders(&files) {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    // What was seen when the files were last looked at, if it is not in force, and whether it was refused.
    let mut unsettled: Option<(Result<Contents, String>, bool)> = None;
    loop {
        // Read after the watch began: what changed since `load` is not missed.
        let seen = Contents::read(&files).await.map_err(|error| error.to_string());
        unsettled = match (seen, unsettled) {
            (Ok(seen), _) if seen == current => None,
            // Looked at twice: a writer may have been in the middle of it.
            (seen, Some((before, refused))) if seen == before => {
                let used = match &seen {
                    Ok(contents) => contents
                        .parse(&files)
                        .and_then(|loaded| adopt(&mesh, loaded))
                        .map_err(|error| error.to_string()),
                    Err(error) => Err(error.clone()),
                };
                match (used, seen) {
                    (Ok(()), Ok(contents)) => {
                        current = contents;
                        None
                    }
                    (Err(error), seen) => {
                        if !refused {
                            refuse(&error);
                        }
                        Some((seen, true))
                    }
                    (Ok(()), Err(_)) => None,
                }
            }
            (seen, _) => {
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
            () = tokio::time::sleep(LOOK_ANYWAY) => {}
        }
        let _ = noticed.try_recv();
    }
}

fn refuse(error: &str) {
    metrics::rotation("failed");
    tracing::warn!(error, "files changed but cannot be used; what is in force stays in force");
}

fn adopt(mesh: &Mesh, loaded: Loaded) -> Result<(), FilesError> {
    let Loaded { identity, policy } = loaded;
    let not_after = identity.as_ref().map(|(svid, _)| {
        tracing::info!(id = %svid.id(), "took a new SVID from files");
        svid.profile().not_after
    });
    mesh.update(|inputs| {
        if let Some((svid, bundle)) = identity {
            inputs.svid = Some(Arc::new(svid));
            inputs.bundles = vec![bundle];
        }
        inputs.policy = Some(Arc::new(policy));
    })?;
    if let Some(not_after) = not_after {
        metrics::rotation("success");
        metrics::svid_expiry(not_after);
    }
    Ok(())
}

impl Contents {
    async fn read(files: &Files) -> Result<Self, FilesError> {
        Ok(Self {
            identity: match &files.identity {
                Some(IdentityFiles { svid, key, bundle }) => Some(IdentityContents {
                    chain: contents(svid).await?,
                    key: contents(key).await?,
                    authorities: contents(bundle).await?,
                }),
                None => None,
            },
            documents: match &files.policy {
                Some(path) => Some(contents(path).await?),
                None => None,
            },
        })
    }

    fn parse(&self, files: &Files) -> Result<Loaded, FilesError> {
        let identity = match (&files.identity, &self.identity) {
            (Some(files), Some(contents)) => Some(contents.parse(files)?),
            _ => None,
        };
        let policy = match (&files.policy, &self.documents) {
            (Some(path), Some(text)) => {
                let text = String::from_utf8_lossy(text);
                let documents = signet_proto::policy::parse_yaml(&path.display().to_string(), &text)?;
                PolicySet::compile(documents)
                    .map_err(|error| FilesError::Compile { path: path.clone(), error })?
            }
            _ => PolicySet::empty(),
        };
        Ok(Loaded { identity, policy })
    }
}

impl IdentityContents {
    fn parse(&self, files: &IdentityFiles) -> Result<(Svid, TrustBundle), FilesError> {
        let signing_key = WorkloadKey::signing_key_from_pem(&self.key)
            .map_err(|error| FilesError::Key { path: files.key.clone(), error })?;
        let svid = Svid::from_pem(&self.chain, signing_key)
            .map_err(|error| FilesError::Svid { path: files.svid.clone(), error })?;
        let bundle = TrustBundle::from_pem(svid.id().trust_domain().clone(), &self.authorities)
            .map_err(|error| FilesError::Bundle { path: files.bundle.clone(), error })?;
        svid.check(&Trust::new([bundle.clone()], Revocations::default()), signet_proto::clock::now())
            .map_err(|error| FilesError::Unbelievable { path: files.svid.clone(), error })?;
        Ok((svid, bundle))
    }
}

async fn contents(path: &Path) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let read = async {
        let length = tokio::fs::metadata(path).await?.len();
        if length > LARGEST_FILE {
            return Err(io::Error::other(format!("{length} bytes are more than {LARGEST_FILE}")));
        }
        tokio::fs::read(path).await.map(Zeroizing::new)
    };
    read.await.map_err(|error| FilesError::Read { path: path.to_path_buf(), error })
}

fn folders(files: &Files) -> BTreeSet<PathBuf> {
    let identity = files.identity.iter().flat_map(|files| [&files.svid, &files.key, &files.bundle]);
    identity
        .chain(&files.policy)
        .map(|path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        })
        .collect()
}
