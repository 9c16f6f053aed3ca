//! The authorities of one moment: what signs, what is believed, and by what control is known. Never changed, only
//! replaced.
//!
//! While a root retires, the one that took its place is certified by it too, and that certificate travels in every
//! chain: whoever has not heard of the new root believes what it signed all the same. Control itself shows the root that
//! retires, because join tickets made before know it by that; new ones name both. A root that is compromised is not shown
//! any more once another one signs.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{TrustBundle, TrustDomain};

use super::CaError;
use super::jwt::JwtKeys;
use super::signer::{Certified, Signer};
use crate::store::StoreError;
use crate::store::model::{AuthorityKind, KnownAuthority, Phase};

/// Removed roots of which proxies are told.
const RETIRED: usize = 8;

/// The authorities of one moment, as one replica has them.
pub struct Hierarchy {
    known: Vec<KnownAuthority>,
    intermediate: Arc<Signer>,
    root: Certified,
    /// The root that control shows to those who know it by nothing else.
    shown: Certified,
    /// The key of `root`, certified by the one that retires.
    cross: Option<CertificateDer<'static>>,
    jwt: JwtKeys,
    bundle: Arc<TrustBundle>,
}

impl Hierarchy {
    /// Of all that is known, with the intermediate with which this replica signs.
    pub(super) fn new(
        trust_domain: &TrustDomain,
        known: Vec<KnownAuthority>,
        intermediate: Arc<Signer>,
        jwt: JwtKeys,
    ) -> Result<Self, CaError> {
        let active = active_root(&known)?;
        // Of several the one whose place was taken last: it certified the one that signs.
        let retiring = known.iter().filter(|one| one.is_anchor() && one.phase == Phase::Retiring);
        let retiring = retiring.max_by_key(|one| one.phase_at);
        let cross = active.cross_certificate.clone().filter(|_| retiring.is_some());
        // One that is compromised is named in no ticket.
        let shown = retiring.filter(|one| cross.is_some() && one.distrusted_at.is_none());
        let shown = Certified::from(shown.unwrap_or(active));
        let root = Certified::from(active);
        let certificate = |one: &KnownAuthority| CertificateDer::from(one.certificate.clone());
        let anchors = known.iter().filter(|one| one.is_anchor()).map(certificate).collect();
        let is_removed = |one: &&KnownAuthority| {
            one.kind == AuthorityKind::Root && one.phase == Phase::Removed && one.distrusted_at.is_none()
        };
        let mut removed: Vec<_> = known.iter().filter(is_removed).map(certificate).collect();
        removed.drain(..removed.len().saturating_sub(RETIRED));
        let sequence = known.iter().map(|one| one.announced).max().unwrap_or_default();
        let sequence = sequence.max(jwt.announced()).max(1);
        let bundle = TrustBundle::new(trust_domain.clone(), anchors, sequence)?
            .with_retired(removed)?
            .with_jwt(jwt.authorities()?);
        let cross = cross.map(CertificateDer::from);
        Ok(Self { known, intermediate, root, shown, cross, jwt, bundle: Arc::new(bundle) })
    }

    /// All authorities, roots first.
    #[must_use]
    pub fn known(&self) -> &[KnownAuthority] {
        &self.known
    }

    /// What signs tokens.
    #[must_use]
    pub fn jwt(&self) -> &JwtKeys {
        &self.jwt
    }

    /// What signs leaves.
    #[must_use]
    pub fn intermediate(&self) -> &Arc<Signer> {
        &self.intermediate
    }

    /// What signed that.
    #[must_use]
    pub fn root(&self) -> &Certified {
        &self.root
    }

    /// The root that control shows.
    #[must_use]
    pub fn shown(&self) -> &Certified {
        &self.shown
    }

    /// The other roots by which control can be known, now or soon, and nobody else.
    pub fn others(&self) -> impl Iterator<Item = [u8; 32]> {
        let shown = self.shown.sha256();
        let trusted = self.known.iter().filter(|one| one.is_anchor() && one.distrusted_at.is_none());
        trusted.map(|one| crate::sha256(&one.certificate)).filter(move |root| *root != shown)
    }

    /// What is between a leaf and the root.
    #[must_use]
    pub fn above(&self) -> Vec<CertificateDer<'static>> {
        let intermediate = self.intermediate.certified().certificate().clone();
        std::iter::once(intermediate).chain(self.cross.clone()).collect()
    }

    /// The trust bundle.
    #[must_use]
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }
}

/// The root that signs.
pub(super) fn active_root(known: &[KnownAuthority]) -> Result<&KnownAuthority, StoreError> {
    let root = known.iter().find(|one| one.kind == AuthorityKind::Root && one.phase == Phase::Active);
    root.ok_or_else(|| StoreError::Damaged("there is no root to sign with".into()))
}

/// The intermediates that sign.
pub(super) fn intermediates(known: &[KnownAuthority]) -> impl Iterator<Item = &KnownAuthority> {
    known.iter().filter(|one| one.kind == AuthorityKind::Intermediate && one.phase == Phase::Active)
}

/// The one that a replica has of its own.
pub(super) fn own<'k>(known: &'k [KnownAuthority], replica: &str) -> Option<&'k KnownAuthority> {
    intermediates(known).find(|one| one.replica == replica)
}

/// The one with which a replica signs: its own, or the one that is nobody's.
pub(super) fn signing<'k>(known: &'k [KnownAuthority], replica: &str) -> Option<&'k KnownAuthority> {
    own(known, replica).or_else(|| own(known, ""))
}
