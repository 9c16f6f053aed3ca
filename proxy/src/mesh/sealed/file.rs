//! The file: a mark with the format's number, then two sealed parts, each after its length, and in the second format a
//! third with what apps have, each sealed by itself. It is read whole, refused where others can read it, and replaced
//! whole, so that a crash leaves the old one or the new one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prost::Message;
use rustix::fs::{Mode, OFlags};
use signet_proto::handshake::{KeyError, Svid, WorkloadKey};
use signet_proto::sealing::SealingKey;
use signet_proto::spiffe::{TrustDomain, sha256};
use signet_proto::v1;
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use super::{Identity, StateError};

/// Its last byte is the number of the format. Where apps have nothing it is the first, which older proxies read, too.
const MARK: &[u8; 16] = b"signet-state\0\0\0\x01";
const MARK_WITH_APPS: &[u8; 16] = b"signet-state\0\0\0\x02";
const LENGTH: usize = 4;
/// As much as control sends at once.
const LARGEST: u64 = 64 * 1024 * 1024;
const IDENTITY: &str = "signet-proxy state: identity";
const APP: &str = "signet-proxy state: app";
const KNOWLEDGE: &str = "signet-proxy state: knowledge";

/// What is sealed of what is known.
#[derive(Clone, PartialEq, Message)]
struct Knowledge {
    /// Unix time.
    #[prost(uint64, tag = "1")]
    saved_at: u64,
    #[prost(message, optional, tag = "2")]
    told: Option<v1::WatchResponse>,
}

/// The certificates, beside the key.
#[derive(Clone, PartialEq, Message)]
struct Chain {
    #[prost(bytes = "vec", repeated, tag = "1")]
    certificates: Vec<Vec<u8>>,
}

/// What apps have, by the rule that admits them.
#[derive(Clone, PartialEq, Message)]
struct Apps {
    #[prost(btree_map = "string, bytes", tag = "1")]
    sealed: BTreeMap<String, Vec<u8>>,
}

/// A file's parts.
pub(super) struct Sealed {
    pub(super) identity: Vec<u8>,
    pub(super) knowledge: Vec<u8>,
    pub(super) apps: BTreeMap<String, Vec<u8>>,
}

/// Seals our own SVID and its key.
pub(super) fn seal_identity(
    key: &SealingKey,
    domain: &TrustDomain,
    own: &WorkloadKey,
    svid: &Svid,
) -> Result<Vec<u8>, String> {
    seal(key, &associated(IDENTITY, domain, &[]), own, svid)
}

/// Seals those of the apps that a rule admits: they open for that rule only.
pub(super) fn seal_app(
    key: &SealingKey,
    domain: &TrustDomain,
    rule: &str,
    own: &WorkloadKey,
    svid: &Svid,
) -> Result<Vec<u8>, String> {
    seal(key, &associated(APP, domain, &sha256(rule.as_bytes())), own, svid)
}

/// Opens what [`seal_app`] made.
pub(super) fn open_app(
    key: &SealingKey,
    domain: &TrustDomain,
    rule: &str,
    sealed: &[u8],
) -> Option<(WorkloadKey, Vec<Vec<u8>>)> {
    let content = key.open(&associated(APP, domain, &sha256(rule.as_bytes())), sealed)?;
    let (own, chain) = part(&content)?;
    Some((WorkloadKey::from_der(own).ok()?, Chain::decode(chain).ok()?.certificates))
}

/// Seals an SVID and its key: length of the key, key, chain.
fn seal(key: &SealingKey, associated: &[u8], own: &WorkloadKey, svid: &Svid) -> Result<Vec<u8>, String> {
    let own = own.to_der();
    let chain = Chain { certificates: svid.chain().iter().map(|certificate| certificate.to_vec()).collect() };
    let length = u32::try_from(own.len()).map_err(|_| "a key too long".to_owned())?;
    // Room for all of it at once: nothing is left behind by growing.
    let mut content = Zeroizing::new(Vec::with_capacity(LENGTH + own.len() + chain.encoded_len()));
    content.extend_from_slice(&length.to_be_bytes());
    content.extend_from_slice(&own);
    content.extend_from_slice(&chain.encode_to_vec());
    key.seal(associated, &content).map_err(str::to_owned)
}

impl Sealed {
    pub(super) fn new(
        key: &SealingKey,
        domain: &TrustDomain,
        identity: Vec<u8>,
        told: &v1::WatchResponse,
        now: SystemTime,
    ) -> Result<Self, String> {
        let saved_at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let content = Knowledge { saved_at, told: Some(told.clone()) }.encode_to_vec();
        let knowledge = key.seal(&associated(KNOWLEDGE, domain, &sha256(&identity)), &content)?;
        Ok(Self { identity, knowledge, apps: BTreeMap::new() })
    }

    /// The same with what apps have.
    pub(super) fn with_apps(self, apps: BTreeMap<String, Vec<u8>>) -> Self {
        Self { apps, ..self }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let apps = (!self.apps.is_empty()).then(|| Apps { sealed: self.apps.clone() }.encode_to_vec());
        let mut bytes = if apps.is_some() { MARK_WITH_APPS } else { MARK }.to_vec();
        for part in [&self.identity, &self.knowledge].into_iter().chain(&apps) {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let damaged =
            || "it is damaged or cut short: the proxy starts without it, and writes a new one".to_owned();
        let (mark, rest) = bytes.split_at_checked(MARK.len()).ok_or_else(damaged)?;
        if mark != MARK && mark != MARK_WITH_APPS {
            let ours = mark.starts_with(b"signet-state\0");
            return Err(if ours {
                "it has the format of another version: the proxy starts without it, and writes a new one"
                    .into()
            } else {
                "it is no state file of a proxy: name another one in `state-file`".to_owned()
            });
        }
        let (identity, rest) = part(rest).ok_or_else(damaged)?;
        let (knowledge, mut rest) = part(rest).ok_or_else(damaged)?;
        let mut apps = BTreeMap::new();
        if mark == MARK_WITH_APPS {
            let (sealed, end) = part(rest).ok_or_else(damaged)?;
            (apps, rest) = (Apps::decode(sealed).map_err(|_| damaged())?.sealed, end);
        }
        if !rest.is_empty() {
            return Err(damaged());
        }
        Ok(Self { identity: identity.to_vec(), knowledge: knowledge.to_vec(), apps })
    }

    pub(super) fn open(
        self,
        key: &SealingKey,
        domain: &TrustDomain,
    ) -> Result<(Identity, v1::WatchResponse, SystemTime), String> {
        let closed = || {
            format!(
                "it does not open: another `state-key`, another mesh than `{domain}`, or it was changed; the proxy starts without it"
            )
        };
        let damaged = || "what was sealed in it cannot be read".to_owned();
        let content = key.open(&associated(IDENTITY, domain, &[]), &self.identity).ok_or_else(closed)?;
        let (own, chain) = part(&content).ok_or_else(damaged)?;
        let chain = Chain::decode(chain).map_err(|_| damaged())?.certificates;
        let own = WorkloadKey::signing_key_from_der(own).map_err(|error: KeyError| error.to_string())?;
        let bound = associated(KNOWLEDGE, domain, &sha256(&self.identity));
        let content = key.open(&bound, &self.knowledge).ok_or_else(closed)?;
        let Knowledge { saved_at, told } = Knowledge::decode(content.as_slice()).map_err(|_| damaged())?;
        let saved_at =
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(saved_at)).ok_or_else(damaged)?;
        Ok((Identity { chain, key: own }, told.ok_or_else(damaged)?, saved_at))
    }
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// NUL does not occur in labels and domains, so that the parts cannot run into each other.
fn associated(label: &str, domain: &TrustDomain, bound: &[u8]) -> Vec<u8> {
    [MARK.as_slice(), label.as_bytes(), b"\0", domain.as_str().as_bytes(), b"\0", bound].concat()
}

/// The content of the file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let unusable = |problem| StateError::Unusable { path: path.to_owned(), problem };
    let Some(file) = open_private(path).map_err(unusable)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(|error| StateError::File { path: path.to_owned(), error })?;
    if bytes.len() as u64 > LARGEST {
        return Err(unusable(format!("it has more than {LARGEST} bytes: no proxy wrote it")));
    }
    Ok(Some(bytes))
}

/// Opens a file that is ours alone: no link, nobody else's, and closed to others.
pub(super) fn open_private(path: &Path) -> Result<Option<File>, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err("it is a symbolic link, behind which anything could be: name the file itself".into());
        }
        Err(error) => return Err(io::Error::from(error).to_string()),
    };
    let found = file.metadata().map_err(|error| error.to_string())?;
    let (owner, us) = (found.uid(), rustix::process::geteuid().as_raw());
    if !found.is_file() {
        return Err("it is no regular file".into());
    }
    if owner != us && owner != 0 {
        return Err(format!("it belongs to user {owner}, expected {us} (this proxy) or root"));
    }
    let mode = found.mode() & 0o777;
    // systemd gives its service access by a list, which shows as the group's; the folder is closed to all others.
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let is_credential = owner == 0 && folder.is_some_and(|folder| path.parent() == Some(&folder));
    if mode & if is_credential { 0o037 } else { 0o077 } != 0 {
        return Err(format!("it is open to others (mode {mode:o}): `chmod 600 {}`", path.display()));
    }
    Ok(Some(file))
}

/// Writes beside the place, then puts in place.
pub(super) async fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = replace(path, &draft, bytes).await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&draft).await;
    }
    written.map_err(|error| StateError::File { path: path.to_owned(), error })
}

async fn replace(path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a process left that was killed while it wrote.
    match tokio::fs::remove_file(draft).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft).await?;
    file.write_all(bytes).await?;
    // Only this tells that a write failed, as on a full disk: `sync_all` does not.
    file.flush().await?;
    file.sync_all().await?;
    tokio::fs::rename(draft, path).await?;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tokio::fs::File::open(folder).await?.sync_all().await
}
