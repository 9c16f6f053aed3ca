//! When somebody else may have an authority's key: another one takes its place at once, everybody below renews while the
//! old one is still believed, and at a stated time all trust in it ends, whoever has not renewed.

use std::time::Duration;

use super::steps::listing;
use super::{Authority, CaError, UpstreamError};
use crate::store::model::{Actor, AuthorityKind, Compromise, KnownAuthority, Mutation, Phase};
use crate::store::{Refusal, StoreError};
use crate::telemetry::metrics;

impl Authority {
    /// Begins to replace a compromised authority. A root is replaced by the next look of the leader, as soon as all
    /// proxies know the one that follows; with no time left, here and now.
    ///
    /// # Errors
    /// When the store refuses or fails.
    pub async fn compromised(
        &self,
        authority: &KnownAuthority,
        within: Duration,
        reason: String,
        actor: Actor,
    ) -> Result<Mutation, CaError> {
        let replaced;
        let authority = match (authority.kind, authority.phase) {
            (AuthorityKind::Intermediate, Phase::Active) if self.upstream_signs() => {
                self.succeed_by_upstream(actor.clone()).await?;
                replaced = self.named(&authority.id, &[Phase::Retiring]).await?;
                &replaced
            }
            (AuthorityKind::Root, Phase::Active) if self.prepared_root().is_none() => {
                match self.upstream_signs() {
                    true => drop(self.prepare_by_upstream(actor.clone()).await?),
                    false => self.require_held(authority)?,
                }
                authority
            }
            _ => authority,
        };
        let successor = match (authority.kind, authority.phase) {
            (AuthorityKind::Intermediate, Phase::Active) => {
                Some(self.below(&authority.replica, &self.signing_root().await?).await?.1)
            }
            (AuthorityKind::Root, Phase::Active) if self.prepared_root().is_none() => {
                Some(self.another_root().await?.1)
            }
            _ => None,
        };
        let compromise = Compromise { id: authority.id.clone(), successor, within, reason };
        let mut mutation = self.store.compromise_authority(compromise, actor.clone()).await?;
        self.done("compromised", authority.kind, &mutation).await?;
        if within.is_zero() || authority.phase == Phase::Removed {
            let ended = self.distrust(authority, actor).await?;
            mutation.commit = ended.commit;
            mutation.effects.extend(ended.effects);
        }
        Ok(mutation)
    }

    /// Has something else sign below the upstream's root: what waits already, or what it signs now. Nobody is asked whether
    /// another root of it is known everywhere: there is no time.
    async fn succeed_by_upstream(&self, actor: Actor) -> Result<(), CaError> {
        let waiting = match self.prepared_root() {
            Some(root) => Some(root),
            None => match self.replace_by_upstream(actor.clone()).await {
                Err(CaError::Upstream(UpstreamError::AnotherRoot(_))) => self.prepared_root(),
                signed => return signed.map(drop),
            },
        };
        match waiting {
            Some(root) => self.activate(&root, true, actor).await.map(drop),
            None => Err(StoreError::from(Refusal::RotatedMeanwhile).into()),
        }
    }

    /// Ends all trust in a compromised authority, and in those that it signed.
    ///
    /// # Errors
    /// When the store refuses or fails.
    pub async fn distrust(&self, authority: &KnownAuthority, actor: Actor) -> Result<Mutation, CaError> {
        let signs = |known: &KnownAuthority| known.id == authority.id && known.phase == Phase::Active;
        if self.hierarchy().known().iter().any(signs)
            && let Some(prepared) = self.prepared_root()
        {
            self.activate(&prepared, true, actor.clone()).await?;
        }
        let hierarchy = self.hierarchy();
        let below = |known: &&KnownAuthority| {
            known.id == authority.id || known.issuer.as_ref() == Some(&authority.id)
        };
        let signed = hierarchy.known().iter().filter(below).filter(|known| known.phase != Phase::Prepared);
        let listings = signed.map(listing).collect::<Result<_, _>>()?;
        let mutation = self.store.distrust_authority(authority.id.clone(), listings, actor).await?;
        metrics::authority_step(authority.kind.as_str(), "distrust");
        tracing::warn!(kind = %authority.kind, id = authority.id, "a compromised authority is believed no more");
        self.refresh().await?;
        Ok(mutation)
    }

    fn prepared_root(&self) -> Option<KnownAuthority> {
        let hierarchy = self.hierarchy();
        hierarchy.known().iter().find(|one| one.is_anchor() && one.phase == Phase::Prepared).cloned()
    }
}
