//! From a signing request to an SVID: checks, signature, record.
//!
//! ```text
//!   CSR ─▶ csr::verify (size, kind of key, self-signature over the parsed bytes, no foreign name)
//!       ─▶ policy::grant (life within bounds, DNS names of the workload)
//!       ─▶ who asks (attest room, or the SVID of the connection) ─▶ Authority::sign
//!       ─▶ store: workload active + instance live + token unspent + key unused + row + audit event, one commit
//!       ─▶ only then the SVID is given out
//! ```
//!
//! What decides is decided inside the commit: a suspension, revocation or second redeem that is committed
//! before it wins, and the signature made meanwhile is thrown away unseen.

mod csr;
mod jwt;
mod keys;
mod policy;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use signet_proto::handshake::{KeyError, PeerIdentity, Svid, SvidMismatch, WorkloadKey};
use signet_proto::spiffe::{InstanceId, InstanceIdError, SpiffeId, SpiffeIdError};

use crate::attest::Attested;
use crate::audit::RequestId;
use crate::ca::{Authority, CaError, LeafRequest, PublicKey, SignedLeaf};
use crate::registry::TtlBounds;
use crate::store::model::{ASK_AGAIN, Attestation, Evidence, Issuance, Renewal, Terms};
use crate::store::{HeldRequest, NewRequest, Refusal, Store, StoreError};
use crate::telemetry::metrics::{self, Issue};
use crate::time;

pub use csr::{CsrError, SigningRequest, verify as verify_request};
pub use jwt::{IssuedJwt, JwtSettings};
pub use keys::{KeyAlgorithm, KeyAlgorithms, UnknownAlgorithm};
pub use policy::NotGranted;

use policy::{Asked, Granted, Occasion, grant};

/// Versions of programs are for the inventory; nobody needs more than this.
const MAX_VERSION: usize = 64;

/// An SVID to give out: recorded.
#[derive(Debug)]
pub struct Issued {
    /// Whom it names.
    pub id: SpiffeId,
    /// Its instance.
    pub instance: InstanceId,
    /// What was signed.
    pub leaf: SignedLeaf,
}

/// How long a request waits for approval unless told otherwise.
pub const DEFAULT_REQUEST_TTL: Duration = Duration::from_secs(86_400);

/// Why no SVID is given out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The signing request is not acceptable.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// It asks for what it may not have.
    #[error(transparent)]
    Policy(#[from] NotGranted),
    /// The version text is not acceptable.
    #[error("version: expected at most {MAX_VERSION} printable ASCII characters")]
    Version,
    /// The audience of a token is not acceptable.
    #[error("audience: expected 1 to 8 names of 1 to 255 bytes each, printable ASCII without spaces")]
    Audience,
    /// A token would be over at once.
    #[error("the SVID that asks, or its workload, ends within a second: renew first")]
    Ends,
    /// The presented SVID belongs to no instance.
    #[error("the presented SVID belongs to no attested instance: attest with a join token")]
    NoInstance,
    /// People have to agree first.
    #[error(
        "request {} waits for approval, {} of {} so far, until {}: `signet requests approve {}`; ask again with the \
         same signing request", .0.id, .0.approvers().count(), .0.needed, time::rfc3339(.0.expires_at), .0.id
    )]
    Held(Box<HeldRequest>),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Signing failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// No randomness for an instance id.
    #[error(transparent)]
    Instance(#[from] InstanceIdError),
    /// Control's own key or chain is unusable.
    #[error("cannot make control's own SVID: {0}")]
    Own(String),
}

impl IssueError {
    /// The stable name used in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Csr(_) => "bad_csr",
            Self::Policy(error) => error.reason(),
            Self::Version => "bad_version",
            Self::Audience => "bad_audience",
            Self::Ends => "ends",
            Self::NoInstance => "no_instance",
            Self::Held(_) => "held",
            Self::Store(StoreError::Refused(refusal)) => refusal.as_str(),
            Self::Store(StoreError::NotFound { .. }) => "unknown_workload",
            Self::Store(_) => "store",
            Self::Ca(_) | Self::Instance(_) | Self::Own(_) => "authority",
        }
    }
}

impl From<KeyError> for IssueError {
    fn from(error: KeyError) -> Self {
        Self::Own(error.to_string())
    }
}

impl From<SvidMismatch> for IssueError {
    fn from(error: SvidMismatch) -> Self {
        Self::Own(error.to_string())
    }
}

impl From<SpiffeIdError> for IssueError {
    fn from(error: SpiffeIdError) -> Self {
        Self::Own(error.to_string())
    }
}

/// Gives out SVIDs.
#[derive(Clone)]
pub struct Issuer {
    authority: Arc<Authority>,
    store: Store,
    settings: IssueSettings,
}

/// What operators decide about issuance for the mesh as a whole.
#[derive(Debug, Clone)]
pub struct IssueSettings {
    /// Lives of SVIDs where a workload has no bounds of its own.
    pub ttl: TtlBounds,
    /// Kinds of keys that are certified.
    pub keys: KeyAlgorithms,
    /// How long a request may wait for approval.
    pub request_ttl: Duration,
    /// Tokens.
    pub jwt: JwtSettings,
}

impl Issuer {
    /// Signs with `authority`, records in `store`.
    #[must_use]
    pub fn new(authority: Arc<Authority>, store: Store, settings: IssueSettings) -> Self {
        Self { authority, store, settings }
    }

    /// What signs.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The first SVID of a new instance, or of one that did not hear the answer.
    ///
    /// # Errors
    /// Why not; nothing was given out and the join token is unspent, unless it was spent before.
    pub async fn attest(
        &self,
        attested: Attested,
        request: &[u8],
        ttl: Option<Duration>,
        version: &str,
        address: IpAddr,
        request_id: Option<RequestId>,
    ) -> Result<Issued, IssueError> {
        let result = self.first(attested, request, ttl, version, address, request_id).await;
        metrics::issued(Issue::Attest, result.as_ref().err().map(IssueError::reason));
        result
    }

    /// The next SVID of the instance that `peer` belongs to.
    ///
    /// # Errors
    /// Why not.
    pub async fn renew(
        &self,
        peer: &PeerIdentity,
        request: &[u8],
        ttl: Option<Duration>,
        version: &str,
        request_id: Option<RequestId>,
    ) -> Result<Issued, IssueError> {
        let result = self.next(peer, request, ttl, version, request_id).await;
        metrics::issued(Issue::Renew, result.as_ref().err().map(IssueError::reason));
        result
    }

    /// Control's own SVID, with its root at the end of the chain, so that a joiner can check what its
    /// ticket pins.
    ///
    /// # Errors
    /// When it cannot be signed or recorded.
    pub async fn own(&self, ttl: Duration) -> Result<Svid, IssueError> {
        let id = own_id(&self.authority)?;
        let key = WorkloadKey::generate()?;
        let request = csr::verify(&key.csr(Some(&id))?, &id, &KeyAlgorithms::default())?;
        let leaf = self.sign(&LeafRequest { id: &id, instance: None, key: &request.key, dns: &[], ttl })?;
        self.store.record_own(leaf.issuance.clone()).await?;
        let mut chain = leaf.chain;
        chain.push(self.authority.hierarchy().shown().certificate().clone());
        metrics::issued(Issue::Own, None);
        Ok(Svid::new(chain, key.signing_key()?)?)
    }

    async fn first(
        &self,
        attested: Attested,
        request: &[u8],
        ttl: Option<Duration>,
        version: &str,
        address: IpAddr,
        request_id: Option<RequestId>,
    ) -> Result<Issued, IssueError> {
        let version = check_version(version)?;
        let Attested { id, terms, again, evidence } = attested;
        let asked = match self.read(request, &id, ttl, &terms, Occasion::First) {
            // A spent token answers nobody but its instance, whatever is wrong.
            Err(_) if again.is_some() => return Err(StoreError::from(Refusal::TokenSpent).into()),
            asked => asked?,
        };
        let (key, Granted { ttl, dns }) = asked;
        let again = match &evidence {
            Evidence::JoinToken { .. } => again,
            Evidence::Proven(_) | Evidence::Svid { .. } => {
                let (proof, since) = (evidence.proof().to_owned(), time::now() - ASK_AGAIN);
                self.store
                    .attested_before(id.clone(), proof, crate::sha256(&key.subject_public_key_info()), since)
                    .await?
            }
        };
        let instance = again.map_or_else(InstanceId::random, Ok)?;
        let leaf =
            self.sign(&LeafRequest { id: &id, instance: Some(instance), key: &key, dns: &dns, ttl })?;
        let csr_sha256 = crate::sha256(request);
        let attestation = Attestation { instance, evidence, csr_sha256, version, address, request_id };
        match self.store.record_attestation(leaf.issuance.clone(), attestation.clone()).await {
            Ok(()) => Ok(Issued { id, instance, leaf }),
            Err(StoreError::Refused(Refusal::ApprovalRequired)) => {
                Err(self.hold(&leaf.issuance, attestation).await)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What was refused only because people have to agree is recorded for them: nothing of the attestation was kept.
    async fn hold(&self, issuance: &Issuance, attestation: Attestation) -> IssueError {
        let Attestation { instance: _, evidence, csr_sha256, version, address, request_id } = attestation;
        let request = NewRequest {
            spiffe_id: issuance.spiffe_id.clone(),
            csr_sha256,
            spki_sha256: issuance.spki_sha256,
            evidence,
            address,
            version,
            request_id,
            life: self.settings.request_ttl,
        };
        match self.store.hold_request(request).await {
            Ok(held) => IssueError::Held(Box::new(held)),
            Err(error) => error.into(),
        }
    }

    async fn next(
        &self,
        peer: &PeerIdentity,
        request: &[u8],
        ttl: Option<Duration>,
        version: &str,
        request_id: Option<RequestId>,
    ) -> Result<Issued, IssueError> {
        let version = check_version(version)?;
        let instance = peer.instance.ok_or(IssueError::NoInstance)?;
        let terms = self.store.workload(peer.id.clone()).await?.terms();
        let (key, Granted { ttl, dns }) = self.read(request, &peer.id, ttl, &terms, Occasion::Next)?;
        let leaf =
            self.sign(&LeafRequest { id: &peer.id, instance: Some(instance), key: &key, dns: &dns, ttl })?;
        let presented =
            peer.handles.iter().map(|handle| (handle.issuer_sha256, handle.serial.clone())).collect();
        let renewal = Renewal { instance, presented, version, request_id };
        self.store.record_renewal(leaf.issuance.clone(), renewal).await?;
        Ok(Issued { id: peer.id.clone(), instance, leaf })
    }

    /// The key of a signing request, and what an SVID for it may be.
    fn read(
        &self,
        request: &[u8],
        id: &SpiffeId,
        ttl: Option<Duration>,
        terms: &Terms,
        occasion: Occasion,
    ) -> Result<(PublicKey, Granted), IssueError> {
        let SigningRequest { key, dns } = csr::verify(request, id, &self.settings.keys)?;
        let granted = grant(self.settings.ttl, terms, &Asked { ttl, dns }, occasion, time::now())?;
        Ok((key, granted))
    }

    fn sign(&self, request: &LeafRequest<'_>) -> Result<SignedLeaf, CaError> {
        let started = Instant::now();
        let leaf = self.authority.sign(request);
        metrics::signed(started.elapsed());
        leaf
    }
}

impl Issued {
    /// For the message: DER, leaf first, without the root.
    #[must_use]
    pub fn chain(&self) -> Vec<Vec<u8>> {
        self.leaf.chain.iter().map(|certificate: &CertificateDer<'_>| certificate.to_vec()).collect()
    }
}

/// `spiffe://<trust domain>/signet/control`.
///
/// # Errors
/// When the trust domain is so long that the ID would be too long.
pub fn own_id(authority: &Authority) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(authority.trust_domain(), crate::registry::CONTROL_PATH)
}

fn check_version(version: &str) -> Result<String, IssueError> {
    if version.len() <= MAX_VERSION && version.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(version.to_owned())
    } else {
        Err(IssueError::Version)
    }
}

/// Whether the store refused, rather than failed: for callers that answer differently.
#[must_use]
pub fn refusal(error: &IssueError) -> Option<&Refusal> {
    match error {
        IssueError::Store(StoreError::Refused(refusal)) => Some(refusal),
        _ => None,
    }
}

/// The key in a request of `key`, for tests of other rooms.
#[cfg(test)]
pub(crate) fn tests_csr(key: &WorkloadKey, id: &SpiffeId) -> PublicKey {
    csr::verify(&key.csr(Some(id)).unwrap(), id, &KeyAlgorithms::default()).unwrap().key
}
