//! A small CA for tests: chains of any shape, good and bad.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::{Revocations, Svid, Trust, WorkloadKey};
use crate::spiffe::{InstanceId, RevocationList, TrustBundle, TrustDomain, authority_key};

/// Root and intermediate of one trust domain.
pub(crate) struct TestCa {
    domain: TrustDomain,
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    root_issuer: Issuer<'static, KeyPair>,
    issuer: Issuer<'static, KeyPair>,
}

/// A list that is to be made: its number, until when it is good from now on, and whom it names.
pub(crate) struct Listing<'a> {
    pub(crate) number: u64,
    pub(crate) made: SystemTime,
    pub(crate) until: SystemTime,
    pub(crate) names: &'a [&'a [u8]],
}

impl Listing<'_> {
    pub(crate) fn signed_by(&self, issuer: &Issuer<'_, KeyPair>) -> RevocationList {
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: self.made.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: self.made.into(),
            next_update: self.until.into(),
            crl_number: self.number.into(),
            issuing_distribution_point: None,
            revoked_certs: self.names.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        RevocationList::read(list.signed_by(issuer).unwrap().der()).unwrap()
    }
}

impl TestCa {
    pub(crate) fn new(domain: &str) -> Self {
        Self::named(domain, domain, |_| {})
    }

    /// Whose authorities are called after `name`, with an intermediate that `change` bent.
    pub(crate) fn named(domain: &str, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::build(domain, name, |_| {}, change)
    }

    /// With a root that `change` bent.
    pub(crate) fn with_root(domain: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::build(domain, domain, change, |_| {})
    }

    /// Of another domain, with a root that has the name and the key identifier of `other`'s.
    pub(crate) fn imitating(other: &Self, domain: &str) -> Self {
        let identifier = authority_key(&other.intermediate).unwrap();
        let imitate = |root: &mut CertificateParams| {
            root.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
        };
        Self::build(domain, &other.domain.to_string(), imitate, |_| {})
    }

    fn build(
        domain: &str,
        name: &str,
        change_root: impl FnOnce(&mut CertificateParams),
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let domain: TrustDomain = domain.parse().unwrap();
        let authority = |kind: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, format!("{kind} of {name}"));
            params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into().unwrap())];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.use_authority_key_identifier_extension = true;
            params
        };
        let root_key = KeyPair::generate().unwrap();
        let mut root_params = authority("root");
        change_root(&mut root_params);
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().unwrap();
        let mut params = authority("intermediate");
        change(&mut params);
        let intermediate = params.signed_by(&key, &root_issuer).unwrap();
        // It may sign whatever its certificate says of that.
        params.key_usages.push(KeyUsagePurpose::CrlSign);
        Self {
            domain,
            root: root.der().clone(),
            intermediate: intermediate.der().clone(),
            root_issuer,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn root_issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.root_issuer
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
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
