//! Other trust domains, as they are registered.

use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{SpiffeId, TrustBundle, TrustDomain};

/// How a bundle endpoint proves itself (SPIFFE Federation section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointProof {
    /// As a web server, by its host name (`https_web`).
    Web {
        /// PEM of who vouches for it; those of the system if none are said.
        authorities: Option<String>,
    },
    /// By an SVID of this identity (`https_spiffe`).
    Spiffe(SpiffeId),
}

impl EndpointProof {
    /// The profile's name in the standard.
    #[must_use]
    pub fn profile(&self) -> &'static str {
        match self {
            Self::Web { .. } => "https_web",
            Self::Spiffe(_) => "https_spiffe",
        }
    }

    /// Who it is, if it has an SVID.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Web { .. } => None,
            Self::Spiffe(id) => Some(id),
        }
    }
}

/// Where a trust domain tells its bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// `https://...`
    pub url: String,
    /// How it proves itself.
    pub proof: EndpointProof,
}

/// A trust domain to be believed.
#[derive(Debug, Clone)]
pub struct NewFederation {
    /// Which.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub endpoint: BundleEndpoint,
    /// Its bundle, if it is known already.
    pub bundle: Option<TrustBundle>,
}

/// A trust domain that is believed, as far as its bundle goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Which.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub endpoint: BundleEndpoint,
    /// Its bundle in force; none: nobody of it is believed.
    pub bundle: Option<TrustBundle>,
    /// The greatest sequence that it told.
    pub sequence: u64,
    /// How often it wants to be asked.
    pub refresh_hint: Option<Duration>,
    /// When it answered last.
    pub fetched_at: Option<SystemTime>,
    /// When it is asked next.
    pub due: SystemTime,
    /// Times in a row that it could not be asked.
    pub failures: u32,
    /// Why, the last time.
    pub error: Option<String>,
    /// Since when.
    pub created_at: SystemTime,
    /// By whom.
    pub created_by: String,
}

/// What came of asking for a bundle.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// A bundle, and how often it is to be asked for.
    Bundle(Box<TrustBundle>, Option<Duration>),
    /// The trust domain says that nobody of it is to be believed.
    Distrusted,
    /// Nothing, and why.
    Nothing(String),
}
