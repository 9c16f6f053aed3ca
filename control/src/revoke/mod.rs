//! Taking rights away: by identity, instance, serial, key, subtree, owner or issuer.
//!
//! | revoked | listed for proxies | renewals refused | also |
//! | --- | --- | --- | --- |
//! | identity | the identity and each of its instances | of all instances | workload suspended, unused tokens withdrawn |
//! | subtree, owner | each identity in it, as above | as above | templates that give only such are suspended |
//! | instance | the instance, and what proved itself by it | of those | their endpoints are gone; what proved them proves no other |
//! | serial | the certificate, its key, its instance | of its instance | as for the instance |
//! | key | the key, every instance that has it | of those | as for the instance |
//! | issuer | the intermediate's certificate and key | of whoever shows one that it signed | whoever can proves itself anew |
//!
//! A serial takes its instance with it: whoever had that key could have renewed with it. Resuming a workload
//! lifts the listing of its identity, never that of instances: what was revoked with it must attest again.
//! Entries stay until a week after the last certificate that they cover has ended: a proxy that was cut off
//! meanwhile has to learn of them still.

use signet_proto::policy::Pattern;
use signet_proto::spiffe::TrustDomain;
use signet_proto::v1::revoke_request::What;

use crate::registry::{self, Registry, RegistryError};
use crate::roles::Permission;
use crate::store::model::{Mutation, RevocationTarget};
use crate::store::{Store, StoreError};

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// Nothing named.
    #[error(
        "what to revoke is missing: expected a SPIFFE ID, an instance, a serial, a key, a subtree, an owner or an \
         issuer"
    )]
    Missing,
    /// The instance does not parse.
    #[error("instance: {0}")]
    Instance(#[from] signet_proto::spiffe::InstanceIdError),
    /// The serial does not parse.
    #[error("serial: expected hex digits, as `signet identities` shows them")]
    Serial,
    /// The key does not parse.
    #[error("key: expected the SHA-256 of its SubjectPublicKeyInfo, 64 hex digits")]
    Key,
    /// The issuer does not parse.
    #[error(
        "issuer: expected the serial or the SHA-256 of an intermediate in hex, as `signet ca status` shows it"
    )]
    Issuer,
    /// The subtree does not parse.
    #[error("subtree: expected all below an identity of this trust domain, such as `spiffe://{0}/batch/*`")]
    Subtree(TrustDomain),
    /// The SPIFFE ID or the reason is not acceptable.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Revokes what `what` names, if `permission` reaches every identity that it belongs to.
///
/// # Errors
/// When it does not parse, control never issued anything for it, or it is not permitted.
pub async fn revoke(
    store: &Store,
    registry: &Registry,
    what: Option<What>,
    reason: &str,
    permission: impl Permission,
) -> Result<Mutation, RevokeError> {
    let reason = registry::text("reason", reason)?;
    let target = target(registry, what)?;
    let mutation = store.revoke(target, reason, permission).await?;
    tracing::info!(revision = mutation.commit.revision, effects = ?mutation.effects, "revoked");
    Ok(mutation)
}

fn target(registry: &Registry, what: Option<What>) -> Result<RevocationTarget, RevokeError> {
    Ok(match what.ok_or(RevokeError::Missing)? {
        What::SpiffeId(id) => RevocationTarget::Identity(registry.parse(&id)?),
        What::Instance(instance) => RevocationTarget::Instance(instance.parse()?),
        What::Serial(serial) => {
            RevocationTarget::Serial(crate::hex::decode(&serial).ok_or(RevokeError::Serial)?)
        }
        What::Key(key) => {
            let digest = crate::hex::decode(&key).and_then(|bytes| bytes.try_into().ok());
            RevocationTarget::Key(digest.ok_or(RevokeError::Key)?)
        }
        What::Subtree(subtree) => {
            let domain = registry.trust_domain();
            match subtree.parse() {
                Ok(Pattern::Subtree(subtree)) if subtree.root().trust_domain() == domain => {
                    RevocationTarget::Subtree(subtree)
                }
                _ => return Err(RevokeError::Subtree(domain.clone())),
            }
        }
        What::Owner(owner) => RevocationTarget::Owner(registry::text("owner", &owner)?),
        What::Issuer(issuer) => {
            crate::hex::decode(&issuer).ok_or(RevokeError::Issuer)?;
            RevocationTarget::Issuer(issuer)
        }
    })
}
