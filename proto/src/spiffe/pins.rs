//! Roots that are known by their hash alone: how control is believed by whoever has no bundle yet, and what a bundle
//! must have of it to be that control's. While a root follows another there are several, and any of them will do.

use super::{TrustBundle, sha256};

/// SHA-256 of root certificates, DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins(Vec<[u8; 32]>);

impl Pins {
    /// Whether it is one of these roots.
    #[must_use]
    pub fn names(&self, root: &[u8]) -> bool {
        self.0.contains(&sha256(root))
    }

    /// Whether the bundle has one of these roots, or had it until it was retired.
    #[must_use]
    pub fn are_in(&self, bundle: &TrustBundle) -> bool {
        bundle.authorities().iter().chain(bundle.retired()).any(|root| self.names(root))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.0.iter()
    }
}

impl From<[u8; 32]> for Pins {
    fn from(root: [u8; 32]) -> Self {
        Self(vec![root])
    }
}

impl FromIterator<[u8; 32]> for Pins {
    fn from_iter<I: IntoIterator<Item = [u8; 32]>>(roots: I) -> Self {
        Self(roots.into_iter().collect())
    }
}
