//! Why the upstream gave no intermediate.

use hyper::StatusCode;

use crate::fetch::FetchError;

/// It signs, and what it signs is of no use.
pub(super) const UNUSABLE: &str = "unusable";

/// Why there is no other intermediate of the upstream. What signs now goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Nobody there, or not who it should be; or a file of ours.
    #[error("upstream {url}: {error}")]
    Fetch {
        /// What was asked.
        url: String,
        /// Why there is no answer.
        error: FetchError,
    },
    /// It says no.
    #[error("upstream {url}: answered {status}{told}: {}", fix(*status))]
    Refused {
        /// What was asked.
        url: String,
        /// Its word.
        status: StatusCode,
        /// Its words, if it has any.
        told: String,
    },
    /// It says something else than is documented.
    #[error("upstream {url}: the answer has no {missing}: is that a PKI secrets engine of Vault or OpenBao?")]
    Answer {
        /// What was asked.
        url: String,
        /// What should be in it.
        missing: &'static str,
    },
    /// It could not even be asked.
    #[error("upstream: {0}")]
    Local(String),
    /// It would have to be asked again at once.
    #[error(
        "upstream: the intermediate that it signs ends {ends}, hardly later than the one of now: raise the `max_lease_ttl` \
         of its mount, or give it an issuer that lives longer"
    )]
    NoGain {
        /// When it would end.
        ends: String,
    },
    /// There is no other root.
    #[error(
        "upstream: it signs with the root of now, {0}: make another issuer there, and its default or the one that the \
         settings name"
    )]
    SameRoot(String),
    /// There is another root, that not everybody knows yet.
    #[error(
        "upstream: it signs with another root now, {0}, which is in everybody's trust bundle from now on, and signs here when \
         all proxies know it: `signet ca status`"
    )]
    AnotherRoot(String),
}

/// What an operator does about it.
fn fix(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "it does not sign such a request",
        StatusCode::FORBIDDEN => {
            "the token has ended, or its policy lacks `update` on this path: renew it, it is read again each time"
        }
        StatusCode::NOT_FOUND => "there is no such mount, issuer or namespace: look at `[ca.upstream]`",
        StatusCode::SERVICE_UNAVAILABLE => "it is sealed or has no leader: unseal it",
        _ => "its own log says more",
    }
}

impl UpstreamError {
    /// A stable word for metrics, and for whoever may not know more.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fetch { .. } | Self::Local(_) => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Answer { .. } | Self::NoGain { .. } | Self::SameRoot(_) | Self::AnotherRoot(_) => UNUSABLE,
        }
    }
}
