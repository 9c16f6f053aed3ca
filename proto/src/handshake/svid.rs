//! An X.509-SVID together with its key: what a workload proves itself with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::trust::Role;
use super::{Trust, VerifyError};
use crate::spiffe::{SpiffeId, SvidError, SvidProfile, check_intermediate, check_leaf, sha256};

/// A chain, leaf first, and the private key of its leaf. Made only if they fit together.
#[derive(Clone)]
pub struct Svid {
    profile: SvidProfile,
    certified_key: Arc<CertifiedKey>,
}

/// Why chain and key do not make an SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvidMismatch {
    /// No certificate at all.
    #[error("no certificate: expected a chain, leaf first")]
    Empty,
    /// The PEM text is damaged.
    #[error("damaged PEM: expected sections `CERTIFICATE`, leaf first")]
    Pem,
    /// A certificate of the chain breaks the X.509-SVID profile.
    #[error("not a valid X.509-SVID: {0}")]
    Profile(#[from] SvidError),
    /// The key is not the leaf's.
    #[error("the private key does not belong to the certificate of `{0}`")]
    Key(SpiffeId),
}

impl Svid {
    /// Joins a chain (leaf first, without the root) and the key of its leaf.
    ///
    /// # Errors
    /// When the chain breaks the X.509-SVID profile or the key is not the leaf's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Result<Self, SvidMismatch> {
        let (leaf, intermediates) = chain.split_first().ok_or(SvidMismatch::Empty)?;
        let profile = check_leaf(leaf)?;
        for intermediate in intermediates {
            check_intermediate(intermediate, profile.id.trust_domain())?;
        }
        if key.public_key().map(|spki| sha256(&spki)) != Some(profile.spki_sha256) {
            return Err(SvidMismatch::Key(profile.id));
        }
        Ok(Self { profile, certified_key: Arc::new(CertifiedKey::new(chain, key)) })
    }

    /// The same from a PEM chain.
    ///
    /// # Errors
    /// As [`Svid::new`], or when the PEM is damaged.
    pub fn from_pem(chain: &[u8], key: Arc<dyn SigningKey>) -> Result<Self, SvidMismatch> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| SvidMismatch::Pem)?;
        Self::new(chain, key)
    }

    /// Checks that our own peers will believe this SVID: it verifies with `trust` at `now` in both roles
    /// (invariant 3: a new SVID replaces the old one only after this).
    ///
    /// # Errors
    /// What a peer would refuse it for.
    pub fn check(&self, trust: &Trust, now: SystemTime) -> Result<(), VerifyError> {
        let (leaf, intermediates) = self.chain().split_first().ok_or(VerifyError::NoCertificate)?;
        for role in [Role::Server, Role::Client] {
            match trust.verify(leaf, intermediates, now, role) {
                // That our issuer's list is out of date is no fault of this SVID, and no other would be better.
                Ok(_) | Err(VerifyError::ListExpired { .. } | VerifyError::ListUnusable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whom it names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.profile.id
    }

    /// The facts of its leaf.
    #[must_use]
    pub fn profile(&self) -> &SvidProfile {
        &self.profile
    }

    /// The first moment at which nobody believes it: the second that its leaf names last is over (RFC 5280 s4.1.2.5).
    #[must_use]
    pub fn end(&self) -> SystemTime {
        self.profile.not_after + Duration::from_secs(1)
    }

    /// Whether nobody believes it any more.
    #[must_use]
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.end() <= now
    }

    /// How long it is good for still, once it should have been replaced: renewal is due at half of its life, and three
    /// quarters of that are over.
    #[must_use]
    pub fn overdue(&self, now: SystemTime) -> Option<Duration> {
        let life = self.end().duration_since(self.profile.not_before).unwrap_or_default();
        let left = self.end().duration_since(now).ok()?;
        (left < life / 4).then_some(left)
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    pub(super) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").field("profile", &self.profile).finish_non_exhaustive()
    }
}
