//! What the claims of a verified token have to say before it proves anything (RFC 7519 section 4.1). Pure: the
//! time comes from outside.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::config::JwtConfig;
use super::error::JwtError;
use super::profile::scalar;

/// Most audiences of one token.
const MAX_AUDIENCES: usize = 32;
/// The last second of the year 9999: later ones are nonsense.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Checks issuer, audience, times, and what the operator requires. Returns when the token ends.
pub(super) fn check(config: &JwtConfig, claims: &Value, now: SystemTime) -> Result<SystemTime, JwtError> {
    if claims.get("iss").and_then(Value::as_str) != Some(config.issuer.as_str()) {
        return Err(JwtError::Issuer);
    }
    audience(config, claims)?;
    let ends = times(config, claims, now)?;
    for (path, expected) in &config.require {
        let found = path.find(claims).ok_or_else(|| JwtError::ClaimMissing(path.as_str().to_owned()))?;
        if scalar(found).as_deref() != Some(expected) {
            return Err(JwtError::ClaimMismatch(path.as_str().to_owned()));
        }
    }
    Ok(ends)
}

fn audience(config: &JwtConfig, claims: &Value) -> Result<(), JwtError> {
    let ours = |audience: &str| config.audience.iter().any(|own| own == audience);
    let found = match claims.get("aud") {
        None => false,
        Some(Value::String(audience)) => ours(audience),
        Some(Value::Array(audiences)) if audiences.len() <= MAX_AUDIENCES => {
            let mut any = false;
            for audience in audiences {
                any |= ours(audience.as_str().ok_or(JwtError::Malformed("aud"))?);
            }
            any
        }
        Some(_) => return Err(JwtError::Malformed("aud")),
    };
    if found { Ok(()) } else { Err(JwtError::Audience) }
}

fn times(config: &JwtConfig, claims: &Value, now: SystemTime) -> Result<SystemTime, JwtError> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let expires = numeric_date(claims, "exp")?.ok_or(JwtError::NoExpiry)?;
    let issued = numeric_date(claims, "iat")?;
    if now >= expires + config.leeway {
        return Err(JwtError::Expired);
    }
    if numeric_date(claims, "nbf")?.is_some_and(|begins| now + config.leeway < begins) {
        return Err(JwtError::NotYetValid);
    }
    if issued.is_some_and(|issued| now + config.leeway < issued) {
        return Err(JwtError::IssuedInFuture);
    }
    // A token that does not say when it was made was made now at the latest.
    let begins = issued.unwrap_or(now.min(expires));
    if issued.is_some_and(|issued| expires <= issued) || expires.saturating_sub(begins) > config.max_lifetime
    {
        return Err(JwtError::Lifetime);
    }
    Ok(SystemTime::UNIX_EPOCH + expires)
}

/// Seconds since the epoch, which may have a fraction.
fn numeric_date(claims: &Value, name: &'static str) -> Result<Option<Duration>, JwtError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    value
        .as_f64()
        .filter(|seconds| (0.0..=LAST_SECOND).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(Some)
        .ok_or(JwtError::Malformed(name))
}

#[cfg(test)]
mod tests;
