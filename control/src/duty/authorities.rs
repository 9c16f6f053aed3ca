//! Roots and intermediates replace themselves: each replica its own intermediate, the one that leads all else, one step
//! after the other, each when its time has come and nothing is in its way. Whatever a kill left undone is due again at the next look.

use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Duties, Failure};
use crate::ca::{CaError, JWT, JwtStep, Outlook, Step};
use crate::store::model::{Actor, AuthorityKind, Phase};
use crate::store::{Refusal, StoreError};
use crate::telemetry::metrics;
use crate::time;

impl Duties {
    /// Takes in what was stored as soon as it was, so that what another replica has begun is believed here.
    pub(super) fn follow_authorities(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let (duties, stop) = (self.clone(), stop.clone());
        let mut committed = self.store.committed();
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = committed.changed() => if changed.is_err() { return },
                }
                // What fails is looked at again every second.
                if let Err(error) = duties.identity().await {
                    tracing::warn!(%error, "authorities could not be read; they are read again");
                }
            }
        });
    }

    /// What every replica does for itself, and the leader for all, if the clock can be believed; and what everybody says
    /// about it.
    pub(super) async fn authorities(&self, steady: bool) -> Result<(), Failure> {
        let now = time::now();
        self.authority.refresh().await?;
        self.look(now).await?;
        let leads = self.store.leads();
        let replicas = if leads { Some(self.store.replicas().await?) } else { None };
        // One that fails keeps none of the others back: trust that ends has to end.
        let mut result = Ok(());
        for step in self.authority.due(replicas.as_deref(), now) {
            result = result.and(self.step(step, now, steady).await);
        }
        if !leads {
            return result;
        }
        result.and(self.jwt_keys(now, steady).await)
    }

    async fn step(&self, step: Step, now: SystemTime, steady: bool) -> Result<(), Failure> {
        let (authority, by) = (&self.authority, Actor::control());
        match step {
            Step::Distrust(compromised) => passed(authority.distrust(&compromised, by).await.map(drop)),
            Step::ReplaceIntermediate(replica) => {
                passed(authority.replace_intermediates(&[&replica], by).await.map(drop))
            }
            Step::Stop(one) => passed(authority.stop_intermediate(&one, by).await),
            Step::ActivateAnyway(prepared) => passed(authority.activate(&prepared, true, by).await.map(drop)),
            // By a clock that jumped nothing is begun, believed or forgotten.
            Step::PrepareRoot | Step::Activate(_) | Step::Remove(_) if !steady => Ok(()),
            Step::PrepareRoot => passed(authority.prepare(AuthorityKind::Root, by).await.map(drop)),
            Step::Activate(prepared) => match self.store.unacknowledged(prepared.announced, now).await?.count
            {
                0 => passed(authority.activate(&prepared, false, by).await.map(drop)),
                _ => Ok(()),
            },
            Step::Remove(one) => {
                // What never signed has nothing below it.
                if one.phase == Phase::Retiring && self.store.is_chained(one.clone(), now).await? {
                    return Ok(());
                }
                passed(authority.retire(&one, by).await.map(drop))
            }
        }
    }

    /// The same for the keys of tokens.
    async fn jwt_keys(&self, now: SystemTime, steady: bool) -> Result<(), Failure> {
        let mut result = Ok(());
        for step in self.authority.jwt_due(now) {
            result = result.and(self.jwt_step(step, now, steady).await);
        }
        result
    }

    async fn jwt_step(&self, step: JwtStep, now: SystemTime, steady: bool) -> Result<(), Failure> {
        let (authority, by) = (&self.authority, Actor::control());
        match step {
            JwtStep::Prepare => passed(authority.prepare_jwt_key(by).await.map(drop)),
            // By a clock that jumped nothing is forgotten.
            JwtStep::Remove(_) if !steady => Ok(()),
            JwtStep::Remove(key) => passed(authority.retire_jwt_key(&key, by).await.map(drop)),
            JwtStep::Activate(key) => match self.store.unacknowledged(key.announced, now).await?.count {
                0 => passed(authority.activate_jwt_key(&key, false, by).await.map(drop)),
                _ => Ok(()),
            },
        }
    }

    /// A duty of its own, as nothing else should wait for somebody else's server.
    pub(super) async fn upstream(&self) -> Result<(), Failure> {
        passed(self.authority.follow_upstream(time::now()).await)
    }

    /// That a token is away is said by whoever looked for it, and is no failure of a duty.
    pub(super) async fn tokens(&self) -> Result<(), Failure> {
        self.authority.look_at_tokens();
        if !self.store.leads() {
            return Ok(());
        }
        match self.authority.destroy_ended_keys().await {
            Err(CaError::Token(error)) if !self.authority.tokens_in_trouble().is_empty() => {
                tracing::debug!(%error, "a key is destroyed later");
                Ok(())
            }
            destroyed => Ok(destroyed?),
        }
    }

    async fn look(&self, now: SystemTime) -> Result<(), Failure> {
        let hierarchy = self.authority.hierarchy();
        let mut outlook = Outlook::default();
        for kind in [AuthorityKind::Root, AuthorityKind::Intermediate] {
            for phase in Phase::ALL {
                let known = hierarchy.known().iter().filter(|one| one.kind == kind && one.phase == phase);
                metrics::authorities(kind.as_str(), phase.as_str(), known.count());
            }
        }
        for phase in Phase::ALL {
            let keys = hierarchy.jwt().known().iter().filter(|key| key.phase == phase);
            metrics::authorities(JWT, phase.as_str(), keys.count());
        }
        let prepared = hierarchy.known().iter().find(|one| one.is_anchor() && one.phase == Phase::Prepared);
        if let Some(prepared) = prepared {
            outlook.missing = self.store.unacknowledged(prepared.announced, now).await?;
        }
        metrics::authority_unacknowledged(outlook.missing.count);
        metrics::authority_awaited(self.authority.is_awaited(now));
        self.authority.look(outlook);
        Ok(())
    }
}

/// Somebody else was faster, or something came in between: the next look tells what is due then.
fn passed(step: Result<(), CaError>) -> Result<(), Failure> {
    match step {
        Err(CaError::Store(StoreError::Refused(
            refusal @ (Refusal::RotatedMeanwhile
            | Refusal::AuthorityPhase { .. }
            | Refusal::RotationUnderWay { .. }
            | Refusal::NotAcknowledged { .. }
            | Refusal::AnnouncedLately { .. }
            | Refusal::StillChained { .. }
            | Refusal::OlderReplica(_)),
        ))) => {
            tracing::debug!(%refusal, "a step of a rotation was not taken");
            Ok(())
        }
        step => Ok(step?),
    }
}
