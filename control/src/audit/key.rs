//! The key that signs checkpoints: ECDSA P-256, made once for a mesh, sealed in the store like the authorities'
//! keys but for its own purpose, so that no replica and no restart has another.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::ca::{SealError, SealKey};
use crate::hex;

/// What sealed blobs of this key are bound to.
const PURPOSE: &str = "audit checkpoint";
/// SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480 s2): the only encoding that is taken.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT: usize = 65;
const PEM_LINE: usize = 64;

/// Why a key is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditKeyError {
    /// Not what `signet audit key` prints.
    #[error("not a P-256 public key in PEM: expected what `signet audit key` prints")]
    Pem,
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The cryptographic library failed.
    #[error("cannot make or use the key that signs checkpoints: {0}")]
    Crypto(&'static str),
}

/// The public half: what others verify checkpoints with.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditKey {
    point: [u8; POINT],
}

impl AuditKey {
    /// Reads what [`AuditKey::to_pem`] writes.
    ///
    /// # Errors
    /// [`AuditKeyError::Pem`] for anything but one P-256 public key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, AuditKeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| AuditKeyError::Pem)?;
        Self::from_der(&der)
    }

    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`AuditKeyError::Pem`] for anything but an uncompressed P-256 key.
    pub fn from_der(der: &[u8]) -> Result<Self, AuditKeyError> {
        let point = der.strip_prefix(&SPKI_PREFIX).ok_or(AuditKeyError::Pem)?;
        let point: [u8; POINT] = point.try_into().map_err(|_| AuditKeyError::Pem)?;
        if point.first() != Some(&4) {
            return Err(AuditKeyError::Pem);
        }
        Ok(Self { point })
    }

    /// SubjectPublicKeyInfo.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        [SPKI_PREFIX.as_slice(), &self.point].concat()
    }

    /// For `--key`, and for openssl.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for (position, digit) in STANDARD.encode(self.to_der()).chars().enumerate() {
            if position > 0 && position.is_multiple_of(PEM_LINE) {
                pem.push('\n');
            }
            pem.push(digit);
        }
        pem.push_str("\n-----END PUBLIC KEY-----\n");
        pem
    }

    /// How checkpoints name it: the first 16 bytes of the SHA-256 of its DER, in hex.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(crate::sha256(&self.to_der()).get(..16).unwrap_or_default())
    }

    /// Whether the signature (ASN.1) is this key's over these bytes.
    #[must_use]
    pub fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(signed, signature).is_ok()
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.id())
    }
}

/// The key as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditKeyRecord {
    /// See [`AuditKey::id`].
    pub id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// The private key in PKCS#8, sealed.
    pub sealed_key: Vec<u8>,
}

/// The private half.
pub struct AuditSigner {
    key: EcdsaKeyPair,
    public: AuditKey,
}

impl AuditSigner {
    /// Makes a key. It counts only once the store has kept its record.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(seal: &SealKey) -> Result<AuditKeyRecord, AuditKeyError> {
        // The document wipes itself when dropped.
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| AuditKeyError::Crypto("the system has no randomness to give"))?;
        let public = Self::from_pkcs8(pkcs8.as_ref())?.public;
        let id = public.id();
        let sealed_key = seal.seal(PURPOSE, &id, pkcs8.as_ref())?;
        Ok(AuditKeyRecord { public_key: public.to_der(), sealed_key, id })
    }

    /// Opens the stored key.
    ///
    /// # Errors
    /// When it was sealed with another key or for something else, or was changed.
    pub fn unseal(record: &AuditKeyRecord, seal: &SealKey) -> Result<Self, AuditKeyError> {
        let pkcs8 = seal.unseal(PURPOSE, &record.id, &record.sealed_key)?;
        let signer = Self::from_pkcs8(&pkcs8)?;
        if signer.public.id() != record.id || signer.public.to_der() != record.public_key {
            return Err(AuditKeyError::Crypto("the stored public key is another one's"));
        }
        Ok(signer)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, AuditKeyError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map_err(|_| AuditKeyError::Crypto("not a P-256 key in PKCS#8"))?;
        let point = key.public_key().as_ref().try_into();
        let point = point.map_err(|_| AuditKeyError::Crypto("the library's public key is no point"))?;
        Ok(Self { key, public: AuditKey { point } })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &AuditKey {
        &self.public
    }

    /// Signs, ASN.1.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, AuditKeyError> {
        let signature = self
            .key
            .sign(&SystemRandom::new(), bytes)
            .map_err(|_| AuditKeyError::Crypto("no randomness for a signature"))?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for AuditSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditSigner({})", self.public.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(directory: &std::path::Path) -> SealKey {
        SealKey::load(&directory.join("seal.key"), true).unwrap()
    }

    #[test]
    fn sealed_key_signs_what_its_public_half_verifies() {
        let directory = tempfile::tempdir().unwrap();
        let seal = seal(directory.path());
        let record = AuditSigner::generate(&seal).unwrap();
        let signer = AuditSigner::unseal(&record, &seal).unwrap();
        let signature = signer.sign(b"bytes").unwrap();
        assert!(signer.public().verifies(b"bytes", &signature));
        assert!(!signer.public().verifies(b"other", &signature));
        let other = AuditSigner::generate(&seal).unwrap();
        let swapped = AuditKeyRecord { sealed_key: other.sealed_key, ..record.clone() };
        assert!(AuditSigner::unseal(&swapped, &seal).is_err());
        let swapped = AuditKeyRecord { public_key: other.public_key, ..record };
        assert!(AuditSigner::unseal(&swapped, &seal).is_err());
    }

    #[test]
    fn pem_comes_back_and_nothing_else_is_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let seal = seal(directory.path());
        let record = AuditSigner::generate(&seal).unwrap();
        let key = AuditKey::from_der(&record.public_key).unwrap();
        assert_eq!(key.id(), record.id);
        let pem = key.to_pem();
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE));
        assert_eq!(AuditKey::from_pem(pem.as_bytes()).unwrap(), key);
        assert!(AuditKey::from_pem(b"").is_err());
        assert!(AuditKey::from_pem(pem.replace("PUBLIC", "PRIVATE").as_bytes()).is_err());
        let der = key.to_der();
        for end in 0..der.len() {
            assert!(AuditKey::from_der(&der[..end]).is_err());
        }
        assert!(AuditKey::from_der(&[der.as_slice(), &[0]].concat()).is_err());
    }
}
