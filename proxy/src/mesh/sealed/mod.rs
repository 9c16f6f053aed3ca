//! The sealed copy on disk of our SVID and of what control said last, for a restart while control is down
//! (invariant 11). Off unless the configuration names a file and a key.
//!
//! Parts are sealed on their own, so that no private key is held in the clear for a later write: the identity when it is
//! issued, those of apps when they are, what is known whenever that changes. The last is bound to the first. What was sealed is used only as
//! it would be used if control had just said it: the SVID must verify now, with the bundles and revocations beside it,
//! and be of the mesh and the identity that the configuration asks for. Anything else is refused, and the proxy starts
//! as it would without the file. An older copy put in the place of a newer one cannot be told from it while control is
//! down; it ends with its certificate, and with control's first word.

mod file;
mod key;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use signet_proto::handshake::{KeyError, Revocations, Svid, SvidMismatch, Trust, VerifyError, WorkloadKey};
use signet_proto::sealing::SealingKey;
use signet_proto::spiffe::{Pins, SpiffeId, TrustBundle, TrustDomain};
use signet_proto::v1;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::file::Sealed;
pub use self::key::KeyPlace;
pub(crate) use self::key::read as read_key;
use crate::backoff::Backoff;
use crate::telemetry::metrics;

/// Changes that come together are written together, and a mesh in motion does not keep the disk busy.
const SETTLE: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(1);
/// Between tries to write, as while the disk is full.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Clocks differ by a little.
const FUTURE: Duration = Duration::from_secs(300);

/// Why a sealed copy is not used, or not made. Its name is in each, and so is the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("state file {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is there, and cannot be believed.
    #[error("state file {}: {problem}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The key.
    #[error("`state-key`: {place}: {problem}")]
    Key {
        /// Where it should be.
        place: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

/// For whom a sealed copy may be used.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Roots of which its bundle must have one.
    pub pins: Pins,
    /// The identity, if only one will do.
    pub spiffe_id: Option<SpiffeId>,
}

/// What was sealed, believed as far as it can be without control.
#[derive(Debug)]
pub struct Restored {
    /// Ours.
    pub svid: Svid,
    /// What control said last.
    pub told: v1::WatchResponse,
    /// When that was written.
    pub saved_at: SystemTime,
}

impl Restored {
    /// How long ago that was.
    #[must_use]
    pub fn age(&self) -> Duration {
        signet_proto::clock::now().duration_since(self.saved_at).unwrap_or_default()
    }
}

/// Keeps the sealed copy.
pub struct Keeper {
    path: PathBuf,
    key: SealingKey,
    expected: Expected,
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Default)]
struct Kept {
    identity: Option<Vec<u8>>,
    /// By rule.
    apps: BTreeMap<String, Vec<u8>>,
    told: v1::WatchResponse,
}

impl Keeper {
    /// A keeper that has nothing yet.
    #[must_use]
    pub fn new(path: PathBuf, key: SealingKey, expected: Expected) -> Self {
        Self { path, key, expected, kept: Mutex::default(), news: Notify::new() }
    }

    /// Reads what is there. Nothing, if there is no file.
    ///
    /// # Errors
    /// When there is one that cannot be used.
    pub fn restore(&self) -> Result<Option<Restored>, StateError> {
        let Some(bytes) = file::read(&self.path)? else { return Ok(None) };
        let restored =
            self.open(&bytes, signet_proto::clock::now()).map_err(|problem| self.unusable(problem))?;
        let sealed = Sealed::read(&bytes).map_err(|problem| self.unusable(problem))?;
        // What control does not say again is still to be kept.
        *self.kept.lock() =
            Kept { identity: Some(sealed.identity), apps: sealed.apps, told: restored.told.clone() };
        Ok(Some(restored))
    }

    /// Takes in a new SVID and its key, which is sealed here and now.
    pub fn identity(&self, key: &WorkloadKey, svid: &Svid) {
        match file::seal_identity(&self.key, &self.expected.trust_domain, key, svid) {
            Ok(identity) => self.kept.lock().identity = Some(identity),
            Err(error) => {
                metrics::state_written("failed");
                tracing::error!(%error, "cannot seal the SVID: the copy on disk keeps the one before");
                return;
            }
        }
        self.news.notify_one();
    }

    /// Takes in a new SVID of the apps that a rule admits, and its key, which is sealed here and now.
    pub fn app(&self, rule: &str, key: &WorkloadKey, svid: &Svid) {
        match file::seal_app(&self.key, &self.expected.trust_domain, rule, key, svid) {
            Ok(sealed) => {
                self.kept.lock().apps.insert(rule.to_owned(), sealed);
                self.news.notify_one();
            }
            Err(error) => {
                metrics::state_written("failed");
                tracing::error!(%error, "cannot seal the SVID of an app: the copy on disk keeps the one before");
            }
        }
    }

    /// What the apps that a rule admits had when the copy was sealed that was started with. Whether it is good now is for
    /// the caller to say.
    #[must_use]
    pub fn app_before(&self, rule: &str) -> Option<(WorkloadKey, Svid)> {
        let sealed = self.kept.lock().apps.get(rule).cloned()?;
        let (key, chain) = file::open_app(&self.key, &self.expected.trust_domain, rule, &sealed)?;
        let svid = Svid::new(chain.into_iter().map(Into::into).collect(), key.signing_key().ok()?).ok()?;
        Some((key, svid))
    }

    /// Drops what is kept for apps of other rules.
    pub fn only_apps_of(&self, is_rule: impl Fn(&str) -> bool) {
        self.kept.lock().apps.retain(|rule, _| is_rule(rule));
    }

    /// Takes in what control said, once it is in force; `services` are all of them.
    pub fn learned(&self, message: v1::WatchResponse, services: v1::Services) {
        let mut kept = self.kept.lock();
        let before = std::mem::take(&mut kept.told);
        // Every section by its name: one that is forgotten here would be lost over a restart.
        kept.told = v1::WatchResponse {
            revision: message.revision,
            committed_at: message.committed_at,
            bundles: message.bundles.or(before.bundles),
            policies: message.policies.or(before.policies),
            revocations: message.revocations.or(before.revocations),
            mesh: message.mesh.or(before.mesh),
            traffic: message.traffic.or(before.traffic),
            services: Some(services),
            service_changes: None,
            position: 0,
            state: None,
            // Said again on the next stream.
            renewal: None,
        };
        drop(kept);
        self.news.notify_one();
    }

    /// Writes what changed, until `stop`. What cannot be written is counted, told once, and tried again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::new(RETRIES.0, RETRIES.1);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.news.notified() => {}
            }
            tokio::time::sleep(SETTLE).await;
            let mut told = false;
            while let Err(error) = self.write().await {
                metrics::state_written("failed");
                if !told {
                    tracing::error!(%error, "cannot keep the sealed copy: a restart while control is down would find an older one");
                    told = true;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
            if told {
                tracing::info!("the sealed copy is kept again, as of now");
            }
            backoff.reset();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn write(&self) -> Result<(), StateError> {
        let sealed = {
            let kept = self.kept.lock();
            let told = &kept.told;
            let whole = told.bundles.is_some() && told.policies.is_some() && told.revocations.is_some();
            match &kept.identity {
                Some(identity) if whole => {
                    let now = signet_proto::clock::now();
                    Sealed::new(&self.key, &self.expected.trust_domain, identity.clone(), told, now)
                        .map(|sealed| sealed.with_apps(kept.apps.clone()))
                }
                // Without all of it nobody could start.
                _ => return Ok(()),
            }
        };
        let sealed = sealed.map_err(|problem| self.unusable(problem))?;
        file::write(&self.path, &sealed.bytes()).await?;
        metrics::state_written("success");
        Ok(())
    }

    /// Opens a copy, and believes it as of `now`.
    fn open(&self, bytes: &[u8], now: SystemTime) -> Result<Restored, String> {
        let Expected { trust_domain, pins, spiffe_id } = &self.expected;
        let (identity, told, saved_at) = Sealed::read(bytes)?.open(&self.key, trust_domain)?;
        if saved_at > now + FUTURE {
            return Err("it was written in the future: is this machine's clock right?".into());
        }
        let svid = identity.svid().map_err(|error| format!("{error}; {AGAIN}"))?;
        if let Some(wanted) = spiffe_id
            && wanted != svid.id()
        {
            return Err(format!("it is of `{}`, and `spiffe-id` is `{wanted}`: {REMOVE}", svid.id()));
        }
        if svid.id().trust_domain() != trust_domain {
            return Err(format!(
                "it is of `{}`, and the ticket is for `{trust_domain}`: {REMOVE}",
                svid.id()
            ));
        }
        let bundles = told.bundles.iter().flat_map(|bundles| &bundles.bundles).map(TrustBundle::try_from);
        let bundles = bundles.collect::<Result<Vec<_>, _>>().map_err(|error| format!("bundles: {error}"))?;
        if !bundles.iter().any(|bundle| bundle.trust_domain() == trust_domain && pins.are_in(bundle)) {
            return Err(format!("its bundle lacks the root that the ticket pins: {REMOVE}"));
        }
        let revocations = Revocations::try_from(told.revocations.clone().unwrap_or_default())
            .map_err(|error| format!("revocations: {error}"))?;
        svid.check(&Trust::new(bundles, revocations), now).map_err(|error| match error {
            VerifyError::Untrusted { .. } if svid.profile().not_after <= now => {
                format!("its SVID has ended, {} ago; {AGAIN}", rounded(now, svid.profile().not_after))
            }
            error => format!("{error}; {AGAIN}"),
        })?;
        Ok(Restored { svid, told, saved_at })
    }

    fn unusable(&self, problem: String) -> StateError {
        StateError::Unusable { path: self.path.clone(), problem }
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("path", &self.path).finish_non_exhaustive()
    }
}

const AGAIN: &str = "the proxy joins as if there were no file, for which a spent ticket needs a new one";
const REMOVE: &str = "remove the file, or name another one in `state-file`";

fn rounded(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    format!("{seconds} s")
}

/// An SVID's parts, out of their seal.
struct Identity {
    chain: Vec<Vec<u8>>,
    key: Arc<dyn rustls::sign::SigningKey>,
}

impl Identity {
    fn svid(self) -> Result<Svid, SvidMismatch> {
        Svid::new(self.chain.into_iter().map(Into::into).collect(), self.key)
    }
}

impl From<KeyError> for StateError {
    fn from(error: KeyError) -> Self {
        Self::Key { place: "the SVID's own key".into(), problem: error.to_string() }
    }
}
