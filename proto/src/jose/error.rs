//! Why a token is not believed.

use super::{MAX_TOKEN_BYTES, UnknownAlgorithm};
use crate::json::JsonError;

/// Why a token is not believed. Texts hold nothing that the token says, beyond a name that is there twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Larger than is looked at.
    #[error("it has {length} bytes, expected at most {MAX_TOKEN_BYTES}")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// Not three parts of base64url with JSON objects in the first two.
    #[error("it is not a signed token in compact form: {0}")]
    Malformed(String),
    /// A name twice in one object of the header or of the claims.
    #[error("{0}")]
    Duplicate(String),
    /// A header that asks for what is not done here.
    #[error("header: {0}")]
    Header(&'static str),
    /// An algorithm that is unknown, not wanted, or not the key's.
    #[error("algorithm: {0}")]
    Algorithm(&'static str),
    /// The issuer has no such key.
    #[error("the issuer's key set has no key that it could be signed with")]
    KeyUnknown,
    /// No key is named and several fit.
    #[error("it names no key (`kid`), and several of the issuer's keys fit")]
    KeyNotNamed,
    /// The issuer has such a key, and it is not good for signatures.
    #[error("its key cannot be used: {0}")]
    KeyUnusable(&'static str),
    /// It was not signed with that key, or changed since.
    #[error("its signature is wrong")]
    Signature,
}

impl TokenError {
    /// A stable word for logs, metrics and the audit.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Duplicate(_) => "duplicate_claim",
            Self::Header(_) => "header",
            Self::Algorithm(_) => "algorithm",
            Self::KeyUnknown | Self::KeyNotNamed => "key_unknown",
            Self::KeyUnusable(_) => "key_unusable",
            Self::Signature => "signature",
        }
    }

    /// What is wrong with the JSON of a part.
    pub(super) fn json(part: &str, error: JsonError) -> Self {
        match error {
            JsonError::DuplicateName(error) => Self::Duplicate(format!("{part}: {error}")),
            JsonError::Syntax(error) => Self::Malformed(format!("{part}: {error}")),
        }
    }
}

impl From<UnknownAlgorithm> for TokenError {
    fn from(_: UnknownAlgorithm) -> Self {
        Self::Algorithm("none of the known signatures with a public key")
    }
}
