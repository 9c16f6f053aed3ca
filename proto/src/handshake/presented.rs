//! What a chain of certificates says, read once.
//!
//! Reading is a question about the bytes alone: the profile of the leaf, that of what signed it, for the trust domain that
//! the leaf names, and what revocations can match. Whether any of it is to be believed is another question, which
//! [`super::Trust`] answers each time. So what was read of a chain that was believed is kept for the next connection of the
//! peer, and all its connections share one copy of its certificates.

use std::sync::{Arc, LazyLock};

use rustls_pki_types::CertificateDer;

use super::recent::Recent;
use crate::spiffe::{CertificateHandle, SvidError, SvidProfile, check_intermediate, check_leaf, sha256};

/// Half of the chains that are kept.
const HALF: usize = 1024;
/// Longer ones are read each time, so that who issues them does not decide how much is kept. Ours have about 1,300 bytes.
const MAX_KEPT_BYTES: usize = 8 * 1024;

/// A chain, leaf first, each of whose certificates is what it has to be in its place.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) profile: SvidProfile,
    pub(super) leaf_sha256: [u8; 32],
    /// Of each certificate.
    pub(super) handles: Arc<[CertificateHandle]>,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    fingerprint: [u8; 32],
}

impl Presented {
    /// Reads a chain, or remembers what it says.
    ///
    /// # Errors
    /// The first rule of the X.509-SVID profile that one of them breaks.
    pub(super) fn read(
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
    ) -> Result<Arc<Self>, SvidError> {
        let leaf_sha256 = sha256(leaf);
        let mut fingerprints = leaf_sha256.to_vec();
        above.iter().for_each(|element| fingerprints.extend(sha256(element)));
        let fingerprint = sha256(&fingerprints);
        if let Some(known) = known().get(&fingerprint) {
            return Ok(known);
        }
        let profile = check_leaf(leaf)?;
        let mut handles = vec![CertificateHandle::from(&profile)];
        for element in above {
            handles.push(check_intermediate(element, profile.id.trust_domain())?);
        }
        let chain = std::iter::once(leaf).chain(above).map(|element| element.clone().into_owned());
        let (handles, chain) = (handles.into(), chain.collect());
        Ok(Arc::new(Self { profile, leaf_sha256, handles, chain, fingerprint }))
    }

    /// Keeps it for the next time. Only of who was believed and proved to have the key: a chain alone is known to everybody,
    /// so who merely shows one drives nobody out.
    pub(super) fn remember(self: &Arc<Self>) {
        if self.chain.iter().map(|element| element.len()).sum::<usize>() <= MAX_KEPT_BYTES {
            known().put(self.fingerprint, Arc::clone(self));
        }
    }
}

fn known() -> &'static Recent<Arc<Presented>> {
    static KNOWN: LazyLock<Recent<Arc<Presented>>> = LazyLock::new(|| Recent::new(HALF));
    &KNOWN
}
