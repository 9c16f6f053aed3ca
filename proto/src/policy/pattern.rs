//! Patterns over identities: one identity, or everything below a path.
//!
//! There is no other form, and no regular expression: a small mistake in a pattern must not open a wide
//! hole. `spiffe://td/a/*` means the workloads whose path starts with the whole segments `/a/`; `a`
//! itself is not below itself.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// Which identities are meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// One workload: `spiffe://prod.example/payments`.
    Exact(SpiffeId),
    /// All workloads below: `spiffe://prod.example/batch/*`, or a whole trust domain:
    /// `spiffe://prod.example/*`.
    Subtree(Subtree),
}

/// Everything below an identity, which is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    root: SpiffeId,
    /// The root and a slash: whatever starts with it is below.
    prefix: Arc<str>,
}

impl Pattern {
    /// Whether `id` is meant.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Subtree(subtree) => subtree.contains(id),
        }
    }

    /// Whether every identity that `other` means is meant.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(id)) => self.matches(id),
            (Self::Exact(_), Self::Subtree(_)) => false,
            (Self::Subtree(wide), Self::Subtree(narrow)) => {
                wide.root == narrow.root || wide.contains(&narrow.root)
            }
        }
    }

    /// The trust domain that all identities meant are of.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Exact(id) => id.trust_domain(),
            Self::Subtree(subtree) => subtree.root.trust_domain(),
        }
    }
}

impl Subtree {
    /// The subtree below `root`.
    #[must_use]
    pub fn below(root: SpiffeId) -> Self {
        let prefix = format!("{root}/").into();
        Self { root, prefix }
    }

    /// The identity at the top, which is not in the subtree.
    #[must_use]
    pub fn root(&self) -> &SpiffeId {
        &self.root
    }

    /// Whether `id` is below the root. An id has one text form, so a common prefix that ends in a
    /// slash is a common row of whole segments.
    #[must_use]
    pub fn contains(&self, id: &SpiffeId) -> bool {
        id.as_str().starts_with(&*self.prefix)
    }

    /// The root and a slash: what the text of everything below begins with.
    #[must_use]
    pub fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }
}

/// The prefixes of all subtrees that `id` is in, the widest first: `spiffe://td/`, `spiffe://td/a/`, ...
pub fn ancestors(id: &SpiffeId) -> impl DoubleEndedIterator<Item = &str> {
    let text = id.as_str();
    let path_start = text.len() - id.path().len();
    id.path()
        .char_indices()
        .filter(|&(_, c)| c == '/')
        .filter_map(move |(at, _)| text.get(..=path_start + at))
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// A `*` that is not the whole last segment.
    #[error("`*` may only be the whole last segment, as in `spiffe://prod.example/batch/*`")]
    Wildcard,
    /// An identity without path, which no workload has.
    #[error("`{0}` names no workload; for all of the trust domain, write `{0}/*`")]
    TrustDomainOnly(SpiffeId),
    /// Not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (root, below) = match text.strip_suffix("/*") {
            Some(root) => (root, true),
            None => (text, false),
        };
        if root.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let id: SpiffeId = root.parse()?;
        match (below, id.is_workload()) {
            (true, _) => Ok(Self::Subtree(Subtree::below(id))),
            (false, true) => Ok(Self::Exact(id)),
            (false, false) => Err(PatternError::TrustDomainOnly(id)),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => fmt::Display::fmt(id, f),
            Self::Subtree(subtree) => write!(f, "{}/*", subtree.root),
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(crate::spiffe::ParsedText::new(
            "a SPIFFE ID, or one that ends in `/*` for all below it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn an_exact_pattern_matches_one_identity() {
        let payments = pattern("spiffe://td/payments");
        assert!(payments.matches(&id("spiffe://td/payments")));
        for other in ["spiffe://td/payments/a", "spiffe://td/payment", "spiffe://td2/payments", "spiffe://td"]
        {
            assert!(!payments.matches(&id(other)), "{other}");
        }
    }

    #[test]
    fn a_subtree_matches_whole_segments_below_its_root() {
        let batch = pattern("spiffe://td/batch/*");
        assert!(batch.matches(&id("spiffe://td/batch/a")));
        assert!(batch.matches(&id("spiffe://td/batch/a/b")));
        for other in
            ["spiffe://td/batch", "spiffe://td/batches/a", "spiffe://td/a/batch/b", "spiffe://t/batch/a"]
        {
            assert!(!batch.matches(&id(other)), "{other}");
        }
    }

    #[test]
    fn a_trust_domain_wildcard_matches_its_workloads_only() {
        let all = pattern("spiffe://td/*");
        assert!(all.matches(&id("spiffe://td/a")));
        assert!(!all.matches(&id("spiffe://td")));
        assert!(!all.matches(&id("spiffe://td2/a")));
        assert!(!all.matches(&id("spiffe://td.example/a")));
    }

    #[test]
    fn anything_but_the_two_forms_is_refused() {
        use PatternError as E;
        for (text, error) in [
            ("*", E::Wildcard),
            ("spiffe://*/a", E::Wildcard),
            ("spiffe://td*", E::Wildcard),
            ("spiffe://td/a*", E::Wildcard),
            ("spiffe://td/*/a", E::Wildcard),
            ("spiffe://td/*/*", E::Wildcard),
            ("spiffe://td/a**", E::Wildcard),
            ("spiffe://td", E::TrustDomainOnly(id("spiffe://td"))),
            ("spiffe:///*", E::SpiffeId(SpiffeIdError::EmptyTrustDomain)),
            ("spiffe://td//*", E::SpiffeId(SpiffeIdError::TrailingSlash)),
            ("spiffe://td/../*", E::SpiffeId(SpiffeIdError::DotSegment)),
            ("/*", E::SpiffeId(SpiffeIdError::Scheme)),
            ("", E::SpiffeId(SpiffeIdError::Scheme)),
        ] {
            assert_eq!(text.parse::<Pattern>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn ancestors_are_the_prefixes_of_the_subtrees_around_an_identity() {
        let found: Vec<_> = ancestors(&id("spiffe://td/a/b")).map(str::to_owned).collect();
        assert_eq!(found, ["spiffe://td/", "spiffe://td/a/"]);
        assert_eq!(ancestors(&id("spiffe://td")).count(), 0);
    }

    proptest! {
        #[test]
        fn a_subtree_matches_exactly_where_a_segment_by_segment_reading_does(
            root in proptest::collection::vec("[ab]{1,2}", 0..3),
            path in proptest::collection::vec("[ab]{1,2}", 0..5),
        ) {
            let join = |segments: &[String]| segments.iter().map(|s| format!("/{s}")).collect::<String>();
            let subtree = pattern(&format!("spiffe://td{}/*", join(&root)));
            let workload = id(&format!("spiffe://td{}", join(&path)));
            let expected = path.len() > root.len() && path.starts_with(&root);
            prop_assert_eq!(subtree.matches(&workload), expected);
            let Pattern::Subtree(subtree) = subtree else { panic!("a subtree") };
            prop_assert_eq!(ancestors(&workload).any(|prefix| prefix == &**subtree.prefix()), expected);
        }

        #[test]
        fn a_pattern_covers_another_when_it_matches_all_that_the_other_does(
            wide in "spiffe://td(/[ab]){0,2}/\\*|spiffe://td(/[ab]){1,3}",
            narrow in "spiffe://td(/[ab]){0,2}/\\*|spiffe://td(/[ab]){1,3}",
            ids in proptest::collection::vec("spiffe://td(/[ab]){1,4}", 1..20),
        ) {
            let (wide, narrow) = (pattern(&wide), pattern(&narrow));
            // Whoever matches a name that no pattern here spells matches all there.
            let witness = match &narrow {
                Pattern::Exact(exact) => exact.clone(),
                Pattern::Subtree(subtree) => id(&format!("{}/zz", subtree.root())),
            };
            prop_assert_eq!(wide.covers(&narrow), wide.matches(&witness));
            for one in ids.iter().map(|one| id(one)) {
                prop_assert!(!wide.covers(&narrow) || !narrow.matches(&one) || wide.matches(&one), "{}", one);
            }
        }

        #[test]
        fn every_parsed_pattern_displays_back_to_itself(text in "spiffe://[a-c*]{0,3}(/[a-c*]{0,2}){0,3}") {
            if let Ok(parsed) = text.parse::<Pattern>() {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }
    }
}
