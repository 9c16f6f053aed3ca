//! Sets of identities: what a role is on, and what a call touches.

use std::fmt;
use std::str::FromStr;

use signet_proto::policy::{Pattern, PatternError};
use signet_proto::spiffe::{SpiffeId, TrustDomain};

const EVERYTHING: &str = "everything";

/// What a role is on, or a call about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The mesh as a whole, its authorities and its audit. All identities of the trust domain are less than this.
    Everything,
    /// One identity, or a subtree.
    Of(Pattern),
}

impl Scope {
    /// Just this identity.
    #[must_use]
    pub fn identity(id: &SpiffeId) -> Self {
        Self::Of(Pattern::Exact(id.clone()))
    }

    /// What a stored target says; one that cannot be read concerns everything, so that only those change it who
    /// may change everything.
    #[must_use]
    pub fn of_target(target: &str) -> Self {
        target.parse().map_or(Self::Everything, Self::Of)
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everything, _) => true,
            (Self::Of(_), Self::Everything) => false,
            (Self::Of(wide), Self::Of(narrow)) => wide.covers(narrow),
        }
    }

    /// The trust domain that it is in; none for everything.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::Everything => None,
            Self::Of(pattern) => Some(pattern.trust_domain()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str(EVERYTHING),
            Self::Of(pattern) => fmt::Display::fmt(pattern, f),
        }
    }
}

/// A text that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a SPIFFE ID, a subtree such as `spiffe://prod.example/batch/*`, or `{EVERYTHING}`: {0}")]
pub struct ScopeError(#[from] PatternError);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text == EVERYTHING { Ok(Self::Everything) } else { Ok(Self::Of(text.parse()?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_parses_back_to_itself_and_no_other_parses() {
        for text in ["everything", "spiffe://td/a", "spiffe://td/a/*", "spiffe://td/*"] {
            assert_eq!(scope(text).to_string(), text);
        }
        for text in ["", "*", "Everything", "spiffe://td", "spiffe://td/a*", "spiffe://td/*/a", "unix:uid=0"]
        {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_identities_are_less_than_everything() {
        let all = scope("spiffe://td/*");
        assert!(all.covers(&scope("spiffe://td/a/*")) && !all.covers(&Scope::Everything));
        assert!(Scope::Everything.covers(&all) && Scope::Everything.covers(&Scope::Everything));
        assert!(!all.covers(&scope("spiffe://other/a")));
    }

    #[test]
    fn target_that_cannot_be_read_concerns_everything() {
        assert_eq!(Scope::of_target("spiffe://td/a/*"), scope("spiffe://td/a/*"));
        for broken in ["", "spiffe://td", "everything", "spiffe://td/a b"] {
            assert_eq!(Scope::of_target(broken), Scope::Everything, "{broken}");
        }
    }
}
