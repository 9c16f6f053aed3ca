//! Proof of who asks: each way of proving it is a file, and ends in the same [`Attested`].
//!
//! Nobody is told why a proof failed beyond that it did: whoever guesses must not learn whether a guess was
//! close. The log and the audit say more.

mod join_token;
pub mod oidc;
mod proven;
pub mod x509;

use std::net::IpAddr;

use signet_proto::spiffe::InstanceId;
use signet_proto::v1::attest_request::Proof;

use crate::store::model::{Actor, Workload};
use crate::store::{Store, StoreError};

pub use join_token::{DEFAULT_TTL, MAX_TTL, TokenError, Tokens};
pub use proven::Proven;

/// A proven workload, and what proved it.
#[derive(Debug)]
pub struct Attested {
    /// Whom the proof is for.
    pub workload: Workload,
    /// The instance that was proven already, and asks again.
    pub again: Option<InstanceId>,
    /// To be spent in the commit of the issuance.
    pub evidence: Evidence,
}

/// What proved it.
#[derive(Debug, Clone, Copy)]
pub enum Evidence {
    /// A join token, by the SHA-256 of its secret.
    JoinToken {
        /// SHA-256 of the secret.
        secret_sha256: [u8; 32],
    },
}

/// Why a proof is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// None came, or of a kind that this version does not know.
    #[error("no proof in the request: expected a join token")]
    NoProof,
    /// Nobody here believes proofs of that kind, or the attestor has another name.
    #[error("no attestor of that kind and name is configured here")]
    NoAttestor,
    /// The one answer to every token that cannot be redeemed.
    #[error("unknown or used or expired token: create another with `signet token create`")]
    Token,
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

/// Checks a proof. What it says may have changed when the SVID is recorded; the store decides then, finally.
///
/// # Errors
/// Why it is not believed.
pub async fn verify(store: &Store, proof: Option<&Proof>, address: IpAddr) -> Result<Attested, AttestError> {
    match proof {
        None => Err(AttestError::NoProof),
        Some(Proof::JoinToken(proof)) => join_token::verify(store, &proof.secret, address).await,
        Some(Proof::Jwt(_) | Proof::X509Pop(_) | Proof::Svid(_)) => Err(AttestError::NoAttestor),
    }
}

/// The public error for a refused issuance, and its record in the audit: also what is found out only in the
/// commit (of many redeems at the same time, all but one) looks the same to the caller.
pub async fn refused(
    store: &Store,
    evidence: Evidence,
    because: &'static str,
    address: IpAddr,
) -> AttestError {
    let Evidence::JoinToken { secret_sha256 } = evidence;
    tracing::warn!(because, %address, "join token refused");
    match store.refuse_token(secret_sha256, because, Actor::anonymous(address)).await {
        Ok(()) => AttestError::Token,
        Err(error) => AttestError::Store(error),
    }
}
