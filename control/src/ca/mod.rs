//! The certificate authority: a root, an intermediate below it, and what they sign.
//!
//! ```text
//!   root (--root-ttl, P-256) ─┬─signs─▶ intermediate of replica a (--intermediate-ttl) ──signs──▶ leaves
//!     in every trust bundle   └─signs─▶ intermediate of replica b                      ──signs──▶ leaves
//!                                         travels in every chain; replaced at half of its life
//! ```
//!
//! Each replica signs with an intermediate of its own, makes it when it has none, and replaces it: what one that leaks has
//! signed is what its replica signed. An embedded store has one replica and one intermediate; below a root whose key is
//! elsewhere all replicas sign with the one that was brought. The leader has those retire with which nobody signs, and
//! has every replica sign below another root, in the commit that activates it.
//!
//! Because intermediates travel in the chain and only roots are anchors, a new intermediate can sign at once: nobody has
//! to learn of it first. A new root is in the trust bundle first, and signs when all proxies have it (`steps`). What
//! is replaced signs revocation lists only (`crl`), until the last of what it signed has ended; then its key is erased.
//!
//! Invariants: private keys are sealed whenever they are not in this process' memory, and wiped on drop, a root's as soon
//! as it has signed; those in a token (`token`) never leave it; no certificate outlives its issuer or starts before it; every authority has a name of its own, so
//! that issuer and serial name one certificate in the world; nothing signs what the proxies could not believe.

mod anew;
mod chain;
mod compromise;
mod crl;
mod elsewhere;
mod hierarchy;
mod jwt;
mod keys;
mod places;
mod profile;
mod reseal;
mod schedule;
mod seal;
mod signer;
mod steps;
mod token;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{BundleError, SvidError, TrustBundle, TrustDomain, certificate_handle};

use crate::crl::ListsUrl;
use crate::store::model::{AuthorityKind, Issuance, KnownAuthority};
use crate::store::{Store, StoreError};
use crate::time;

pub use chain::ChainError;
pub use crl::CrlSigner;
pub use elsewhere::Installed;
pub use hierarchy::Hierarchy;
pub use jwt::{JWT, JwtKeys, JwtRequest, JwtSigner, JwtStep, SignedJwt};
pub use keys::{KeyCurve, PublicKey, SigningKey};
pub use places::{CaKeys, KeyPlace};
pub use profile::LeafRequest;
pub use reseal::{Resealed, reseal};
pub use schedule::{Lives, Outlook, Step};
pub use seal::{SealError, SealKey, SealPlace};
pub use signer::{Certified, Signer};
pub use steps::Replaced;
pub use token::{TokenError, TokenPlace};
pub use upstream::{Upstream, UpstreamConfig, UpstreamError};

use places::Places;

/// Why the authority cannot be opened or cannot sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The sealing key or a sealed key is unusable.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A token does not do what it is for.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// What a root elsewhere signed is not what was asked for.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The CA above ours gave no intermediate.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// A new mesh has no root.
    #[error("{0}. A new mesh begins with the root of its upstream, so control starts when that has signed")]
    NotBegun(Box<CaError>),
    /// It has to be signed elsewhere.
    #[error(
        "the key of root {0} is kept elsewhere: `signet ca csr --out FILE`, have it signed there, then `signet ca install \
         --chain FILE`"
    )]
    RootElsewhere(String),
    /// There is no request that a chain could belong to.
    #[error("nothing was asked for: `signet ca csr --out FILE` makes the request that is to be signed")]
    NothingAsked,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cryptographic library failed.
    #[error("cannot make a key or a signature: {0}")]
    Crypto(String),
    /// What was signed does not read back as what was meant. A defect; nothing is given out.
    #[error("signed certificate does not read back: {0}")]
    Profile(#[from] SvidError),
    /// The roots do not make a bundle.
    #[error("stored root is not usable as a trust anchor: {0}")]
    Bundle(#[from] BundleError),
    /// The stored certificate and its key are not a pair.
    #[error(
        "stored key of `{0}` does not belong to its certificate: restore the store and the seal key together"
    )]
    Mismatch(String),
    /// Two first starts at the same time, each with a seal key of its own.
    #[error(
        "another replica made this mesh's keys a moment ago and sealed them with another seal key: copy its seal key \
         file to {}, or name it with --seal-key-file, and start again", .0.display()
    )]
    Second(PathBuf),
    /// Root or intermediate has ended.
    #[error("the {0} has ended: nothing can be signed; `signet-control recover` says what to do")]
    Ended(&'static str),
    /// An authority is not good now.
    #[error(
        "the {kind} is good from {} to {}, not now: nobody would believe what it signs. Is the clock right? Otherwise \
         `signet-control recover` says what to do", time::rfc3339(*begins), time::rfc3339(*ends)
    )]
    NotGood {
        /// Root or intermediate.
        kind: AuthorityKind,
        /// From when.
        begins: std::time::SystemTime,
        /// Until when.
        ends: std::time::SystemTime,
    },
    /// No key signs tokens.
    #[error("no key signs tokens yet: ask again in a moment; `signet ca status` shows what it waits for")]
    NoJwtKey,
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

/// Signs. Shared by everything that issues; the hierarchy is swapped under it.
pub struct Authority {
    trust_domain: TrustDomain,
    lives: Lives,
    places: Places,
    lists: Option<ListsUrl>,
    upstream: Option<Upstream>,
    store: Store,
    hierarchy: ArcSwap<Hierarchy>,
    outlook: Mutex<Outlook>,
    /// One at a time takes in what the store has, so that nothing older follows.
    reading: tokio::sync::Mutex<()>,
}

/// A signed leaf and its record, not yet given out: the record comes first.
#[derive(Debug)]
pub struct SignedLeaf {
    /// DER, leaf first, then what is between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// For the store.
    pub issuance: Issuance,
}

impl Authority {
    /// As [`Authority::open_with`], with keys that are sealed.
    #[cfg(test)]
    pub(crate) async fn open(
        store: Store,
        trust_domain: TrustDomain,
        place: &SealPlace,
        lives: Lives,
    ) -> Result<Self, CaError> {
        Self::open_with(store, trust_domain, place, &CaKeys::default(), lives, None, None).await
    }

    /// Opens the stored authorities, or makes them on the very first start. Certificates name their revocation lists below
    /// `lists`. What is `upstream` signs intermediates.
    ///
    /// # Errors
    /// When keys cannot be unsealed, or do not fit their certificates, a token is not there, or the store fails.
    pub async fn open_with(
        store: Store,
        trust_domain: TrustDomain,
        place: &SealPlace,
        keys: &CaKeys,
        lives: Lives,
        lists: Option<ListsUrl>,
        upstream: Option<UpstreamConfig>,
    ) -> Result<Self, CaError> {
        let upstream = match upstream {
            Some(config) => Some(Upstream::new(config).await?),
            None => None,
        };
        let fresh = store.authorities().await?.is_empty();
        let made = match place {
            SealPlace::File(path) if fresh && !path.exists() => Some(path),
            _ => None,
        };
        let places = Places::new(reseal::of_store(&store, place, fresh).await?, keys)?;
        if fresh {
            let (root, intermediate) = match &upstream {
                Some(upstream) => upstream.first(&store, &trust_domain, &places, lives).await?,
                None => {
                    let draft = places.draft(&store, &trust_domain, AuthorityKind::Root).await?;
                    let (root, record) = Signer::new_root(draft, &trust_domain, lives.root)?;
                    let draft = places.draft(&store, &trust_domain, AuthorityKind::Intermediate).await?;
                    let (lists, replica) = (lists.as_ref(), store.signs_as());
                    let below = Signer::new_intermediate(
                        replica,
                        draft,
                        &trust_domain,
                        &root,
                        lives.intermediate,
                        lists,
                    )?;
                    (record, below.1)
                }
            };
            let jwt = JwtSigner::generate(places.seal())?;
            let names = (root.subject.clone(), intermediate.subject.clone());
            match store.create_authorities(root, intermediate, jwt).await {
                Ok(_) => {
                    let (root, intermediate) = names;
                    tracing::info!(root, intermediate, "authorities made");
                }
                // Another replica was first.
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let read = Self::read(&store, &trust_domain, &places).await;
        let hierarchy = match (read, made) {
            // What nothing is sealed with must not be taken for the mesh's key at the next start.
            (Err(CaError::Seal(SealError::Refused { .. })), Some(made)) => {
                seal::discard(made)?;
                return Err(CaError::Second(made.clone()));
            }
            (read, _) => read?,
        };
        Ok(Self {
            trust_domain,
            lives,
            places,
            lists,
            upstream,
            store,
            hierarchy: ArcSwap::from_pointee(hierarchy),
            outlook: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        })
    }

    /// All of it, and that every key opens.
    async fn read(store: &Store, trust_domain: &TrustDomain, places: &Places) -> Result<Hierarchy, CaError> {
        let known = store.authorities().await?;
        let root = hierarchy::active_root(&known)?;
        if root.has_key {
            unsealed(store, root, places).await?;
        }
        // Until it has made its own (`revive`), a replica signs nothing.
        let intermediate = hierarchy::signing(&known, store.signs_as())
            .or_else(|| hierarchy::intermediates(&known).last())
            .ok_or_else(|| StoreError::Damaged("there is no intermediate to sign with".into()))?;
        let intermediate = unsealed(store, intermediate, places).await?;
        let jwt = JwtKeys::read(store, places.seal(), &JwtKeys::default()).await?;
        Hierarchy::new(trust_domain, known, Arc::new(intermediate), jwt)
    }

    /// Takes in what was stored, here or by another replica. Returns whether anything was different.
    ///
    /// # Errors
    /// When the store fails, or a key cannot be unsealed.
    pub async fn refresh(&self) -> Result<bool, CaError> {
        let _one = self.reading.lock().await;
        let known = self.store.authorities().await?;
        let current = self.hierarchy();
        let jwt = JwtKeys::read(&self.store, self.seal(), current.jwt()).await?;
        if known == current.known() && jwt.known() == current.jwt().known() {
            return Ok(false);
        }
        let intermediate = match hierarchy::signing(&known, self.store.signs_as()) {
            Some(active) if active.id != current.intermediate().certified().id() => {
                let signer = self.unsealed(active).await?;
                tracing::info!(current = signer.certified().subject(), "another intermediate signs");
                Arc::new(signer)
            }
            // Taken for gone, it goes on with what it had until it has made another one: what that signed is believed.
            _ => Arc::clone(current.intermediate()),
        };
        let next = Hierarchy::new(&self.trust_domain, known, intermediate, jwt)?;
        if next.bundle() != current.bundle() {
            let roots = next.bundle().authorities().len();
            tracing::info!(sequence = next.bundle().sequence(), roots, "another trust bundle is in force");
        }
        self.hierarchy.store(Arc::new(next));
        Ok(true)
    }

    /// An authority with its key.
    async fn unsealed(&self, known: &KnownAuthority) -> Result<Signer, CaError> {
        unsealed(&self.store, known, &self.places).await
    }

    /// Signs a leaf with the current intermediate. Its life is cut to the intermediate's if need be.
    ///
    /// # Errors
    /// When the intermediate has ended or the library fails.
    pub fn sign(&self, request: &LeafRequest<'_>) -> Result<SignedLeaf, CaError> {
        let hierarchy = self.hierarchy.load();
        let intermediate = hierarchy.intermediate();
        let now = time::now();
        if intermediate.certified().not_after() <= now {
            return Err(CaError::Ended("intermediate"));
        }
        let leaf = profile::leaf(request, intermediate, self.lists.as_ref(), now)?;
        let handle = certificate_handle(&leaf.certificate)?;
        Ok(SignedLeaf {
            chain: std::iter::once(leaf.certificate).chain(hierarchy.above()).collect(),
            issuance: Issuance {
                serial: handle.serial,
                issuer_sha256: handle.issuer_sha256,
                spki_sha256: handle.spki_sha256,
                authority: intermediate.certified().id().to_owned(),
                spiffe_id: request.id.clone(),
                not_before: leaf.not_before,
                not_after: leaf.not_after,
            },
        })
    }

    /// The trust bundle: all roots but those that were removed.
    #[must_use]
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(self.hierarchy.load().bundle())
    }

    /// The authorities of this moment.
    #[must_use]
    pub fn hierarchy(&self) -> Arc<Hierarchy> {
        self.hierarchy.load_full()
    }

    /// The key that seals the others.
    #[must_use]
    pub fn seal(&self) -> &SealKey {
        self.places.seal()
    }

    /// The key that authenticates challenges, the same at all replicas.
    #[must_use]
    pub fn challenge_key(&self) -> &[u8; 32] {
        self.places.seal().challenges()
    }

    /// Destroys keys in tokens that are not needed any more, or never were.
    ///
    /// # Errors
    /// When a token is not there, or the store fails.
    pub async fn destroy_ended_keys(&self) -> Result<(), CaError> {
        self.places.destroy_ended(&self.store).await
    }

    /// Asks the tokens whether they are there.
    pub fn look_at_tokens(&self) {
        self.places.look();
    }

    /// Tokens that were not, when they were asked last.
    #[must_use]
    pub fn tokens_in_trouble(&self) -> Vec<TokenError> {
        self.places.trouble()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root that signs intermediates.
    #[must_use]
    pub fn root(&self) -> Certified {
        self.hierarchy.load().root().clone()
    }

    /// The intermediate with which this replica signs now.
    #[must_use]
    pub fn intermediate(&self) -> Arc<Signer> {
        Arc::clone(self.hierarchy.load().intermediate())
    }
}

/// An authority with its key.
async fn unsealed(store: &Store, known: &KnownAuthority, places: &Places) -> Result<Signer, CaError> {
    let signer = places.signer(store, known).await?;
    signer.ok_or_else(|| StoreError::from(crate::store::Refusal::RotatedMeanwhile).into())
}

#[cfg(test)]
mod tests;
