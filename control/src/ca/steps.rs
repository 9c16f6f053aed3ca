//! The steps of a rotation: keys and certificates are made here, and one commit of the store decides whether they count.
//! What a step has made and the commit refused is dropped; so a step can be taken again whenever control was killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use signet_proto::spiffe::certificate_handle;

use super::hierarchy::{active_root, intermediates, own};
use super::signer::{Certified, Signer};
use super::{Authority, CaError, Installed, profile};
use crate::store::model::{
    Activation, Actor, AuthorityKind, AuthorityRecord, Below, KnownAuthority, Listing, Mutation, Phase,
    Replacement,
};
use crate::store::{Refusal, StoreError};
use crate::telemetry::metrics;
use crate::time;

/// Fewer digits of an id could be a slip.
const DIGITS: usize = 4;

/// Whose intermediate another one took the place of.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// The replica; empty: nobody's.
    pub replica: String,
    /// The one before, if there was one.
    pub previous: Option<Certified>,
    /// The one that signs.
    pub current: Certified,
}

impl Authority {
    /// Makes an authority that signs nothing yet. A root is in the trust bundle from then on; an intermediate is for
    /// this replica.
    ///
    /// # Errors
    /// When the store refuses or fails, or the root has ended.
    pub async fn prepare(&self, kind: AuthorityKind, actor: Actor) -> Result<(String, Mutation), CaError> {
        self.prepare_for(self.store.signs_as(), kind, actor).await
    }

    /// The same, an intermediate for that replica.
    ///
    /// # Errors
    /// As for [`Authority::prepare`].
    pub async fn prepare_for(
        &self,
        replica: &str,
        kind: AuthorityKind,
        actor: Actor,
    ) -> Result<(String, Mutation), CaError> {
        self.refresh().await?;
        if kind == AuthorityKind::Root && self.upstream.is_some() {
            let Installed { id, root, mutation } = self.prepare_by_upstream(actor).await?;
            return Ok((root.unwrap_or(id), mutation));
        }
        let record = match kind {
            AuthorityKind::Root => self.another_root().await?.1,
            AuthorityKind::Intermediate => self.below(replica, &self.signing_root().await?).await?.1,
        };
        let id = record.id.clone();
        let mutation = self.store.prepare_authority(record, actor).await?;
        self.done("prepare", kind, &mutation).await?;
        Ok((id, mutation))
    }

    /// Has a prepared authority sign. With a root come the first intermediates below it, one for each replica.
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
        let (replaces, root) = match prepared.kind {
            AuthorityKind::Intermediate => (own(hierarchy.known(), &prepared.replica), None),
            AuthorityKind::Root => {
                let replaces = active_root(hierarchy.known())?;
                (Some(replaces), Some(self.root_activation(prepared, replaces).await?))
            }
        };
        let installed = match &root {
            Some((_, Below::Prepared(installed))) => Some(installed),
            _ => None,
        };
        let signs = |known: &&KnownAuthority| known.id == prepared.id || Some(&known.id) == installed;
        let activation = Activation {
            id: prepared.id.clone(),
            replaces: replaces.map(|replaces| replaces.id.clone()),
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

    /// Makes another intermediate for this replica and signs with it from now on. Returns the one before and the new
    /// one.
    ///
    /// # Errors
    /// When the store fails (the old one stays) or the root has ended.
    pub async fn rotate_intermediate(&self, actor: Actor) -> Result<(Arc<Signer>, Arc<Signer>), CaError> {
        let previous = self.intermediate();
        self.replace_intermediates(&[self.store.signs_as()], actor).await?;
        Ok((previous, self.intermediate()))
    }

    /// Has another intermediate sign for each of these replicas, all in one step.
    ///
    /// # Errors
    /// When the store fails (the old ones stay) or the root has ended.
    pub async fn replace_intermediates(
        &self,
        replicas: &[&str],
        actor: Actor,
    ) -> Result<Vec<Replaced>, CaError> {
        if self.upstream_signs() {
            // It is asked for one, and all sign with that.
            let previous = own(self.hierarchy().known(), "").map(Certified::from);
            self.replace_by_upstream(actor).await?;
            let current = self.intermediate().certified().clone();
            return Ok(vec![Replaced { replica: String::new(), previous, current }]);
        }
        self.refresh().await?;
        let (hierarchy, root) = (self.hierarchy(), self.signing_root().await?);
        let (mut replacements, mut replaced) = (Vec::new(), Vec::new());
        for replica in replicas {
            let before = own(hierarchy.known(), replica);
            let (signer, new) = self.below(replica, &root).await?;
            replacements.push(Replacement { new, replaces: before.map(|before| before.id.clone()) });
            replaced.push(Replaced {
                replica: (*replica).to_owned(),
                previous: before.map(Certified::from),
                current: signer.certified().clone(),
            });
        }
        self.store.replace_intermediates(replacements, actor).await?;
        for Replaced { replica, previous, current } in &replaced {
            metrics::authority_step(AuthorityKind::Intermediate.as_str(), "replace");
            let previous = previous.as_ref().map(Certified::subject);
            tracing::info!(replica, previous, current = current.subject(), "another intermediate was made");
        }
        self.refresh().await?;
        Ok(replaced)
    }

    /// Has an intermediate retire with which nobody signs any more.
    ///
    /// # Errors
    /// When somebody does; when the store fails.
    pub async fn stop_intermediate(&self, one: &KnownAuthority, actor: Actor) -> Result<(), CaError> {
        self.store.stop_intermediate(one.id.clone(), actor).await?;
        metrics::authority_step(one.kind.as_str(), "stop");
        tracing::info!(replica = one.replica, subject = one.subject, "nobody signs with it: it retires");
        self.refresh().await.map(drop)
    }

    /// The one authority that `name` means: its kind, if only one of it is in one of these phases, the first of which
    /// counts most; or the first digits of its id.
    ///
    /// # Errors
    /// When it is none, or could be several.
    pub async fn named(&self, name: &str, phases: &[Phase]) -> Result<KnownAuthority, CaError> {
        self.named_of(name, None, phases).await
    }

    /// The same among those of one replica, if one is named.
    ///
    /// # Errors
    /// As for [`Authority::named`].
    pub async fn named_of(
        &self,
        name: &str,
        replica: Option<&str>,
        phases: &[Phase],
    ) -> Result<KnownAuthority, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let known = hierarchy.known().iter().filter(|one| replica.is_none_or(|named| one.replica == named));
        let known: Vec<_> = known.collect();
        let found: Vec<_> = match name.parse::<AuthorityKind>() {
            Ok(kind) => {
                let in_phase = |phase: &Phase| {
                    let of_kind = known.iter().filter(|one| one.kind == kind && one.phase == *phase);
                    of_kind.copied().collect::<Vec<_>>()
                };
                phases.iter().map(in_phase).find(|found| !found.is_empty()).unwrap_or_default()
            }
            Err(_) if name.len() < DIGITS => Vec::new(),
            Err(_) => known.iter().filter(|one| one.id.starts_with(name)).copied().collect(),
        };
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            several => {
                let found = match several.len() {
                    0 => "none of them".to_owned(),
                    _ => several.iter().map(|one| described(one)).collect::<Vec<_>>().join(" or "),
                };
                Err(StoreError::from(Refusal::AuthorityName { name: name.to_owned(), found }).into())
            }
        }
    }

    /// The replica that the first digits of a name mean, of those that have an intermediate.
    ///
    /// # Errors
    /// When it is none, or could be several.
    pub async fn replica_named(&self, name: &str) -> Result<String, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let owners = hierarchy.known().iter().map(|one| one.replica.as_str());
        let meant = |owner: &&str| name.len() >= DIGITS && owner.starts_with(name);
        let found: Vec<_> = owners.filter(meant).collect::<BTreeSet<_>>().into_iter().collect();
        match found.as_slice() {
            [one] => Ok((*one).to_owned()),
            several => {
                let found = several.join(" or ");
                let found = if found.is_empty() { "none of them".to_owned() } else { found };
                Err(StoreError::from(Refusal::ReplicaName { name: name.to_owned(), found }).into())
            }
        }
    }

    /// The replicas that sign with an intermediate, each with its own.
    #[must_use]
    pub fn signing_replicas(&self) -> Vec<String> {
        intermediates(self.hierarchy().known()).map(|one| one.replica.clone()).collect()
    }

    /// A root takes the place of another, with the first intermediates below it. Of roots that are kept elsewhere none
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
            require_good(installed, time::now())?;
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
        let mut first = Vec::new();
        for one in intermediates(self.hierarchy().known()) {
            first.push(self.below(&one.replica, &new).await?.1);
        }
        Ok((cross, Below::New(first)))
    }

    pub(super) async fn below(
        &self,
        replica: &str,
        root: &Signer,
    ) -> Result<(Signer, AuthorityRecord), CaError> {
        let draft = self.places.draft(&self.store, &self.trust_domain, AuthorityKind::Intermediate).await?;
        let lists = self.lists.as_ref();
        Signer::new_intermediate(replica, draft, &self.trust_domain, root, self.lives.intermediate, lists)
    }

    pub(super) async fn another_root(&self) -> Result<(Signer, AuthorityRecord), CaError> {
        let draft = self.places.draft(&self.store, &self.trust_domain, AuthorityKind::Root).await?;
        Signer::new_root(draft, &self.trust_domain, self.lives.root)
    }

    pub(super) async fn signing_root(&self) -> Result<Signer, CaError> {
        let hierarchy = self.hierarchy();
        let root = active_root(hierarchy.known())?;
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

/// For whoever has to choose.
fn described(one: &KnownAuthority) -> String {
    match one.replica.as_str() {
        "" => one.id.clone(),
        replica => format!("{} of replica {replica}", one.id),
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
