//! Keys as rcgen wants them, held by aws-lc, which wipes what it frees.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use zeroize::Zeroizing;

use super::CaError;

/// An authority's private key: ECDSA P-256. No copy outside aws-lc is kept.
pub struct SigningKey(EcdsaKeyPair);

impl SigningKey {
    /// Makes a key. Returned with its PKCS#8 form, to be sealed at once.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), CaError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| CaError::Crypto("the system has no randomness to give".into()))?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it is not a P-256 key in PKCS#8.
    pub(super) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, CaError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map(Self)
            .map_err(|error| CaError::Crypto(format!("not a P-256 key in PKCS#8: {error}")))
    }

    /// SHA-256 of its public key, DER.
    #[must_use]
    pub(super) fn spki_sha256(&self) -> [u8; 32] {
        crate::sha256(&self.subject_public_key_info())
    }
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature =
            self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// A key to be certified: the bytes of its bit string, and its kind.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// Content of the BIT STRING of its SubjectPublicKeyInfo.
    pub bytes: Vec<u8>,
    /// Its kind.
    pub algorithm: &'static SignatureAlgorithm,
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
