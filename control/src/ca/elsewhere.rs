//! A root that is kept elsewhere: control makes the intermediate's key and a request for it; somebody carries that to the
//! root and brings back a certificate. The key waits in the store, or in its token, meanwhile: asked again, the request is
//! the same. Or nobody has to carry anything (`upstream`).

use std::time::SystemTime;

use super::chain::{ChainError, Checked};
use super::hierarchy::active_root;
use super::keys::SigningKey;
use super::{Authority, CaError, chain, profile};
use crate::store::model::{
    Actor, AuthorityKind, AuthorityRecord, AuthorityRequest, KeptKey, KnownAuthority, Mutation, Phase,
};
use crate::store::{Refusal, StoreError};
use crate::{duration, time};

/// What became of a chain.
#[derive(Debug)]
pub struct Installed {
    /// The intermediate.
    pub id: String,
    /// Its root, if that does not sign yet: both do from when it is activated.
    pub root: Option<String>,
    /// The last of the commits.
    pub mutation: Mutation,
}

impl Authority {
    /// A request for an intermediate, PKCS#10 in PEM: the one that waits, or a new one, `anew` in its place. Returned with
    /// its authority's id.
    ///
    /// # Errors
    /// When no key can be made, or the store fails.
    pub async fn signing_request(&self, anew: bool, actor: Actor) -> Result<(String, String), CaError> {
        if let Some(waiting) = self.store.authority_request().await?.filter(|_| !anew) {
            return Ok((waiting.id, waiting.pem));
        }
        let draft = self.places.draft(&self.store, &self.trust_domain, AuthorityKind::Intermediate).await?;
        let params = profile::request(&draft, &self.trust_domain)?;
        let request = params.serialize_request(&draft.key).map_err(|error| draft.key.explain(error))?;
        let made = AuthorityRequest {
            id: draft.id,
            subject: draft.subject,
            pem: request.pem()?,
            request: request.der().to_vec(),
            key: draft.kept,
        };
        let kept = self.store.create_authority_request(made, anew, actor).await?;
        Ok((kept.id, kept.pem))
    }

    /// Takes what the root has signed. Below the active root it signs from now on; another root is in the bundle from now
    /// on, and signs when it is activated.
    ///
    /// # Errors
    /// When nothing was asked for, the chain does not hold, or the store refuses or fails.
    pub async fn install(&self, chain: &[Vec<u8>], actor: Actor) -> Result<Installed, CaError> {
        self.refresh().await?;
        let waiting = self.store.authority_request().await?.ok_or(CaError::NothingAsked)?;
        let key = self.key_of(&waiting)?;
        let (domain, least) = (&self.trust_domain, self.lives.least());
        let checked = chain::check(&waiting.request, &waiting.id, key, chain, domain, least, time::now())?;
        let hierarchy = self.hierarchy();
        let known = hierarchy.known().iter().find(|one| {
            one.kind == AuthorityKind::Root && one.certificate.as_slice() == checked.root.certificate.as_ref()
        });
        let of_its_key = |one: &&KnownAuthority| chain::same_key(&one.certificate, &checked.root.certificate);
        let distrusted = hierarchy.known().iter().filter(|one| one.distrusted_at.is_some());
        if let Some(known) = distrusted.filter(|one| one.kind == AuthorityKind::Root).find(of_its_key) {
            return Err(ChainError::Compromised(known.id.clone()).into());
        }
        let root = known.map_or_else(|| checked.root.id.clone(), |root| root.id.clone());
        if let Some(known) = known.filter(|root| !matches!(root.phase, Phase::Active | Phase::Prepared)) {
            let needed = "prepared or active".to_owned();
            let refusal = Refusal::AuthorityPhase {
                kind: known.kind.as_str(),
                id: known.id.clone(),
                phase: known.phase,
                needed,
            };
            return Err(StoreError::from(refusal).into());
        }
        let is_active = known.is_some_and(|root| root.phase == Phase::Active);
        let new_root = known.is_none();
        let (record, intermediate) = records(checked, root.clone(), waiting.key.clone());
        let id = intermediate.id.clone();
        let mut mutation =
            self.store.install_authority(intermediate, new_root.then_some(record), actor.clone()).await?;
        self.done("install", AuthorityKind::Intermediate, &mutation).await?;
        if is_active {
            let prepared = self.named(&id, &[Phase::Prepared]).await?;
            let activated = self.activate(&prepared, false, actor).await?;
            mutation.commit = activated.commit;
            mutation.effects.extend(activated.effects);
        }
        Ok(Installed { id, root: (!is_active).then_some(root), mutation })
    }

    /// What somebody has to do at a root that is kept elsewhere, from when it is due.
    pub(super) fn awaited(&self, now: SystemTime) -> Option<String> {
        if self.upstream.is_some() {
            return self.upstream_awaited(now);
        }
        let hierarchy = self.hierarchy();
        let root = active_root(hierarchy.known()).ok().filter(|root| !root.has_key)?;
        let left = |ends: SystemTime| duration::rough(ends.duration_since(now).unwrap_or_default());
        let sign = "`signet ca csr --out FILE`, have it signed there, `signet ca install --chain FILE`";
        let intermediate = hierarchy.intermediate().certified();
        if self.root_due() <= now {
            let ends = left(root.not_after);
            return Some(format!(
                "root {} ends in {ends} and is kept elsewhere: make another one there, and with it {sign}",
                root.id
            ));
        }
        (self.rotation_due() <= now).then(|| {
            let ends = left(intermediate.not_after());
            format!(
                "intermediate {} ends in {ends}, and the key of its root is kept elsewhere: {sign}",
                intermediate.id()
            )
        })
    }

    /// Whether the active root's key is where control cannot use it.
    #[must_use]
    pub fn root_is_elsewhere(&self) -> bool {
        active_root(self.hierarchy().known()).is_ok_and(|root| !root.has_key)
    }

    /// Whether there is.
    #[must_use]
    pub fn is_awaited(&self, now: SystemTime) -> bool {
        self.awaited(now).is_some()
    }

    /// An error that says how, unless the active root's key is here.
    pub(super) fn require_held(&self, root: &KnownAuthority) -> Result<(), CaError> {
        if root.has_key { Ok(()) } else { Err(CaError::RootElsewhere(root.id.clone())) }
    }

    fn key_of(&self, waiting: &AuthorityRequest) -> Result<SigningKey, CaError> {
        match &waiting.key {
            KeptKey::Sealed(sealed) => {
                let kind = AuthorityKind::Intermediate.as_str();
                SigningKey::from_pkcs8(&self.places.seal().unseal(kind, &waiting.id, sealed)?)
            }
            KeptKey::Token(name) => self.places.key_of_request(name, &waiting.request),
            KeptKey::Elsewhere => Err(CaError::Mismatch(waiting.subject.clone())),
        }
    }
}

/// What is recorded of a root that is kept elsewhere, known as `root`, and of the intermediate below it.
pub(super) fn records(checked: Checked, root: String, key: KeptKey) -> (AuthorityRecord, AuthorityRecord) {
    let record = |kind, issuer, one: super::Certified, key| AuthorityRecord {
        id: one.id,
        kind,
        // One errand to the root, not one for each replica: all of them sign with it.
        replica: String::new(),
        issuer,
        subject: one.subject,
        certificate: one.certificate.to_vec(),
        key,
        not_before: one.not_before,
        not_after: one.not_after,
    };
    let intermediate = record(AuthorityKind::Intermediate, Some(root), checked.intermediate, key);
    (record(AuthorityKind::Root, None, checked.root, KeptKey::Elsewhere), intermediate)
}
