//! The key that seals: 32 bytes in a file of our own user, or in the kernel's keyring, where no disk ever sees it.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use signet_proto::sealing::{self, KEY_LENGTH, SealingKey};
use zeroize::Zeroizing;

use super::{StateError, file};

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

/// The key at that place.
pub(crate) fn read(place: &KeyPlace) -> Result<SealingKey, StateError> {
    let wrong = |problem: String| StateError::Key { place: place.to_string(), problem };
    let key = match place {
        KeyPlace::File(path) => from_file(path),
        KeyPlace::Keyring(name) => sealing::of_keyring(name),
    };
    SealingKey::new(&key.map_err(wrong)?).map_err(|problem| wrong(problem.into()))
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
    if key.len() == KEY_LENGTH {
        Ok(key)
    } else {
        Err(format!("expected exactly {KEY_LENGTH} random bytes, found {}", key.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn refusal(place: &str) -> String {
        read(&place.parse().unwrap()).unwrap_err().to_string()
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
        read(&KeyPlace::File(path.clone())).unwrap();
        let link = directory.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(refusal(&link.display().to_string()).contains("symbolic link"));
        for length in [0, KEY_LENGTH - 1, KEY_LENGTH + 1, 4096] {
            fs::write(&path, vec![7; length]).unwrap();
            assert!(refusal(&name).contains("expected exactly 32"), "{length}");
        }
    }

    #[test]
    fn place_is_a_file_or_a_name_in_the_keyring() {
        let keyring = "keyring:signet-test-nothing";
        assert_eq!(keyring.parse::<KeyPlace>().unwrap().to_string(), keyring);
        assert!(refusal(keyring).contains("keyctl padd user"));
        assert!("keyring:".parse::<KeyPlace>().is_err() && "".parse::<KeyPlace>().is_err());
    }
}
