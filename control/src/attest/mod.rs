//! Proof of who asks: each way of proving it is a file, and ends in the same [`Attested`].
//!
//! Nobody is told why a proof failed beyond that it did: whoever guesses must not learn whether a guess was
//! close. The log and the audit say more.

mod join_token;
pub mod oidc;
mod proven;
pub mod x509;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use signet_proto::spiffe::{InstanceId, SpiffeId, TrustDomain};
use signet_proto::v1::attest_request::Proof;
use tokio_util::sync::CancellationToken;

use crate::config::AttestorConfig;
use crate::store::model::{Actor, Entitled, Evidence, Terms};
use crate::store::{Store, StoreError};
use crate::time;
use oidc::{JwtAttestors, StartError};
use x509::{X509Attestor, X509ConfigError};

pub use join_token::{DEFAULT_TTL, MAX_TTL, NoTicket, Tokens};
pub use proven::{ProofUse, Proven};

/// A proven workload, and what proved it.
#[derive(Debug)]
pub struct Attested {
    /// Whom the proof is for.
    pub id: SpiffeId,
    /// What its SVIDs may be.
    pub terms: Terms,
    /// The instance that was proven already, and asks again.
    pub again: Option<InstanceId>,
    /// To be asked again, and spent, in the commit of the issuance.
    pub evidence: Evidence,
}

/// Why a proof is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// None came, or of a kind that this version does not know.
    #[error("no proof in the request: expected a join token, a JSON Web Token, a certificate or an SVID")]
    NoProof,
    /// Nobody here believes proofs of that kind, or the attestor has another name.
    #[error("no attestor of that kind and name is configured here")]
    NoAttestor,
    /// The one answer to every token that cannot be redeemed.
    #[error("unknown or used or expired token: create another with `signet token create`")]
    Token(Option<Disbelief>),
    /// The one answer to every other proof that is not believed, or entitles to nothing.
    #[error("not believed, or it entitles to nothing here: the log and the audit of control say why")]
    Disbelieved(Disbelief),
    /// The keys to check it with are not there, or not yet.
    #[error("the keys of the token's issuer are not there: try again in a moment")]
    Keys,
    /// What a challenge is asked for is no hash of a signing request.
    #[error("csr_sha256: expected 32 bytes")]
    CsrHash,
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Why a proof is not believed, for the audit: whoever sent it is not told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disbelief {
    /// Who did not believe it: an attestor of the settings, or `join_token`.
    pub attestor: String,
    /// A stable word.
    pub because: &'static str,
    /// In words.
    pub why: String,
}

impl Disbelief {
    /// Of `attestor`.
    #[must_use]
    pub fn new(attestor: &str, because: &'static str, why: &dyn fmt::Display) -> Self {
        Self { attestor: attestor.to_owned(), because, why: why.to_string() }
    }
}

impl AttestError {
    /// What the audit has to say about it, if nothing has been said there yet.
    #[must_use]
    pub fn disbelief(&self) -> Option<&Disbelief> {
        match self {
            Self::Token(disbelief) => disbelief.as_ref(),
            Self::Disbelieved(disbelief) => Some(disbelief),
            _ => None,
        }
    }
}

/// Why the attestors cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestorsError {
    /// One for tokens.
    #[error(transparent)]
    Jwt(#[from] StartError),
    /// One for certificates.
    #[error("attestors.{attestor}: {error}")]
    X509 {
        /// Which.
        attestor: String,
        /// What is wrong.
        error: X509ConfigError,
    },
}

/// All ways of proving who asks.
#[derive(Clone)]
pub struct Attestors {
    store: Store,
    jwt: JwtAttestors,
    x509: Arc<BTreeMap<String, X509Attestor>>,
}

impl Attestors {
    /// Those of the settings. `challenge_key` is the same at all replicas.
    ///
    /// # Errors
    /// When one of them is of no use.
    pub fn start(
        store: Store,
        domain: &TrustDomain,
        configs: BTreeMap<String, AttestorConfig>,
        challenge_key: &[u8; 32],
    ) -> Result<Self, AttestorsError> {
        let (mut tokens, mut x509) = (Vec::new(), BTreeMap::new());
        for (name, config) in configs {
            match config {
                AttestorConfig::Jwt(config) => tokens.push((name, *config)),
                AttestorConfig::X509(settings) => {
                    let attestor = X509Attestor::load(&name, domain.clone(), &settings, challenge_key)
                        .map_err(|error| AttestorsError::X509 { attestor: name.clone(), error })?;
                    x509.insert(name, attestor);
                }
            }
        }
        Ok(Self { store, jwt: JwtAttestors::start(tokens)?, x509: Arc::new(x509) })
    }

    /// Keeps what has to be fetched fresh until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        self.jwt.run(stop).await;
    }

    /// A challenge for whoever wants to prove the possession of a key.
    ///
    /// # Errors
    /// When there is no such attestor, or the hash is none.
    pub fn challenge(&self, attestor: &str, csr_sha256: &[u8]) -> Result<Vec<u8>, AttestError> {
        let attestor = self.x509.get(attestor).ok_or(AttestError::NoAttestor)?;
        attestor.challenge(csr_sha256, time::now()).map_err(|_| AttestError::CsrHash)
    }

    /// Checks a proof; `wanted` is the identity asked for, empty for the one that fits. What it says may have changed
    /// when the SVID is recorded; the store decides then, finally.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn verify(
        &self,
        proof: &Proof,
        csr: &[u8],
        wanted: &str,
        asks: &Actor,
    ) -> Result<Attested, AttestError> {
        let proven = match proof {
            Proof::JoinToken(proof) => return join_token::verify(&self.store, &proof.secret, asks).await,
            // The connection's own SVID: whoever serves the call has to look at it.
            Proof::Svid(_) => return Err(AttestError::NoProof),
            Proof::Jwt(proof) => self.jwt.verify(&proof.attestor, &proof.token).await.map_err(|error| {
                use oidc::JwtError;
                if matches!(error, JwtError::AttestorUnknown) {
                    return AttestError::NoAttestor;
                }
                let disbelieved = disbelieved(&proof.attestor, error.reason(), &error, asks);
                match error {
                    // Ours to wait for, not a reason to give up.
                    JwtError::KeysUnavailable => AttestError::Keys,
                    _ => disbelieved,
                }
            })?,
            Proof::X509Pop(proof) => {
                let attestor = self.x509.get(&proof.attestor).ok_or(AttestError::NoAttestor)?;
                attestor
                    .verify(proof, csr, time::now())
                    .map_err(|error| disbelieved(&proof.attestor, error.reason(), &error, asks))?
            }
        };
        self.entitled(proven, wanted, asks).await
    }

    async fn entitled(&self, proven: Proven, wanted: &str, asks: &Actor) -> Result<Attested, AttestError> {
        let wanted = match wanted {
            "" => None,
            wanted => Some(
                wanted
                    .parse()
                    .map_err(|error| disbelieved(&proven.attestor, "unknown_identity", &error, asks))?,
            ),
        };
        let selectors: BTreeSet<_> = proven.selectors.clone();
        match self.store.entitled(selectors, wanted).await {
            Ok(Entitled { id, terms }) => {
                Ok(Attested { id, terms, again: None, evidence: Evidence::Proven(proven) })
            }
            Err(StoreError::Refused(refusal)) => {
                Err(disbelieved(&proven.attestor, refusal.as_str(), &refusal, asks))
            }
            Err(error) => Err(AttestError::Store(error)),
        }
    }
}

fn disbelieved(attestor: &str, because: &'static str, error: &dyn fmt::Display, asks: &Actor) -> AttestError {
    tracing::warn!(attestor, because, %error, %asks, "proof not believed");
    AttestError::Disbelieved(Disbelief::new(attestor, because, error))
}

/// The public error for a refused issuance, and the record of a known join token in the audit: also what is found out
/// only in the commit (of many redeems at the same time, all but one) looks the same to the caller.
pub async fn refused(store: &Store, evidence: &Evidence, because: &'static str, asks: &Actor) -> AttestError {
    tracing::warn!(proof = evidence.proof(), because, %asks, "proof refused");
    let disbelief = Disbelief::new(evidence.proof(), because, &because);
    let Evidence::JoinToken { secret_sha256 } = evidence else { return AttestError::Disbelieved(disbelief) };
    match store.refuse_token(*secret_sha256, because, asks.clone()).await {
        Ok(is_known) => AttestError::Token((!is_known).then_some(disbelief)),
        Err(error) => AttestError::Store(error),
    }
}
