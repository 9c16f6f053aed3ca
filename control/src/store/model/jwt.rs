//! Keys that sign JWT-SVIDs, and tokens that were signed.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::Phase;
use crate::audit::RequestId;

/// A new key, sealed.
#[derive(Debug, Clone)]
pub struct JwtKeyRecord {
    /// The `kid` of its tokens, unique for ever.
    pub id: String,
    /// A point of P-256, uncompressed.
    pub public_key: Vec<u8>,
    /// The private key, sealed.
    pub sealed_key: Vec<u8>,
}

/// A key as it is known to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownJwtKey {
    /// The `kid` of its tokens.
    pub id: String,
    /// Where it is in its life: one that is removed is forgotten.
    pub phase: Phase,
    /// Since when.
    pub phase_at: SystemTime,
    /// A point of P-256, uncompressed.
    pub public_key: Vec<u8>,
    /// Of one that retires: no token that it signed is good for longer.
    pub ends: Option<SystemTime>,
    /// The revision with which these keys changed the trust bundle last.
    pub announced: u64,
}

impl KnownJwtKey {
    /// As a JWK (RFC 7517, RFC 7518 section 6.2.1).
    #[must_use]
    pub fn jwk(&self) -> Value {
        jwk(&self.id, &self.public_key)
    }
}

/// A key as a JWK.
pub(in crate::store) fn jwk(id: &str, public_key: &[u8]) -> Value {
    let coordinates = public_key.get(1..).unwrap_or_default();
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": id,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    })
}

/// The next key takes the place of the one that signs.
#[derive(Debug, Clone)]
pub struct JwtActivation {
    /// Which is prepared.
    pub id: String,
    /// Which is active, if any is.
    pub replaces: Option<String>,
    /// The longest life of a token.
    pub longest: Duration,
    /// Although proxies have not said that they know it.
    pub unacknowledged: bool,
}

/// A key that somebody else may have.
#[derive(Debug, Clone)]
pub struct JwtCompromise {
    /// Which.
    pub id: String,
    /// What signs from then on, if it was the one that did.
    pub successor: JwtKeyRecord,
    /// For how long it is believed.
    pub within: Duration,
    /// Why, for the audit.
    pub reason: String,
}

/// A token that was signed, and is not given out before it is recorded.
#[derive(Debug, Clone)]
pub struct JwtIssuance {
    /// Its name.
    pub jti: String,
    /// Whom it names.
    pub spiffe_id: SpiffeId,
    /// The instance that asked.
    pub instance: InstanceId,
    /// SHA-256 of the key of the SVID that it asked with.
    pub spki_sha256: [u8; 32],
    /// Revocation names of the certificates presented: `issuer_sha256` and serial of each.
    pub presented: Vec<([u8; 32], Vec<u8>)>,
    /// Whom it is for.
    pub audience: Vec<String>,
    /// What signed it.
    pub key: String,
    /// When it ends.
    pub expires_at: SystemTime,
    /// In which call.
    pub request_id: Option<RequestId>,
}
