//! The X.509-SVID profile (X509-SVID standard; RFC 5280 for what it builds on).
//!
//! Three roles: a leaf names one workload, an intermediate signs for one trust domain, an authority is
//! an intermediate that a bundle trusts. What is checked needs nothing but the certificate itself;
//! signature, expiry, revocation and chain are for the verifier.

use std::str;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};

use super::certificate::Certificate;
use super::extension::SubjectAltName;
use super::id::{SpiffeId, TrustDomain};
use super::instance::InstanceId;

mod error;
#[cfg(test)]
mod tests;

pub use error::SvidError;

/// What a well-formed leaf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidProfile {
    /// The workload it names.
    pub id: SpiffeId,
    /// Serial number, big-endian, without leading zero.
    pub serial: Vec<u8>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// The instance it was issued to; none when another issuer than Signet made it.
    pub instance: Option<InstanceId>,
    /// SHA-256 of the issuer's distinguished name, DER.
    pub issuer_sha256: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo, DER.
    pub spki_sha256: [u8; 32],
}

/// Checks that `der` is one X.509-SVID leaf and nothing more.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_leaf(der: &[u8]) -> Result<SvidProfile, SvidError> {
    let certificate = Certificate::read(der)?;
    let extensions = &certificate.extensions;
    if extensions.basic_constraints.as_ref().is_some_and(|constraints| constraints.authority) {
        return Err(SvidError::LeafIsAuthority);
    }
    if extensions.has_name_constraints {
        return Err(SvidError::LeafNameConstraints);
    }
    // X509-SVID section 4.3.
    match &extensions.key_usage {
        None => return Err(SvidError::NoKeyUsage),
        Some(usage) if !usage.critical => return Err(SvidError::KeyUsageNotCritical),
        Some(usage) if usage.key_cert_sign || usage.crl_sign => return Err(SvidError::LeafMaySign),
        Some(usage) if !usage.digital_signature => return Err(SvidError::NoDigitalSignature),
        Some(_) => {}
    }
    // X509-SVID section 4.4.
    if extensions.extended_key_usage.as_ref().is_some_and(|usage| !usage.server_auth || !usage.client_auth) {
        return Err(SvidError::ExtendedKeyUsage);
    }
    // X509-SVID section 2; RFC 5280 section 4.2.1.6 for the criticality.
    let names = extensions.subject_alt_name.as_ref().ok_or(SvidError::NoUriName)?;
    let id = uri_name(names)?.ok_or(SvidError::NoUriName)?;
    if !id.is_workload() {
        return Err(SvidError::NotAWorkload { id });
    }
    if !certificate.has_subject() && !names.critical {
        return Err(SvidError::NamesNotCritical);
    }
    Ok(SvidProfile {
        id,
        serial: certificate.serial.to_vec(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        instance: certificate.instance,
        issuer_sha256: sha256(certificate.issuer),
        spki_sha256: sha256(certificate.spki),
    })
}

/// Checks that `der` is a certificate that may sign SVIDs of `trust_domain`, and returns its handle.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_intermediate(der: &[u8], trust_domain: &TrustDomain) -> Result<CertificateHandle, SvidError> {
    check_signer(der, trust_domain).map(|certificate| CertificateHandle::of(&certificate))
}

/// What both intermediates and the authorities of a bundle must be.
pub(super) fn check_signer<'a>(
    der: &'a [u8],
    trust_domain: &TrustDomain,
) -> Result<Certificate<'a>, SvidError> {
    let certificate = Certificate::read(der)?;
    let extensions = &certificate.extensions;
    // RFC 5280 section 4.2.1.9; X509-SVID section 4.1.
    match &extensions.basic_constraints {
        Some(constraints) if !constraints.authority => return Err(SvidError::NotAnAuthority),
        Some(constraints) if !constraints.critical => return Err(SvidError::BasicConstraintsNotCritical),
        Some(constraints) if constraints.path_length.is_some_and(|length| length > MAX_PATH_LENGTH) => {
            return Err(SvidError::PathLength);
        }
        Some(_) => {}
        None => return Err(SvidError::NotAnAuthority),
    }
    match &extensions.key_usage {
        None => return Err(SvidError::NoKeyUsage),
        Some(usage) if !usage.critical => return Err(SvidError::KeyUsageNotCritical),
        Some(usage) if !usage.key_cert_sign => return Err(SvidError::NoKeyCertSign),
        Some(_) => {}
    }
    // Without a subject, nothing it signs can name its issuer (RFC 5280 section 4.1.2.6).
    if !certificate.has_subject() {
        return Err(SvidError::AuthorityWithoutSubject);
    }
    // X509-SVID section 3.2.
    if let Some(id) = extensions.subject_alt_name.as_ref().map(uri_name).transpose()?.flatten() {
        if id.trust_domain() != trust_domain {
            let expected = trust_domain.clone();
            return Err(SvidError::OtherTrustDomain { expected, found: id.trust_domain().clone() });
        }
        if id.is_workload() {
            return Err(SvidError::AuthorityWithPath { id });
        }
    }
    Ok(certificate)
}

/// What a revocation can match in any certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateHandle {
    /// SHA-256 of the issuer's distinguished name, DER.
    pub issuer_sha256: [u8; 32],
    /// Serial number, big-endian, without leading zero.
    pub serial: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo, DER.
    pub spki_sha256: [u8; 32],
}

/// Reads the handle of any certificate, leaf or not.
///
/// # Errors
/// When `der` is not one well-formed certificate with an acceptable key.
pub fn certificate_handle(der: &[u8]) -> Result<CertificateHandle, SvidError> {
    Certificate::read(der).map(|certificate| CertificateHandle::of(&certificate))
}

impl CertificateHandle {
    fn of(certificate: &Certificate<'_>) -> Self {
        Self {
            issuer_sha256: sha256(certificate.issuer),
            serial: certificate.serial.to_vec(),
            spki_sha256: sha256(certificate.spki),
        }
    }
}

impl From<&SvidProfile> for CertificateHandle {
    fn from(leaf: &SvidProfile) -> Self {
        let serial = leaf.serial.clone();
        Self { issuer_sha256: leaf.issuer_sha256, serial, spki_sha256: leaf.spki_sha256 }
    }
}

/// A chain of the mesh has one intermediate; a bound far above says that a larger number is a mistake.
const MAX_PATH_LENGTH: u8 = 16;

/// The SPIFFE ID of the only URI name. A malformed URI counts as one: it may hide the right one.
fn uri_name(names: &SubjectAltName<'_>) -> Result<Option<SpiffeId>, SvidError> {
    match names.uris.as_slice() {
        [] => Ok(None),
        [uri] => {
            let text = str::from_utf8(uri).map_err(|_| SvidError::UriNotText)?;
            text.parse().map(Some).map_err(SvidError::SpiffeId)
        }
        several => Err(SvidError::SeveralUriNames { count: several.len() }),
    }
}

/// The SHA-256 of some DER: what fingerprints, pins and revocations compare.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}
