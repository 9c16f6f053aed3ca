//! Other trust domains whose identities are believed here (SPIFFE Federation).
//!
//! ```text
//!   registered ─▶ due ─▶ fetched: bounded, in time, from who proves to be the endpoint ─▶ sequence not back ─▶ published
//!                  ▲                                                    │ no: the one before stays, and it is said
//!                  └──────── by their refresh hint, or soon ◀───────────┘
//! ```
//!
//! A bundle vouches for its own trust domain only, and never at control's own doors. One that cannot be fetched stays as
//! it is until its roots end; one that its trust domain empties is believed no more. Only the leading replica fetches by
//! itself, each when it is told to.

mod endpoint;
mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future;
use parking_lot::Mutex;
use signet_proto::spiffe::{BundleError, SpiffeId, TrustBundle, TrustDomain};

use crate::ca::Authority;
use crate::store::model::{Actor, Federation, Fetched, Mutation, NewFederation};
use crate::store::{Refusal, Store, StoreError};
use crate::telemetry::metrics::{self, Federated};
use crate::{duration, time};

pub use endpoint::{EndpointError, PullError};

/// Fetched at the same time by the duty.
const AT_ONCE: usize = 8;
/// From here on it is said that the last root of a trust domain is about to end.
const ENDING: Duration = Duration::from_secs(6 * 3600);

/// Why a federation is not made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// It is this one.
    #[error("`{0}` is the trust domain of this mesh: its own identities are believed already")]
    Own(TrustDomain),
    /// The endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The bundle that was given.
    #[error("bundle: {0}")]
    Bundle(#[from] BundleError),
    /// Nothing to begin with.
    #[error(
        "profile https_spiffe needs a first bundle to verify the endpoint with: get one from the other trust domain's \
         operators (`signet bundle --format jwks` there), and give it by `--bundle FILE`"
    )]
    NoBundle,
    /// Nothing came.
    #[error("the bundle of `{domain}` could not be fetched, {kept}: {error}")]
    Pull {
        /// Whose.
        domain: TrustDomain,
        /// What is in force meanwhile.
        kept: &'static str,
        /// Why.
        error: PullError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an operator says of another trust domain.
#[derive(Debug)]
pub struct Asked {
    /// Which.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub url: String,
    /// Who answers there (profile https_spiffe); nobody: a web server (https_web).
    pub endpoint_id: Option<SpiffeId>,
    /// PEM of the authorities that vouch for the web server; empty: those of the system.
    pub web_authorities: String,
    /// The first bundle, JWKS or PEM; empty: none.
    pub bundle: String,
}

/// The registry of other trust domains. Cheap to clone.
#[derive(Clone)]
pub struct Federations {
    store: Store,
    authority: Arc<Authority>,
    /// As of the last look.
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Federations {
    /// Those of a store.
    #[must_use]
    pub fn new(store: Store, authority: Arc<Authority>) -> Self {
        Self { store, authority, warnings: Arc::default() }
    }

    /// All of them, by trust domain.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self) -> Result<Vec<Federation>, StoreError> {
        self.store.federations().await
    }

    /// Registers one. Its bundle is fetched by [`Self::refresh`], or soon by itself.
    ///
    /// # Errors
    /// When it is our own, there already, or cannot be asked like that.
    pub async fn create(&self, asked: Asked, actor: Actor) -> Result<Mutation, FederationError> {
        let Asked { trust_domain, url, endpoint_id, web_authorities, bundle } = asked;
        self.require_other(&trust_domain)?;
        let endpoint = endpoint::parse(&url, endpoint_id, &web_authorities)?;
        let bundle = (!bundle.is_empty()).then(|| given(&trust_domain, &bundle)).transpose()?;
        if bundle.is_none() && endpoint.proof.id().is_some_and(|id| *id.trust_domain() == trust_domain) {
            return Err(FederationError::NoBundle);
        }
        let new = NewFederation { trust_domain, endpoint, bundle };
        Ok(self.store.create_federation(new, actor).await?)
    }

    /// Believes nobody of a trust domain any more.
    ///
    /// # Errors
    /// When there is no such federation.
    pub async fn delete(&self, domain: TrustDomain, actor: Actor) -> Result<Mutation, FederationError> {
        Ok(self.store.delete_federation(domain, actor).await?)
    }

    /// Takes a bundle that an operator gives, whatever was there before.
    ///
    /// # Errors
    /// When it is none, or there is no such federation.
    pub async fn replace(
        &self,
        domain: TrustDomain,
        bundle: &str,
        actor: Actor,
    ) -> Result<Mutation, FederationError> {
        let bundle = given(&domain, bundle)?;
        Ok(self.store.replace_federated_bundle(bundle, actor).await?)
    }

    /// Fetches the bundle of a trust domain now.
    ///
    /// # Errors
    /// When it could not be, which is noted, and is tried again soon; when there is no such federation.
    pub async fn refresh(&self, domain: TrustDomain, actor: Actor) -> Result<Mutation, FederationError> {
        let all = self.store.federations().await?;
        let known = all.iter().find(|known| known.trust_domain == domain);
        let known =
            known.ok_or_else(|| StoreError::NotFound { what: "federation", name: domain.to_string() })?;
        let mut bundles: Vec<TrustBundle> = all.iter().filter_map(|one| one.bundle.clone()).collect();
        bundles.push((*self.authority.bundle()).clone());
        let pulled = endpoint::pull(&domain, &known.endpoint, bundles).await.and_then(|(bundle, hint)| {
            match bundle.sequence() < known.sequence {
                true => Err(PullError::WentBack { found: bundle.sequence(), known: known.sequence }),
                false => Ok((bundle, hint)),
            }
        });
        metrics::federation_fetched(pulled.as_ref().map_or_else(PullError::reason, |_| "fetched"));
        let (now, chance) = (time::now(), chance());
        let (fetched, error) = match pulled {
            Ok((bundle, hint)) => (Fetched::Bundle(Box::new(bundle), hint), None),
            Err(error @ PullError::Distrusts) => (Fetched::Distrusted, Some(error)),
            Err(error) => (Fetched::Nothing(error.to_string()), Some(error)),
        };
        let (hint, failures) = match &fetched {
            Fetched::Bundle(_, hint) => (*hint, 0),
            Fetched::Distrusted => (known.refresh_hint, 0),
            Fetched::Nothing(_) => (known.refresh_hint, known.failures.saturating_add(1)),
        };
        let due = schedule::next(now, hint, failures, chance);
        let kept = match (&fetched, &known.bundle) {
            (Fetched::Nothing(_), Some(_)) => "the one before stays",
            _ => "nobody of it is believed",
        };
        let mutation = self.store.note_fetch(known.clone(), fetched, due, actor).await?;
        match error {
            None => Ok(mutation),
            Some(error) => Err(FederationError::Pull { domain, kept, error }),
        }
    }

    /// Looks at all of them; whoever `leads` fetches those that are due.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn look(&self, leads: bool) -> Result<(), StoreError> {
        let (all, now) = (self.store.federations().await?, time::now());
        self.tell(&all, now);
        if !leads {
            return Ok(());
        }
        let due = all.into_iter().filter(|one| one.due <= now).take(AT_ONCE);
        let refresh = due.map(|one| self.refresh(one.trust_domain, Actor::control()));
        for refreshed in future::join_all(refresh).await {
            match refreshed {
                Ok(_) => {}
                // Somebody changed it meanwhile: it is due at once.
                Err(FederationError::Store(
                    StoreError::NotFound { .. } | StoreError::Refused(Refusal::FetchedMeanwhile(_)),
                )) => {}
                Err(FederationError::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(%error, "a federated trust domain"),
            }
        }
        Ok(())
    }

    /// What will break, or is broken, unless somebody does something: as of the last look.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    fn tell(&self, all: &[Federation], now: SystemTime) {
        let standings = || all.iter().map(|one| standing(one, now));
        for state in Federated::ALL {
            metrics::federations(state, standings().filter(|standing| *standing == state).count());
        }
        let ends = all.iter().filter_map(|one| one.bundle.as_ref()).map(TrustBundle::expires_at).min();
        metrics::federation_ends(ends);
        *self.warnings.lock() = all.iter().filter_map(|one| warning(one, now)).collect();
    }

    fn require_other(&self, domain: &TrustDomain) -> Result<(), FederationError> {
        match domain == self.authority.trust_domain() {
            true => Err(FederationError::Own(domain.clone())),
            false => Ok(()),
        }
    }
}

/// How it stands with a trust domain.
#[must_use]
pub fn standing(one: &Federation, now: SystemTime) -> Federated {
    let since = one.fetched_at.unwrap_or(one.created_at);
    match &one.bundle {
        Some(bundle) if bundle.expires_at() <= now => Federated::Distrusted,
        Some(_) if schedule::is_late(since, one.refresh_hint, now) => Federated::Late,
        Some(_) => Federated::Current,
        None if one.fetched_at.is_some() => Federated::Distrusted,
        None => Federated::Awaited,
    }
}

fn warning(one: &Federation, now: SystemTime) -> Option<String> {
    let domain = &one.trust_domain;
    let because = one.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let since = one.fetched_at.unwrap_or(one.created_at);
    let ago = duration::rough(now.duration_since(since).unwrap_or_default());
    let ends = one.bundle.as_ref().map(TrustBundle::expires_at);
    match standing(one, now) {
        Federated::Distrusted => Some(format!("nobody of federated `{domain}` is believed{because}")),
        Federated::Late => {
            Some(format!("the bundle of federated `{domain}` was fetched last {ago} ago{because}"))
        }
        Federated::Awaited if one.error.is_some() => {
            Some(format!("the bundle of federated `{domain}` could not be fetched yet{because}"))
        }
        Federated::Current if ends.is_some_and(|ends| ends < now + ENDING) => {
            let left = ends.and_then(|ends| ends.duration_since(now).ok()).unwrap_or_default();
            let left = duration::rough(left);
            Some(format!(
                "the last root of federated `{domain}` ends in {left}, and it has told no other yet"
            ))
        }
        Federated::Awaited | Federated::Current => None,
    }
}

/// A bundle by file: JWKS, or PEM.
fn given(domain: &TrustDomain, text: &str) -> Result<TrustBundle, BundleError> {
    match text.trim_start().starts_with('{') {
        true => TrustBundle::from_jwks(domain.clone(), text),
        false => TrustBundle::from_pem(domain.clone(), text.as_bytes()),
    }
}

/// Without randomness everybody asks at the same moment, which is no harm to us.
fn chance() -> u8 {
    let mut byte = [0];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    byte[0]
}
