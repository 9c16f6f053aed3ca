//! Sealing: private keys leave this process only encrypted (AES-256-GCM, random nonce), bound to what they
//! are for.
//!
//! Blob: version (1 byte, 1), nonce (12 bytes), ciphertext with its tag. Associated data: label, purpose and
//! key id, so that no blob can be put in the place of another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use std::str::FromStr;

use aws_lc_rs::hmac;
use serde::Deserialize;
use signet_proto::sealing::{self, KEY_LENGTH, SealingKey};
use zeroize::Zeroizing;

/// Shorter ones are guessed.
const PASSPHRASE: usize = 16;
/// Of a file with a passphrase.
const LONGEST: usize = 4096;
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
    /// There is none in the kernel, or no passphrase that would do.
    #[error("seal key {place}: {problem}")]
    Place {
        /// Where it should be.
        place: SealPlace,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The cryptographic library failed.
    #[error("cannot seal a key: no randomness, or the library failed")]
    Crypto,
}

/// Where the seal key is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SealPlace {
    /// In a file, made if absent: whoever takes the disk has it.
    File(PathBuf),
    /// In the kernel's keyring, under this name: no disk ever sees it.
    Keyring(String),
    /// In somebody's head, or a secret store: the file holds a passphrase, from which it is derived.
    Passphrase(PathBuf),
}

impl FromStr for SealPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected a file, keyring:NAME, or passphrase:FILE";
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        match (kind, rest) {
            (_, "") => Err(format!("{expected}, found nothing")),
            (_, rest) if rest.contains('\0') => Err(format!("{expected}, found a NUL")),
            ("keyring", name) => Ok(Self::Keyring(name.to_owned())),
            ("passphrase", path) => Ok(Self::Passphrase(path.into())),
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl TryFrom<String> for SealPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for SealPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Keyring(name) => write!(f, "keyring:{name}"),
            Self::Passphrase(path) => write!(f, "passphrase:{}", path.display()),
        }
    }
}

/// The key that seals. aws-lc wipes its copy when freed.
pub struct SealKey {
    sealing: SealingKey,
    /// Another key, for what all replicas must be able to check.
    challenges: Zeroizing<[u8; 32]>,
}

impl SealKey {
    /// Takes the key from its place. Only a file is made, and only if `may_create` (nothing is sealed yet); a passphrase
    /// goes with the `salt` of the store.
    ///
    /// # Errors
    /// When it is missing, open to others, or not a key.
    pub fn open(place: &SealPlace, may_create: bool, salt: &[u8]) -> Result<Self, SealError> {
        let wrong = |problem| SealError::Place { place: place.clone(), problem };
        match place {
            SealPlace::File(path) => Self::load(path, may_create),
            SealPlace::Keyring(name) => Self::new(&sealing::of_keyring(name).map_err(wrong)?),
            SealPlace::Passphrase(path) => {
                let passphrase = passphrase(path)?;
                if passphrase.len() < PASSPHRASE {
                    return Err(wrong(format!("expected {PASSPHRASE} characters at least")));
                }
                Self::new(sealing::of_passphrase(&passphrase, salt).as_slice())
            }
        }
    }

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
        let sealing = SealingKey::new(key).map_err(|_| SealError::Crypto)?;
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
        let sealed = self.sealing.seal(&associated(purpose, id), secret).map_err(|_| SealError::Crypto)?;
        Ok([&[VERSION], sealed.as_slice()].concat())
    }

    /// Opens what [`SealKey::seal`] made for the same purpose and key id.
    ///
    /// # Errors
    /// [`SealError::Refused`] for anything else.
    pub fn unseal(&self, purpose: &str, id: &str, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let refused = || SealError::Refused { purpose: purpose.to_owned(), id: id.to_owned() };
        match blob.split_first().ok_or_else(refused)? {
            (&VERSION, sealed) => self.sealing.open(&associated(purpose, id), sealed).ok_or_else(refused),
            _ => Err(refused()),
        }
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// Without the end of its line.
fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let failed = |error| SealError::File { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SealError::Readable { path: path.to_owned(), mode });
    }
    // Room for all of it at once: no copy is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST));
    file.take(LONGEST as u64).read_to_end(&mut text).map_err(failed)?;
    while text.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
        text.pop();
    }
    Ok(text)
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
    fn passphrase_opens_what_it_sealed_with_the_salt_of_its_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passphrase");
        let place: SealPlace = format!("passphrase:{}", path.display()).parse().unwrap();
        assert_eq!(place.to_string().parse::<SealPlace>().unwrap(), place);
        let open = |salt: &[u8]| SealKey::open(&place, true, salt);
        assert!(matches!(open(b"salt"), Err(SealError::File { .. })), "none is made up");
        let write = |text: &str| {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("too short");
        assert!(open(b"salt").unwrap_err().to_string().contains("16 characters at least"));
        write("correct horse battery staple\n");
        let blob = open(b"salt").unwrap().seal("root", "a", b"secret").unwrap();
        write("correct horse battery staple");
        assert_eq!(open(b"salt").unwrap().unseal("root", "a", &blob).unwrap().as_slice(), b"secret");
        assert!(open(b"pepper").unwrap().unseal("root", "a", &blob).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open(b"salt"), Err(SealError::Readable { mode: 0o640, .. })));
    }

    #[test]
    fn key_that_is_in_no_keyring_is_asked_for_and_not_made() {
        let place: SealPlace = "keyring:signet-test-no-such-key".parse().unwrap();
        let told = SealKey::open(&place, true, b"").unwrap_err().to_string();
        assert!(told.contains("keyring:signet-test-no-such-key") && told.contains("keyctl padd"), "{told}");
        for text in ["", "keyring:", "passphrase:", "keyring:a\0b"] {
            assert!(text.parse::<SealPlace>().is_err(), "{text:?}");
        }
        assert_eq!("/a/seal.key".parse(), Ok(SealPlace::File("/a/seal.key".into())));
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
