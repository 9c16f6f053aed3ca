//! Who can sign revocation lists: every authority below which anything may be believed, not only those that sign
//! certificates now. A list that is not renewed until the last certificate has ended is one that verifiers fail on.

use std::sync::Arc;

use rcgen::{PublicKeyData as _, SignatureAlgorithm, SigningKey as _};

use super::signer::{Certified, Signer};
use super::{Authority, CaError};
use crate::store::model::{AuthorityKind, Phase};

/// An authority's key for its revocation lists, and for nothing else. Its key is wiped when it is dropped.
#[derive(Debug)]
pub struct CrlSigner {
    kind: AuthorityKind,
    signer: Arc<Signer>,
}

impl Authority {
    /// Those whose certificates may be alive and whose key is kept: active and retiring ones, roots first. A prepared one
    /// has signed nothing; of a removed one nothing is believed; the key of a compromised one is erased as soon as
    /// another one signs, and what is above it says so.
    ///
    /// # Errors
    /// When the store fails. Whose key cannot be had now is left out: the others' lists do not wait for it.
    pub async fn crl_signers(&self) -> Result<Vec<CrlSigner>, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let mut signers = Vec::new();
        for known in hierarchy.known() {
            let signer = match known.phase {
                Phase::Prepared | Phase::Removed => None,
                _ if known.id == hierarchy.intermediate().certified().id() => {
                    Some(Arc::clone(hierarchy.intermediate()))
                }
                Phase::Active | Phase::Retiring => match self.places.signer(&self.store, known).await {
                    Ok(signer) => signer.map(Arc::new),
                    Err(error @ CaError::Store(_)) => return Err(error),
                    Err(error) => {
                        tracing::warn!(authority = known.id, %error, "its revocation list cannot be signed now");
                        None
                    }
                },
            };
            signers.extend(signer.map(|signer| CrlSigner { kind: known.kind, signer }));
        }
        Ok(signers)
    }
}

impl CrlSigner {
    /// Root or intermediate.
    #[must_use]
    pub fn kind(&self) -> AuthorityKind {
        self.kind
    }

    /// Whose lists it signs. Name and key identifier of the list's issuer are those of this certificate.
    #[must_use]
    pub fn certified(&self) -> &Certified {
        self.signer.certified()
    }

    /// With what it signs.
    #[must_use]
    pub fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.signer.key().algorithm()
    }

    /// Signs a TBSCertList, DER. The signature is what goes into the BIT STRING. Waits for a token, if the key is in one.
    ///
    /// # Errors
    /// When the key cannot sign now.
    pub fn sign(&self, list: &[u8]) -> Result<Vec<u8>, CaError> {
        let key = self.signer.key();
        key.sign(list).map_err(|error| key.explain(error))
    }
}
