//! What an attestor proves, as one text: `ATTESTOR`, or `ATTESTOR:KEY:VALUE`.

use std::fmt;
use std::str::FromStr;

/// One thing that was proven about a workload, or that is asked of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    attestor: String,
    key_value: Option<(String, String)>,
}

/// Not a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ATTESTOR or ATTESTOR:KEY:VALUE, with a value of 1 to 256 bytes of text without control characters"
)]
pub struct SelectorError;

impl Selector {
    /// The attestor that proves it, by its name in the settings.
    #[must_use]
    pub fn attestor(&self) -> &str {
        &self.attestor
    }

    /// What it proves; `None` is any proof of this attestor.
    #[must_use]
    pub fn key_value(&self) -> Option<(&str, &str)> {
        self.key_value.as_ref().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (attestor, rest) = match text.split_once(':') {
            Some((attestor, rest)) => (attestor, Some(rest)),
            None => (text, None),
        };
        let named = |name: &str, others: &[u8]| {
            (1..=63).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || others.contains(&byte))
        };
        if !named(attestor, b"-") {
            return Err(SelectorError);
        }
        let key_value = match rest {
            None => None,
            Some(rest) => {
                let (key, value) = rest.split_once(':').ok_or(SelectorError)?;
                let printable = !value.is_empty() && value.len() <= 256 && !value.contains(char::is_control);
                if !named(key, b"_.-") || !printable {
                    return Err(SelectorError);
                }
                Some((key.to_owned(), value.to_owned()))
            }
        };
        Ok(Self { attestor: attestor.to_owned(), key_value })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key_value {
            None => f.write_str(&self.attestor),
            Some((key, value)) => write!(f, "{}:{key}:{value}", self.attestor),
        }
    }
}
