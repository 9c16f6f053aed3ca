//! The key that seals: 32 bytes in a file of our own user, or in the kernel's keyring, where no disk ever sees it.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{StateError, file};

const KEY_LENGTH: usize = 32;

/// Where the key is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum KeyPlace {
    /// In a file.
    File(PathBuf),
    /// In the kernel, under this name.
    Keyring(String),
}

impl FromStr for KeyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("keyring:") {
            Some("") => Err("expected a file, or keyring:NAME, found no name".into()),
            Some(name) if name.contains('\0') => Err("expected a file, or keyring:NAME, found a NUL".into()),
            Some(name) => Ok(Self::Keyring(name.to_owned())),
            None if text.is_empty() => Err("expected a file, or keyring:NAME, found nothing".into()),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl TryFrom<String> for KeyPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Keyring(name) => write!(f, "keyring:{name}"),
        }
    }
}

/// A key that seals (AES-256-GCM, random nonces). aws-lc wipes its copy when freed.
pub struct StateKey(RandomizedNonceKey);

impl StateKey {
    /// Reads the key.
    ///
    /// # Errors
    /// When it is not there, is open to others, or is no key.
    pub fn load(place: &KeyPlace) -> Result<Self, StateError> {
        let wrong = |problem: String| StateError::Key { place: place.to_string(), problem };
        let key = match place {
            KeyPlace::File(path) => from_file(path),
            KeyPlace::Keyring(name) => from_keyring(name),
        }
        .map_err(wrong)?;
        if key.len() != KEY_LENGTH {
            return Err(wrong(format!("expected exactly {KEY_LENGTH} random bytes, found {}", key.len())));
        }
        Self::new(&key).map_err(|problem| wrong(problem.into()))
    }

    pub(super) fn new(key: &[u8]) -> Result<Self, &'static str> {
        RandomizedNonceKey::new(&AES_256_GCM, key)
            .map(Self)
            .map_err(|_| "the cryptographic library refuses it")
    }

    /// Seals: nonce, ciphertext, tag.
    pub(super) fn seal(&self, associated: &[u8], content: &[u8]) -> Result<Vec<u8>, String> {
        let mut sealed = Zeroizing::new(Vec::with_capacity(content.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(content);
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(associated), &mut *sealed)
            .map_err(|_| "cannot seal: no randomness, or the library failed".to_owned())?;
        Ok([nonce.as_ref().as_slice(), sealed.as_slice()].concat())
    }

    /// Opens what [`StateKey::seal`] made with the same associated data; nothing otherwise.
    pub(super) fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = Zeroizing::new(ciphertext.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(associated), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateKey(..)")
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let missing = || {
        format!(
            "it does not exist: `(umask 077; head -c {KEY_LENGTH} /dev/urandom > {})` makes one",
            path.display()
        )
    };
    let file = file::open_private(path)?.ok_or_else(missing)?;
    // One more than a key, to notice a longer file; room for it is taken at once, so that no copy is left behind.
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_LENGTH + 1));
    let limit = u64::try_from(KEY_LENGTH + 1).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut key).map_err(|error| error.to_string())?;
    Ok(key)
}

/// Found among what this process, its session and its user have.
fn from_keyring(name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error| {
        format!(
            "no such key of type `user` can be read ({error:?}): `keyctl padd user {name} @u < key` as the user of this proxy makes one"
        )
    };
    let process = KeyRing::from_special_id(KeyRingIdentifier::Process, true).map_err(failed)?;
    // Its user's keys are readable to a process only through a keyring of its own.
    if let Ok(user) = KeyRing::from_special_id(KeyRingIdentifier::User, false) {
        process.link_keyring(user).map_err(failed)?;
    }
    let session = KeyRing::from_special_id(KeyRingIdentifier::Session, false);
    let found = process.search(name).or_else(|error| match session {
        Ok(session) => session.search(name),
        Err(_) => Err(error),
    });
    let mut key = Zeroizing::new(vec![0; KEY_LENGTH + 1]);
    let length = found.map_err(failed)?.read(&mut *key).map_err(failed)?;
    key.truncate(length);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn refusal(place: &str) -> String {
        StateKey::load(&place.parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn key_file_is_ours_alone_whole_and_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let name = path.display().to_string();
        assert!(refusal(&name).contains("head -c 32 /dev/urandom"), "{}", refusal(&name));
        fs::write(&path, [7; KEY_LENGTH]).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&name).contains("chmod 600"), "{}", refusal(&name));
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        StateKey::load(&KeyPlace::File(path.clone())).unwrap();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(refusal(&link.display().to_string()).contains("symbolic link"));
        for length in [0, KEY_LENGTH - 1, KEY_LENGTH + 1, 4096] {
            fs::write(&path, vec![7; length]).unwrap();
            assert!(refusal(&name).contains("expected exactly 32"), "{length}");
        }
    }

    #[test]
    fn key_in_the_kernel_is_found_by_its_name() {
        let name = format!("signet-test-{}", std::process::id());
        let place: KeyPlace = format!("keyring:{name}").parse().unwrap();
        assert!(refusal(&place.to_string()).contains("keyctl padd user"));
        let process = KeyRing::from_special_id(KeyRingIdentifier::Process, true).unwrap();
        let key = process.add_key(&name, &[7; KEY_LENGTH][..]).unwrap();
        let found = StateKey::load(&place).unwrap();
        let sealed = StateKey::new(&[7; KEY_LENGTH]).unwrap().seal(b"", b"secret").unwrap();
        assert_eq!(found.open(b"", &sealed).unwrap().as_slice(), b"secret");
        key.invalidate().unwrap();
        assert!("keyring:".parse::<KeyPlace>().is_err() && "".parse::<KeyPlace>().is_err());
    }
}
