//! Sealing: private keys leave this process only encrypted (AES-256-GCM, random nonce), bound to what they
//! are for.
//!
//! Blob: version (1 byte, 1), nonce (12 bytes), ciphertext with its tag. Associated data: label, purpose and
//! key id, so that no blob can be put in the place of another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

const KEY_LENGTH: usize = 32;
const VERSION: u8 = 1;
const CHALLENGES: &str = "signet key of challenges v1";
const LABEL: &str = "signet sealed key v1";

/// Why something cannot be sealed or unsealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There are sealed keys, but the key that seals them is gone.
    #[error(
        "seal key file {} does not exist, but the store holds keys sealed with it: restore that file; without \
         it this mesh's keys are lost", .0.display()
    )]
    Missing(PathBuf),
    /// Others can read the file.
    #[error("seal key file {} can be read by others (mode {mode:o}): `chmod 600` it", path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("seal key file {} holds {found} bytes, expected exactly {KEY_LENGTH} random ones", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// Its size.
        found: usize,
    },
    /// The file cannot be read or made.
    #[error("seal key file {}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The blob was sealed with another key, for another purpose, or was changed.
    #[error("sealed {purpose} key `{id}` does not open: wrong seal key file, or the store was tampered with")]
    Refused {
        /// What the key is for.
        purpose: String,
        /// Its id.
        id: String,
    },
    /// The cryptographic library failed.
    #[error("cannot seal a key: no randomness, or the library failed")]
    Crypto,
}

/// The key that seals. aws-lc wipes its copy when freed.
pub struct SealKey {
    sealing: RandomizedNonceKey,
    /// Another key, for what all replicas must be able to check.
    challenges: Zeroizing<[u8; 32]>,
}

impl SealKey {
    /// Reads the key file; makes it only if `may_create` (nothing is sealed yet).
    ///
    /// # Errors
    /// When the file is missing, open to others, or not a key.
    pub fn load(path: &Path, may_create: bool) -> Result<Self, SealError> {
        let failed = |error| SealError::File { path: path.to_owned(), error };
        match File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
                create(path).map_err(failed)?;
                Self::read(path, File::open(path).map_err(failed)?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SealError::Missing(path.to_owned())),
            Err(error) => Err(failed(error)),
        }
    }

    fn read(path: &Path, mut file: File) -> Result<Self, SealError> {
        let failed = |error| SealError::File { path: path.to_owned(), error };
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealError::Readable { path: path.to_owned(), mode });
        }
        // One more than a key, to notice a longer file; never grows, so that no copy is left behind.
        let mut bytes = Zeroizing::new([0; KEY_LENGTH + 1]);
        let mut found = 0;
        while let Some(rest) = bytes.get_mut(found..).filter(|rest| !rest.is_empty()) {
            match file.read(rest).map_err(failed)? {
                0 => break,
                read => found += read,
            }
        }
        match bytes.get(..found) {
            Some(key) if found == KEY_LENGTH => Self::new(key),
            _ => Err(SealError::Length { path: path.to_owned(), found }),
        }
    }

    fn new(key: &[u8]) -> Result<Self, SealError> {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), CHALLENGES.as_bytes());
        let mut challenges = Zeroizing::new([0; 32]);
        challenges.copy_from_slice(derived.as_ref());
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError::Crypto)?;
        Ok(Self { sealing, challenges })
    }

    /// The key that authenticates challenges: the same wherever the seal key is, and no help in finding it.
    #[must_use]
    pub fn challenges(&self) -> &[u8; 32] {
        &self.challenges
    }

    /// Seals a secret for one purpose and key id.
    ///
    /// # Errors
    /// When there is no randomness for the nonce.
    pub fn seal(&self, purpose: &str, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut sealed = Zeroizing::new(Vec::with_capacity(secret.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(secret);
        let nonce = self
            .sealing
            .seal_in_place_append_tag(Aad::from(associated(purpose, id)), &mut *sealed)
            .map_err(|_| SealError::Crypto)?;
        Ok([&[VERSION], nonce.as_ref().as_slice(), sealed.as_slice()].concat())
    }

    /// Opens what [`SealKey::seal`] made for the same purpose and key id.
    ///
    /// # Errors
    /// [`SealError::Refused`] for anything else.
    pub fn unseal(&self, purpose: &str, id: &str, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let refused = || SealError::Refused { purpose: purpose.to_owned(), id: id.to_owned() };
        let (&version, rest) = blob.split_first().ok_or_else(refused)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or_else(refused)?;
        if version != VERSION {
            return Err(refused());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refused())?;
        let mut secret = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .sealing
            .open_in_place(nonce, Aad::from(associated(purpose, id)), &mut secret)
            .map_err(|_| refused())?
            .len();
        secret.truncate(length);
        Ok(secret)
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// NUL does not occur in purposes and ids, so that the parts cannot run into each other.
fn associated(purpose: &str, id: &str) -> Vec<u8> {
    [LABEL, purpose, id].join("\0").into_bytes()
}

/// Removes a key that was made for nothing.
pub(super) fn discard(path: &Path) -> Result<(), SealError> {
    fs::remove_file(path).map_err(|error| SealError::File { path: path.to_owned(), error })
}

/// Written beside its place and linked into it: a crash leaves no half-written key, and two starts at the
/// same time agree on one.
fn create(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    aws_lc_rs::rand::fill(&mut *key).map_err(|_| io::Error::other("the system has no randomness to give"))?;
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(&*key).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(directory)?.sync_all(),
    });
    let removed = fs::remove_file(&draft);
    linked.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(directory: &Path, name: &str) -> SealKey {
        SealKey::load(&directory.join(name), true).unwrap()
    }

    #[test]
    fn sealed_secret_opens_again_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let blob = key(directory.path(), "seal").seal("root", "a", b"secret").unwrap();
        let reopened = SealKey::load(&directory.path().join("seal"), false).unwrap();
        assert_eq!(reopened.unseal("root", "a", &blob).unwrap().as_slice(), b"secret");
        assert_ne!(reopened.seal("root", "a", b"secret").unwrap(), blob, "nonces are never reused");
    }

    #[test]
    fn blob_for_another_purpose_or_key_does_not_open() {
        let directory = tempfile::tempdir().unwrap();
        let (key, other) = (key(directory.path(), "one"), key(directory.path(), "two"));
        let blob = key.seal("root", "a", b"secret").unwrap();
        assert!(matches!(key.unseal("intermediate", "a", &blob), Err(SealError::Refused { .. })));
        assert!(matches!(key.unseal("root", "b", &blob), Err(SealError::Refused { .. })));
        assert!(matches!(other.unseal("root", "a", &blob), Err(SealError::Refused { .. })));
    }

    #[test]
    fn every_changed_or_missing_byte_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let key = key(directory.path(), "seal");
        let blob = key.seal("root", "a", b"secret").unwrap();
        for index in 0..blob.len() {
            let mut changed = blob.clone();
            changed[index] ^= 1;
            assert!(key.unseal("root", "a", &changed).is_err(), "byte {index}");
            assert!(key.unseal("root", "a", &blob[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn key_file_is_private_and_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal");
        assert!(matches!(SealKey::load(&path, false), Err(SealError::Missing(_))));
        SealKey::load(&path, true).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SealKey::load(&path, true), Err(SealError::Readable { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [0; 33]).unwrap();
        assert!(matches!(SealKey::load(&path, true), Err(SealError::Length { found: 33, .. })));
        fs::write(&path, [0; 31]).unwrap();
        assert!(matches!(SealKey::load(&path, true), Err(SealError::Length { found: 31, .. })));
    }
}
