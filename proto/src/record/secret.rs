//! What the keys of one direction are made of, and each key of the one before it.

use aws_lc_rs::aead::NONCE_LEN;
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use zeroize::Zeroizing;

use super::{Key, KeyError, Suite};

/// The longest that there is: of SHA-384.
const MOST_BYTES: usize = 48;

/// A traffic secret (RFC 8446, section 7.1). Wiped when dropped.
pub struct Secret {
    suite: Suite,
    bytes: Zeroizing<[u8; MOST_BYTES]>,
}

impl Secret {
    /// The secret of a direction that this suite protects.
    ///
    /// # Errors
    /// When it is not as long as a hash of the suite.
    pub fn new(suite: Suite, secret: &[u8]) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; MOST_BYTES]);
        if secret.len() != hash(suite).len() {
            return Err(KeyError);
        }
        bytes.get_mut(..secret.len()).ok_or(KeyError)?.copy_from_slice(secret);
        Ok(Self { suite, bytes })
    }

    /// Its key (section 7.3), which has protected nothing yet.
    ///
    /// # Errors
    /// Not caused by the peer: when the library cannot make it.
    pub fn key(&self) -> Result<Key, KeyError> {
        let mut key = Zeroizing::new([0; Suite::MOST_KEY_BYTES]);
        let key = key.get_mut(..self.suite.key_bytes()).ok_or(KeyError)?;
        let mut iv = [0; NONCE_LEN];
        self.expand(b"key", key)?;
        self.expand(b"iv", &mut iv)?;
        Key::new(self.suite, key, iv, 0)
    }

    /// The secret after it (section 7.2).
    ///
    /// # Errors
    /// Not caused by the peer: when the library cannot make it.
    pub fn next(&self) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; MOST_BYTES]);
        let length = hash(self.suite).len();
        self.expand(b"traffic upd", bytes.get_mut(..length).ok_or(KeyError)?)?;
        Ok(Self { suite: self.suite, bytes })
    }

    /// HKDF-Expand-Label without a context (section 7.1).
    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), KeyError> {
        const PREFIX: &[u8] = b"tls13 ";
        let length = u16::try_from(out.len()).map_err(|_| KeyError)?.to_be_bytes();
        let label_bytes = u8::try_from(PREFIX.len() + label.len()).map_err(|_| KeyError)?;
        let hash = hash(self.suite);
        let secret = self.bytes.get(..hash.len()).ok_or(KeyError)?;
        let info = [&length[..], &[label_bytes], PREFIX, label, &[0]];
        let made = Prk::new_less_safe(hash, secret);
        let made = made.expand(&info, Length(out.len())).map_err(|_| KeyError)?;
        made.fill(out).map_err(|_| KeyError)
    }
}

/// Of the suite's transcript and secrets.
const fn hash(suite: Suite) -> hkdf::Algorithm {
    match suite {
        Suite::Aes128Gcm | Suite::Chacha20Poly1305 => HKDF_SHA256,
        Suite::Aes256Gcm => HKDF_SHA384,
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("suite", &self.suite).finish_non_exhaustive()
    }
}
