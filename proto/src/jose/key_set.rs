//! The keys that an issuer publishes (RFC 7517 section 5).
//!
//! The whole set is refused when it is not clear what it says: a name or a `kid` that is there twice. A key
//! that cannot be used here is kept as such, with the reason, so that whoever names it is told why; RFC 7517
//! wants the rest of the set to stay usable. Keys for encryption are not looked at.

use serde_json::{Map, Value};

use super::key::PublicKey;
use super::{Algorithm, MAX_KEY_ID_BYTES, TokenError};
use crate::json::{self, JsonError};

/// Largest key set that is looked at, in bytes.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;
/// Most keys of a set.
pub const MAX_KEYS: usize = 64;

/// The keys of one issuer.
#[derive(Debug, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The one algorithm it is for, if the set says so.
    only: Option<Algorithm>,
    key: Result<PublicKey, &'static str>,
}

/// Why a text is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// Larger than is looked at.
    #[error("the key set has {length} bytes, expected at most {MAX_KEY_SET_BYTES}")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// Not JSON, or a name twice in one object.
    #[error("the key set is not JSON: {0}")]
    Json(#[from] JsonError),
    /// No `keys`.
    #[error("the key set is not an object with `keys`, a list of at most {MAX_KEYS} objects")]
    NoKeys,
    /// A key whose name is none.
    #[error("keys[{position}]: expected `kid` to be a string of 1 to {MAX_KEY_ID_BYTES} bytes")]
    KeyId {
        /// Counted from 0.
        position: usize,
    },
    /// Two keys of one name.
    #[error("keys[{position}]: a key before it has the same `kid`")]
    DuplicateKeyId {
        /// Counted from 0.
        position: usize,
    },
}

impl KeySet {
    /// Reads a JWK set. One without keys is a key set: its issuer believes nobody.
    ///
    /// # Errors
    /// When it is none, or it is not clear what it says.
    pub fn read(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge { length: text.len() });
        }
        let set = json::parse(text)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        Self::of(listed, "sig")
    }

    /// Of these keys those of this use, and those that say none.
    ///
    /// # Errors
    /// As for [`KeySet::read`].
    pub(crate) fn of(listed: &[Value], purpose: &str) -> Result<Self, KeySetError> {
        if listed.len() > MAX_KEYS {
            return Err(KeySetError::NoKeys);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(listed.len());
        for (position, members) in listed.iter().enumerate() {
            let members = members.as_object().ok_or(KeySetError::NoKeys)?;
            if members.get("use").is_some_and(|used| used != purpose) {
                continue;
            }
            let id = id(members).map_err(|()| KeySetError::KeyId { position })?;
            if id.is_some() && keys.iter().any(|key| key.id == id) {
                return Err(KeySetError::DuplicateKeyId { position });
            }
            keys.push(Key::read(id, members));
        }
        Ok(Self(keys))
    }

    /// How many keys can be used.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.0.iter().filter(|key| key.key.is_ok()).count()
    }

    /// The one key that a token names, or, if it names none, the only one that fits.
    pub(super) fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&PublicKey, TokenError> {
        let Some(id) = id else {
            let mut fitting = self.0.iter().filter_map(|key| key.for_algorithm(algorithm).ok());
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                (Some(_), Some(_)) => Err(TokenError::KeyNotNamed),
                (None, _) => Err(TokenError::KeyUnknown),
            };
        };
        let key = self.0.iter().find(|key| key.id.as_deref() == Some(id)).ok_or(TokenError::KeyUnknown)?;
        key.for_algorithm(algorithm)
    }
}

impl Key {
    fn read(id: Option<String>, members: &Map<String, Value>) -> Self {
        let unusable = |why| Self { id: id.clone(), only: None, key: Err(why) };
        let only = match members.get("alg").map(|name| name.as_str().map(str::parse)) {
            None => None,
            Some(Some(Ok(algorithm))) => Some(algorithm),
            Some(_) => return unusable("it is for an algorithm that is not known here"),
        };
        let verifies = |operations: &Value| {
            operations.as_array().is_some_and(|operations| operations.iter().any(|name| name == "verify"))
        };
        if members.get("key_ops").is_some_and(|operations| !verifies(operations)) {
            return unusable("it is not for signatures (`key_ops`)");
        }
        match PublicKey::read(members) {
            Ok(key) if only.is_some_and(|only| !key.fits(only)) => {
                unusable("it is for an algorithm that its kind does not fit")
            }
            key => Self { id, only, key },
        }
    }

    fn for_algorithm(&self, algorithm: Algorithm) -> Result<&PublicKey, TokenError> {
        match &self.key {
            Ok(key) if key.fits(algorithm) && self.only.is_none_or(|only| only == algorithm) => Ok(key),
            Ok(_) => Err(TokenError::Algorithm("not one that the issuer's key is for")),
            Err(why) => Err(TokenError::KeyUnusable(why)),
        }
    }
}

fn id(members: &Map<String, Value>) -> Result<Option<String>, ()> {
    match members.get("kid") {
        None => Ok(None),
        Some(Value::String(id)) if (1..=MAX_KEY_ID_BYTES).contains(&id.len()) => Ok(Some(id.clone())),
        Some(_) => Err(()),
    }
}

#[cfg(test)]
mod tests;
