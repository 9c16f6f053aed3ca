//! The certificate authority: a root, an intermediate below it, and what they sign.
//!
//! ```text
//!   root (10 years, P-256) ──signs──▶ intermediate (P-256, --intermediate-ttl) ──signs──▶ leaves
//!     in every trust bundle             travels in every chain; replaced at half of its life
//! ```
//!
//! Because intermediates travel in the chain and only the root is an anchor, a new intermediate can sign at
//! once: nobody has to learn of it first. The old one's key is erased when it is replaced; leaves that it
//! signed stay valid until they end.
//!
//! Invariants: private keys are sealed whenever they are not in this process' memory, and wiped on drop; no
//! certificate outlives its issuer or starts before it; every authority has a name of its own, so that
//! issuer and serial name one certificate in the world.

mod keys;
mod profile;
mod seal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{BundleError, SvidError, TrustBundle, TrustDomain, certificate_handle};

use crate::store::model::{Actor, AuthorityKind, AuthorityRecord, Issuance};
use crate::store::{Store, StoreError};
use crate::time;

pub use keys::{PublicKey, SigningKey};
pub use profile::LeafRequest;
pub use seal::{SealError, SealKey};

/// Why the authority cannot be opened or cannot sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The sealing key or a sealed key is unusable.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cryptographic library failed.
    #[error("cannot make a key or a signature: {0}")]
    Crypto(String),
    /// What was signed does not read back as what was meant. A defect; nothing is given out.
    #[error("signed certificate does not read back: {0}")]
    Profile(#[from] SvidError),
    /// The root does not make a bundle.
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
    #[error("the {0} has ended: nothing can be signed; restart control to have the intermediate replaced")]
    Ended(&'static str),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

/// Signs. Shared by everything that issues; the intermediate is swapped under it.
pub struct Authority {
    trust_domain: TrustDomain,
    root: Signer,
    intermediate: ArcSwap<Signer>,
    intermediate_ttl: Duration,
    seal: SealKey,
    bundle: Arc<TrustBundle>,
    store: Store,
}

/// One authority's certificate and key.
pub struct Signer {
    id: String,
    subject: String,
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    key: SigningKey,
}

/// A signed leaf and its record, not yet given out: the record comes first.
#[derive(Debug)]
pub struct SignedLeaf {
    /// DER, leaf first, then the intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// For the store.
    pub issuance: Issuance,
}

impl Authority {
    /// Opens the stored authorities, or makes them on the very first start.
    ///
    /// # Errors
    /// When keys cannot be unsealed, or do not fit their certificates, or the store fails.
    pub async fn open(
        store: Store,
        trust_domain: TrustDomain,
        seal_key_file: &Path,
        intermediate_ttl: Duration,
    ) -> Result<Self, CaError> {
        let root = store.authority(AuthorityKind::Root).await?;
        let intermediate = store.authority(AuthorityKind::Intermediate).await?;
        let fresh = root.is_none();
        let made = fresh && !seal_key_file.exists();
        let seal = SealKey::load(seal_key_file, fresh)?;
        let (root, intermediate) = match (root, intermediate) {
            (Some(root), Some(intermediate)) => {
                (Signer::unseal(root, &seal)?, Signer::unseal(intermediate, &seal)?)
            }
            _ => {
                let (root, root_record) = Signer::new_root(&trust_domain, &seal)?;
                let (intermediate, record) =
                    Signer::new_intermediate(&trust_domain, &root, intermediate_ttl, &seal)?;
                match store.create_authorities(root_record, record).await {
                    Ok(_) => {
                        tracing::info!(root = %root.subject, intermediate = %intermediate.subject, "authorities made");
                        (root, intermediate)
                    }
                    // Another replica was first.
                    Err(StoreError::Exists { .. }) => match Self::stored(&store, &seal).await {
                        // What nothing is sealed with must not be taken for the mesh's key at the next start.
                        Err(CaError::Seal(SealError::Refused { .. })) if made => {
                            seal::discard(seal_key_file)?;
                            return Err(CaError::Second(seal_key_file.to_owned()));
                        }
                        stored => stored?,
                    },
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let bundle = TrustBundle::new(trust_domain.clone(), vec![root.certificate.clone()], 1)?;
        Ok(Self {
            trust_domain,
            root,
            intermediate: ArcSwap::from_pointee(intermediate),
            intermediate_ttl,
            seal,
            bundle: Arc::new(bundle),
            store,
        })
    }

    async fn stored(store: &Store, seal: &SealKey) -> Result<(Signer, Signer), CaError> {
        let missing = |what| StoreError::Damaged(format!("there is no {what} to sign with"));
        let root = store.authority(AuthorityKind::Root).await?.ok_or_else(|| missing("root"))?;
        let intermediate = store.authority(AuthorityKind::Intermediate).await?;
        let intermediate = intermediate.ok_or_else(|| missing("intermediate"))?;
        Ok((Signer::unseal(root, seal)?, Signer::unseal(intermediate, seal)?))
    }

    /// Takes over the intermediate that another replica made, if it did.
    ///
    /// # Errors
    /// When the store fails, or its key cannot be unsealed.
    pub async fn refresh(&self) -> Result<(), CaError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let Some(record) = self.store.authority(AuthorityKind::Intermediate).await? else { return Ok(()) };
        if record.id != self.intermediate.load().id {
            let signer = Signer::unseal(record, &self.seal)?;
            tracing::info!(current = %signer.subject, "intermediate of another replica taken over");
            self.intermediate.store(Arc::new(signer));
        }
        Ok(())
    }

    /// Signs a leaf with the current intermediate. Its life is cut to the intermediate's if need be.
    ///
    /// # Errors
    /// When the intermediate has ended or the library fails.
    pub fn sign(&self, request: &LeafRequest<'_>) -> Result<SignedLeaf, CaError> {
        let intermediate = self.intermediate.load();
        let now = time::now();
        if intermediate.not_after <= now {
            return Err(CaError::Ended("intermediate"));
        }
        let leaf = profile::leaf(request, &intermediate, now)?;
        let handle = certificate_handle(&leaf.certificate)?;
        Ok(SignedLeaf {
            chain: vec![leaf.certificate, intermediate.certificate.clone()],
            issuance: Issuance {
                serial: handle.serial,
                issuer_sha256: handle.issuer_sha256,
                spki_sha256: handle.spki_sha256,
                authority: intermediate.id.clone(),
                spiffe_id: request.id.clone(),
                not_before: leaf.not_before,
                not_after: leaf.not_after,
            },
        })
    }

    /// Makes another intermediate and signs with it from now on. Returns the one before and the new one.
    ///
    /// # Errors
    /// When the store fails (the old one stays) or the root has ended.
    pub async fn rotate_intermediate(&self, actor: Actor) -> Result<(Arc<Signer>, Arc<Signer>), CaError> {
        let (signer, record) =
            Signer::new_intermediate(&self.trust_domain, &self.root, self.intermediate_ttl, &self.seal)?;
        let replaced = self.intermediate.load().id.clone();
        self.store.replace_intermediate(record, replaced, actor).await?;
        let signer = Arc::new(signer);
        let previous = self.intermediate.swap(Arc::clone(&signer));
        tracing::info!(previous = %previous.subject, current = %signer.subject, "intermediate rotated");
        Ok((previous, signer))
    }

    /// Whether the intermediate should be replaced: its time has come, or the clock that made it was ahead.
    #[must_use]
    pub fn rotation_is_due(&self, now: SystemTime) -> bool {
        let ahead = self.intermediate.load().not_before > now && self.root.not_before <= now;
        ahead || self.rotation_due() <= now
    }

    /// When the intermediate should be replaced: while half of `--intermediate-ttl` is left, so that a leaf of
    /// the longest life still fits. Never, once it ends with the root: another one would not live longer.
    #[must_use]
    pub fn rotation_due(&self) -> SystemTime {
        let ends = self.intermediate.load().not_after;
        if ends >= self.root.not_after { ends } else { ends - self.intermediate_ttl / 2 }
    }

    /// The trust bundle: the root.
    #[must_use]
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// The key that seals the others.
    #[must_use]
    pub fn seal(&self) -> &SealKey {
        &self.seal
    }

    /// The key that authenticates challenges, the same at all replicas.
    #[must_use]
    pub fn challenge_key(&self) -> &[u8; 32] {
        self.seal.challenges()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Signer {
        &self.root
    }

    /// The intermediate that signs now.
    #[must_use]
    pub fn intermediate(&self) -> Arc<Signer> {
        self.intermediate.load_full()
    }
}

impl Signer {
    fn new_root(trust_domain: &TrustDomain, seal: &SealKey) -> Result<(Self, AuthorityRecord), CaError> {
        let draft = profile::Draft::new(AuthorityKind::Root)?;
        let certificate = profile::root(&draft, trust_domain, time::now())?;
        Self::finish(draft, certificate, AuthorityKind::Root, seal)
    }

    fn new_intermediate(
        trust_domain: &TrustDomain,
        root: &Self,
        ttl: Duration,
        seal: &SealKey,
    ) -> Result<(Self, AuthorityRecord), CaError> {
        let now = time::now();
        if root.not_after <= now {
            return Err(CaError::Ended("root"));
        }
        let draft = profile::Draft::new(AuthorityKind::Intermediate)?;
        let certificate = profile::intermediate(&draft, trust_domain, root, ttl, now)?;
        signet_proto::spiffe::check_intermediate(&certificate.certificate, trust_domain)?;
        Self::finish(draft, certificate, AuthorityKind::Intermediate, seal)
    }

    fn finish(
        draft: profile::Draft,
        signed: profile::Signed,
        kind: AuthorityKind,
        seal: &SealKey,
    ) -> Result<(Self, AuthorityRecord), CaError> {
        let profile::Draft { id, subject, key, pkcs8 } = draft;
        let profile::Signed { certificate, not_before, not_after } = signed;
        let record = AuthorityRecord {
            sealed_key: seal.seal(kind.as_str(), &id, &pkcs8)?,
            id: id.clone(),
            kind,
            subject: subject.clone(),
            certificate: certificate.to_vec(),
            not_before,
            not_after,
        };
        Ok((Self { id, subject, certificate, not_before, not_after, key }, record))
    }

    fn unseal(record: AuthorityRecord, seal: &SealKey) -> Result<Self, CaError> {
        let pkcs8 = seal.unseal(record.kind.as_str(), &record.id, &record.sealed_key)?;
        let key = SigningKey::from_pkcs8(&pkcs8)?;
        let certificate = CertificateDer::from(record.certificate);
        if certificate_handle(&certificate)?.spki_sha256 != key.spki_sha256() {
            return Err(CaError::Mismatch(record.subject));
        }
        Ok(Self {
            id: record.id,
            subject: record.subject,
            certificate,
            not_before: record.not_before,
            not_after: record.not_after,
            key,
        })
    }

    /// Common name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Start of validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        crate::sha256(&self.certificate)
    }

    /// Serial, big-endian.
    ///
    /// # Errors
    /// Never for a certificate that was loaded.
    pub fn serial(&self) -> Result<Vec<u8>, SvidError> {
        Ok(certificate_handle(&self.certificate)?.serial)
    }
}

#[cfg(test)]
mod tests;
