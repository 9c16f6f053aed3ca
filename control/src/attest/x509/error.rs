//! Why a proof is not believed, and why an attestor cannot be set up.

use std::io;
use std::path::PathBuf;

use signet_proto::spiffe::PublicKeyError;

use super::settings::Fact;

/// Why a proof is not believed. For the log and the audit: the caller only hears that it is not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum X509Error {
    /// What a challenge was asked for.
    #[error("csr_sha256: expected the 32 bytes of a SHA-256, found {length}")]
    CsrHash {
        /// What came.
        length: usize,
    },
    /// No challenge could be made.
    #[error("the system has no randomness to give")]
    NoRandomness,
    /// The proof names another attestor than the one that was asked.
    #[error("the proof is for another attestor")]
    OtherAttestor,
    /// More, or less, than is looked at.
    #[error("proof out of bounds: {0}")]
    Size(&'static str),
    /// Not made by us, for another attestor, or for another signing request.
    #[error("the challenge is not one of ours for this attestor and signing request")]
    Challenge,
    /// Its time is over.
    #[error("the challenge has expired")]
    ChallengeExpired,
    /// A certificate that cannot be read.
    #[error("certificate {position} (the leaf is 0) cannot be read: {problem}")]
    Certificate {
        /// From 0, the leaf.
        position: usize,
        /// What is wrong.
        problem: String,
    },
    /// A key that is too weak, too costly, or of another kind.
    #[error("certificate {position} (the leaf is 0) has {error}")]
    Key {
        /// From 0, the leaf.
        position: usize,
        /// What is wrong.
        error: PublicKeyError,
    },
    /// A certificate is not followed by its issuer.
    #[error("certificate {position} (the leaf is 0) is not the issuer of the one before it")]
    Order {
        /// From 1.
        position: usize,
    },
    /// A certificate was sent that is not on the path.
    #[error("certificate {position} is not on the path to the root")]
    Unused {
        /// From 1, the leaf.
        position: usize,
    },
    /// The first certificate is an authority.
    #[error("the first certificate is that of an authority")]
    LeafIsAuthority,
    /// The leaf's usages, or those of an issuer.
    #[error("a certificate may not be used for this: {0}")]
    Usage(&'static str),
    /// The leaf, or what is above it.
    #[error("a certificate has expired")]
    Expired,
    /// The leaf, or what is above it.
    #[error("a certificate is not valid yet")]
    NotYetValid,
    /// More certificates below the root than allowed, by us or by one of them.
    #[error("the path is deeper than allowed (max-depth = {allowed}, or a path length in a certificate)")]
    TooDeep {
        /// By the settings.
        allowed: usize,
    },
    /// No path to one of our roots.
    #[error("no path to a root of this attestor: {0}")]
    Untrusted(webpki::Error),
    /// Not by the leaf's key over what it should be.
    #[error(
        "the signature is not by the key of the first certificate over this challenge and signing request"
    )]
    Signature,
    /// A name that is no selector.
    #[error("the first certificate has a {fact} that cannot be a selector: {problem}")]
    Name {
        /// Which.
        fact: Fact,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl X509Error {
    /// The stable name used in metrics, logs and the audit.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CsrHash { .. } => "bad_csr_hash",
            Self::NoRandomness => "no_randomness",
            Self::OtherAttestor => "other_attestor",
            Self::Size(_) => "proof_size",
            Self::Challenge => "bad_challenge",
            Self::ChallengeExpired => "challenge_expired",
            Self::Certificate { .. } => "bad_certificate",
            Self::Key { .. } => "bad_key",
            Self::Order { .. } => "unordered_chain",
            Self::Unused { .. } => "unused_certificate",
            Self::LeafIsAuthority => "leaf_is_authority",
            Self::Usage(_) => "wrong_usage",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::TooDeep { .. } => "too_deep",
            Self::Untrusted(_) => "untrusted",
            Self::Signature => "bad_signature",
            Self::Name { .. } => "bad_name",
        }
    }
}

/// Why an attestor cannot be set up. Each names the key and what would do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum X509ConfigError {
    /// A file.
    #[error("`{key}`: cannot read {path}: {error}")]
    Read {
        /// The key that names it.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No certificates, or too many.
    #[error("`{key}`: expected 1 to {most} certificates in PEM, found {found}")]
    Count {
        /// The key that names the file.
        key: &'static str,
        /// How many are accepted.
        most: usize,
        /// How many are there.
        found: usize,
    },
    /// One of them is damaged, or no authority.
    #[error("`{key}`: certificate {position}: {problem}")]
    Authority {
        /// The key that names the file.
        key: &'static str,
        /// From 1.
        position: usize,
        /// What is wrong.
        problem: String,
    },
    /// A value out of bounds.
    #[error("`{key}`: expected {expected}")]
    Value {
        /// Which.
        key: &'static str,
        /// What would do.
        expected: &'static str,
    },
}
