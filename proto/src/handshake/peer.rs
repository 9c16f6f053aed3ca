//! Who is at the other end of a finished handshake.

use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use super::presented::Presented;
use crate::spiffe::{CertificateHandle, InstanceId, SpiffeId, SvidError};

/// A verified peer, with what later changes may be matched against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its attested instance, if its SVID is Signet's.
    pub instance: Option<InstanceId>,
    /// Serial of its leaf, big-endian.
    pub serial: Vec<u8>,
    /// SHA-256 of its leaf's DER: `Hash` of x-forwarded-client-cert.
    pub leaf_sha256: [u8; 32],
    /// When it was verified.
    pub verified_at: SystemTime,
    /// End of its leaf's validity.
    pub not_after: SystemTime,
    /// What a revocation can match, for every element of its chain.
    pub handles: Arc<[CertificateHandle]>,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
}

/// The peer's certificates could not be read after the handshake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// A required certificate did not come.
    #[error("peer presented no certificate")]
    None,
    /// What the verifier accepted does not parse again: not expected to happen.
    #[error("peer's certificate cannot be read: {0}")]
    Unreadable(#[from] SvidError),
}

impl PeerIdentity {
    /// The identity in a chain that a verifier of this room accepted: pass `peer_certificates()` of the
    /// connection after its handshake.
    ///
    /// # Errors
    /// When there is no certificate.
    pub fn from_verified(chain: Option<&[CertificateDer<'_>]>) -> Result<Self, PeerError> {
        let (leaf, above) = chain.unwrap_or_default().split_first().ok_or(PeerError::None)?;
        let presented = Presented::read(leaf, above)?;
        presented.remember();
        let profile = &presented.profile;
        Ok(Self {
            id: profile.id.clone(),
            instance: profile.instance,
            serial: profile.serial.clone(),
            leaf_sha256: presented.leaf_sha256,
            verified_at: crate::clock::now(),
            not_after: profile.not_after,
            handles: Arc::clone(&presented.handles),
            chain: Arc::clone(&presented.chain),
        })
    }

    /// The certificates it showed, DER, its leaf first.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(AsRef::as_ref)
    }

    /// The common name of its leaf, if it has one that is text. Nothing is decided by it.
    #[must_use]
    pub fn common_name(&self) -> Option<String> {
        let (_, leaf) = x509_parser::parse_x509_certificate(self.chain.first()?).ok()?;
        let name = leaf.subject().iter_common_name().next()?.as_str().ok()?;
        name.chars().all(|character| !character.is_control()).then(|| name.to_owned())
    }

    /// The same without the certificates themselves, for who never verifies them again.
    #[must_use]
    pub fn without_chain(self) -> Self {
        Self { chain: Arc::default(), ..self }
    }
}
