//! A workload's private key: made in memory, never written in the clear, wiped on drop (invariant 2).

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::spiffe::SpiffeId;

/// An ECDSA P-256 key pair and what can be done with it.
pub struct WorkloadKey(rcgen::KeyPair);

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The cryptographic library could not make or use a key.
    #[error("cannot make a private key or its signing request: {0}")]
    Generate(#[from] rcgen::Error),
    /// The text holds no private key.
    #[error(
        "no private key found: expected a PEM section `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` or `RSA PRIVATE KEY`"
    )]
    Pem,
    /// The key is damaged or of a kind that is not supported.
    #[error(
        "private key is damaged or of an unsupported kind: expected ECDSA P-256 or P-384, Ed25519 or RSA"
    )]
    Unsupported,
}

impl WorkloadKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// A PKCS#10 request, DER, signed with this key. `id` goes into its URI SAN where it is known already
    /// (renewal); control decides on the name either way.
    ///
    /// # Errors
    /// When the request cannot be signed.
    pub fn csr(&self, id: Option<&SpiffeId>) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        }
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The key in the form rustls signs with.
    ///
    /// # Errors
    /// When the cryptographic library does not accept its own key.
    pub fn signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        Self::signing_key_from_der(&self.to_der())
    }

    /// The key as PKCS#8 PEM, for an operator's own credentials on disk. Workloads never call this.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The key as PKCS#8 DER, to be sealed at once.
    #[must_use]
    pub fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// Reads a private key that came out of its seal.
    ///
    /// # Errors
    /// When it is damaged, or of a kind that is not supported.
    pub fn signing_key_from_der(pkcs8: &[u8]) -> Result<Arc<dyn SigningKey>, KeyError> {
        any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8)))
            .map_err(|_| KeyError::Unsupported)
    }

    /// A key of ours, out of what [`WorkloadKey::to_der`] made of it.
    ///
    /// # Errors
    /// When it is damaged, or of another kind than ours are.
    pub fn from_der(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8);
        let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256);
        key.map(Self).map_err(|_| KeyError::Unsupported)
    }

    /// Reads a private key that something else keeps on disk (the `files` identity source).
    ///
    /// # Errors
    /// When the text holds no private key of a supported kind.
    pub fn signing_key_from_pem(pem: &[u8]) -> Result<Arc<dyn SigningKey>, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)?;
        let signing_key = any_supported_type(&key).map_err(|_| KeyError::Unsupported);
        wipe(key);
        signing_key
    }
}

/// Signs with a private key that something else keeps, as the joiner's side of [`crate::possession`]: ECDSA P-256 with
/// SHA-256, P-384 with SHA-384, Ed25519, or RSA-PSS with SHA-256, by the kind of the key. The key is wiped.
///
/// # Errors
/// When the text holds no private key of a supported kind.
pub fn sign_with_pem_key(pem: &[u8], message: &[u8]) -> Result<Vec<u8>, KeyError> {
    let schemes = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
    ];
    let key = WorkloadKey::signing_key_from_pem(pem)?;
    let signer = key.choose_scheme(&schemes).ok_or(KeyError::Unsupported)?;
    signer.sign(message).map_err(|_| KeyError::Unsupported)
}

/// Whether a private key that something else keeps is the one of a certificate; `None` when the certificate cannot be
/// read. The key is wiped.
///
/// # Errors
/// When the text holds no private key of a supported kind.
pub fn is_key_of(pem: &[u8], certificate: &CertificateDer<'_>) -> Result<Option<bool>, KeyError> {
    let key = WorkloadKey::signing_key_from_pem(pem)?;
    Ok(match CertifiedKey::new(vec![certificate.clone().into_owned()], key).keys_match() {
        Ok(()) => Some(true),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Some(false),
        Err(_) => None,
    })
}

impl Drop for WorkloadKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkloadKey(..)")
    }
}

fn wipe(mut key: PrivateKeyDer<'static>) {
    key.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_key_signs_and_reads_back_from_pem() {
        let key = WorkloadKey::generate().unwrap();
        let ours = key.signing_key().unwrap();
        let read = WorkloadKey::signing_key_from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(ours.public_key().unwrap().as_ref(), read.public_key().unwrap().as_ref());
    }

    #[test]
    fn key_is_that_of_its_certificate_and_of_no_other() {
        let (own, other) = (WorkloadKey::generate().unwrap(), WorkloadKey::generate().unwrap());
        let key = rcgen::KeyPair::from_pem(&own.to_pem()).unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(is_key_of(own.to_pem().as_bytes(), certificate.der()).unwrap(), Some(true));
        assert_eq!(is_key_of(other.to_pem().as_bytes(), certificate.der()).unwrap(), Some(false));
        assert_eq!(is_key_of(own.to_pem().as_bytes(), &CertificateDer::from(vec![0x30, 0])).unwrap(), None);
        assert!(is_key_of(b"hello", certificate.der()).is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", WorkloadKey::generate().unwrap()), "WorkloadKey(..)");
    }

    #[test]
    fn text_without_a_key_is_refused() {
        assert!(matches!(WorkloadKey::signing_key_from_pem(b"hello"), Err(KeyError::Pem)));
    }
}
