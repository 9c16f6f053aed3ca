//! Settings of JWT-SVIDs: how long they and their keys are good, and who others are told signs them.

use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::Scheme;

use super::{ConfigError, Origins, Span};

const DEFAULT_TTL: Duration = Duration::from_secs(300);
const TTL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
const DAY: Duration = Duration::from_secs(86_400);
const SHORTEST_KEY: Duration = Duration::from_secs(60);
/// In tokens, each time.
const LONGEST_ISSUER: usize = 255;

/// What nobody escapes or normalizes.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte))
}

impl Origins<'_> {
    pub(super) fn jwt_ttl(&self, given: Option<Span>) -> Result<Duration, ConfigError> {
        let ttl = given.map_or(DEFAULT_TTL, |span| span.0);
        if ttl < TTL.0 || ttl > TTL.1 {
            return Err(self.wrong("jwt-ttl", "10s to 1h", &Span(ttl)));
        }
        Ok(ttl)
    }

    /// Retiring keys pile up if they are replaced faster than their tokens end.
    pub(super) fn jwt_key_ttl(&self, given: Option<Span>, jwt: Duration) -> Result<Duration, ConfigError> {
        let (least, most) = (SHORTEST_KEY.max(jwt * 2), 365 * DAY);
        let ttl = given.map_or((7 * DAY).max(least), |span| span.0);
        if ttl < least || ttl > most {
            let expected = format!("{} (at least 60s, and twice jwt-ttl) to {}", Span(least), Span(most));
            return Err(self.wrong("jwt-key-ttl", expected, &Span(ttl)));
        }
        Ok(ttl)
    }

    /// As readers compare it: byte by byte, so nothing of it is changed here.
    pub(super) fn oidc_issuer(&self, given: Option<String>) -> Result<Option<String>, ConfigError> {
        let Some(text) = given else { return Ok(None) };
        let good = text.len() <= LONGEST_ISSUER
            && text.strip_prefix("https://").is_some_and(|rest| rest.split('/').all(is_plain))
            && text.parse::<Uri>().is_ok_and(|uri| {
                uri.scheme() == Some(&Scheme::HTTPS)
                    && uri.host().is_some_and(|host| !host.is_empty() && host == host.to_ascii_lowercase())
            });
        if good {
            return Ok(Some(text));
        }
        let expected = "https://HOST[:PORT][/PATH], lower case, with no `/` at the end and nothing escaped";
        Err(self.wrong("oidc-issuer", expected, &text))
    }
}
