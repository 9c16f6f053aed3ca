//! One authority: what is known of it, and, as long as it signs, its key.

use std::time::{Duration, SystemTime};

use rcgen::DistinguishedName;
use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{SvidError, TrustDomain, certificate_handle, check_intermediate};

use super::keys::SigningKey;
use super::seal::SealKey;
use super::{CaError, profile};
use crate::crl::ListsUrl;
use crate::store::model::{AuthorityKind, AuthorityRecord, KnownAuthority};
use crate::time;

/// An authority's certificate.
#[derive(Debug, Clone)]
pub struct Certified {
    pub(super) id: String,
    pub(super) subject: String,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// The same with its key.
pub struct Signer {
    certified: Certified,
    key: SigningKey,
    /// As its certificate has it: what it signs names it so.
    key_identifier: Option<Vec<u8>>,
    /// The same of its name.
    name: Option<DistinguishedName>,
}

impl Signer {
    pub(super) fn new_root(
        draft: profile::Draft,
        trust_domain: &TrustDomain,
        ttl: Duration,
    ) -> Result<(Self, AuthorityRecord), CaError> {
        let certificate = profile::root(&draft, trust_domain, ttl, time::now())?;
        Ok(Self::finish(draft, certificate, AuthorityKind::Root, None, String::new()))
    }

    /// An intermediate with which `replica` is to sign.
    pub(super) fn new_intermediate(
        replica: &str,
        draft: profile::Draft,
        trust_domain: &TrustDomain,
        root: &Self,
        ttl: Duration,
        lists: Option<&ListsUrl>,
    ) -> Result<(Self, AuthorityRecord), CaError> {
        let now = time::now();
        if root.certified.not_after <= now {
            return Err(CaError::Ended("root"));
        }
        let certificate = profile::intermediate(&draft, trust_domain, root, ttl, lists, now)?;
        check_intermediate(&certificate.certificate, trust_domain)?;
        let issuer = Some(root.certified.id.clone());
        Ok(Self::finish(draft, certificate, AuthorityKind::Intermediate, issuer, replica.to_owned()))
    }

    fn finish(
        draft: profile::Draft,
        signed: profile::Signed,
        kind: AuthorityKind,
        issuer: Option<String>,
        replica: String,
    ) -> (Self, AuthorityRecord) {
        let profile::Draft { id, subject, key, kept } = draft;
        let profile::Signed { certificate, not_before, not_after } = signed;
        let record = AuthorityRecord {
            id: id.clone(),
            kind,
            replica,
            issuer,
            subject: subject.clone(),
            certificate: certificate.to_vec(),
            key: kept,
            not_before,
            not_after,
        };
        (Self::new(Certified { id, subject, certificate, not_before, not_after }, key), record)
    }

    /// An authority whose key is at hand.
    pub(super) fn new(certified: Certified, key: SigningKey) -> Self {
        let key_identifier = profile::key_identifier(&certified.certificate);
        let name = profile::name_in(&certified.certificate);
        Self { certified, key, key_identifier, name }
    }

    pub(super) fn name(&self) -> Option<&DistinguishedName> {
        self.name.as_ref()
    }

    pub(super) fn key_identifier(&self) -> Option<&[u8]> {
        self.key_identifier.as_deref()
    }

    /// Opens the key of an authority.
    pub(super) fn unseal(known: &KnownAuthority, sealed: &[u8], seal: &SealKey) -> Result<Self, CaError> {
        let pkcs8 = seal.unseal(known.kind.as_str(), &known.id, sealed)?;
        let key = SigningKey::from_pkcs8(&pkcs8)?;
        let certified = Certified::from(known);
        if certificate_handle(&certified.certificate)?.spki_sha256 != key.spki_sha256() {
            return Err(CaError::Mismatch(certified.subject));
        }
        Ok(Self::new(certified, key))
    }

    /// What is known of it.
    #[must_use]
    pub fn certified(&self) -> &Certified {
        &self.certified
    }

    pub(super) fn key(&self) -> &SigningKey {
        &self.key
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.certified.subject).finish()
    }
}

impl From<&KnownAuthority> for Certified {
    fn from(known: &KnownAuthority) -> Self {
        Self {
            id: known.id.clone(),
            subject: known.subject.clone(),
            certificate: known.certificate.clone().into(),
            not_before: known.not_before,
            not_after: known.not_after,
        }
    }
}

impl Certified {
    /// Its id in the store.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Common name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Start of validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        crate::sha256(&self.certificate)
    }

    /// Serial, big-endian.
    ///
    /// # Errors
    /// Never for a certificate that was loaded.
    pub fn serial(&self) -> Result<Vec<u8>, SvidError> {
        Ok(certificate_handle(&self.certificate)?.serial)
    }
}
