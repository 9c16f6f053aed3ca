//! Keys as rcgen wants them: held by aws-lc, which wipes what it frees, or by a token, which never gives them away.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _,
};
use clap::ValueEnum;
use parking_lot::Mutex;
use rcgen::{PublicKeyData, SignatureAlgorithm};
use serde::Deserialize;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use super::CaError;
use super::token::{KeyId, Token, TokenError};

/// id-ecPublicKey's namedCurve, as text.
const CURVES: [(&str, KeyCurve); 2] =
    [("1.2.840.10045.3.1.7", KeyCurve::P256), ("1.3.132.0.34", KeyCurve::P384)];

/// Of an authority's key, ECDSA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyCurve {
    /// P-256, with SHA-256
    #[default]
    P256,
    /// P-384, with SHA-384
    P384,
}

impl KeyCurve {
    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        }
    }
}

/// An authority's private key. No copy outside aws-lc, or the token, is kept.
pub struct SigningKey {
    private: Private,
    curve: KeyCurve,
    /// Uncompressed.
    point: Vec<u8>,
    /// Why the token did not sign: rcgen has no room for it in its errors.
    failure: Mutex<Option<TokenError>>,
}

enum Private {
    Here(EcdsaKeyPair),
    Token(Token, KeyId),
}

impl SigningKey {
    /// Makes a key. Returned with its PKCS#8 form, to be sealed at once.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn generate(curve: KeyCurve) -> Result<(Self, Zeroizing<Vec<u8>>), CaError> {
        let document = EcdsaKeyPair::generate_pkcs8(curve.signing(), &SystemRandom::new())
            .map_err(|_| CaError::Crypto("the system has no randomness to give".into()))?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it is not a P-256 or P-384 key in PKCS#8.
    pub(super) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, CaError> {
        let read = |curve: KeyCurve| Some((EcdsaKeyPair::from_pkcs8(curve.signing(), pkcs8).ok()?, curve));
        let (key, curve) = read(KeyCurve::P256)
            .or_else(|| read(KeyCurve::P384))
            .ok_or_else(|| CaError::Crypto("not a P-256 or P-384 key in PKCS#8".into()))?;
        let point = key.public_key().as_ref().to_vec();
        Ok(Self::new(Private::Here(key), curve, point))
    }

    /// A key that stays in a token.
    pub(super) fn in_token(token: Token, id: KeyId, curve: KeyCurve, point: Vec<u8>) -> Self {
        Self::new(Private::Token(token, id), curve, point)
    }

    /// The key that a certificate is for, if the token has it: it is asked to prove that.
    ///
    /// # Errors
    /// When the token does not have it, or is not there.
    pub(super) fn of_certificate(token: Token, id: KeyId, certificate: &[u8]) -> Result<Self, CaError> {
        let read = X509Certificate::from_der(certificate).ok();
        Self::proven(token, id, read.as_ref().map(|(_, read)| read.public_key()))
    }

    /// The same of a signing request.
    ///
    /// # Errors
    /// As for [`SigningKey::of_certificate`].
    pub(super) fn of_request(token: Token, id: KeyId, request: &[u8]) -> Result<Self, CaError> {
        let read = X509CertificationRequest::from_der(request).ok();
        Self::proven(token, id, read.as_ref().map(|(_, read)| &read.certification_request_info.subject_pki))
    }

    fn proven(token: Token, id: KeyId, key: Option<&SubjectPublicKeyInfo<'_>>) -> Result<Self, CaError> {
        let (curve, point) = key
            .and_then(named_point)
            .ok_or_else(|| CaError::Crypto("what is stored is not of a P-256 or P-384 key".into()))?;
        token.sign(id, curve, &point, &super::profile::random::<32>()?)?;
        Ok(Self::in_token(token, id, curve, point))
    }

    fn new(private: Private, curve: KeyCurve, point: Vec<u8>) -> Self {
        Self { private, curve, point, failure: Mutex::default() }
    }

    /// SHA-256 of its public key, DER.
    #[must_use]
    pub(super) fn spki_sha256(&self) -> [u8; 32] {
        crate::sha256(&self.subject_public_key_info())
    }

    /// Why nothing was signed.
    pub(super) fn explain(&self, error: rcgen::Error) -> CaError {
        self.failure.lock().take().map_or_else(|| error.into(), CaError::Token)
    }
}

fn named_point(key: &SubjectPublicKeyInfo<'_>) -> Option<(KeyCurve, Vec<u8>)> {
    let named = key.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
    let (_, curve) = CURVES.into_iter().find(|(oid, _)| *oid == named)?;
    Some((curve, key.subject_public_key.data.to_vec()))
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.curve.algorithm()
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.private {
            Private::Here(key) => {
                let signature = key.sign(&SystemRandom::new(), message);
                Ok(signature.map_err(|_| rcgen::Error::RingUnspecified)?.as_ref().to_vec())
            }
            Private::Token(token, id) => token.sign(*id, self.curve, &self.point, message).map_err(|error| {
                *self.failure.lock() = Some(error);
                rcgen::Error::RemoteKeyError
            }),
        }
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
