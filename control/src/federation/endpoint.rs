//! One fetch of another trust domain's bundle (SPIFFE Federation section 5): from where the operator said, from nobody
//! else, and nothing that it refers to.
//!
//! Addresses inside the organisation are called as well: that an operator on everything named the host is permission
//! enough, and only JSON of somebody who proves to be that host is read.

use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustls::ClientConfig;
use signet_proto::handshake::{ALPN_HTTP1, ConfigError, Revocations, client_config};
use signet_proto::spiffe::{BundleError, JwksError, SpiffeId, TrustBundle, TrustDomain};

use crate::fetch::{self, FetchError, Fetcher, Url, UrlError, roots};
use crate::store::model::{BundleEndpoint, EndpointProof};

/// For everything that one fetch takes.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_AUTHORITIES_BYTES: usize = 256 * 1024;
/// What one trust domain publishes is in the memory of every proxy, with that of all the others.
const MAX_BUNDLE_BYTES: usize = 32 * 1024;
const MAX_ROOTS: usize = 16;

/// Why an endpoint cannot be registered as it is said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The URL.
    #[error("url: expected {0}")]
    Url(#[from] UrlError),
    /// Not https.
    #[error("url: expected https://HOST[:PORT]/PATH, where the other trust domain serves its bundle")]
    NotHttps,
    /// Authorities for an endpoint that is no web server.
    #[error(
        "authorities of the web are for profile https_web: an endpoint with a SPIFFE ID proves itself by that"
    )]
    NotWeb,
    /// The authorities cannot be used.
    #[error("authorities of the web: {0}")]
    Authorities(std::io::Error),
}

/// Why no bundle came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The request, or who answered it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The endpoint as it is stored.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] ConfigError),
    /// TLS with authorities of the web.
    #[error("TLS cannot be set up: {0}")]
    Web(#[from] rustls::Error),
    /// This system believes nobody.
    #[error("this system has no certificate authorities: register the endpoint with `--ca-file`")]
    NoRoots,
    /// Nothing to verify the endpoint with.
    #[error(
        "there is no bundle of `{0}` to verify its endpoint with: get one from its operators, and give it by \
         `signet federation refresh {0} --bundle FILE`"
    )]
    NoTrust(TrustDomain),
    /// The document is not a bundle of that trust domain.
    #[error("what it answered is refused: {0}")]
    Bundle(#[from] BundleError),
    /// More than one trust domain may have every proxy keep.
    #[error(
        "it answered a bundle of {bytes} bytes with {roots} X.509 authorities, expected at most {MAX_BUNDLE_BYTES} bytes \
         with {MAX_ROOTS}: the other trust domain has to take old ones out"
    )]
    TooLarge {
        /// Of the document.
        bytes: usize,
        /// In it.
        roots: usize,
    },
    /// It says that nobody of it is to be believed.
    #[error("it says that no identity of its trust domain is to be believed")]
    Distrusts,
    /// An older document than the one in hand.
    #[error(
        "it answered with sequence {found}, older than {known}: if the other trust domain was restored from a backup, \
         get its bundle from its operators, and give it by `signet federation refresh --bundle FILE`"
    )]
    WentBack {
        /// Of the answer.
        found: u64,
        /// The greatest that was seen.
        known: u64,
    },
}

impl PullError {
    /// A stable word for log and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.reason(),
            Self::Endpoint(_) => "endpoint",
            Self::Tls(_) | Self::Web(_) | Self::NoRoots => "tls",
            Self::NoTrust(_) => "no_trust",
            Self::Bundle(_) => "bundle",
            Self::TooLarge { .. } => "too_large",
            Self::Distrusts => "distrusts",
            Self::WentBack { .. } => "went_back",
        }
    }
}

/// An endpoint as an operator says it, if one like that can be asked.
pub(super) fn parse(
    url: &str,
    spiffe_id: Option<SpiffeId>,
    authorities: &str,
) -> Result<BundleEndpoint, EndpointError> {
    https(url)?;
    let proof = match (spiffe_id, authorities) {
        (Some(id), "") => EndpointProof::Spiffe(id),
        (Some(_), _) => return Err(EndpointError::NotWeb),
        (None, "") => EndpointProof::Web { authorities: None },
        (None, pem) => {
            if pem.len() > MAX_AUTHORITIES_BYTES {
                let wrong = format!("expected at most {MAX_AUTHORITIES_BYTES} bytes");
                return Err(EndpointError::Authorities(std::io::Error::other(wrong)));
            }
            roots::of_pem(pem.as_bytes()).map_err(EndpointError::Authorities)?;
            EndpointProof::Web { authorities: Some(pem.to_owned()) }
        }
    };
    Ok(BundleEndpoint { url: url.to_owned(), proof })
}

fn https(text: &str) -> Result<Url, EndpointError> {
    if !text.starts_with("https://") {
        return Err(EndpointError::NotHttps);
    }
    Ok(Url::parse(text, &[])?)
}

/// The bundle of `domain` as its endpoint tells it now, and when it wants to be asked again. `bundles` are those by
/// which an endpoint with a SPIFFE ID is believed: that of its own trust domain counts.
pub(super) async fn pull(
    domain: &TrustDomain,
    endpoint: &BundleEndpoint,
    bundles: Vec<TrustBundle>,
) -> Result<(TrustBundle, Option<Duration>), PullError> {
    let url = https(&endpoint.url)?;
    let everywhere = vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let fetcher = Fetcher { tls: tls(&endpoint.proof, bundles)?, allowed: everywhere, bearer_file: None };
    let fetched = tokio::time::timeout(DEADLINE, fetcher.get(&url, fetch::Trust::SETTINGS)).await;
    let document = fetched.unwrap_or(Err(FetchError::Deadline))?;
    // The reader of JSON refuses what is not UTF-8.
    let text = String::from_utf8_lossy(&document.body);
    read(domain, &text)
}

fn read(domain: &TrustDomain, text: &str) -> Result<(TrustBundle, Option<Duration>), PullError> {
    let (bundle, hint) = match TrustBundle::from_jwks_with_hint(domain.clone(), text) {
        Err(BundleError::Jwks(JwksError::NoUsableKey)) => return Err(PullError::Distrusts),
        read => read?,
    };
    let (bytes, roots) = (text.len(), bundle.authorities().len());
    match bytes > MAX_BUNDLE_BYTES || roots > MAX_ROOTS {
        true => Err(PullError::TooLarge { bytes, roots }),
        false => Ok((bundle, hint)),
    }
}

fn tls(proof: &EndpointProof, bundles: Vec<TrustBundle>) -> Result<Arc<ClientConfig>, PullError> {
    match proof {
        EndpointProof::Web { authorities } => {
            let roots = match authorities {
                Some(pem) => roots::of_pem(pem.as_bytes()).map_err(EndpointError::Authorities)?,
                None => roots::of_system().ok_or(PullError::NoRoots)?,
            };
            Ok(roots::client(roots)?)
        }
        EndpointProof::Spiffe(id) => {
            if !bundles.iter().any(|bundle| bundle.trust_domain() == id.trust_domain()) {
                return Err(PullError::NoTrust(id.trust_domain().clone()));
            }
            let trust = signet_proto::handshake::Trust::new(bundles, Revocations::default());
            Ok(client_config(None, Arc::new(trust), id.clone(), &[ALPN_HTTP1])?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_of_a_partner_is_bounded() {
        let domain: TrustDomain = "other.example".parse().unwrap();
        let root = || {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().into()
        };
        let told = |roots: usize| {
            let roots = std::iter::repeat_with(root).take(roots).collect();
            TrustBundle::new(domain.clone(), roots, 1).unwrap().to_jwks()
        };
        assert!(read(&domain, &told(MAX_ROOTS)).is_ok());
        let refused = read(&domain, &told(MAX_ROOTS + 1));
        assert!(matches!(refused, Err(PullError::TooLarge { roots: 17, .. })), "{refused:?}");
        let padded = format!("{}{}", told(1), " ".repeat(MAX_BUNDLE_BYTES));
        assert!(matches!(read(&domain, &padded), Err(PullError::TooLarge { roots: 1, .. })));
    }
}
