//! Who may sign lists, as far as a certificate says it.

use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::super::certificate::{Certificate, not_der};
use super::super::der::{DerError, Reader, bits, tag};
use super::super::svid::{SvidError, sha256};

/// What was signed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureParts {
    /// The bytes that were signed.
    pub message: Vec<u8>,
    /// The content of the AlgorithmIdentifier, DER.
    pub algorithm: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// An authority that may have signed lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSigner {
    /// SHA-256 of its name, DER.
    pub subject_sha256: [u8; 32],
    /// SHA-256 of its SubjectPublicKeyInfo, DER.
    pub spki_sha256: [u8; 32],
    /// How its key is called, if it says so.
    pub key_identifier: Option<Vec<u8>>,
    /// Whether its key usage has cRLSign (RFC 5280 section 6.3.3 (f)).
    pub may_sign_lists: bool,
    /// The content of its key's AlgorithmIdentifier, DER.
    pub key_algorithm: Vec<u8>,
    /// The key's bits.
    pub key: Vec<u8>,
}

impl ListSigner {
    /// What the certificate of an authority says. That it is one, and believed, is the caller's to know.
    ///
    /// # Errors
    /// When `der` is not one well-formed certificate with an acceptable key.
    pub fn of(der: &[u8]) -> Result<Self, SvidError> {
        let certificate = Certificate::read(der)?;
        let (key_algorithm, key) = parts(certificate.spki).map_err(not_der)?;
        Ok(Self {
            subject_sha256: sha256(certificate.subject),
            spki_sha256: sha256(certificate.spki),
            key_identifier: certificate.extensions.subject_key_identifier.map(<[u8]>::to_vec),
            may_sign_lists: certificate.extensions.key_usage.as_ref().is_some_and(|usage| usage.crl_sign),
            key_algorithm: key_algorithm.to_vec(),
            key: key.to_vec(),
        })
    }
}

/// The key that a certificate says it is signed with, if it does (RFC 5280 section 4.2.1.1).
#[must_use]
pub fn authority_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(named) => Some(named.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    })
}

fn parts(spki: &[u8]) -> Result<(&[u8], &[u8]), DerError> {
    let mut fields = Reader::new(Reader::sole(spki, tag::SEQUENCE)?);
    let algorithm = fields.expect(tag::SEQUENCE)?.value;
    let (_, key) = bits(fields.expect(tag::BIT_STRING)?.value)?;
    Ok((algorithm, key))
}
