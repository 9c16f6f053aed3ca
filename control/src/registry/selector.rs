//! What an attestor proves about whoever asks, one fact each: `ATTESTOR`, or `ATTESTOR:KEY:VALUE`.

use std::fmt;
use std::str::FromStr;

const MAX_NAME: usize = 63;
const MAX_VALUE: usize = 256;

/// One proven fact. The attestor alone stands for any proof of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    attestor: String,
    fact: Option<(String, String)>,
}

/// Why a text is no selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The part before the first colon.
    #[error("selector: expected the name of an attestor, of a-z, 0-9 and `-`, at most 63 characters")]
    Attestor,
    /// The part after it.
    #[error(
        "selector: expected ATTESTOR:KEY:VALUE with KEY of a-z, 0-9, `_`, `.` and `-`, at most 63 characters"
    )]
    Key,
    /// The rest.
    #[error("selector: expected a VALUE of 1 to {MAX_VALUE} bytes without control characters")]
    Value,
}

impl Selector {
    /// The attestor's name.
    #[must_use]
    pub fn attestor(&self) -> &str {
        &self.attestor
    }

    /// Key and value, unless it stands for any proof.
    #[must_use]
    pub fn key_value(&self) -> Option<(&str, &str)> {
        self.fact.as_ref().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (attestor, fact) = match text.split_once(':') {
            None => (text, None),
            Some((attestor, fact)) => (attestor, Some(fact.split_once(':').ok_or(SelectorError::Key)?)),
        };
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !is_name(attestor, is_plain) {
            return Err(SelectorError::Attestor);
        }
        if let Some((key, value)) = fact {
            if !is_name(key, |byte| is_plain(byte) || matches!(byte, b'_' | b'.')) {
                return Err(SelectorError::Key);
            }
            if value.is_empty() || value.len() > MAX_VALUE || value.chars().any(char::is_control) {
                return Err(SelectorError::Value);
            }
        }
        let fact = fact.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Ok(Self { attestor: attestor.to_owned(), fact })
    }
}

fn is_name(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attestor)?;
        match &self.fact {
            Some((key, value)) => write!(f, ":{key}:{value}"),
            None => Ok(()),
        }
    }
}
