//! The rules of the profile, by what breaks them.

use super::MAX_PATH_LENGTH;
use crate::spiffe::certificate::MAX_CERTIFICATE_BYTES;
use crate::spiffe::id::{SpiffeId, SpiffeIdError, TrustDomain};

/// Why a certificate is not an X.509-SVID, or may not sign them: one variant for each broken rule.
///
/// None of them is worth a retry; the issuer has to make another certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// Larger than [`MAX_CERTIFICATE_BYTES`].
    #[error("the certificate has {length} bytes, expected at most {MAX_CERTIFICATE_BYTES}")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// Not DER, or not the fields of a certificate.
    #[error("the certificate is not well-formed DER: {problem}")]
    Encoding {
        /// What was found.
        problem: &'static str,
    },
    /// More bytes than the certificate.
    #[error("bytes follow the certificate: expected exactly one in DER")]
    TrailingBytes,
    /// Version 1 or 2.
    #[error("expected an X.509 certificate of version 3")]
    Version,
    /// The algorithm inside the signed part differs from the one outside.
    #[error("the signature algorithm differs between the signed part and the outside (RFC 5280 s4.1.1.2)")]
    SignatureAlgorithm,
    /// Zero, negative or too long.
    #[error("the serial number is {found}, expected a positive one of at most 20 bytes")]
    Serial {
        /// What was found.
        found: &'static str,
    },
    /// An empty issuer name.
    #[error("the issuer name is empty (RFC 5280 s4.1.2.4)")]
    Issuer,
    /// The unique identifiers of X.509 version 2.
    #[error("the certificate has a unique identifier of issuer or subject (RFC 5280 s4.1.2.8)")]
    UniqueIdentifier,
    /// A time that is not in the one form that RFC 5280 has for its year.
    #[error("a validity time is not in the form of RFC 5280 s4.1.2.5")]
    TimeFormat,
    /// Ends before it begins.
    #[error("the certificate ends before it begins")]
    Validity,
    /// A public key of another kind or size.
    #[error("found {found}, expected a P-256, P-384, Ed25519 or 2048 to 4096 bit RSA key")]
    Key {
        /// What was found.
        found: &'static str,
    },
    /// More extensions than any honest certificate.
    #[error("the certificate has {count} extensions, expected at most 32")]
    TooManyExtensions {
        /// Extensions found.
        count: usize,
    },
    /// The same extension twice.
    #[error("extension {oid} is there twice (RFC 5280 s4.2)")]
    DuplicateExtension {
        /// Its object identifier, dotted.
        oid: String,
    },
    /// A critical extension that is not acted on.
    #[error("extension {oid} is critical and not known here (RFC 5280 s4.2)")]
    UnknownCriticalExtension {
        /// Its object identifier, dotted.
        oid: String,
    },
    /// An extension whose content is wrong.
    #[error("extension {name} is malformed: {problem}")]
    Extension {
        /// Its name in RFC 5280.
        name: &'static str,
        /// What was found.
        problem: &'static str,
    },
    /// A leaf with cA.
    #[error("the leaf is a certificate authority (basicConstraints cA), expected a workload's certificate")]
    LeafIsAuthority,
    /// A leaf with name constraints.
    #[error("the leaf has nameConstraints, which only signing certificates may have")]
    LeafNameConstraints,
    /// No keyUsage.
    #[error("keyUsage is missing (X509-SVID s4.3)")]
    NoKeyUsage,
    /// keyUsage is there, but not critical.
    #[error("keyUsage is not critical (X509-SVID s4.3)")]
    KeyUsageNotCritical,
    /// A leaf with keyCertSign or cRLSign.
    #[error("the leaf's keyUsage has keyCertSign or cRLSign (X509-SVID s4.3)")]
    LeafMaySign,
    /// A leaf without digitalSignature.
    #[error("the leaf's keyUsage lacks digitalSignature (X509-SVID s4.3)")]
    NoDigitalSignature,
    /// extKeyUsage is there without both purposes.
    #[error("the leaf's extKeyUsage lacks serverAuth or clientAuth (X509-SVID s4.4)")]
    ExtendedKeyUsage,
    /// No URI name.
    #[error("no URI name: expected exactly one, the SPIFFE ID (X509-SVID s2)")]
    NoUriName,
    /// More than one URI name.
    #[error("{count} URI names: expected exactly one, the SPIFFE ID (X509-SVID s2)")]
    SeveralUriNames {
        /// Names found, malformed ones too.
        count: usize,
    },
    /// The URI name is not UTF-8.
    #[error("the URI name is not text")]
    UriNotText,
    /// The URI name is not a SPIFFE ID.
    #[error("the URI name is not a SPIFFE ID: {0}")]
    SpiffeId(#[source] SpiffeIdError),
    /// The SPIFFE ID of a leaf has no path.
    #[error(
        "the leaf names the trust domain `{id}` itself, expected a workload with a path (X509-SVID s3.1)"
    )]
    NotAWorkload {
        /// The identity found.
        id: SpiffeId,
    },
    /// The names of a leaf without subject are not critical.
    #[error("the subject is empty and subjectAltName is not critical (RFC 5280 s4.2.1.6)")]
    NamesNotCritical,
    /// Two instance ids in one subject.
    #[error("the subject has several serialNumber attributes, expected at most one: the instance id")]
    SeveralInstances,
    /// A signing certificate without cA.
    #[error("the signing certificate lacks basicConstraints cA (X509-SVID s4.1)")]
    NotAnAuthority,
    /// A signing certificate whose basicConstraints are not critical.
    #[error("the signing certificate's basicConstraints are not critical (RFC 5280 s4.2.1.9)")]
    BasicConstraintsNotCritical,
    /// A path length above any chain that exists.
    #[error("the signing certificate allows a path of more than {MAX_PATH_LENGTH} certificates")]
    PathLength,
    /// A signing certificate without keyCertSign.
    #[error("the signing certificate's keyUsage lacks keyCertSign (X509-SVID s4.3)")]
    NoKeyCertSign,
    /// A signing certificate without subject name.
    #[error("the signing certificate has no subject name (RFC 5280 s4.1.2.6)")]
    AuthorityWithoutSubject,
    /// A signing certificate of another trust domain.
    #[error("the signing certificate is of trust domain `{found}`, expected `{expected}` (X509-SVID s3.2)")]
    OtherTrustDomain {
        /// The trust domain that it should sign for.
        expected: TrustDomain,
        /// The one it names.
        found: TrustDomain,
    },
    /// A signing certificate that names a workload.
    #[error("the signing certificate names the workload `{id}`, expected no path (X509-SVID s3.2)")]
    AuthorityWithPath {
        /// The identity found.
        id: SpiffeId,
    },
}
