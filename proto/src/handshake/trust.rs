//! Whom to believe: one bundle per trust domain, never pooled, and what is revoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::lists::{ExpiredLists, Lists, Standing};
use super::presented::Presented;
use super::signatures::Signatures;
use super::verifier::VerifyError;
use super::{PeerIdentity, Revocations, RevokedBecause};
use crate::spiffe::{ListSigner, SpiffeId, TrustBundle, TrustDomain, authority_key};

/// Leaf, two intermediates and a root: more than that is work an attacker asks for (SPIRE 1.14.2).
const MAX_CHAIN: usize = 4;

/// The bundles and revocations in force together.
#[derive(Debug, Clone)]
pub struct Trust {
    bundles: BTreeMap<TrustDomain, TrustBundle>,
    revocations: Revocations,
    lists: Lists,
    /// The authorities of each domain that could have signed one of the lists.
    signers: BTreeMap<TrustDomain, Vec<ListSigner>>,
}

/// Which end of a connection is verified; it selects the extended key usage that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// Which authorities of a bundle count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchors {
    /// Those that vouch for whoever comes.
    Trusted,
    /// Also those that vouched once.
    AlsoRetired,
}

impl Trust {
    /// Brings bundles and revocations together. Two bundles of one domain: the later one counts.
    #[must_use]
    pub fn new(bundles: impl IntoIterator<Item = TrustBundle>, revocations: Revocations) -> Self {
        let bundles = bundles.into_iter().map(|bundle| (bundle.trust_domain().clone(), bundle)).collect();
        Self { bundles, revocations, lists: Lists::default(), signers: BTreeMap::new() }
    }

    /// The same with the lists of other authorities.
    #[must_use]
    pub fn with_lists(self, lists: Lists) -> Self {
        let mut signers = BTreeMap::new();
        if !lists.is_empty() {
            for bundle in self.bundles.values() {
                let of_domain = list_signers(bundle).filter(|signer| lists.has_lists_of(signer)).collect();
                signers.insert(bundle.trust_domain().clone(), of_domain);
            }
        }
        Self { lists, signers, ..self }
    }

    /// The lists of other authorities.
    #[must_use]
    pub fn lists(&self) -> &Lists {
        &self.lists
    }

    /// The same, for those whom nobody can do without: lists past their nextUpdate are used.
    #[must_use]
    pub fn using_expired_lists(self: &Arc<Self>) -> Arc<Self> {
        if self.lists.is_empty() || self.lists.expired() == ExpiredLists::Use {
            return Arc::clone(self);
        }
        let lists = self.lists.clone().when_expired(ExpiredLists::Use);
        Arc::new(Self { lists, ..Self::clone(self) })
    }

    /// The bundle of a trust domain, if that domain is trusted at all.
    #[must_use]
    pub fn bundle(&self, domain: &TrustDomain) -> Option<&TrustBundle> {
        self.bundles.get(domain)
    }

    /// The bundles in force.
    pub fn bundles(&self) -> impl Iterator<Item = &TrustBundle> {
        self.bundles.values()
    }

    /// What is revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The revocation that a verified peer matches, if any.
    #[must_use]
    pub fn revoked(&self, peer: &PeerIdentity) -> Option<RevokedBecause> {
        let because = self.revocations.matching(&peer.id, peer.instance.as_ref(), peer.handles.iter());
        because.or_else(|| {
            // Only of the path that is believed: what a peer shows beside it signs nothing.
            let signers = || {
                let path =
                    self.chain(&peer.chain, &peer.id, peer.verified_at, Role::Client, Anchors::AlsoRetired);
                let path = path.unwrap_or_default();
                self.signers_of(&peer.id, path.iter().map(AsRef::as_ref))
            };
            let named = peer.handles.iter().any(|element| self.lists.name(element, signers));
            named.then_some(RevokedBecause::Certificate)
        })
    }

    /// Whether a peer that was verified before still chains to an authority of its domain's bundle, or to one that was
    /// retired from it. Its certificate's expiry does not matter here, nor that of what signed it: a live connection
    /// outlives rotation, and control reports an instance that stopped renewing.
    #[must_use]
    pub fn believes(&self, peer: &PeerIdentity) -> bool {
        self.chain(&peer.chain, &peer.id, peer.verified_at, Role::Client, Anchors::AlsoRetired).is_ok()
    }

    /// Verifies a chain, leaf first, as the SVID of a peer at `now`: profile, chain to its own domain's
    /// bundle, revocation.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        role: Role,
    ) -> Result<SpiffeId, VerifyError> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(VerifyError::ChainTooLong { found: intermediates.len() + 1, allowed: MAX_CHAIN });
        }
        let presented = Presented::read(leaf, intermediates)?;
        let (id, instance) = (&presented.profile.id, presented.profile.instance.as_ref());
        let path = self.chain(&presented.chain, id, now, role, Anchors::Trusted)?;
        if let Some(because) = self.revocations.matching(id, instance, presented.handles.iter()) {
            return Err(VerifyError::Revoked { id: id.clone(), because });
        }
        self.check_lists(&presented, &path, now)?;
        Ok(id.clone())
    }

    /// Holds every element of a chain against the lists of its issuer in its domain; `path` are the intermediates that
    /// were believed.
    fn check_lists(
        &self,
        presented: &Presented,
        path: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), VerifyError> {
        let elements = &presented.handles;
        if !self.lists.concern(elements) {
            return Ok(());
        }
        let signers = self.signers_of(&presented.profile.id, path.iter().map(AsRef::as_ref));
        let standings: Vec<_> = presented
            .chain
            .iter()
            .zip(elements.iter())
            .map(|(der, element)| self.lists.standing(element, authority_key(der).as_deref(), &signers, now))
            .collect();
        let id = || presented.profile.id.clone();
        match () {
            () if standings.contains(&Standing::Named) => {
                Err(VerifyError::Revoked { id: id(), because: RevokedBecause::Certificate })
            }
            () if standings.contains(&Standing::Unbelievable) => Err(VerifyError::ListUnusable { id: id() }),
            () if standings.contains(&Standing::Expired) => Err(VerifyError::ListExpired { id: id() }),
            () => Ok(()),
        }
    }

    /// Who may have signed lists that concern `id`: the authorities of its domain and these intermediates.
    fn signers_of<'a>(
        &self,
        id: &SpiffeId,
        intermediates: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<ListSigner> {
        let of_domain = self.signers.get(id.trust_domain()).into_iter().flatten().cloned();
        of_domain.chain(intermediates.filter_map(|der| ListSigner::of(der).ok())).collect()
    }

    /// The intermediates of the path to the domain's bundle, if anybody wants to know them. Each certificate of `chain`
    /// is known to keep to its profile in the domain of `id`.
    fn chain(
        &self,
        chain: &[CertificateDer<'_>],
        id: &SpiffeId,
        at: SystemTime,
        role: Role,
        which: Anchors,
    ) -> Result<Vec<CertificateDer<'static>>, VerifyError> {
        let untrusted = |error: webpki::Error| VerifyError::Untrusted { id: id.clone(), error };
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        let bundle = self
            .bundles
            .get(id.trust_domain())
            .ok_or_else(|| VerifyError::UnknownTrustDomain { id: id.clone() })?;
        let retired = match which {
            Anchors::Trusted => &[],
            Anchors::AlsoRetired => bundle.retired(),
        };
        // A root sent along is harmless but is no intermediate: the anchor comes from the bundle.
        let is_root = |element: &&CertificateDer<'_>| {
            bundle.authorities().contains(element) || retired.contains(element)
        };
        let intermediates: Vec<_> = intermediates
            .iter()
            .filter(|element| !is_root(element))
            .map(|element| CertificateDer::from(element.as_ref()))
            .collect();
        // rustls-webpki does not look at the validity of anchors.
        let anchors = bundle
            .authorities_at(at)
            .chain(retired)
            .map(|authority| webpki::anchor_from_trusted_cert(authority))
            .collect::<Result<Vec<_>, _>>()
            .map_err(untrusted)?;
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(untrusted)?;
        let path = leaf
            .verify_for_usage(
                &Signatures::shared().algorithms(),
                &anchors,
                &intermediates,
                UnixTime::since_unix_epoch(since_epoch),
                usage,
                None,
                None,
            )
            .map_err(untrusted)?;
        if self.lists.is_empty() {
            return Ok(Vec::new());
        }
        Ok(path.intermediate_certificates().map(|certificate| certificate.der().into_owned()).collect())
    }
}

/// The authorities of a bundle as signers of lists, retired ones included: their lists are about who is connected.
pub fn list_signers(bundle: &TrustBundle) -> impl Iterator<Item = ListSigner> {
    bundle.authorities().iter().chain(bundle.retired()).filter_map(|der| ListSigner::of(der).ok())
}

#[cfg(test)]
mod tests;
