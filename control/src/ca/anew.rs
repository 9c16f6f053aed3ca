//! When control was away for longer than its authorities live, or the clock that certified them was ahead: an
//! intermediate is replaced by itself; a root only by whoever says so, as everybody has to be told of another one.

use std::time::SystemTime;

use super::{Authority, CaError, UpstreamError, hierarchy};
use crate::store::model::{Actor, AuthorityKind, KnownAuthority, Mutation, Phase};

impl Authority {
    /// Replaces an intermediate that nobody would believe now, or makes one for a replica that has none, before control
    /// has to show itself by it.
    ///
    /// # Errors
    /// [`CaError::NotGood`] when it is the root that nobody would believe; when the store fails.
    pub async fn revive(&self, now: SystemTime) -> Result<(), CaError> {
        let (root, intermediate) = (self.root(), self.intermediate());
        if root.not_after() <= now || root.not_before() > now {
            let (begins, ends) = (root.not_before(), root.not_after());
            return Err(CaError::NotGood { kind: AuthorityKind::Root, begins, ends });
        }
        let none = hierarchy::signing(self.hierarchy().known(), self.store.signs_as()).is_none();
        let intermediate = intermediate.certified();
        if none || intermediate.not_after() <= now || intermediate.not_before() > now {
            if self.root_is_elsewhere() && self.take_prepared(now).await? {
                return Ok(());
            }
            match self.rotate_intermediate(Actor::control()).await {
                // Nobody is left who would have to learn of it first.
                Err(CaError::Upstream(UpstreamError::AnotherRoot(root))) => {
                    let prepared = self.named(&root, &[Phase::Prepared]).await?;
                    self.activate(&prepared, false, Actor::control()).await?;
                }
                rotated => drop(rotated?),
            }
        }
        Ok(())
    }

    /// Has what was prepared below a root elsewhere sign, which nobody has to learn of first any more; what has ended, too,
    /// is taken back, so that another one can be asked for. Returns whether something signs.
    async fn take_prepared(&self, now: SystemTime) -> Result<bool, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let is_good = |one: &KnownAuthority| one.not_before <= now && one.not_after > now;
        let prepared = hierarchy.known().iter().filter(|one| one.phase == Phase::Prepared);
        for below in prepared.filter(|one| one.kind == AuthorityKind::Intermediate) {
            let root = hierarchy.known().iter().find(|root| below.issuer.as_ref() == Some(&root.id));
            let next = root.filter(|root| root.phase == Phase::Prepared).unwrap_or(below);
            if is_good(below) && is_good(next) {
                self.activate(next, true, Actor::control()).await?;
                return Ok(true);
            }
            self.retire(next, Actor::control()).await?;
        }
        Ok(false)
    }

    /// Has another root and intermediate sign in the place of a root by which nobody is believed now.
    ///
    /// # Errors
    /// When the store refuses or fails.
    pub async fn begin_anew(&self, now: SystemTime, actor: Actor) -> Result<Mutation, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let roots = hierarchy.known().iter().filter(|known| known.kind == AuthorityKind::Root);
        for known in roots.filter(|known| matches!(known.phase, Phase::Prepared | Phase::Retiring)) {
            // Some may know of it already.
            if known.phase == Phase::Prepared && known.not_before <= now && known.not_after > now {
                return self.activate(known, true, actor).await;
            }
            self.retire(known, actor.clone()).await?;
        }
        let (id, _) = self.prepare(AuthorityKind::Root, actor.clone()).await?;
        let prepared = self.named(&id, &[Phase::Prepared]).await?;
        self.activate(&prepared, true, actor).await
    }
}
