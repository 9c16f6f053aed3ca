//! Ownership labels: which repository, or whoever applies documents, manages a document. So two of them do
//! not undo each other's changes, and pruning takes only what was one's own.

use std::fmt;
use std::str::FromStr;

/// Longest label, in bytes.
const MAX_LABEL_BYTES: usize = 63;

/// Who manages a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerLabel(Box<str>);

/// Not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an ownership label has 1 to {MAX_LABEL_BYTES} lower-case letters, digits, `-`, `_`, `.` and `/`, \
     such as `shop-repo`"
)]
pub struct OwnerLabelError;

impl OwnerLabel {
    /// Of those who do not say.
    #[must_use]
    pub fn unnamed() -> Self {
        Self("default".into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OwnerLabel {
    type Err = OwnerLabelError;

    fn from_str(text: &str) -> Result<Self, OwnerLabelError> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_./".contains(&byte);
        if text.is_empty() || text.len() > MAX_LABEL_BYTES || !text.bytes().all(allowed) {
            return Err(OwnerLabelError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for OwnerLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_and_plain() {
        for text in ["shop-repo", "acme/shop.mesh_1", "default"] {
            assert_eq!(text.parse::<OwnerLabel>().unwrap().as_str(), text);
        }
        for text in ["", "Shop", "a b", "a\n", "é", &"a".repeat(64)] {
            assert_eq!(text.parse::<OwnerLabel>(), Err(OwnerLabelError), "{text:?}");
        }
    }
}
