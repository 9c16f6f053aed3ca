//! Sealing: AES-256-GCM with random nonces, under a key that is in a file, in the kernel's keyring, or derived from a
//! passphrase. What is sealed is bound to what it is for by associated data: every user of this has labels of its own.

use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::pbkdf2;
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

/// Of a key, in bytes.
pub const KEY_LENGTH: usize = 32;
/// Work for whoever guesses (OWASP for PBKDF2 with SHA-256), and half a second for whoever knows.
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(599_999);

/// A key that seals. aws-lc wipes its copy when freed.
pub struct SealingKey(RandomizedNonceKey);

impl SealingKey {
    /// Of exactly [`KEY_LENGTH`] random bytes.
    ///
    /// # Errors
    /// When it is no key.
    pub fn new(key: &[u8]) -> Result<Self, &'static str> {
        RandomizedNonceKey::new(&AES_256_GCM, key)
            .map(Self)
            .map_err(|_| "the cryptographic library refuses it")
    }

    /// Seals: nonce, ciphertext, tag.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal(&self, associated: &[u8], content: &[u8]) -> Result<Vec<u8>, &'static str> {
        let mut sealed = Zeroizing::new(Vec::with_capacity(content.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(content);
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(associated), &mut *sealed)
            .map_err(|_| "cannot seal: no randomness, or the library failed")?;
        Ok([nonce.as_ref().as_slice(), sealed.as_slice()].concat())
    }

    /// Opens what [`SealingKey::seal`] made with the same associated data; nothing otherwise.
    #[must_use]
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = Zeroizing::new(ciphertext.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(associated), &mut content).ok()?.len();
        content.truncate(length);
        Some(content)
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// The key that a passphrase stands for, together with a salt that is no secret.
#[must_use]
pub fn of_passphrase(passphrase: &[u8], salt: &[u8]) -> Zeroizing<[u8; KEY_LENGTH]> {
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, passphrase, &mut *key);
    key
}

/// The key of type `user` with this name. Found among what this process, its session and its user have.
///
/// # Errors
/// What is wrong, and what to do.
pub fn of_keyring(name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error| {
        format!(
            "no such key of type `user` can be read ({error:?}): `keyctl padd user {name} @u < key` as the user of this process makes one"
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
    if key.len() == KEY_LENGTH {
        Ok(key)
    } else {
        Err(format!("expected exactly {KEY_LENGTH} random bytes, found {}", key.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_in_the_kernel_is_found_by_its_name() {
        let name = format!("signet-test-{}", std::process::id());
        assert!(of_keyring(&name).unwrap_err().contains("keyctl padd user"));
        let process = KeyRing::from_special_id(KeyRingIdentifier::Process, true).unwrap();
        let key = process.add_key(&name, &[7; KEY_LENGTH][..]).unwrap();
        let found = SealingKey::new(&of_keyring(&name).unwrap()).unwrap();
        let sealed = SealingKey::new(&[7; KEY_LENGTH]).unwrap().seal(b"", b"secret").unwrap();
        assert_eq!(found.open(b"", &sealed).unwrap().as_slice(), b"secret");
        key.invalidate().unwrap();
        let short = process.add_key(&name, &[7; KEY_LENGTH - 1][..]).unwrap();
        assert!(of_keyring(&name).unwrap_err().contains("expected exactly 32"));
        short.invalidate().unwrap();
    }

    #[test]
    fn passphrase_is_one_key_for_each_salt() {
        let key = of_passphrase(b"correct horse battery staple", b"salt");
        assert_eq!(key, of_passphrase(b"correct horse battery staple", b"salt"));
        assert_ne!(key, of_passphrase(b"correct horse battery staple", b"pepper"));
        assert_ne!(key, of_passphrase(b"correct horse battery stable", b"salt"));
        // PBKDF2-HMAC-SHA256 by another implementation (Python's hashlib).
        assert_eq!(key[..4], HASHLIB);
    }

    const HASHLIB: [u8; 4] = [0x28, 0xec, 0x9e, 0x24];
}
