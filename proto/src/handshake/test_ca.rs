//! A small CA for tests: chains of any shape, good and bad.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;

use super::{Revocations, Svid, Trust, WorkloadKey};
use crate::spiffe::{InstanceId, TrustBundle, TrustDomain};

/// Root and intermediate of one trust domain.
pub(crate) struct TestCa {
    domain: TrustDomain,
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new(domain: &str) -> Self {
        let domain: TrustDomain = domain.parse().unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("{name} of {domain}"));
            params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into().unwrap())];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.use_authority_key_identifier_extension = true;
            params
        };
        let root_key = KeyPair::generate().unwrap();
        let root_params = authority("root");
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().unwrap();
        let params = authority("intermediate");
        let intermediate = params.signed_by(&key, &root_issuer).unwrap();
        Self {
            domain,
            root: root.der().clone(),
            intermediate: intermediate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), vec![self.root.clone()], 1).unwrap()
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new([self.bundle()], Revocations::default()))
    }

    /// An SVID for `spiffe://<domain><path>` that is valid now, after `change` to its template.
    pub(crate) fn svid_with(&self, path: &str, change: impl FnOnce(&mut CertificateParams)) -> Svid {
        self.svid_in_chain(path, change, vec![self.intermediate.clone()])
    }

    pub(crate) fn svid(&self, path: &str) -> Svid {
        self.svid_with(path, |_| {})
    }

    /// As control sends it: with the root.
    pub(crate) fn svid_with_root(&self, path: &str) -> Svid {
        self.svid_in_chain(path, |_| {}, vec![self.intermediate.clone(), self.root.clone()])
    }

    fn svid_in_chain(
        &self,
        path: &str,
        change: impl FnOnce(&mut CertificateParams),
        above: Vec<CertificateDer<'static>>,
    ) -> Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let instance = InstanceId::random().unwrap();
        params.distinguished_name.push(DnType::from_oid(&[2, 5, 4, 5]), instance.to_string());
        let uri = format!("spiffe://{}{path}", self.domain);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = crate::clock::now();
        params.not_before = (now - Duration::from_secs(10)).into();
        params.not_after = (now + Duration::from_secs(3600)).into();
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = std::iter::once(leaf).chain(above).collect();
        let signing_key = WorkloadKey::signing_key_from_pem(key.serialize_pem().as_bytes()).unwrap();
        Svid::new(chain, signing_key).unwrap()
    }
}

pub(crate) fn ago(seconds: u64) -> SystemTime {
    crate::clock::now() - Duration::from_secs(seconds)
}
