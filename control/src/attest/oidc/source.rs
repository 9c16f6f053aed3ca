//! The keys of one issuer, kept fresh: a task that fetches, and callers that verify with what is there, or wait.
//!
//! Only the task fetches, so there is one fetch at a time, and a caller that goes away stops nothing.

use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use signet_proto::jose::{KeySet, MAX_KEY_SET_BYTES, Token, TokenError};
use signet_proto::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::{JwtConfig, KeyOrigin};
use super::error::JwtError;
use super::keys::{HARD_LIMIT, KeyCache};
use crate::duration::rough;
use crate::fetch::{self, FetchError, Fetcher, Trust, Url};
use crate::telemetry::metrics;

/// For everything that one fetch takes.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a caller waits for it.
const WAIT: Duration = Duration::from_secs(6);

/// The keys of one issuer.
pub(super) struct Source {
    attestor: String,
    issuer: String,
    origin: Origin,
    cache: Mutex<KeyCache>,
    wanted: Notify,
    /// Counts fetches that ended.
    ended: watch::Sender<u64>,
}

enum Origin {
    Discovery(Fetcher, Url),
    Jwks(Fetcher, Url),
    File(PathBuf),
}

impl Source {
    pub(super) fn new(attestor: &str, config: &JwtConfig, fetcher: impl FnOnce() -> Fetcher) -> Self {
        let origin = match &config.keys {
            KeyOrigin::Discovery(url) => Origin::Discovery(fetcher(), url.clone()),
            KeyOrigin::Jwks(url) => Origin::Jwks(fetcher(), url.clone()),
            KeyOrigin::File(path) => Origin::File(path.clone()),
        };
        Self {
            attestor: attestor.to_owned(),
            issuer: config.issuer.clone(),
            origin,
            cache: Mutex::new(KeyCache::new(Instant::now())),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
        }
    }

    /// The claims of a token that this issuer signed.
    pub(super) async fn verify(&self, token: &Token<'_>) -> Result<Value, JwtError> {
        let mut ended = self.ended.subscribe();
        let usable = || self.cache.lock().usable(Instant::now());
        match usable().map(|keys| token.verify(&keys)) {
            Some(Err(TokenError::KeyUnknown)) | None => {}
            Some(verified) => return Ok(verified?),
        }
        let worth_waiting = self.cache.lock().ask(Instant::now());
        if worth_waiting {
            self.wanted.notify_one();
            // Too late or not: what is there then decides.
            let _ = tokio::time::timeout(WAIT, ended.changed()).await;
        }
        let keys = usable().ok_or(JwtError::KeysUnavailable)?;
        Ok(token.verify(&keys)?)
    }

    /// Fetches when it is time or a token needs it, until `stop`.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        loop {
            let due = self.cache.lock().due();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
                () = self.wanted.notified() => {}
            }
            // A caller asks by making it due; the notice may be of a time before the last fetch.
            if Instant::now() < self.cache.lock().due() {
                continue;
            }
            self.cache.lock().begin(Instant::now());
            let fetched = tokio::select! {
                () = stop.cancelled() => return,
                fetched = tokio::time::timeout(DEADLINE, self.fetch()) => fetched,
            };
            self.keep(fetched.unwrap_or(Err(FetchError::Deadline)));
            self.ended.send_modify(|count| *count += 1);
        }
    }

    fn keep(&self, fetched: Result<(KeySet, Option<Duration>), FetchError>) {
        let (attestor, issuer, now) = (&self.attestor, &self.issuer, Instant::now());
        match fetched {
            Ok((keys, max_age)) => {
                metrics::keys_fetched("fetched");
                let usable = keys.usable();
                tracing::info!(%attestor, %issuer, usable, "keys of an issuer fetched");
                if usable == 0 {
                    tracing::warn!(%attestor, %issuer, "the issuer has no usable key: its tokens are refused");
                }
                self.cache.lock().fetched(keys, max_age, now);
            }
            Err(error) => {
                let because = error.reason();
                metrics::keys_fetched(because);
                if self.cache.lock().failed(now) {
                    let limit = rough(HARD_LIMIT);
                    tracing::warn!(
                        %attestor, %issuer, because, %error,
                        "cannot fetch the keys of an issuer: the ones before stay good, {limit} from when they came"
                    );
                } else {
                    tracing::error!(
                        %attestor, %issuer, because, %error,
                        "cannot fetch the keys of an issuer, and has none: its tokens are refused"
                    );
                }
            }
        }
    }

    async fn fetch(&self) -> Result<(KeySet, Option<Duration>), FetchError> {
        let document = match &self.origin {
            Origin::File(path) => {
                let text = fetch::file(path, MAX_KEY_SET_BYTES as u64).await?;
                return Ok((KeySet::read(&text)?, None));
            }
            Origin::Jwks(fetcher, url) => fetcher.get(url, Trust::SETTINGS).await?,
            Origin::Discovery(fetcher, url) => {
                let document = fetcher.get(url, Trust::SETTINGS).await?;
                let jwks = self.jwks_uri(&document.body, url, fetcher)?;
                fetcher.get(&jwks, Trust::led(url, &jwks)).await?
            }
        };
        Ok((KeySet::read(&document.body)?, document.max_age))
    }

    /// Where the keys are (OpenID Connect Discovery section 4.3).
    fn jwks_uri(&self, document: &[u8], named: &Url, fetcher: &Fetcher) -> Result<Url, FetchError> {
        let document = json::parse(document).map_err(|error| FetchError::Discovery(error.to_string()))?;
        if document.get("issuer").and_then(Value::as_str) != Some(self.issuer.as_str()) {
            let error = "`issuer` in it is not exactly the attestor's `issuer`";
            return Err(FetchError::Discovery(error.to_owned()));
        }
        let text = document.get("jwks_uri").and_then(Value::as_str);
        let text = text.ok_or_else(|| FetchError::Discovery("it has no `jwks_uri`".to_owned()))?;
        let wrong = |expected| FetchError::Discovery(format!("`jwks_uri`: expected {expected}"));
        let jwks = Url::parse(text, &fetcher.allowed).map_err(wrong)?;
        if Trust::led(named, &jwks).addresses { Ok(jwks) } else { Url::parse(text, &[]).map_err(wrong) }
    }

    /// As if all had happened so much earlier.
    #[cfg(test)]
    pub(super) fn later(&self, by: Duration) {
        self.cache.lock().later(by);
        self.wanted.notify_one();
    }
}
