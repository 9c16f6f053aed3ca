//! The key of one direction, and how many records it has protected.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use zeroize::Zeroizing;

/// The AEADs of TLS 1.3 that Signet negotiates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

impl Suite {
    /// Of the longest key.
    pub(super) const MOST_KEY_BYTES: usize = 32;

    pub(super) const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::Chacha20Poly1305 => Self::MOST_KEY_BYTES,
        }
    }

    const fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// The cryptographic library takes the key for none: its length is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no key of its cipher suite")]
pub struct KeyError;

/// A traffic key and its IV (RFC 8446, section 7.3). All of it is wiped when dropped: the library wipes what it frees.
pub struct Key {
    suite: Suite,
    bytes: Zeroizing<[u8; Suite::MOST_KEY_BYTES]>,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    /// What the library makes of the key, many times as large: there while it is used.
    aead: Option<LessSafeKey>,
    /// Of the next record. A number is given out once, whatever becomes of its record.
    sequence: u64,
}

impl Key {
    /// A key that goes on with the record of this number.
    ///
    /// # Errors
    /// When the key does not fit the suite.
    pub fn new(suite: Suite, key: &[u8], iv: [u8; NONCE_LEN], sequence: u64) -> Result<Self, KeyError> {
        if key.len() != suite.key_bytes() {
            return Err(KeyError);
        }
        let mut bytes = Zeroizing::new([0; Suite::MOST_KEY_BYTES]);
        bytes.get_mut(..key.len()).ok_or(KeyError)?.copy_from_slice(key);
        Ok(Self { suite, bytes, iv: Zeroizing::new(iv), aead: None, sequence })
    }

    /// How many records it has protected.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.sequence
    }

    /// Gives back what can be made again.
    pub(super) fn rest(&mut self) {
        self.aead = None;
    }

    /// What protects the next record: the key, and its nonce, once; none when the numbers are used up, as they never
    /// repeat (section 5.3), or when the library has no memory for the key.
    pub(super) fn next(&mut self) -> Option<(&LessSafeKey, Nonce)> {
        let number = self.sequence;
        self.sequence = number.checked_add(1)?;
        let mut nonce = *self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(number.to_be_bytes().iter().rev()) {
            *byte ^= number;
        }
        if self.aead.is_none() {
            let key = self.bytes.get(..self.suite.key_bytes())?;
            self.aead = Some(LessSafeKey::new(UnboundKey::new(self.suite.algorithm(), key).ok()?));
        }
        Some((self.aead.as_ref()?, Nonce::assume_unique_for_key(nonce)))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
