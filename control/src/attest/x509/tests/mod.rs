//! Whom an attestor believes, and whom not: each scenario breaks one thing.

mod path;
mod pki;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CustomExtension, DnType, DnValue, KeyPair, RsaKeySize, SanType};
use signet_proto::v1::X509PopProof;

use super::*;
use pki::{CSR, Ca, Device, KEY, attestor, attestor_with, domain, now, settings};

fn reason(attestor: &X509Attestor, proof: &X509PopProof) -> &'static str {
    attestor.verify(proof, CSR, now()).unwrap_err().reason()
}

/// Why a device is refused that does everything right itself.
fn refused(attestor: &X509Attestor, device: &Device) -> &'static str {
    reason(attestor, &device.prove(attestor))
}

fn believed(attestor: &X509Attestor, device: &Device) -> BTreeSet<String> {
    let proven = attestor.verify(&device.prove(attestor), CSR, now()).unwrap();
    proven.selectors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_device_proves_what_its_certificate_says() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let device = root.device();
    let proven = attestor.verify(&device.prove(&attestor), CSR, now()).unwrap();
    assert_eq!(proven.attestor, "devices");
    let fingerprint = crate::hex::encode(&sha256(&device.chain[0]));
    let selectors: BTreeSet<String> = proven.selectors.iter().map(ToString::to_string).collect();
    for expected in [
        "devices:subject-cn:device 7",
        "devices:subject-o:Example",
        "devices:subject-ou:Plant: North",
        "devices:san-dns:device-7.example",
        "devices:san-uri:urn:device:7",
        "devices:san-email:seven@example",
        "devices:serial:0abc",
        "devices:issuer-cn:root",
        &format!("devices:fingerprint:{fingerprint}"),
    ] {
        assert!(selectors.contains(expected), "{expected} is not among {selectors:?}");
    }
    assert_eq!(selectors.len(), 10, "and the key's hash: {selectors:?}");
    assert_eq!(proven.evidence["certificate"], fingerprint);
    assert_eq!(proven.evidence["root"], crate::hex::encode(&sha256(&root.der)));
}

#[test]
fn every_accepted_kind_of_key_proves() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let keys = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        .map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    for key in keys.iter().chain([&rsa]) {
        believed(&attestor, &root.device_of(key, |_| {}));
    }
}

#[test]
fn every_flipped_bit_of_challenge_and_signature_is_refused() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let proof = root.device().prove(&attestor);
    for index in 0..proof.challenge.len() {
        let mut changed = proof.clone();
        changed.challenge[index] ^= 1;
        assert_eq!(reason(&attestor, &changed), "bad_challenge", "byte {index}");
    }
    for index in 0..proof.signature.len() {
        let mut changed = proof.clone();
        changed.signature[index] ^= 1;
        assert_eq!(reason(&attestor, &changed), "bad_signature", "byte {index}");
    }
}

#[test]
fn every_changed_byte_of_the_chain_is_refused() {
    let root = Ca::root("root");
    let issuing = root.intermediate("issuing");
    let attestor = attestor(&root);
    let proof = issuing.device().below(&[&issuing]).prove(&attestor);
    for certificate in 0..proof.chain.len() {
        for index in 0..proof.chain[certificate].len() {
            let mut changed = proof.clone();
            changed.chain[certificate][index] ^= 0x04;
            assert!(attestor.verify(&changed, CSR, now()).is_err(), "{certificate}: byte {index}");
        }
    }
}

#[test]
fn fields_that_are_missing_or_another_s_are_refused() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let good = root.device().prove(&attestor);
    let other = root.device().prove(&attestor);
    let empty = Vec::new;
    for (changed, expected) in [
        (X509PopProof { attestor: "clouds".into(), ..good.clone() }, "other_attestor"),
        (X509PopProof { attestor: String::new(), ..good.clone() }, "other_attestor"),
        (X509PopProof { chain: Vec::new(), ..good.clone() }, "proof_size"),
        (X509PopProof { challenge: empty(), ..good.clone() }, "bad_challenge"),
        (X509PopProof { signature: empty(), ..good.clone() }, "proof_size"),
        (X509PopProof { challenge: other.challenge.clone(), ..good.clone() }, "bad_signature"),
        (X509PopProof { signature: other.signature.clone(), ..good.clone() }, "bad_signature"),
        (X509PopProof { chain: other.chain, ..good }, "bad_signature"),
    ] {
        assert_eq!(reason(&attestor, &changed), expected);
    }
}

#[test]
fn a_replay_is_good_for_the_same_request_only_and_for_a_minute() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let proof = root.device().prove(&attestor);
    let verify = |csr, at| attestor.verify(&proof, csr, at).map_err(|error| error.reason());
    assert!(verify(CSR, now()).is_ok() && verify(CSR, now()).is_ok());
    assert_eq!(verify(b"another request", now()).unwrap_err(), "bad_challenge");
    assert_eq!(verify(CSR, now() + Duration::from_secs(60)).unwrap_err(), "challenge_expired");
}

#[test]
fn a_challenge_of_another_attestor_or_another_mesh_is_refused() {
    let root = Ca::root("root");
    let devices = attestor(&root);
    let pem = root.pem.as_bytes();
    let clouds = X509Attestor::new("clouds", domain(), &settings(), pem, None, &KEY).unwrap();
    let elsewhere = X509Attestor::new("devices", domain(), &settings(), pem, None, &[4; 32]).unwrap();
    let device = root.device();
    for other in [&clouds, &elsewhere] {
        let challenge = other.challenge(&sha256(CSR), now()).unwrap();
        assert_eq!(reason(&devices, &device.answer(challenge, "mesh.local")), "bad_challenge");
    }
    // What control of another mesh made the device sign is of no use here.
    let challenge = devices.challenge(&sha256(CSR), now()).unwrap();
    assert_eq!(reason(&devices, &device.answer(challenge, "other.mesh")), "bad_signature");
    assert!(matches!(devices.challenge(b"short", now()), Err(X509Error::CsrHash { length: 5 })));
}

#[test]
fn what_is_larger_than_any_proof_is_not_looked_at() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let good = root.device().prove(&attestor);
    for chain in [vec![vec![0x30; 100]; 6], vec![vec![0x30; 8 * 1024 + 1]], vec![vec![0x30; 8 * 1024]; 4]] {
        assert_eq!(reason(&attestor, &X509PopProof { chain, ..good.clone() }), "proof_size");
    }
    assert_eq!(reason(&attestor, &X509PopProof { signature: vec![1; 513], ..good }), "proof_size");
}

#[test]
fn a_name_that_is_no_selector_refuses_the_certificate() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let named = |name: DnValue| {
        root.device_with(move |params| params.distinguished_name.push(DnType::CommonName, name))
    };
    let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
    for wrong in ["a\0b", "a\nb", "", "\u{7f}", &"x".repeat(257)] {
        assert_eq!(refused(&attestor, &named(utf8(wrong))), "bad_name", "{wrong:?}");
    }
    let wide = DnValue::BmpString("device".try_into().unwrap());
    assert_eq!(refused(&attestor, &named(wide)), "bad_name");
    believed(&attestor, &named(utf8(&"x".repeat(256))));
    believed(&attestor, &named(utf8("Gerät 7")));

    let uri = |text: &str| {
        let text = text.to_owned();
        root.device_with(move |params| {
            params.subject_alt_names = vec![SanType::URI(text.try_into().unwrap())];
        })
    };
    assert_eq!(refused(&attestor, &uri("urn:a\0b")), "bad_name");
    assert_eq!(refused(&attestor, &uri("urn:a b")), "bad_name");
    let many = root.device_with(|params| {
        params.subject_alt_names =
            (0..80).map(|n| SanType::DnsName(format!("d{n}.example").try_into().unwrap())).collect();
    });
    assert_eq!(refused(&attestor, &many), "bad_name");
}

#[test]
fn only_what_the_operator_wants_is_looked_at() {
    let root = Ca::root("root");
    let wanted = BTreeSet::from([Fact::SanUri, Fact::Serial]);
    let attestor = attestor_with(&root, &X509Settings { selectors: Some(wanted), ..settings() });
    let device =
        root.device_with(|params| params.distinguished_name.push(DnType::CommonName, "no\0selector"));
    let expected = ["devices:san-uri:urn:device:7", "devices:serial:0abc"].map(String::from);
    assert_eq!(believed(&attestor, &device), BTreeSet::from(expected));
}

#[test]
fn extensions_that_do_not_parse_or_come_twice_are_refused() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    for (oid, content) in [
        (vec![2, 5, 29, 37], vec![0x30, 0x00]),
        (vec![2, 5, 29, 37], vec![0x04, 0x00]),
        (vec![2, 5, 29, 17], vec![0x30, 0x02, 0x82, 0x05]),
        (vec![2, 5, 29, 19], vec![0x04, 0x00]),
        (vec![2, 5, 29, 15], vec![0x30, 0x00]),
    ] {
        let alone = root.device_with(|params| {
            match oid.last() {
                Some(37) => params.extended_key_usages.clear(),
                Some(17) => params.subject_alt_names.clear(),
                Some(15) => params.key_usages.clear(),
                _ => params.is_ca = rcgen::IsCa::NoCa,
            }
            params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, content.clone())];
        });
        let twice = root.device_with(|params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&oid, content.clone())];
        });
        for device in [alone, twice] {
            assert!(attestor.verify(&device.prove(&attestor), CSR, now()).is_err(), "{oid:?} {content:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_chain_panics(chain in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6)) {
        let attestor = attestor(&Ca::root("root"));
        let challenge = attestor.challenge(&sha256(CSR), now()).unwrap();
        let proof = X509PopProof { attestor: "devices".into(), chain, challenge, signature: vec![1; 64] };
        prop_assert!(attestor.verify(&proof, CSR, now()).is_err());
    }

    #[test]
    fn no_damaged_certificate_panics(at in 0usize..600, with in any::<[u8; 4]>()) {
        let root = Ca::root("root");
        let attestor = attestor(&root);
        let mut proof = root.device().prove(&attestor);
        let at = at.min(proof.chain[0].len() - 4);
        proof.chain[0][at..at + 4].copy_from_slice(&with);
        let _ = attestor.verify(&proof, CSR, now());
    }
}
