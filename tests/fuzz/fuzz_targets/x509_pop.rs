//! Proofs of possession: no input panics, and whatever is changed in a good one, or put into its place, is refused.
//! The first byte says what the others do: change bytes of a good proof, or put a chain together.
//!
//! `tests/fuzz/run 60 x509_pop`

#![no_main]
#![forbid(unsafe_code)]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber, date_time_ymd,
};
use signet_control::attest::x509::{X509Attestor, X509Settings};
use signet_proto::handshake::sign_with_pem_key;
use signet_proto::possession;
use signet_proto::spiffe::sha256;
use signet_proto::v1::X509PopProof;

const CSR: &[u8] = b"a signing request";

static WORLD: LazyLock<World> = LazyLock::new(World::new);

struct World {
    attestor: X509Attestor,
    /// Leaf, intermediate, root.
    certificates: [Vec<u8>; 3],
    key: String,
}

impl World {
    /// The same in every process, so that an input that fails fails again.
    fn new() -> Self {
        let [root_key, issuing_key, key] = [1, 2, 3].map(fixed_key);
        let root_params = params("root", 1, IsCa::Ca(BasicConstraints::Unconstrained));
        let root = root_params.self_signed(&root_key).expect("a root");
        let issuing_params = params("issuing", 2, IsCa::Ca(BasicConstraints::Constrained(0)));
        let root_issuer = Issuer::new(root_params, root_key);
        let issuing = issuing_params.signed_by(&issuing_key, &root_issuer).expect("an intermediate");
        let mut leaf = params("device 7", 3, IsCa::ExplicitNoCa);
        leaf.subject_alt_names = vec![SanType::DnsName("device-7.example".try_into().expect("a name"))];
        let leaf = leaf.signed_by(&key, &Issuer::new(issuing_params, issuing_key)).expect("a leaf");
        let settings = X509Settings {
            ca_file: "unused".into(),
            intermediates_file: None,
            max_depth: None,
            eku: None,
            selectors: None,
        };
        let domain = "mesh.local".parse().expect("a trust domain");
        let pem = root.pem();
        let attestor = X509Attestor::new("devices", domain, &settings, pem.as_bytes(), None, &[7; 32]);
        Self {
            attestor: attestor.expect("settings are sound"),
            certificates: [leaf, issuing, root].map(|certificate| certificate.der().to_vec()),
            key: key.serialize_pem(),
        }
    }

    fn good(&self) -> X509PopProof {
        let challenge = self.attestor.challenge(&sha256(CSR), now()).expect("a challenge");
        let domain = "mesh.local".parse().expect("a trust domain");
        let message = possession::message(&domain, &challenge, &sha256(CSR));
        let signature = sign_with_pem_key(self.key.as_bytes(), &message).expect("a signature");
        let chain = self.certificates[..2].to_vec();
        X509PopProof { attestor: "devices".into(), chain, challenge, signature }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let good = WORLD.good();
    let (mut proof, mut csr) = (good.clone(), CSR.to_vec());
    if mode & 1 == 0 {
        for change in rest.chunks_exact(4).take(16) {
            let field = match change[0] % 5 {
                0 => &mut proof.chain[0],
                1 => &mut proof.chain[1],
                2 => &mut proof.challenge,
                3 => &mut proof.signature,
                _ => &mut csr,
            };
            let at = usize::from(u16::from_be_bytes([change[1], change[2]])) % field.len();
            field[at] ^= change[3];
        }
    } else {
        proof.chain = chain(rest);
    }
    match WORLD.attestor.verify(&proof, &csr, now()) {
        Ok(proven) => {
            assert_eq!(csr, CSR);
            assert_eq!((&proof.challenge, &proof.signature), (&good.challenge, &good.signature));
            // Only that the root was sent along makes no difference.
            assert_eq!(proof.chain[..2], good.chain[..]);
            assert!(proof.chain.get(2).is_none_or(|root| *root == WORLD.certificates[2]));
            assert!(proven.selectors.iter().all(|selector| selector.attestor() == "devices"));
        }
        Err(error) => assert!(!error.reason().is_empty()),
    }
});

/// Certificates of the good chain in any order, and others: each byte picks one, or begins one of so many bytes.
fn chain(mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    while let Some((&pick, more)) = rest.split_first() {
        rest = more;
        match WORLD.certificates.get(usize::from(pick)) {
            Some(certificate) => chain.push(certificate.clone()),
            None => {
                let (own, more) = rest.split_at(usize::from(pick).saturating_mul(4).min(rest.len()));
                chain.push(own.to_vec());
                rest = more;
            }
        }
    }
    chain
}

fn params(name: &str, serial: u64, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.key_usages = match is_ca {
        IsCa::Ca(_) => vec![KeyUsagePurpose::KeyCertSign],
        _ => vec![KeyUsagePurpose::DigitalSignature],
    };
    if !matches!(is_ca, IsCa::Ca(_)) {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
    params.is_ca = is_ca;
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

/// An Ed25519 key in PKCS#8 (RFC 8410 section 7).
fn fixed_key(seed: u8) -> KeyPair {
    let mut pkcs8 =
        vec![0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    pkcs8.extend([seed; 32]);
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ED25519).expect("a key")
}

/// 2026-06-01.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}
