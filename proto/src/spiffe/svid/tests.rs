//! Accept and reject vectors: each certificate breaks one rule alone.

use super::super::der::tag;
use super::super::testing::{
    ANY_PURPOSE, BASIC_CONSTRAINTS, CLIENT_AUTH, CODE_SIGNING, COMMON_NAME, DIGITAL_SIGNATURE,
    EXTENDED_KEY_USAGE, KEY_CERT_SIGN, KEY_USAGE, NAME_CONSTRAINTS, Parts, SERIAL_NUMBER, SERVER_AUTH,
    SUBJECT_ALT_NAME, dns, integer, name, names, p256_key, purposes, sequence, tlv, uri, validity,
};
use super::*;
use crate::spiffe::{MAX_CERTIFICATE_BYTES, SpiffeIdError};
use proptest::prelude::*;
use std::time::Duration;

const WORKLOAD: &str = "spiffe://prod.example/payments";
const INSTANCE: &str = "00ff0123456789abcdef0123456789ab";

fn leaf() -> Parts {
    Parts::leaf(WORKLOAD)
}

fn leaf_with_names(listed: &[Vec<u8>]) -> Parts {
    leaf().with(SUBJECT_ALT_NAME, false, names(listed))
}

fn leaf_with_key_usage(bits: &[u8]) -> Parts {
    leaf().with(KEY_USAGE, true, bits.to_vec())
}

#[track_caller]
fn refused(parts: &Parts, error: &SvidError) {
    assert_eq!(check_leaf(&parts.der()).unwrap_err(), *error);
}

fn domain() -> TrustDomain {
    "prod.example".parse().unwrap()
}

fn signer() -> Parts {
    Parts::authority("spiffe://prod.example")
}

#[track_caller]
fn signer_refused(parts: &Parts, error: &SvidError) {
    assert_eq!(check_intermediate(&parts.der(), &domain()).unwrap_err(), *error);
}

#[test]
fn a_leaf_says_who_it_is_and_until_when() {
    let mut parts = leaf();
    parts.subject = name(&[(COMMON_NAME, "payments"), (SERIAL_NUMBER, INSTANCE)]);
    let profile = check_leaf(&parts.der()).unwrap();
    assert_eq!(profile.id.as_str(), WORKLOAD);
    assert_eq!(profile.serial, [0x12, 0x34]);
    assert_eq!(profile.instance.unwrap().to_string(), INSTANCE);
    let new_year_2026 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    assert_eq!(profile.not_before, new_year_2026);
    assert_eq!(profile.not_after, new_year_2026 + Duration::from_secs(365 * 86_400));
    assert_eq!(profile.issuer_sha256, sha256(&parts.issuer));
    assert_eq!(profile.spki_sha256, sha256(&parts.spki));
    let handle = certificate_handle(&parts.der()).unwrap();
    assert_eq!(
        (handle.issuer_sha256, handle.serial, handle.spki_sha256),
        (profile.issuer_sha256, profile.serial, profile.spki_sha256)
    );
}

#[test]
fn what_the_standard_leaves_open_is_accepted() {
    for parts in [
        leaf().without(BASIC_CONSTRAINTS),
        leaf().without(EXTENDED_KEY_USAGE),
        leaf().with(EXTENDED_KEY_USAGE, true, purposes(&[CLIENT_AUTH, SERVER_AUTH, CODE_SIGNING])),
        // keyEncipherment and keyAgreement besides digitalSignature.
        leaf_with_key_usage(&[0x03, 0x02, 0x03, 0xa8]),
        leaf_with_names(&[dns("payments.prod.example"), uri(WORKLOAD), tlv(0x87, &[127, 0, 0, 1])]),
        leaf().with(SUBJECT_ALT_NAME, true, names(&[uri(WORKLOAD)])),
        // An unknown extension that is not critical, with any content.
        leaf().with(&[0x2a, 0x03, 0x04], false, b"anything".to_vec()),
    ] {
        assert_eq!(check_leaf(&parts.der()).unwrap().id.as_str(), WORKLOAD);
    }
}

#[test]
fn exactly_one_uri_name_counts_malformed_ones_too() {
    refused(&leaf().without(SUBJECT_ALT_NAME), &SvidError::NoUriName);
    refused(&leaf_with_names(&[dns("payments")]), &SvidError::NoUriName);
    let two = SvidError::SeveralUriNames { count: 2 };
    for other in
        [uri(WORKLOAD), uri("spiffe://prod.example/other"), uri("https://example.com"), uri(""), uri("\0")]
    {
        refused(&leaf_with_names(&[uri(WORKLOAD), other.clone()]), &two);
        refused(&leaf_with_names(&[other, uri(WORKLOAD)]), &two);
    }
    refused(&leaf_with_names(&[uri(WORKLOAD), tlv(0x86, &[0xff])]), &two);
    refused(&leaf_with_names(&[uri(WORKLOAD), tlv(0xa6, &uri(WORKLOAD))]), &two);
    refused(&leaf_with_names(&[tlv(0x86, &[0xff])]), &SvidError::UriNotText);
}

#[test]
fn the_uri_name_must_be_a_spiffe_id_of_a_workload() {
    use SpiffeIdError as E;
    for (text, error) in [
        ("", E::Scheme),
        ("https://prod.example/payments", E::Scheme),
        ("SPIFFE://prod.example/payments", E::Scheme),
        ("spiffe://prod.example/payments\0", E::PathCharacter { found: '\0' }),
        ("spiffe://prod.example/payments\0.evil", E::PathCharacter { found: '\0' }),
        ("spiffe://prod.example/*", E::PathCharacter { found: '*' }),
        ("spiffe://*/payments", E::TrustDomainCharacter { found: '*' }),
        ("spiffe://Prod.example/payments", E::TrustDomainCharacter { found: 'P' }),
        ("spiffe://prod.example/a/../b", E::DotSegment),
        ("spiffe://prod.example//b", E::EmptySegment),
        ("spiffe://prod.example/%63", E::PercentEncoding),
        ("spiffe://prod.example/payments/", E::TrailingSlash),
        ("spiffe://prod.example/a,b\r\n", E::PathCharacter { found: ',' }),
    ] {
        refused(&leaf_with_names(&[uri(text)]), &SvidError::SpiffeId(error));
    }
    let long = format!("spiffe://prod.example/{}", "a".repeat(3000));
    refused(&leaf_with_names(&[uri(&long)]), &SvidError::SpiffeId(E::TooLong { length: 3022 }));
    refused(&Parts::leaf("spiffe://prod.example"), &SvidError::NotAWorkload { id: domain().id() });
}

#[test]
fn key_usage_is_required_critical_and_for_signatures_only() {
    refused(&leaf().without(KEY_USAGE), &SvidError::NoKeyUsage);
    refused(&leaf().with(KEY_USAGE, false, DIGITAL_SIGNATURE.to_vec()), &SvidError::KeyUsageNotCritical);
    refused(&leaf_with_key_usage(&[0x03, 0x02, 0x05, 0x20]), &SvidError::NoDigitalSignature);
    // digitalSignature with keyCertSign, with cRLSign, and those alone.
    for bits in [[0x03, 0x02, 0x02, 0x84], [0x03, 0x02, 0x01, 0x82], [0x03, 0x02, 0x02, 0x04]] {
        refused(&leaf_with_key_usage(&bits), &SvidError::LeafMaySign);
    }
    assert!(matches!(
        check_leaf(&leaf_with_key_usage(&[0x03, 0x01, 0x00]).der()),
        Err(SvidError::Extension { name: "keyUsage", .. })
    ));
}

#[test]
fn extended_key_usage_names_both_ends_or_is_absent() {
    for listed in
        [&[SERVER_AUTH][..], &[CLIENT_AUTH], &[CODE_SIGNING], &[ANY_PURPOSE], &[ANY_PURPOSE, SERVER_AUTH]]
    {
        let parts = leaf().with(EXTENDED_KEY_USAGE, false, purposes(listed));
        refused(&parts, &SvidError::ExtendedKeyUsage);
    }
    let empty = leaf().with(EXTENDED_KEY_USAGE, false, sequence(&[])).der();
    assert!(matches!(check_leaf(&empty), Err(SvidError::Extension { name: "extKeyUsage", .. })));
}

#[test]
fn a_leaf_is_no_authority() {
    let authority = sequence(&[&tlv(tag::BOOLEAN, &[0xff])]);
    refused(&leaf().with(BASIC_CONSTRAINTS, true, authority.clone()), &SvidError::LeafIsAuthority);
    refused(&leaf().with(BASIC_CONSTRAINTS, false, authority), &SvidError::LeafIsAuthority);
    refused(&leaf().with(NAME_CONSTRAINTS, true, sequence(&[])), &SvidError::LeafNameConstraints);
    let path_length = leaf().with(BASIC_CONSTRAINTS, true, sequence(&[&integer(&[0])])).der();
    assert!(matches!(check_leaf(&path_length), Err(SvidError::Extension { name: "basicConstraints", .. })));
}

#[test]
fn duplicate_and_unknown_critical_extensions_are_refused() {
    for (oid, critical, value) in leaf().extensions {
        let mut parts = leaf();
        parts.extensions.push((oid, critical, value));
        assert!(matches!(check_leaf(&parts.der()), Err(SvidError::DuplicateExtension { .. })));
    }
    let unknown = leaf().with(&[0x2a, 0x03, 0x04], true, tlv(tag::NULL, &[]));
    refused(&unknown, &SvidError::UnknownCriticalExtension { oid: "1.2.3.4".into() });
    // certificatePolicies is known to many, but nobody here acts on it.
    let policies = leaf().with(&[0x55, 0x1d, 32], true, sequence(&[]));
    refused(&policies, &SvidError::UnknownCriticalExtension { oid: "2.5.29.32".into() });
    let mut many = leaf();
    many.extensions.extend((0..40).map(|number| (vec![0x2a, 0x03, number], false, Vec::new())));
    refused(&many, &SvidError::TooManyExtensions { count: 45 });
}

#[test]
fn only_version_3_is_an_svid() {
    for version in [None, Some(0), Some(1), Some(3)] {
        refused(&Parts { version, ..leaf() }, &SvidError::Version);
    }
}

#[test]
fn serial_numbers_are_positive_and_at_most_20_bytes() {
    let serial = |bytes: &[u8]| Parts { serial: bytes.to_vec(), ..leaf() };
    assert_eq!(check_leaf(&serial(&[0, 0x80]).der()).unwrap().serial, [0x80]);
    assert!(check_leaf(&serial(&[0x7f; 20]).der()).is_ok());
    refused(&serial(&[0]), &SvidError::Serial { found: "zero" });
    refused(&serial(&[0x80]), &SvidError::Serial { found: "a negative number" });
    refused(&serial(&[0xff, 0x7f]), &SvidError::Serial { found: "a negative number" });
    refused(&serial(&[0x7f; 21]), &SvidError::Serial { found: "more than 20 bytes" });
    for malformed in [&[][..], &[0, 0x7f], &[0xff, 0x80]] {
        assert!(matches!(check_leaf(&serial(malformed).der()), Err(SvidError::Encoding { .. })));
    }
}

#[test]
fn validity_runs_forward_and_is_written_as_its_year_demands() {
    let valid = |value: Vec<u8>| Parts { validity: value, ..leaf() };
    let generalized = |time: &str| tlv(tag::GENERALIZED_TIME, time.as_bytes());
    let utc = |time: &str| tlv(tag::UTC_TIME, time.as_bytes());
    let begin = utc("260101000000Z");
    assert!(check_leaf(&valid(validity("260101000000Z", "260101000000Z")).der()).is_ok());
    assert!(check_leaf(&valid(validity("500101000000Z", "260101000000Z")).der()).is_ok(), "from 1950");
    let end_of_time = generalized("99991231235959Z");
    assert!(check_leaf(&valid(sequence(&[&begin, &end_of_time])).der()).is_ok());

    refused(&valid(validity("260101000001Z", "260101000000Z")), &SvidError::Validity);
    for end in [
        generalized("20270101000000Z"),
        generalized("20500101000000.5Z"),
        generalized("205001010000Z"),
        generalized("20500101000000"),
        generalized("20500101000000+0000"),
        utc("2701010000Z"),
        utc("270101000000+0000"),
        utc("27010100000aZ"),
        tlv(0x0c, b"270101000000Z"),
    ] {
        refused(&valid(sequence(&[&begin, &end])), &SvidError::TimeFormat);
    }
    for wrong in
        [sequence(&[&begin]), sequence(&[&begin, &begin, &begin]), validity("260101000000Z", "271301000000Z")]
    {
        assert!(check_leaf(&valid(wrong).der()).is_err());
    }
}

#[test]
fn bytes_that_some_reader_would_skip_are_refused() {
    let der = leaf().der();
    let mut followed = der.clone();
    followed.push(0);
    assert_eq!(check_leaf(&followed), Err(SvidError::TrailingBytes));
    assert_eq!(check_leaf(&[der.clone(), der.clone()].concat()), Err(SvidError::TrailingBytes));
    for inside in
        [Parts { signed_tail: tlv(tag::NULL, &[]), ..leaf() }, Parts { signed_tail: vec![0], ..leaf() }]
    {
        assert!(matches!(check_leaf(&inside.der()), Err(SvidError::Encoding { .. })));
    }
    let mut spki = leaf();
    spki.spki = sequence(&[&spki.spki, &tlv(tag::NULL, &[])]);
    assert!(check_leaf(&spki.der()).is_err());
    for length in 0..der.len() {
        assert!(check_leaf(&der[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn oversized_certificates_are_not_even_parsed() {
    let large = leaf().with(&[0x2a, 0x03, 0x04], false, vec![0; MAX_CERTIFICATE_BYTES]).der();
    assert_eq!(check_leaf(&large), Err(SvidError::TooLarge { length: large.len() }));
    assert!(check_leaf(&leaf().with(&[0x2a, 0x03, 0x04], false, vec![0; 15_000]).der()).is_ok());
}

#[test]
fn names_algorithms_and_keys_follow_rfc_5280() {
    refused(&Parts { issuer: name(&[]), ..leaf() }, &SvidError::Issuer);
    let nameless = Parts { subject: name(&[]), ..leaf() };
    refused(&nameless, &SvidError::NamesNotCritical);
    assert!(check_leaf(&nameless.with(SUBJECT_ALT_NAME, true, names(&[uri(WORKLOAD)])).der()).is_ok());
    let ed25519 = sequence(&[&tlv(tag::OID, &[0x2b, 0x65, 0x70])]);
    refused(&Parts { outer_algorithm: ed25519, ..leaf() }, &SvidError::SignatureAlgorithm);
    for identifier in tag::UNIQUE_IDENTIFIERS {
        let unique_identifiers = tlv(identifier, &[0, 1]);
        refused(&Parts { unique_identifiers, ..leaf() }, &SvidError::UniqueIdentifier);
    }
    let spki = sequence(&[&sequence(&[&tlv(tag::OID, &[0x2a, 0x03])]), &tlv(tag::BIT_STRING, &[0, 1])]);
    assert!(matches!(check_leaf(&Parts { spki, ..leaf() }.der()), Err(SvidError::Key { .. })));
}

#[test]
fn an_instance_is_one_or_none() {
    let subject =
        |attributes: &[(u8, &str)]| check_leaf(&Parts { subject: name(attributes), ..leaf() }.der());
    assert_eq!(subject(&[(COMMON_NAME, "a")]).unwrap().instance, None);
    assert_eq!(subject(&[(SERIAL_NUMBER, "4711")]).unwrap().instance, None, "another issuer's own form");
    assert_eq!(
        subject(&[(SERIAL_NUMBER, INSTANCE), (SERIAL_NUMBER, INSTANCE)]),
        Err(SvidError::SeveralInstances)
    );
    assert_eq!(
        subject(&[(SERIAL_NUMBER, "4711"), (SERIAL_NUMBER, INSTANCE)]),
        Err(SvidError::SeveralInstances)
    );
}

#[test]
fn a_signing_certificate_signs_for_its_own_trust_domain() {
    let with_path_length = sequence(&[&tlv(tag::BOOLEAN, &[0xff]), &integer(&[0])]);
    for parts in [
        signer(),
        signer().without(SUBJECT_ALT_NAME),
        signer().with(SUBJECT_ALT_NAME, false, names(&[dns("ca.prod.example")])),
        signer().with(BASIC_CONSTRAINTS, true, with_path_length),
        // keyCertSign, cRLSign, digitalSignature.
        signer().with(KEY_USAGE, true, vec![0x03, 0x02, 0x01, 0x86]),
        signer().with(NAME_CONSTRAINTS, true, sequence(&[])),
    ] {
        check_intermediate(&parts.der(), &domain()).unwrap();
    }
    let expected = domain();
    let found: TrustDomain = "other.example".parse().unwrap();
    signer_refused(
        &Parts::authority("spiffe://other.example"),
        &SvidError::OtherTrustDomain { expected, found },
    );
    let id = WORKLOAD.parse().unwrap();
    signer_refused(&Parts::authority(WORKLOAD), &SvidError::AuthorityWithPath { id });
    let two = names(&[uri("spiffe://prod.example"), uri("spiffe://prod.example")]);
    signer_refused(&signer().with(SUBJECT_ALT_NAME, false, two), &SvidError::SeveralUriNames { count: 2 });
    let web = names(&[uri("https://prod.example")]);
    signer_refused(&signer().with(SUBJECT_ALT_NAME, false, web), &SvidError::SpiffeId(SpiffeIdError::Scheme));
}

#[test]
fn a_certificate_that_may_not_sign_is_no_intermediate() {
    signer_refused(&leaf(), &SvidError::NotAnAuthority);
    signer_refused(&signer().without(BASIC_CONSTRAINTS), &SvidError::NotAnAuthority);
    let authority = sequence(&[&tlv(tag::BOOLEAN, &[0xff])]);
    signer_refused(
        &signer().with(BASIC_CONSTRAINTS, false, authority),
        &SvidError::BasicConstraintsNotCritical,
    );
    let long = sequence(&[&tlv(tag::BOOLEAN, &[0xff]), &integer(&[17])]);
    signer_refused(&signer().with(BASIC_CONSTRAINTS, true, long), &SvidError::PathLength);
    signer_refused(&signer().without(KEY_USAGE), &SvidError::NoKeyUsage);
    signer_refused(&signer().with(KEY_USAGE, false, KEY_CERT_SIGN.to_vec()), &SvidError::KeyUsageNotCritical);
    signer_refused(&signer().with(KEY_USAGE, true, DIGITAL_SIGNATURE.to_vec()), &SvidError::NoKeyCertSign);
    signer_refused(&Parts { subject: name(&[]), ..signer() }, &SvidError::AuthorityWithoutSubject);
    let unknown = signer().with(&[0x2a, 0x03, 0x04], true, Vec::new());
    signer_refused(&unknown, &SvidError::UnknownCriticalExtension { oid: "1.2.3.4".into() });
}

#[test]
fn certificates_of_a_real_issuer_pass() {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        KeyUsagePurpose, SanType,
    };
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "root");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.subject_alt_names = vec![SanType::URI("spiffe://prod.example".try_into().unwrap())];
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    check_intermediate(root.der(), &domain()).unwrap();

    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "payments");
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), INSTANCE);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(WORKLOAD.try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
    let profile = check_leaf(certificate.der()).unwrap();
    assert_eq!(profile.id.as_str(), WORKLOAD);
    assert_eq!(profile.instance.unwrap().to_string(), INSTANCE);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = check_leaf(&bytes);
        let _ = certificate_handle(&bytes);
    }

    /// Whatever one byte is changed to, what is still accepted still names one workload.
    #[test]
    fn no_changed_byte_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut der = leaf().der();
        *at.get_mut(&mut der) = byte;
        if let Ok(profile) = check_leaf(&der) {
            prop_assert!(profile.id.is_workload());
            prop_assert!(profile.not_before <= profile.not_after);
            prop_assert!(!profile.serial.is_empty());
        }
        let _ = check_intermediate(&der, &domain());
    }

    #[test]
    fn any_key_makes_its_own_handle(fill in 1u8..=255) {
        let parts = Parts { spki: p256_key(fill), ..leaf() };
        prop_assert_eq!(certificate_handle(&parts.der()).unwrap().spki_sha256, sha256(&parts.spki));
    }
}
