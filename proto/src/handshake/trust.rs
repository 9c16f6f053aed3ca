//! Whom to believe: one bundle per trust domain, never pooled, and what is revoked.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::config::provider;
use super::verifier::VerifyError;
use super::{PeerIdentity, Revocations, RevokedBecause};
use crate::spiffe::{
    SpiffeId, SvidProfile, TrustBundle, TrustDomain, certificate_handle, check_intermediate, check_leaf,
};

/// Leaf, two intermediates and a root: more than that is work an attacker asks for (SPIRE 1.14.2).
const MAX_CHAIN: usize = 4;

/// The bundles and revocations in force together.
#[derive(Debug)]
pub struct Trust {
    bundles: BTreeMap<TrustDomain, TrustBundle>,
    revocations: Revocations,
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
        Self { bundles, revocations }
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
        self.revocations.matching(&peer.id, peer.instance.as_ref(), &peer.handles)
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
    ) -> Result<SvidProfile, VerifyError> {
        if intermediates.len() >= MAX_CHAIN {
            return Err(VerifyError::ChainTooLong { found: intermediates.len() + 1, allowed: MAX_CHAIN });
        }
        let profile = check_leaf(leaf)?;
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.chain(&chain, &profile.id, now, role, Anchors::Trusted)?;
        let handles =
            chain.iter().map(|element| certificate_handle(element)).collect::<Result<Vec<_>, _>>()?;
        if let Some(because) = self.revocations.matching(&profile.id, profile.instance.as_ref(), &handles) {
            return Err(VerifyError::Revoked { id: profile.id, because });
        }
        Ok(profile)
    }

    fn chain(
        &self,
        chain: &[CertificateDer<'_>],
        id: &SpiffeId,
        at: SystemTime,
        role: Role,
        which: Anchors,
    ) -> Result<(), VerifyError> {
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
        let intermediates: Vec<_> =
            intermediates.iter().filter(|element| !is_root(element)).cloned().collect();
        for intermediate in &intermediates {
            check_intermediate(intermediate, id.trust_domain())?;
        }
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
        EndEntityCert::try_from(leaf)
            .map_err(untrusted)?
            .verify_for_usage(
                provider().signature_verification_algorithms.all,
                &anchors,
                &intermediates,
                UnixTime::since_unix_epoch(since_epoch),
                usage,
                None,
                None,
            )
            .map_err(untrusted)?;
        Ok(())
    }
}
