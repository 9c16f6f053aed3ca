//! SVIDs that something else keeps on disk: another CA's agent, a secrets mount. Watched, because they rotate; and the
//! policy beside them, which is watched alone where the SVID comes from a socket.
//!
//! Chain, key and bundle are read together and taken only if they fit together; a half-written set, or one
//! that does not verify, changes nothing, is counted, and is read again at the next event (invariant 3).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use signet_proto::handshake::{
    ConfigError, KeyError, Revocations, Svid, SvidMismatch, Trust, VerifyError, WorkloadKey,
};
use signet_proto::policy::{ParseError, PolicySet};
use signet_proto::spiffe::{BundleError, TrustBundle};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::mesh::Mesh;
use crate::telemetry::metrics;
use crate::watched::{self, Watched, folder_of};

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
    current: Contents,
    mesh: Arc<Mesh>,
    stop: CancellationToken,
) -> Result<(), FilesError> {
    Ok(watched::follow(Following { files, mesh }, Ok(current), stop).await?)
}

struct Following {
    files: Files,
    mesh: Arc<Mesh>,
}

impl Watched for Following {
    type Seen = Result<Contents, String>;

    fn folders(&self) -> BTreeSet<PathBuf> {
        let identity = self.files.identity.iter().flat_map(|files| [&files.svid, &files.key, &files.bundle]);
        identity.chain(&self.files.policy).map(|path| folder_of(path)).collect()
    }

    async fn see(&self) -> Self::Seen {
        Contents::read(&self.files).await.map_err(|error| error.to_string())
    }

    async fn take(&mut self, seen: &Self::Seen, again: bool) -> bool {
        let used = match seen {
            Ok(contents) => contents
                .parse(&self.files)
                .and_then(|loaded| adopt(&self.mesh, loaded))
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = &used
            && !again
        {
            metrics::rotation("failed");
            tracing::warn!(error, "files changed but cannot be used; what is in force stays in force");
        }
        used.is_ok()
    }
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
