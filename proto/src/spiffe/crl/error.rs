//! Why a revocation list is not used, by the rule that it breaks.

use super::super::der::DerError;
use super::{MAX_CRL_BYTES, MAX_CRL_ENTRIES};

/// Why bytes are no revocation list that can be used. None of it is worth a retry: its issuer has to make another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// Larger than [`MAX_CRL_BYTES`].
    #[error("the list has {length} bytes, expected at most {MAX_CRL_BYTES}")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// More than [`MAX_CRL_ENTRIES`].
    #[error("the list has more than {MAX_CRL_ENTRIES} entries")]
    TooManyEntries,
    /// Not DER, or not the fields of a list.
    #[error("it is no revocation list in DER: {0}")]
    Encoding(#[from] DerError),
    /// Something in it does not follow RFC 5280.
    #[error("the list does not follow RFC 5280: {0}")]
    Content(webpki::Error),
    /// Version 1, which has no extensions and so no number.
    #[error(
        "the list is of version 1, expected 2, which has a number (with openssl: `crl_extensions`, `crlnumber`)"
    )]
    Version,
    /// The algorithm inside the signed part differs from the one outside.
    #[error("the signature algorithm differs between the signed part and the outside (RFC 5280 s5.1.1.2)")]
    SignatureAlgorithm,
    /// An empty issuer name.
    #[error("the issuer name is empty (RFC 5280 s5.1.2.3)")]
    Issuer,
    /// A time in another form, or an end before the beginning.
    #[error("thisUpdate and nextUpdate are not two times in order, in the form of RFC 5280 s5.1.2.4")]
    Times,
    /// Nobody could tell when the list is out of date.
    #[error("the list has no nextUpdate (RFC 5280 s5.1.2.5)")]
    NoNextUpdate,
    /// Nobody could tell an old list from a new one.
    #[error("the list has no number (cRLNumber, RFC 5280 s5.2.3; with openssl: `crlnumber`)")]
    NoNumber,
    /// A number beyond the standard.
    #[error("the list's number has more than 20 bytes (RFC 5280 s5.2.3)")]
    LongNumber,
    /// Only what changed.
    #[error("it is a delta list (RFC 5280 s5.2.4), which says only what changed: give the complete list")]
    Delta,
    /// Only a part of what the issuer certified, or for other issuers as well.
    #[error(
        "the list has an issuing distribution point (RFC 5280 s5.2.5): it is for a part of the certificates, or for other issuers; give the complete list of the issuer itself"
    )]
    Partial,
    /// An entry of another issuer.
    #[error("an entry names another issuer (RFC 5280 s5.3.3): give each issuer's own list")]
    Indirect,
    /// A removal, which only deltas have.
    #[error("an entry says `removeFromCRL`, which only a delta list may (RFC 5280 s5.3.1)")]
    Removal,
    /// A critical extension of an entry that nobody here acts on.
    #[error("an entry has a critical extension that is not known here (RFC 5280 s5.3)")]
    UnknownEntryExtension,
    /// A critical extension that nobody here acts on.
    #[error("the list has the critical extension {oid}, which is not known here (RFC 5280 s5.2)")]
    UnknownCriticalExtension {
        /// Its object identifier, dotted.
        oid: String,
    },
    /// The same extension twice.
    #[error("extension {oid} is there twice")]
    DuplicateExtension {
        /// Its object identifier, dotted.
        oid: String,
    },
    /// Broken PEM.
    #[error("the PEM is broken: expected sections of `-----BEGIN X509 CRL-----`, base64 and an end line")]
    Pem,
    /// PEM of something else.
    #[error("the PEM holds something else, expected only sections `X509 CRL`")]
    PemSection,
    /// More lists in one file than are looked at.
    #[error("the file has more than {most} lists")]
    TooManyLists {
        /// How many are.
        most: usize,
    },
    /// No list at all.
    #[error("there is no list in it: expected PEM sections `X509 CRL`, or one list in DER")]
    Nothing,
}

impl CrlError {
    /// The stable name used in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::TooManyEntries | Self::TooManyLists { .. } => "too_large",
            Self::NoNumber | Self::LongNumber | Self::Version => "no_number",
            Self::NoNextUpdate => "no_next_update",
            Self::Delta | Self::Removal => "delta",
            Self::Partial | Self::Indirect => "partial",
            Self::UnknownEntryExtension | Self::UnknownCriticalExtension { .. } => "critical_extension",
            _ => "malformed",
        }
    }
}
