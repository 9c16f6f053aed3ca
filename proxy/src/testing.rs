//! An authority for tests: SVIDs as control issues them; and how large futures are.

use std::time::{Duration, SystemTime};

use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{InstanceId, TrustBundle};

pub(crate) const DOMAIN: &str = "mesh.test";

/// A root or an intermediate that signs leaves.
pub(crate) struct TestAuthority {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        Self::of(DOMAIN)
    }

    /// Of another trust domain.
    pub(crate) fn of(domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into().unwrap())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// An intermediate that this one signs; its certificate is in the place of the root.
    pub(crate) fn intermediate(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let root = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { root, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn leaf(
        &self,
        key: &impl PublicKeyData,
        id: &str,
        instance: InstanceId,
        life: SignedDuration,
    ) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::from_oid(&[2, 5, 4, 5]), instance.to_string());
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = signet_proto::clock::now();
        let end = jiff::Timestamp::try_from(now).unwrap() + life;
        params.not_before = (SystemTime::from(end).min(now) - Duration::from_secs(10)).into();
        params.not_after = SystemTime::from(end).into();
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }
}

/// What one future of this kind takes, without making one.
pub(crate) fn size_of_future<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
    size_of::<F>()
}

/// The bundle of these roots.
pub(crate) fn bundle<'a>(authorities: impl IntoIterator<Item = &'a TestAuthority>) -> TrustBundle {
    let roots = authorities.into_iter().map(|authority| authority.root.clone()).collect();
    TrustBundle::new(DOMAIN.parse().unwrap(), roots, 1).unwrap()
}
