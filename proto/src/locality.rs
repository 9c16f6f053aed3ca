//! Where something runs, as an operator calls it: `eu-1/a` is zone `a` of region `eu-1`. Nearer is cheaper, no more:
//! nothing is allowed or denied by it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest label, and most parts of it.
const MAX_BYTES: usize = 128;
const MAX_PARTS: usize = 4;

/// A region, and perhaps a zone and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality(Arc<str>);

/// How far one is from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// The same locality.
    Here,
    /// The same region: the first part is the same.
    Region,
    /// Anywhere else, or not known.
    Elsewhere,
}

/// A text is no locality.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a locality such as `eu-1/a`: 1 to 4 parts of letters, digits, `-`, `_` and `.`, at most 128 bytes"
)]
pub struct LocalityError;

impl Locality {
    /// How far `other` is from `own`.
    #[must_use]
    pub fn distance(own: Option<&Self>, other: Option<&Self>) -> Distance {
        match (own, other) {
            (Some(own), Some(other)) if own == other => Distance::Here,
            (Some(own), Some(other)) if own.region() == other.region() => Distance::Region,
            _ => Distance::Elsewhere,
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn region(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl Distance {
    /// The nearest first.
    pub const ALL: [Self; 3] = [Self::Here, Self::Region, Self::Elsewhere];
}

impl FromStr for Locality {
    type Err = LocalityError;

    fn from_str(text: &str) -> Result<Self, LocalityError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(allowed);
        let parts = text.split('/');
        if text.len() > MAX_BYTES || parts.clone().count() > MAX_PARTS || !parts.clone().all(is_part) {
            return Err(LocalityError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_are_near_by_their_parts() {
        let at = |text: &str| text.parse::<Locality>().unwrap();
        let distance = |own: &str, other: &str| Locality::distance(Some(&at(own)), Some(&at(other)));
        assert_eq!(distance("eu-1/a", "eu-1/a"), Distance::Here);
        assert_eq!(distance("eu-1/a", "eu-1/b"), Distance::Region);
        assert_eq!(distance("eu-1", "eu-1/b"), Distance::Region);
        assert_eq!(distance("eu-1/a", "eu-10/a"), Distance::Elsewhere);
        assert_eq!(Locality::distance(None, Some(&at("eu-1"))), Distance::Elsewhere);
        for wrong in ["", "/", "eu-1/", "/a", "eu 1", "a/b/c/d/e", "é", &"a".repeat(129)] {
            assert!(wrong.parse::<Locality>().is_err(), "{wrong}");
        }
    }
}
