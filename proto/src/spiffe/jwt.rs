//! JWT-SVIDs (the JWT-SVID standard, RFC 7519, RFC 8725), and the keys that they are checked with.
//!
//! A token is checked with the keys of the trust domain that its `sub` names, and with no others; what it claims counts
//! only once that signature was found good, read from the very bytes that were signed. Every MUST of the standard is
//! taken in its strictest reading: `kid` and `exp` have to be there, and the audience must name who asks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::id::{SpiffeId, SpiffeIdError, TrustDomain};
use crate::jose::{KeySet, KeySetError, MAX_KEYS, PRIVATE, Profile, Token, TokenError};
use crate::json;

/// What a key of a bundle is for.
pub(super) const JWT_SVID: &str = "jwt-svid";
/// Members of a public key that are kept; whatever else is said about it is not passed on.
const KEPT: [&str; 8] = ["kty", "kid", "alg", "crv", "x", "y", "n", "e"];
/// Clocks of those who issue may be ahead of ours by so much. Nothing is believed longer for that.
const AHEAD: Duration = Duration::from_secs(10);
/// No token of a workload lives to see it (the year 9999).
const END_OF_TIME: f64 = 253_402_300_799.0;

/// The keys of one trust domain that sign JWT-SVIDs.
#[derive(Debug, Clone, Default)]
pub struct JwtAuthorities {
    /// JWKs with their public members only, in the order given.
    keys: Vec<Value>,
    set: Arc<KeySet>,
}

/// Why keys cannot be authorities of JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtAuthorityError {
    /// Not an object with a `kid`.
    #[error("jwt-svid key {position}: expected an object with `kid`, a string")]
    NoKeyId {
        /// Counted from 0.
        position: usize,
    },
    /// With parts of the private key.
    #[error("jwt-svid key {position}: it is a private or a shared key, and was published")]
    Private {
        /// Counted from 0.
        position: usize,
    },
    /// Not one JSON object.
    #[error("jwt-svid key {position} is not JSON: {error}")]
    Json {
        /// Counted from 0.
        position: usize,
        /// What is wrong.
        error: json::JsonError,
    },
    /// They are no set.
    #[error("jwt-svid keys: {0}")]
    Set(#[from] KeySetError),
}

impl JwtAuthorities {
    /// Of JWKs, each with a `kid`. One that cannot be used here (another curve, say) is kept for others.
    ///
    /// # Errors
    /// When one has no name or is a private key, or two have the same name, or there are more than 64.
    pub fn new(keys: impl IntoIterator<Item = Value>) -> Result<Self, JwtAuthorityError> {
        let mut kept = Vec::new();
        for (position, key) in keys.into_iter().enumerate().take(MAX_KEYS + 1) {
            let Value::Object(mut members) = key else {
                return Err(JwtAuthorityError::NoKeyId { position });
            };
            if !members.get("kid").is_some_and(Value::is_string) {
                return Err(JwtAuthorityError::NoKeyId { position });
            }
            if PRIVATE.iter().any(|name| members.contains_key(*name)) {
                return Err(JwtAuthorityError::Private { position });
            }
            members.retain(|name, _| KEPT.contains(&name.as_str()));
            members.insert("use".to_owned(), JWT_SVID.into());
            kept.push(Value::Object(members));
        }
        let set = KeySet::of(&kept, JWT_SVID)?;
        Ok(Self { keys: kept, set: Arc::new(set) })
    }

    /// Of JWKs as JSON texts.
    ///
    /// # Errors
    /// As for [`JwtAuthorities::new`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, JwtAuthorityError> {
        let parse = |(position, text): (usize, &str)| {
            json::parse(text.as_bytes()).map_err(|error| JwtAuthorityError::Json { position, error })
        };
        let keys: Result<Vec<_>, _> = texts.into_iter().take(MAX_KEYS + 1).enumerate().map(parse).collect();
        Self::new(keys?)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a key of this name is among them.
    #[must_use]
    pub fn has(&self, key_id: &str) -> bool {
        self.keys.iter().any(|key| key.get("kid").is_some_and(|kid| kid == key_id))
    }

    /// The JWKs, each with `use: jwt-svid`.
    #[must_use]
    pub fn keys(&self) -> &[Value] {
        &self.keys
    }

    /// As a JWK set for readers of SPIFFE bundles, without certificates.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        json!({ "keys": self.keys }).to_string()
    }

    /// As a JWK set for readers of OpenID Connect, who know no use but `sig`.
    #[must_use]
    pub fn to_oidc_jwks(&self) -> String {
        let mut keys = self.keys.clone();
        for key in keys.iter_mut().filter_map(Value::as_object_mut) {
            key.insert("use".to_owned(), "sig".into());
        }
        json!({ "keys": keys }).to_string()
    }
}

impl PartialEq for JwtAuthorities {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

impl Eq for JwtAuthorities {}

/// A token that is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    /// Whom it names.
    pub id: SpiffeId,
    /// Whom it is for.
    pub audience: Vec<String>,
    /// The key that signed it.
    pub key_id: String,
    /// From then on it is not believed.
    pub expires_at: SystemTime,
    /// All that was signed.
    pub claims: Map<String, Value>,
}

/// Why a JWT-SVID is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSvidError {
    /// It is not a token, or its signature is not good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No key is named.
    #[error("header: expected `kid`, the name of a key")]
    NoKeyId,
    /// A claim that is missing or not what it has to be.
    #[error("claim {name}: expected {expected}")]
    Claim {
        /// Which.
        name: &'static str,
        /// What would do.
        expected: &'static str,
    },
    /// It is about no workload.
    #[error("claim sub: {0}")]
    Subject(#[from] SpiffeIdError),
    /// Of a trust domain whose keys are not known here.
    #[error("no keys of the trust domain `{0}` are known: federate with it first")]
    TrustDomain(TrustDomain),
    /// For somebody else.
    #[error("it is for somebody else: `aud` does not name {0}")]
    Audience(String),
    /// It is over.
    #[error("it has expired")]
    Expired,
    /// By our clock it was not made yet.
    #[error("it is not valid yet: compare the clocks")]
    NotYet,
}

impl JwtSvidError {
    /// A stable word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Token(error) => error.reason(),
            Self::NoKeyId => "no_key_id",
            Self::Claim { .. } => "claim",
            Self::Subject(_) => "subject",
            Self::TrustDomain(_) => "trust_domain",
            Self::Audience(_) => "audience",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
        }
    }
}

impl JwtSvid {
    /// Believes a token that is for `audience`, by the keys that `authorities` has of its trust domain.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify<'k>(
        text: &str,
        audience: &str,
        authorities: impl FnOnce(&TrustDomain) -> Option<&'k JwtAuthorities>,
        now: SystemTime,
    ) -> Result<Self, JwtSvidError> {
        let token = Token::parse_as(text, Profile::JwtSvid)?;
        let key_id = token.key_id().ok_or(JwtSvidError::NoKeyId)?.to_owned();
        let named = subject(&token.claimed()?)?;
        let keys = authorities(named.trust_domain()).filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| JwtSvidError::TrustDomain(named.trust_domain().clone()))?;
        let Value::Object(claims) = token.verify(&keys.set)? else {
            return Err(JwtSvidError::Claim { name: "sub", expected: "an object of claims" });
        };
        let svid = Self {
            id: subject(&claims)?,
            audience: read_audience(&claims)?,
            key_id,
            expires_at: moment(&claims, "exp")?
                .ok_or(JwtSvidError::Claim { name: "exp", expected: "a number of seconds" })?,
            claims,
        };
        if svid.expires_at <= now {
            return Err(JwtSvidError::Expired);
        }
        for name in ["nbf", "iat"] {
            if moment(&svid.claims, name)?.is_some_and(|at| at > now + AHEAD) {
                return Err(JwtSvidError::NotYet);
            }
        }
        if audience.is_empty() || !svid.audience.iter().any(|named| named == audience) {
            return Err(JwtSvidError::Audience(audience.chars().take(255).collect()));
        }
        Ok(svid)
    }
}

fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtSvidError> {
    let expected = JwtSvidError::Claim { name: "sub", expected: "a SPIFFE ID" };
    Ok(claims.get("sub").and_then(Value::as_str).ok_or(expected)?.parse()?)
}

/// One, or a list of them; none is empty.
fn read_audience(claims: &Map<String, Value>) -> Result<Vec<String>, JwtSvidError> {
    let expected = || JwtSvidError::Claim { name: "aud", expected: "a name, or a list of one or more" };
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let audience: Option<Vec<String>> = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(one) => text(one).map(|one| vec![one]),
        None => None,
    };
    audience.filter(|audience| !audience.is_empty()).ok_or_else(expected)
}

/// A NumericDate (RFC 7519 section 2).
fn moment(claims: &Map<String, Value>, name: &'static str) -> Result<Option<SystemTime>, JwtSvidError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=END_OF_TIME).contains(seconds));
    let seconds = seconds.ok_or(JwtSvidError::Claim { name, expected: "a number of seconds" })?;
    Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

#[cfg(test)]
mod tests;
