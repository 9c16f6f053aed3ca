//! Why a text is not a document, and where.

use std::fmt;

use super::tree::Node;

/// Why a text is not a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// As given by the caller; `json` for the wire form of a policy.
    pub file: String,
    /// From 1; 0 when it is about the whole text.
    pub line: usize,
    /// In characters, from 1; 0 when it is about the whole text.
    pub column: usize,
    /// Such as `rules[0].allow.from[1]`; empty when it is about the whole document.
    pub key: String,
    /// What was expected, and what was found.
    pub message: String,
}

impl ParseError {
    /// About a whole document.
    #[must_use]
    pub fn at(file: &str, node: &Node, message: impl Into<String>) -> Self {
        let (line, column) = (node.line, node.column);
        Self { file: file.to_owned(), line, column, key: String::new(), message: message.into() }
    }

    /// About a whole text.
    #[must_use]
    pub fn somewhere(file: &str, message: &str) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, key: String::new(), message: message.to_owned() }
    }

    /// Key and message alone, for readers that add their own place.
    pub(crate) fn without_place(&self) -> String {
        if self.key.is_empty() { self.message.clone() } else { format!("{}: {}", self.key, self.message) }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.without_place())
    }
}
