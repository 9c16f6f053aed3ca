//! Signing requests (PKCS#10, RFC 2986): proof that the caller has the key, and nothing else. The name in
//! the SVID comes from the registry, never from here.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm};
use signet_proto::spiffe::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, X509Version};

use crate::ca::PublicKey;

/// A request for one P-256 key is about 300 bytes; a P-384 one with a long name below 3 KiB.
const MAX_BYTES: usize = 4096;

/// Why a signing request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Larger than any that we need.
    #[error("signing request has {0} bytes, at most {MAX_BYTES} are accepted")]
    TooLarge(usize),
    /// Not PKCS#10, or something after it.
    #[error("signing request is not one PKCS#10 request in DER: {0}")]
    Malformed(&'static str),
    /// A key or signature of another kind.
    #[error(
        "key of the signing request: expected ECDSA P-256 with SHA-256, ECDSA P-384 with SHA-384 or Ed25519"
    )]
    Algorithm,
    /// The signature is not by the key.
    #[error("signing request is not signed by the key it asks a certificate for")]
    Signature,
    /// It asks for another identity's name.
    #[error("signing request asks for another name than `{0}`: leave names out, or ask for exactly that one")]
    ForeignName(SpiffeId),
}

/// Checks a request and takes its key.
///
/// # Errors
/// Why it is refused.
pub fn verify(der: &[u8], assigned: &SpiffeId) -> Result<PublicKey, CsrError> {
    if der.len() > MAX_BYTES {
        return Err(CsrError::TooLarge(der.len()));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed("it does not parse"))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("bytes follow it"));
    }
    let info = &request.certification_request_info;
    if info.version != X509Version::V1 {
        return Err(CsrError::Malformed("its version is not 1"));
    }
    let kind = Kind::of(&info.subject_pki.algorithm, &request.signature_algorithm)?;
    let key = info.subject_pki.subject_public_key.as_ref();
    let exact = |bits: &x509_parser::der_parser::asn1_rs::BitString<'_>| bits.unused_bits == 0;
    if !exact(&info.subject_pki.subject_public_key) || !exact(&request.signature_value) {
        return Err(CsrError::Malformed("a bit string is not whole bytes"));
    }
    if !kind.fits(key) {
        return Err(CsrError::Algorithm);
    }
    // One way to write a request: outside of what is signed nothing can be varied either.
    let signature = der_element(0x03, &[&[0], request.signature_value.as_ref()].concat());
    if der_element(0x30, &[info.raw, kind.signature_algorithm, &signature].concat()) != der {
        return Err(CsrError::Malformed("it is not in DER"));
    }
    // `raw` is the slice that `info` was parsed from: what is verified is what is read (invariant 12).
    UnparsedPublicKey::new(kind.verification, key)
        .verify(info.raw, request.signature_value.as_ref())
        .map_err(|_| CsrError::Signature)?;
    require_no_foreign_name(&request, assigned)?;
    Ok(PublicKey { bytes: key.to_vec(), algorithm: kind.certified })
}

/// ecdsa-with-SHA256, ecdsa-with-SHA384 (RFC 5758 3.2) and Ed25519 (RFC 8410 3): AlgorithmIdentifier in DER.
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ED25519_ID: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// Tag, shortest length, content. Content is bounded by the size of a request.
fn der_element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = length.iter().position(|byte| *byte != 0).unwrap_or(length.len());
    let digits = length.get(significant..).unwrap_or_default();
    let mut element = vec![tag];
    match digits {
        [] => element.push(0),
        [short] if *short < 0x80 => element.push(*short),
        long => {
            element.push(0x80 | u8::try_from(long.len()).unwrap_or(u8::MAX));
            element.extend_from_slice(long);
        }
    }
    element.extend_from_slice(content);
    element
}

struct Kind {
    signature_algorithm: &'static [u8],
    verification: &'static dyn VerificationAlgorithm,
    certified: &'static SignatureAlgorithm,
    key_length: usize,
    uncompressed_point: bool,
}

impl Kind {
    fn of(key: &AlgorithmIdentifier<'_>, signature: &AlgorithmIdentifier<'_>) -> Result<Self, CsrError> {
        if signature.parameters.is_some() {
            return Err(CsrError::Algorithm);
        }
        if key.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve: Oid<'_> = key
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
                .ok_or(CsrError::Algorithm)?;
            if curve == OID_EC_P256 && signature.algorithm == OID_SIG_ECDSA_WITH_SHA256 {
                return Ok(Self {
                    signature_algorithm: ECDSA_SHA256,
                    verification: &ECDSA_P256_SHA256_ASN1,
                    certified: &PKCS_ECDSA_P256_SHA256,
                    key_length: 65,
                    uncompressed_point: true,
                });
            }
            if curve == OID_NIST_EC_P384 && signature.algorithm == OID_SIG_ECDSA_WITH_SHA384 {
                return Ok(Self {
                    signature_algorithm: ECDSA_SHA384,
                    verification: &ECDSA_P384_SHA384_ASN1,
                    certified: &PKCS_ECDSA_P384_SHA384,
                    key_length: 97,
                    uncompressed_point: true,
                });
            }
        }
        if key.algorithm == OID_SIG_ED25519
            && key.parameters.is_none()
            && signature.algorithm == OID_SIG_ED25519
        {
            return Ok(Self {
                signature_algorithm: ED25519_ID,
                verification: &ED25519,
                certified: &PKCS_ED25519,
                key_length: 32,
                uncompressed_point: false,
            });
        }
        Err(CsrError::Algorithm)
    }

    /// One encoding per key, so that its hash is its name. That the point is on the curve is checked when
    /// the signature is verified.
    fn fits(&self, key: &[u8]) -> bool {
        key.len() == self.key_length && (!self.uncompressed_point || key.first() == Some(&4))
    }
}

/// Names are ignored, except that nobody may even ask for the identity of another: that is a mistake or an
/// attack, and is told apart from silence.
fn require_no_foreign_name(
    request: &X509CertificationRequest<'_>,
    assigned: &SpiffeId,
) -> Result<(), CsrError> {
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::URI(uri) if *uri == assigned.as_str() => {}
                            GeneralName::URI(_) => return Err(CsrError::ForeignName(assigned.clone())),
                            GeneralName::Invalid(..) => return Err(CsrError::Malformed("a name is invalid")),
                            _ => {}
                        }
                    }
                }
                ParsedExtension::ParseError { .. } => {
                    return Err(CsrError::Malformed("a requested extension does not parse"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};

    use super::*;

    fn id() -> SpiffeId {
        "spiffe://mesh.local/orders".parse().unwrap()
    }

    fn request(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_three_kinds_of_keys_are_taken() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = verify(&request(algorithm, &[]), &id()).unwrap();
            assert_eq!(key.algorithm(), algorithm);
        }
    }

    #[test]
    fn rsa_and_p521_keys_are_refused() {
        for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P521_SHA512] {
            assert_eq!(verify(&request(algorithm, &[]), &id()).unwrap_err(), CsrError::Algorithm);
        }
    }

    #[test]
    fn only_the_assigned_name_may_be_asked_for() {
        let algorithm = &PKCS_ECDSA_P256_SHA256;
        assert!(verify(&request(algorithm, &["spiffe://mesh.local/orders"]), &id()).is_ok());
        for foreign in [
            vec!["spiffe://mesh.local/payments"],
            vec!["spiffe://mesh.local/orders", "spiffe://mesh.local/payments"],
            vec!["spiffe://mesh.local/orders/"],
            vec!["SPIFFE://mesh.local/orders"],
            vec!["https://example.org"],
        ] {
            let refused = verify(&request(algorithm, &foreign), &id()).unwrap_err();
            assert_eq!(refused, CsrError::ForeignName(id()), "{foreign:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let request = request(&PKCS_ECDSA_P256_SHA256, &["spiffe://mesh.local/orders"]);
        for index in 0..request.len() {
            for bit in 0..8 {
                let mut changed = request.clone();
                changed[index] ^= 1 << bit;
                assert!(verify(&changed, &id()).is_err(), "byte {index} bit {bit}");
            }
        }
    }

    #[test]
    fn request_signed_by_another_key_is_refused() {
        let (one, other) = (request(&PKCS_ED25519, &[]), request(&PKCS_ED25519, &[]));
        // Ed25519 signatures are the last 64 bytes.
        let spliced = [&one[..one.len() - 64], &other[other.len() - 64..]].concat();
        assert_eq!(verify(&spliced, &id()).unwrap_err(), CsrError::Signature);
    }

    #[test]
    fn trailing_missing_and_surplus_bytes_are_refused() {
        let request = request(&PKCS_ECDSA_P256_SHA256, &[]);
        let trailing = [request.as_slice(), &[0]].concat();
        assert_eq!(verify(&trailing, &id()).unwrap_err(), CsrError::Malformed("bytes follow it"));
        for length in 0..request.len() {
            assert!(verify(&request[..length], &id()).is_err());
        }
        assert_eq!(verify(&[0x30; 5000], &id()).unwrap_err(), CsrError::TooLarge(5000));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = verify(&bytes, &id());
        }

        #[test]
        fn no_damaged_request_panics(at in 0usize..250, with in any::<[u8; 4]>()) {
            let mut request = request(&PKCS_ECDSA_P256_SHA256, &["spiffe://mesh.local/orders"]);
            let at = at.min(request.len() - 4);
            request[at..at + 4].copy_from_slice(&with);
            let _ = verify(&request, &id());
        }
    }
}
