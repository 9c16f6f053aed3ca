//! Join tokens: 32 random bytes, shown once, stored as a hash, good for one instance of one workload.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::SpiffeId;
use signet_proto::ticket::JoinTicket;
use zeroize::Zeroizing;

use super::{AttestError, Attested, Disbelief};
use crate::ca::Authority;
use crate::roles::Permission;
use crate::store::model::{Actor, Evidence, NewToken};
use crate::store::{Store, StoreError};
use crate::time;

/// How long a token can be redeemed unless told otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// A token is a password while it lives.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
const SECRET_LENGTH: usize = 32;

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoTicket {
    /// A life out of bounds.
    #[error("token ttl: expected from 1s to 7d")]
    Ttl,
    /// The system has no randomness.
    #[error("the system has no randomness to give")]
    NoRandomness,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes join tickets.
#[derive(Clone)]
pub struct Tokens {
    store: Store,
    authority: Arc<Authority>,
    advertise: Arc<[String]>,
}

impl Tokens {
    /// Tickets will name the addresses in `advertise`.
    #[must_use]
    pub fn new(store: Store, authority: Arc<Authority>, advertise: Vec<String>) -> Self {
        Self { store, authority, advertise: advertise.into() }
    }

    /// Makes a ticket for one instance of a workload, if `permission` lets its actor become that. Its secret is
    /// nowhere else.
    ///
    /// # Errors
    /// When the workload is unknown or not active, or the life out of bounds.
    pub async fn create(
        &self,
        id: SpiffeId,
        ttl: Option<Duration>,
        permission: impl Permission,
    ) -> Result<(JoinTicket, SystemTime), NoTicket> {
        let ttl = ttl.unwrap_or(DEFAULT_TTL);
        if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
            return Err(NoTicket::Ttl);
        }
        let mut secret = Zeroizing::new(vec![0; SECRET_LENGTH]);
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| NoTicket::NoRandomness)?;
        let expires_at = time::now() + ttl;
        let token = NewToken { secret_sha256: crate::sha256(&secret), spiffe_id: id, expires_at };
        self.store.create_token(token, permission).await?;
        Ok((JoinTicket { secret: Some(secret), ..self.introduction() }, expires_at))
    }

    /// A ticket without a secret: where control is, and by which root it is known. Good for any number of those who
    /// prove otherwise who they are.
    #[must_use]
    pub fn introduction(&self) -> JoinTicket {
        let hierarchy = self.authority.hierarchy();
        JoinTicket {
            control: self.advertise.to_vec(),
            trust_domain: self.authority.trust_domain().clone(),
            root_sha256: hierarchy.shown().sha256(),
            other_roots_sha256: hierarchy.others().collect(),
            secret: None,
        }
    }
}

pub(super) async fn verify(store: &Store, secret: &[u8], asks: &Actor) -> Result<Attested, AttestError> {
    if secret.len() != SECRET_LENGTH {
        tracing::warn!(because = "wrong length", %asks, "join token refused");
        let why = format!("{} bytes, expected {SECRET_LENGTH}", secret.len());
        return Err(AttestError::Token(Some(Disbelief::new("join_token", "wrong_length", &why))));
    }
    // Looked up by its hash: nothing is compared byte by byte with what the caller sent.
    let secret_sha256 = crate::sha256(secret);
    let evidence = Evidence::JoinToken { secret_sha256 };
    match store.redeemable_token(secret_sha256, time::now()).await {
        Ok(token) => Ok(Attested {
            terms: token.workload.terms(),
            id: token.workload.spiffe_id,
            again: token.redeemed_by,
            evidence,
        }),
        Err(StoreError::Refused(refusal)) => {
            Err(super::refused(store, &evidence, refusal.as_str(), asks).await)
        }
        Err(error) => Err(AttestError::Store(error)),
    }
}
