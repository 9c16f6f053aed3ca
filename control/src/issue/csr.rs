//! Signing requests (PKCS#10, RFC 2986): proof that the caller has the key, and what it asks for. The name in the SVID
//! comes from the registry, never from here.

use std::collections::BTreeSet;

use aws_lc_rs::signature::UnparsedPublicKey;
use signet_proto::spiffe::{KeyKind, PublicKeyError, SpiffeId};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::keys::{KeyAlgorithms, Scheme};
use crate::ca::PublicKey;

/// A request for one P-256 key is about 300 bytes; one for RSA-4096 with a long name below 3 KiB.
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
    /// A key that nobody certifies.
    #[error("signing request has {found}: expected a key of {allowed}")]
    Key {
        /// What it is.
        found: PublicKeyError,
        /// What would do.
        allowed: KeyAlgorithms,
    },
    /// A key of a kind that is not certified here.
    #[error(
        "signing request has a key of {found}: expected one of {allowed}, as control's `key-algorithms` says"
    )]
    NotAllowed {
        /// What it is.
        found: KeyAlgorithms,
        /// What would do.
        allowed: KeyAlgorithms,
    },
    /// The signature is not by the key.
    #[error("signing request is not signed by the key it asks a certificate for")]
    Signature,
    /// It asks for another identity's name.
    #[error("signing request asks for another name than `{0}`: leave names out, or ask for exactly that one")]
    ForeignName(SpiffeId),
    /// It asks for a name of a kind that no SVID has.
    #[error(
        "signing request asks for an address, e-mail or other name: an SVID has its SPIFFE ID and DNS names only"
    )]
    OtherName,
}

/// A request that holds.
#[derive(Debug)]
pub struct SigningRequest {
    /// The key to be certified.
    pub key: PublicKey,
    /// DNS names that it asks for: whether it gets them is not decided here.
    pub dns: BTreeSet<String>,
}

/// Checks a request. What it costs is bounded by `allowed` before anything is verified.
///
/// # Errors
/// Why it is refused.
pub fn verify(der: &[u8], assigned: &SpiffeId, allowed: &KeyAlgorithms) -> Result<SigningRequest, CsrError> {
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
    // One encoding per key, so that its hash is its name; an RSA key of a size that is cheap to verify.
    let kind = KeyKind::of_spki(info.subject_pki.raw)
        .map_err(|found| CsrError::Key { found, allowed: allowed.clone() })?;
    if !allowed.allow(kind) {
        return Err(CsrError::NotAllowed { found: KeyAlgorithms::of(kind), allowed: allowed.clone() });
    }
    if request.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed("a bit string is not whole bytes"));
    }
    let scheme = Scheme::of(kind);
    // One way to write a request, and to sign it: outside of what is signed nothing can be varied either.
    let signature = der_element(0x03, &[&[0], request.signature_value.as_ref()].concat());
    if der_element(0x30, &[info.raw, scheme.signature, &signature].concat()) != der {
        return Err(CsrError::Malformed("it is not in DER, or not signed as goes with its key"));
    }
    let key = info.subject_pki.subject_public_key.as_ref();
    // `raw` is the slice that `info` was parsed from: what is verified is what is read (invariant 12).
    UnparsedPublicKey::new(scheme.verification, key)
        .verify(info.raw, request.signature_value.as_ref())
        .map_err(|_| CsrError::Signature)?;
    let dns = names(&request, assigned)?;
    Ok(SigningRequest { key: PublicKey { bytes: key.to_vec(), algorithm: scheme.certified }, dns })
}

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

/// The DNS names asked for. Nobody may even ask for the identity of another: that is a mistake or an attack, and is told
/// apart from silence. The subject is ignored.
fn names(request: &X509CertificationRequest<'_>, assigned: &SpiffeId) -> Result<BTreeSet<String>, CsrError> {
    let mut dns = BTreeSet::new();
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
                            GeneralName::DNSName(name) => {
                                dns.insert((*name).to_owned());
                            }
                            GeneralName::Invalid(..) => return Err(CsrError::Malformed("a name is invalid")),
                            _ => return Err(CsrError::OtherName),
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
    Ok(dns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SanType, SignatureAlgorithm,
    };

    use super::*;

    fn id() -> SpiffeId {
        "spiffe://mesh.local/orders".parse().unwrap()
    }

    fn verify(der: &[u8], assigned: &SpiffeId) -> Result<SigningRequest, CsrError> {
        super::verify(der, assigned, &KeyAlgorithms::default())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    fn signed_by(key: &KeyPair, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn request(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        signed_by(&key, names.iter().map(|name| uri(name)).collect())
    }

    #[test]
    fn the_three_kinds_of_keys_are_taken() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let request = verify(&request(algorithm, &[]), &id()).unwrap();
            assert_eq!(request.key.algorithm(), algorithm);
        }
    }

    #[test]
    fn kinds_that_are_not_allowed_are_refused_with_those_that_are() {
        let p521 = verify(&request(&rcgen::PKCS_ECDSA_P521_SHA512, &[]), &id()).unwrap_err();
        assert!(p521.to_string().ends_with("expected a key of p256, p384, ed25519"), "{p521}");
        let rsa = verify(&request(&PKCS_RSA_SHA256, &[]), &id()).unwrap_err();
        assert!(rsa.to_string().contains("a key of rsa: expected one of p256, p384, ed25519,"), "{rsa}");
        let only = KeyAlgorithms::of(KeyKind::P384);
        assert!(super::verify(&request(&PKCS_ECDSA_P256_SHA256, &[]), &id(), &only).is_err());
        assert!(super::verify(&request(&PKCS_ECDSA_P384_SHA384, &[]), &id(), &only).is_ok());
    }

    #[test]
    fn rsa_is_taken_where_it_is_allowed_of_a_size_that_is_cheap_to_verify() {
        let rsa = KeyAlgorithms::of(KeyKind::Rsa);
        for (size, algorithm, taken) in [
            (RsaKeySize::_2048, &PKCS_RSA_SHA256, true),
            (RsaKeySize::_4096, &PKCS_RSA_SHA256, true),
            (RsaKeySize::_2048, &rcgen::PKCS_RSA_SHA512, false),
        ] {
            let key = KeyPair::generate_rsa_for(algorithm, size).unwrap();
            let verified = super::verify(&signed_by(&key, Vec::new()), &id(), &rsa);
            assert_eq!(verified.is_ok(), taken, "{verified:?}");
        }
    }

    #[test]
    fn dns_names_are_read_and_names_of_other_kinds_refused() {
        let key = KeyPair::generate().unwrap();
        let name = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let asked = signed_by(&key, vec![name("b.example"), uri(id().as_str()), name("a.example")]);
        let dns = verify(&asked, &id()).unwrap().dns;
        assert_eq!(dns.into_iter().collect::<Vec<_>>(), ["a.example", "b.example"]);
        for other in [
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::Rfc822Name("a@example.org".try_into().unwrap()),
        ] {
            assert_eq!(verify(&signed_by(&key, vec![other]), &id()).unwrap_err(), CsrError::OtherName);
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
