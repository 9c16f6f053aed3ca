//! Control's own identity at its door: issued by itself, replaced under open listeners at half of its life, or
//! when the clock that made it turns out to have been ahead.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use signet_proto::handshake::{
    ALPN_H2, ALPN_HTTP1, ClientAuth, ConfigError, Revocations, Svid, Trust, server_config,
};
use signet_proto::spiffe::TrustBundle;

use crate::issue::{IssueError, Issuer};

/// Why control has no usable identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnIdentityError {
    /// No SVID.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No TLS configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Peers would not believe it.
    #[error("control's own new SVID does not verify, the old one is kept: {0}")]
    Unbelievable(String),
}

/// The SVID that the listener presents.
pub struct OwnIdentity {
    issuer: Issuer,
    ttl: Duration,
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// For those who only read what anybody may.
    public: Arc<ServerConfig>,
    /// Whom it believes, by what root it is shown, and what signed it: as all that was when it was made.
    bundle: Arc<TrustBundle>,
    shown: [u8; 32],
    signer: String,
    not_before: SystemTime,
    issued_at: SystemTime,
    not_after: SystemTime,
}

impl OwnIdentity {
    /// Issues the first one. Clients are verified with the trust bundle; what is revoked is asked per call, so that
    /// the answer can say so.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub async fn new(issuer: Issuer, ttl: Duration) -> Result<Self, OwnIdentityError> {
        let current = ArcSwap::from_pointee(issue(&issuer, ttl).await?);
        Ok(Self { issuer, ttl, current })
    }

    /// Replaces it; on failure the old one stays (invariant 3).
    ///
    /// # Errors
    /// When a new one cannot be issued.
    pub async fn rotate(&self) -> Result<(), OwnIdentityError> {
        let next = issue(&self.issuer, self.ttl).await?;
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Whether it should be replaced: its time has come, it is not good yet, which nobody would believe, or the
    /// authorities are others.
    #[must_use]
    pub fn rotation_is_due(&self, now: SystemTime) -> bool {
        let (current, hierarchy) = (self.current.load(), self.issuer.authority().hierarchy());
        let others = current.bundle != *hierarchy.bundle()
            || current.shown != hierarchy.shown().sha256()
            || current.signer != hierarchy.intermediate().certified().id();
        others || now < current.not_before || self.rotation_due() <= now
    }

    /// When it should be replaced: at half of its life.
    #[must_use]
    pub fn rotation_due(&self) -> SystemTime {
        let current = self.current.load();
        let life = current.not_after.duration_since(current.issued_at).unwrap_or_default();
        current.issued_at + life / 2
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// For the next handshake.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// The same for HTTP, where nobody is asked who they are.
    #[must_use]
    pub fn public_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().public)
    }
}

async fn issue(issuer: &Issuer, ttl: Duration) -> Result<Current, OwnIdentityError> {
    let hierarchy = issuer.authority().hierarchy();
    let bundle = Arc::clone(hierarchy.bundle());
    let trust = Arc::new(Trust::new([(*bundle).clone()], Revocations::default()));
    let svid: Svid = issuer.own(ttl).await?;
    svid.check(&trust, signet_proto::clock::now())
        .map_err(|error| OwnIdentityError::Unbelievable(error.to_string()))?;
    Ok(Current {
        public: server_config(&svid, Arc::clone(&trust), ClientAuth::Unasked, &[ALPN_HTTP1])?,
        config: server_config(&svid, trust, ClientAuth::Optional, &[ALPN_H2])?,
        shown: hierarchy.shown().sha256(),
        signer: hierarchy.intermediate().certified().id().to_owned(),
        bundle,
        not_before: svid.profile().not_before,
        // Not its start, which is backdated: half of what was left when it was made.
        issued_at: signet_proto::clock::now(),
        not_after: svid.profile().not_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{Authority, Lives, SealPlace};
    use crate::issue::{IssueSettings, JwtSettings, KeyAlgorithms};
    use crate::registry::TtlBounds;
    use crate::store::Store;
    use crate::time;

    #[tokio::test]
    async fn svid_is_replaced_at_half_of_its_life_and_when_the_clock_was_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let domain: signet_proto::spiffe::TrustDomain = "mesh.local".parse().unwrap();
        let store = Store::open(directory.path(), &domain).unwrap();
        let (seal, hour) = (SealPlace::File(directory.path().join("seal.key")), Duration::from_secs(3600));
        let authority = Arc::new(
            Authority::open(store.clone(), domain, &seal, Lives::with_intermediate(720 * hour))
                .await
                .unwrap(),
        );
        let (min, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let ttl = TtlBounds { min, default: day, max: day };
        let jwt = JwtSettings { ttl: Duration::from_secs(300), issuer: None };
        let settings = IssueSettings { ttl, keys: KeyAlgorithms::default(), request_ttl: day, jwt };
        let issuer = Issuer::new(Arc::clone(&authority), store, settings);
        let own = OwnIdentity::new(issuer, hour).await.unwrap();
        let now = time::now();
        assert!(!own.rotation_is_due(now));
        assert!(own.rotation_is_due(now + hour / 2));
        assert!(own.rotation_is_due(now - Duration::from_secs(4000)), "made 4000 s in the future");
    }
}
