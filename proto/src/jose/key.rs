//! One public key of a key set (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
//!
//! Its kind decides which algorithms it can be used with. Accepted are EC P-256 and P-384, Ed25519, and RSA of
//! 2048 to 8192 bits with an ordinary exponent.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Algorithm;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Members that only a private key has (RFC 7518 sections 6.2.2, 6.3.2 and 6.4).
pub(crate) const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What signatures are checked with.
#[derive(Debug)]
pub(super) enum PublicKey {
    /// A key that goes with one algorithm only.
    Curve { algorithm: Algorithm, key: Box<ParsedPublicKey> },
    /// Modulus and exponent.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

impl PublicKey {
    /// Reads the members of a JWK; the error says why the key cannot be used.
    pub(super) fn read(members: &Map<String, Value>) -> Result<Self, &'static str> {
        if PRIVATE.iter().any(|name| members.contains_key(*name)) {
            return Err("it is a private or a shared key, and was published");
        }
        match text(members, "kty")? {
            "EC" => match text(members, "crv")? {
                "P-256" => point(members, Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
                "P-384" => point(members, Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
                _ => Err("its curve is neither P-256 nor P-384"),
            },
            "OKP" if text(members, "crv")? == "Ed25519" => {
                let x = bytes(members, "x", 32)?;
                curve(Algorithm::EdDsa, &ED25519, &x)
            }
            "OKP" => Err("its curve is not Ed25519"),
            "RSA" => rsa(members),
            _ => Err("its kind is none of EC, OKP and RSA"),
        }
    }

    /// Whether signatures of this kind can be made with it.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Curve { algorithm: own, .. } => *own == algorithm,
            Self::Rsa(_) => algorithm.rsa().is_some(),
        }
    }

    /// Whether this is the signature of these bytes.
    pub(super) fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        match (self, algorithm.rsa()) {
            (Self::Curve { algorithm: own, key }, _) => {
                *own == algorithm && key.verify_sig(signed, signature).is_ok()
            }
            (Self::Rsa(key), Some(parameters)) => key.verify(parameters, signed, signature).is_ok(),
            (Self::Rsa(_), None) => false,
        }
    }
}

fn curve(
    algorithm: Algorithm,
    parameters: &'static dyn VerificationAlgorithm,
    bytes: &[u8],
) -> Result<PublicKey, &'static str> {
    let key = ParsedPublicKey::new(parameters, bytes).map_err(|_| "it is not a point of its curve")?;
    Ok(PublicKey::Curve { algorithm, key: Box::new(key) })
}

fn point(
    members: &Map<String, Value>,
    algorithm: Algorithm,
    parameters: &'static dyn VerificationAlgorithm,
    size: usize,
) -> Result<PublicKey, &'static str> {
    let mut uncompressed = vec![0x04];
    uncompressed.extend(bytes(members, "x", size)?);
    uncompressed.extend(bytes(members, "y", size)?);
    curve(algorithm, parameters, &uncompressed)
}

fn rsa(members: &Map<String, Value>) -> Result<PublicKey, &'static str> {
    let (n, e) = (number(members, "n")?, number(members, "e")?);
    let leading_zeros = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&(n.len() * 8 - leading_zeros)) {
        return Err("an RSA key outside 2048 to 8192 bits");
    }
    let exponent = e.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
    if e.len() > 4 || exponent < 65537 || exponent % 2 == 0 {
        return Err("an RSA exponent other than an odd number from 65537 to 2^32");
    }
    Ok(PublicKey::Rsa(RsaPublicKeyComponents { n, e }))
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, &'static str> {
    members.get(name).and_then(Value::as_str).ok_or("a member that its kind needs is missing or not a string")
}

fn decode(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(text(members, name)?).map_err(|_| "a member is not base64url without padding")
}

fn bytes(members: &Map<String, Value>, name: &str, size: usize) -> Result<Vec<u8>, &'static str> {
    let bytes = decode(members, name)?;
    if bytes.len() == size { Ok(bytes) } else { Err("a coordinate has not the length of its curve") }
}

/// A number in as few bytes as it takes (RFC 7518 section 2).
fn number(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    match decode(members, name)? {
        bytes if matches!(bytes.first(), None | Some(0)) => Err("a number is empty or begins with zeros"),
        bytes => Ok(bytes),
    }
}
