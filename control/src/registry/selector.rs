//! Selectors: what an attestor can prove about whoever asks, and what a workload asks to be proven.
//!
//! The text is `ATTESTOR:KEY:VALUE`, such as `prod-cluster:namespace:shop`, or `ATTESTOR` alone: any proof
//! of it. There is one text for each selector, so equal selectors have equal texts; nothing in it matches
//! by pattern, so a longer list of selectors never fits more proofs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::visible::is_hidden;

/// Longest name of an attestor, in bytes.
pub(super) const MAX_ATTESTOR_BYTES: usize = 63;
/// Longest key, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 63;
/// Longest value, in bytes.
pub(super) const MAX_VALUE_BYTES: usize = 256;

/// One proven or wanted fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    attestor: Box<str>,
    key_value: Option<(Box<str>, Box<str>)>,
}

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The attestor's name has another form.
    #[error("an attestor's name has 1 to {MAX_ATTESTOR_BYTES} lower-case letters, digits and `-`")]
    Attestor,
    /// A key without value.
    #[error("expected `ATTESTOR:KEY:VALUE`, or `ATTESTOR` alone for any proof of it")]
    Parts,
    /// The key has another form.
    #[error("a key has 1 to {MAX_KEY_BYTES} lower-case letters, digits, `_`, `.` and `-`")]
    Key,
    /// The value is empty, too long or not printable.
    #[error("a value has 1 to {MAX_VALUE_BYTES} bytes and no control characters")]
    Value,
}

impl Selector {
    /// The fact that `attestor` proves `key` to be `value`.
    ///
    /// # Errors
    /// When one of them has another form than selectors have.
    pub fn new(attestor: &str, key: &str, value: &str) -> Result<Self, SelectorError> {
        if !is_key(key) {
            return Err(SelectorError::Key);
        }
        if value.is_empty() || value.len() > MAX_VALUE_BYTES || value.chars().any(is_hidden) {
            return Err(SelectorError::Value);
        }
        let any = Self::any_of(attestor)?;
        Ok(Self { key_value: Some((key.into(), value.into())), ..any })
    }

    /// The fact that there is a proof of `attestor`.
    ///
    /// # Errors
    /// When no attestor can have this name.
    pub fn any_of(attestor: &str) -> Result<Self, SelectorError> {
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if attestor.is_empty() || attestor.len() > MAX_ATTESTOR_BYTES || !attestor.bytes().all(allowed) {
            return Err(SelectorError::Attestor);
        }
        Ok(Self { attestor: attestor.into(), key_value: None })
    }

    /// Who proves it: the name that the operator gave the attestor.
    #[must_use]
    pub fn attestor(&self) -> &str {
        &self.attestor
    }

    /// What is proven; `None`: that there is a proof.
    #[must_use]
    pub fn key_value(&self) -> Option<(&str, &str)> {
        self.key_value.as_ref().map(|(key, value)| (&**key, &**value))
    }

    /// Whether a proof of these facts proves this one.
    #[must_use]
    pub fn is_proven_by(&self, proven: &BTreeSet<Self>) -> bool {
        match self.key_value {
            Some(_) => proven.contains(self),
            None => proven.iter().any(|fact| fact.attestor == self.attestor),
        }
    }
}

/// Whether a text can be a key, and so the name of a variable.
pub(super) fn is_key(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    !text.is_empty() && text.len() <= MAX_KEY_BYTES && text.bytes().all(allowed)
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let Some((attestor, rest)) = text.split_once(':') else { return Self::any_of(text) };
        // The first two colons separate; a value may have its own.
        let (key, value) = rest.split_once(':').ok_or(SelectorError::Parts)?;
        Self::new(attestor, key, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attestor)?;
        match &self.key_value {
            Some((key, value)) => write!(f, ":{key}:{value}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_are_read_and_taken_apart() {
        for (text, attestor, key_value) in [
            ("prod-cluster:namespace:shop", "prod-cluster", Some(("namespace", "shop"))),
            ("ci:ref:refs/heads/main", "ci", Some(("ref", "refs/heads/main"))),
            ("ci:sub:repo:acme/shop:ref:x", "ci", Some(("sub", "repo:acme/shop:ref:x"))),
            ("tpm:ek.sha-2_56:é 1", "tpm", Some(("ek.sha-2_56", "é 1"))),
            ("prod-cluster", "prod-cluster", None),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!((selector.attestor(), selector.key_value()), (attestor, key_value));
            assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn each_broken_rule_is_refused_by_name() {
        use SelectorError as E;
        for (text, error) in [
            ("", E::Attestor),
            ("Prod", E::Attestor),
            ("prod cluster", E::Attestor),
            (":key:value", E::Attestor),
            ("prod:", E::Parts),
            ("prod:key", E::Parts),
            ("prod::value", E::Key),
            ("prod:Key:value", E::Key),
            ("prod:key:", E::Value),
            ("prod:key:a\nb", E::Value),
            (&format!("prod:key:{}", "v".repeat(257)), E::Value),
            (&format!("prod:{}:v", "k".repeat(64)), E::Key),
            (&"a".repeat(64), E::Attestor),
        ] {
            assert_eq!(text.parse::<Selector>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn an_attestor_alone_is_proven_by_any_of_its_facts_and_by_itself() {
        let any: Selector = "prod".parse().unwrap();
        let set = |text: &str| BTreeSet::from([text.parse::<Selector>().unwrap()]);
        assert!(any.is_proven_by(&set("prod:namespace:shop")));
        assert!(any.is_proven_by(&set("prod")));
        assert!(!any.is_proven_by(&set("production:namespace:shop")));
        assert!(!any.is_proven_by(&BTreeSet::new()));
        assert!(!"prod:namespace:shop".parse::<Selector>().unwrap().is_proven_by(&set("prod")));
    }

    proptest! {
        #[test]
        fn every_parsed_selector_displays_back_to_itself(text in "[a-c:]{0,6}|[a-z-]{1,4}:[a-z.]{1,3}:\\PC{1,6}|\\PC{0,12}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string(), text);
            }
        }
    }
}
