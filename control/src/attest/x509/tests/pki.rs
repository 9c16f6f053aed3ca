//! Another CA, as devices and clouds have them, and devices that prove themselves.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};
use signet_proto::handshake::sign_with_pem_key;
use signet_proto::possession;
use signet_proto::spiffe::sha256;
use signet_proto::v1::X509PopProof;

use crate::attest::x509::{X509Attestor, X509Settings};

pub(super) const CSR: &[u8] = b"a signing request";
pub(super) const KEY: [u8; 32] = [3; 32];

/// 2026-06-01.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_272_000)
}

pub(super) struct Ca {
    pub(super) der: Vec<u8>,
    pub(super) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(super) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name, change);
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    pub(super) fn intermediate_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority(name, change);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { der: certificate.der().to_vec(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn device(&self) -> Device {
        self.device_with(|_| {})
    }

    pub(super) fn device_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Device {
        self.device_of(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), change)
    }

    pub(super) fn device_of(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Device {
        Device { chain: vec![self.leaf(key, change)], key: key.serialize_pem() }
    }

    /// A certificate for a key that nobody has, or needs to have.
    pub(super) fn leaf(
        &self,
        key: &impl PublicKeyData,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "device 7");
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Plant: North");
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
        params.subject_alt_names = vec![
            SanType::DnsName("Device-7.Example".try_into().unwrap()),
            SanType::URI("urn:device:7".try_into().unwrap()),
            SanType::Rfc822Name("seven@example".try_into().unwrap()),
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        valid(&mut params);
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid(&mut params);
    change(&mut params);
    params
}

fn valid(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
}

/// Someone with a certificate and its key.
#[derive(Clone)]
pub(super) struct Device {
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) key: String,
}

impl Device {
    /// With these certificates above its own.
    pub(super) fn below(mut self, above: &[&Ca]) -> Self {
        self.chain.extend(above.iter().map(|authority| authority.der.clone()));
        self
    }

    /// A whole proof, as the proxy makes it.
    pub(super) fn prove(&self, attestor: &X509Attestor) -> X509PopProof {
        let challenge = attestor.challenge(&sha256(CSR), now()).unwrap();
        self.answer(challenge, "mesh.local")
    }

    pub(super) fn answer(&self, challenge: Vec<u8>, domain: &str) -> X509PopProof {
        let message = possession::message(&domain.parse().unwrap(), &challenge, &sha256(CSR));
        let signature = sign_with_pem_key(self.key.as_bytes(), &message).unwrap();
        X509PopProof { attestor: "devices".into(), chain: self.chain.clone(), challenge, signature }
    }
}

pub(super) fn settings() -> X509Settings {
    X509Settings {
        ca_file: "ca.pem".into(),
        intermediates_file: None,
        max_depth: None,
        eku: None,
        selectors: None,
    }
}

/// The attestor `devices` of `mesh.local` that believes this root.
pub(super) fn attestor(root: &Ca) -> X509Attestor {
    attestor_with(root, &settings())
}

pub(super) fn attestor_with(root: &Ca, settings: &X509Settings) -> X509Attestor {
    X509Attestor::new("devices", domain(), settings, root.pem.as_bytes(), None, &KEY).unwrap()
}

pub(super) fn domain() -> signet_proto::spiffe::TrustDomain {
    "mesh.local".parse().unwrap()
}

/// An RSA key of so many bits, of which only the form is right.
pub(super) struct RsaForm(Vec<u8>);

impl RsaForm {
    pub(super) fn new(bits: usize) -> Self {
        let mut modulus = vec![0];
        modulus.resize(bits / 8 + 1, 0xff);
        let members = [element(0x02, &modulus), element(0x02, &[1, 0, 1])].concat();
        Self(element(0x30, &members))
    }
}

impl PublicKeyData for RsaForm {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    match length {
        [0, short @ 0..=0x7f] => [&[tag, short], value].concat(),
        [0, long] => [&[tag, 0x81, long], value].concat(),
        [high, low] => [&[tag, 0x82, high, low], value].concat(),
    }
}
