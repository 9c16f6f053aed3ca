//! Taking rights away: by identity, instance or serial.
//!
//! | revoked | listed for proxies | renewals refused | also |
//! | --- | --- | --- | --- |
//! | identity | the identity and each of its instances | of all instances | workload suspended, unused tokens withdrawn |
//! | instance | the instance | of the instance | its endpoints are gone |
//! | serial | the certificate, its key, its instance | of its instance | as for the instance |
//!
//! A serial takes its instance with it: whoever had that key could have renewed with it. Resuming a workload
//! lifts the listing of its identity, never that of instances: what was revoked with it must attest again.
//! Entries stay until a week after the last certificate that they cover has ended: a proxy that was cut off
//! meanwhile has to learn of them still.

use signet_proto::spiffe::SpiffeId;
use signet_proto::v1::revoke_request::What;

use crate::registry::{self, Registry, RegistryError};
use crate::roles::{Permission, Refused, Scope};
use crate::store::model::{Mutation, RevocationTarget};
use crate::store::{Store, StoreError};

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// Nothing named.
    #[error("what to revoke is missing: expected a SPIFFE ID, an instance or a serial")]
    Missing,
    /// The instance does not parse.
    #[error("instance: {0}")]
    Instance(#[from] signet_proto::spiffe::InstanceIdError),
    /// The serial does not parse.
    #[error("serial: expected hex digits, as `signet identities` shows them")]
    Serial,
    /// The SPIFFE ID or the reason is not acceptable.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Whoever asks may not: their roles do not reach the identity that it belongs to.
    #[error(transparent)]
    NotPermitted(#[from] Refused),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Revokes what `what` names, if `permission` reaches the identity that it belongs to.
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
    // Whose an instance or a certificate is never changes: it need not be asked in the commit.
    let id = match target.clone() {
        RevocationTarget::Identity(id) => id,
        RevocationTarget::Instance(instance) => store.identity_of_instance(instance).await?,
        RevocationTarget::Serial(serial) => store.identity_of_serial(serial).await?,
    };
    let actor = permission.on(&Scope::identity(&id))?;
    let mutation = store.revoke(target, reason, actor).await?;
    tracing::info!(revision = mutation.commit.revision, effects = ?mutation.effects, "revoked");
    Ok(mutation)
}

fn target(registry: &Registry, what: Option<What>) -> Result<RevocationTarget, RevokeError> {
    match what {
        None => Err(RevokeError::Missing),
        Some(What::SpiffeId(id)) => {
            let id: SpiffeId = registry.parse(&id)?;
            Ok(RevocationTarget::Identity(id))
        }
        Some(What::Instance(instance)) => Ok(RevocationTarget::Instance(instance.parse()?)),
        Some(What::Serial(serial)) => {
            let serial = crate::hex::decode(&serial).ok_or(RevokeError::Serial)?;
            Ok(RevocationTarget::Serial(serial))
        }
    }
}
