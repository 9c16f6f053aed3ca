//! Who can sign revocation lists: every authority below which anything may be believed, not only those that sign
//! certificates now. A list that is not renewed until the last certificate has ended is one that verifiers fail on.

use std::sync::Arc;

use rcgen::{PublicKeyData as _, SignatureAlgorithm, SigningKey as _};

use super::signer::{Certified, Signer};
use super::{Authority, CaError};
use crate::store::model::{KnownAuthority, Phase};

/// An authority's key for its revocation lists, and for nothing else. Its key is wiped when it is dropped.
#[derive(Debug)]
pub struct CrlSigner(Arc<Signer>);

impl Authority {
    /// The key of one whose certificates may be alive, an active or retiring one, if it is here. A prepared one has signed
    /// nothing; of a removed one nothing is believed; the key of a compromised one is erased as soon as another one signs,
    /// and what is above it says so.
    ///
    /// # Errors
    /// When the store fails, or the key cannot be had now.
    pub async fn crl_signer(&self, known: &KnownAuthority) -> Result<Option<CrlSigner>, CaError> {
        let hierarchy = self.hierarchy();
        let signer = match known.phase {
            Phase::Prepared | Phase::Removed => None,
            _ if known.id == hierarchy.intermediate().certified().id() => {
                Some(Arc::clone(hierarchy.intermediate()))
            }
            Phase::Active | Phase::Retiring => self.places.signer(&self.store, known).await?.map(Arc::new),
        };
        Ok(signer.map(CrlSigner))
    }
}

impl CrlSigner {
    /// Whose lists it signs. Name and key identifier of the list's issuer are those of this certificate.
    #[must_use]
    pub fn certified(&self) -> &Certified {
        self.0.certified()
    }

    /// With what it signs.
    #[must_use]
    pub fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.key().algorithm()
    }

    /// Signs a TBSCertList, DER. The signature is what goes into the BIT STRING. Waits for a token, if the key is in one.
    ///
    /// # Errors
    /// When the key cannot sign now.
    pub fn sign(&self, list: &[u8]) -> Result<Vec<u8>, CaError> {
        let key = self.0.key();
        key.sign(list).map_err(|error| key.explain(error))
    }
}
