//! The steps of a rotation: keys and certificates are made here, and one commit of the store decides whether they count.
//! What a step has made and the commit refused is dropped; so a step can be taken again whenever control was killed.

use std::sync::Arc;
use std::time::SystemTime;

use signet_proto::spiffe::certificate_handle;

use super::hierarchy::active;
use super::signer::Signer;
use super::{Authority, CaError, profile};
use crate::store::model::{
    Activation, Actor, AuthorityKind, AuthorityRecord, Below, KnownAuthority, Listing, Mutation, Phase,
};
use crate::store::{Refusal, StoreError};
use crate::telemetry::metrics;
use crate::time;

/// Fewer digits of an id could be a slip.
const DIGITS: usize = 4;

impl Authority {
    /// Makes an authority that signs nothing yet. A root is in the trust bundle from then on.
    ///
    /// # Errors
    /// When the store refuses or fails, or the root has ended.
    pub async fn prepare(&self, kind: AuthorityKind, actor: Actor) -> Result<(String, Mutation), CaError> {
        self.refresh().await?;
        let record = match kind {
            AuthorityKind::Root => self.another_root().await?.1,
            AuthorityKind::Intermediate => self.below(&self.signing_root().await?).await?.1,
        };
        let id = record.id.clone();
        let mutation = self.store.prepare_authority(record, actor).await?;
        self.done("prepare", kind, &mutation).await?;
        Ok((id, mutation))
    }

    /// Has a prepared authority sign. With a root comes the first intermediate below it.
    ///
    /// # Errors
    /// [`CaError::NotGood`] when nobody would believe it now; when proxies have not said that they know it, unless
    /// `unacknowledged`; when the store refuses or fails.
    pub async fn activate(
        &self,
        prepared: &KnownAuthority,
        unacknowledged: bool,
        actor: Actor,
    ) -> Result<Mutation, CaError> {
        self.refresh().await?;
        require_good(prepared, time::now())?;
        let hierarchy = self.hierarchy();
        let replaces = active(hierarchy.known(), prepared.kind)?;
        let root = match prepared.kind {
            AuthorityKind::Intermediate => None,
            AuthorityKind::Root => Some(self.root_activation(prepared, replaces).await?),
        };
        let installed = match &root {
            Some((_, Below::Prepared(installed))) => Some(installed),
            _ => None,
        };
        let signs = |known: &&KnownAuthority| known.id == prepared.id || Some(&known.id) == installed;
        let activation = Activation {
            id: prepared.id.clone(),
            replaces: replaces.id.clone(),
            listings: hierarchy.known().iter().filter(signs).map(listing).collect::<Result<_, _>>()?,
            root,
            unacknowledged,
        };
        let mutation = self.store.activate_authority(activation, actor).await?;
        self.done("activate", prepared.kind, &mutation).await?;
        Ok(mutation)
    }

    /// Takes a retiring authority out, or a prepared one back.
    ///
    /// # Errors
    /// When anything live chains to it; when the store refuses or fails.
    pub async fn retire(&self, authority: &KnownAuthority, actor: Actor) -> Result<Mutation, CaError> {
        let mutation = self.store.retire_authority(authority.id.clone(), actor).await?;
        self.done("retire", authority.kind, &mutation).await?;
        Ok(mutation)
    }

    /// Makes another intermediate and signs with it from now on. Returns the one before and the new one.
    ///
    /// # Errors
    /// When the store fails (the old one stays) or the root has ended.
    pub async fn rotate_intermediate(&self, actor: Actor) -> Result<(Arc<Signer>, Arc<Signer>), CaError> {
        self.refresh().await?;
        let previous = self.intermediate();
        let (_, record) = self.below(&self.signing_root().await?).await?;
        self.store.replace_intermediate(record, previous.certified().id().to_owned(), actor).await?;
        metrics::authority_step(AuthorityKind::Intermediate.as_str(), "replace");
        self.refresh().await?;
        let current = self.intermediate();
        tracing::info!(
            previous = previous.certified().subject(),
            current = current.certified().subject(),
            "intermediate rotated"
        );
        Ok((previous, current))
    }

    /// The one authority that `name` means: its kind, if only one of it is in one of these phases, the first of which
    /// counts most; or the first digits of its id.
    ///
    /// # Errors
    /// When it is none, or could be several.
    pub async fn named(&self, name: &str, phases: &[Phase]) -> Result<KnownAuthority, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let known = hierarchy.known();
        let found: Vec<_> = match name.parse::<AuthorityKind>() {
            Ok(kind) => {
                let in_phase = |phase: &Phase| {
                    let of_kind = known.iter().filter(|one| one.kind == kind && one.phase == *phase);
                    of_kind.collect::<Vec<_>>()
                };
                phases.iter().map(in_phase).find(|found| !found.is_empty()).unwrap_or_default()
            }
            Err(_) if name.len() < DIGITS => Vec::new(),
            Err(_) => known.iter().filter(|one| one.id.starts_with(name)).collect(),
        };
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            several => {
                let found = match several.len() {
                    0 => "none of them".to_owned(),
                    _ => several.iter().map(|one| one.id.as_str()).collect::<Vec<_>>().join(" or "),
                };
                Err(StoreError::from(Refusal::AuthorityName { name: name.to_owned(), found }).into())
            }
        }
    }

    /// A root takes the place of another, with the first intermediate below it. Of roots that are kept elsewhere none
    /// vouches for the other here.
    async fn root_activation(
        &self,
        prepared: &KnownAuthority,
        replaces: &KnownAuthority,
    ) -> Result<(Option<Vec<u8>>, Below), CaError> {
        if !prepared.has_key {
            let hierarchy = self.hierarchy();
            let installed = hierarchy
                .known()
                .iter()
                .find(|one| one.phase == Phase::Prepared && one.issuer.as_ref() == Some(&prepared.id));
            let installed = installed.ok_or_else(|| CaError::RootElsewhere(prepared.id.clone()))?;
            return Ok((None, Below::Prepared(installed.id.clone())));
        }
        let new = self.unsealed(prepared).await?;
        // One that has ended vouches for nobody.
        let cross = match self.places.signer(&self.store, replaces).await? {
            Some(old) if old.certified().not_after() > time::now() => Some(
                profile::cross(&new, &old, &self.trust_domain, self.lists.as_ref(), time::now())?.to_vec(),
            ),
            _ => None,
        };
        Ok((cross, Below::New(self.below(&new).await?.1)))
    }

    pub(super) async fn below(&self, root: &Signer) -> Result<(Signer, AuthorityRecord), CaError> {
        let draft = self.places.draft(&self.store, &self.trust_domain, AuthorityKind::Intermediate).await?;
        let lists = self.lists.as_ref();
        Signer::new_intermediate(draft, &self.trust_domain, root, self.lives.intermediate, lists)
    }

    pub(super) async fn another_root(&self) -> Result<(Signer, AuthorityRecord), CaError> {
        let draft = self.places.draft(&self.store, &self.trust_domain, AuthorityKind::Root).await?;
        Signer::new_root(draft, &self.trust_domain, self.lives.root)
    }

    pub(super) async fn signing_root(&self) -> Result<Signer, CaError> {
        let hierarchy = self.hierarchy();
        let root = active(hierarchy.known(), AuthorityKind::Root)?;
        self.require_held(root)?;
        self.unsealed(root).await
    }

    pub(super) async fn done(
        &self,
        step: &'static str,
        kind: AuthorityKind,
        done: &Mutation,
    ) -> Result<(), CaError> {
        metrics::authority_step(kind.as_str(), step);
        tracing::info!(%kind, step, revision = done.commit.revision, effects = ?done.effects, "authorities changed");
        self.refresh().await.map(drop)
    }
}

/// What is not good now would have everybody below it refused.
fn require_good(one: &KnownAuthority, now: SystemTime) -> Result<(), CaError> {
    match one.not_before > now || one.not_after <= now {
        true => Err(CaError::NotGood { kind: one.kind, begins: one.not_before, ends: one.not_after }),
        false => Ok(()),
    }
}

/// As it is listed when it is revoked.
pub(super) fn listing(known: &KnownAuthority) -> Result<Listing, CaError> {
    let handle = certificate_handle(&known.certificate)?;
    Ok(Listing {
        id: known.id.clone(),
        issuer_sha256: handle.issuer_sha256,
        serial: handle.serial,
        spki_sha256: handle.spki_sha256,
    })
}
