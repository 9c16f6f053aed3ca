//! Text to documents: YAML as people write it, JSON as it travels.
//!
//! Anything that is not understood is an error, never a default: two versions that read a policy
//! differently would disagree on who may talk. The error says where, at which key, what was expected and
//! what was found.

use std::fmt;

use super::compile::MAX_DOCUMENTS;
use super::document::Document;
use super::read;
use super::tree::{Excerpt, Node};
use super::yaml;

/// Largest policy text that is looked at, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// Reads one or more documents from a YAML stream; `file` is for messages only.
///
/// Names are unique in the stream.
///
/// # Errors
/// The first thing that is not a policy, with its place in the text.
pub fn parse_yaml(file: &str, text: &str) -> Result<Vec<Document>, ParseError> {
    check_size(file, text)?;
    let nodes = yaml::read(file, text, MAX_DOCUMENTS)?;
    if nodes.is_empty() {
        return Err(ParseError::somewhere(file, "expected at least one policy document, found none"));
    }
    let mut documents: Vec<Document> = Vec::with_capacity(nodes.len());
    let mut names = std::collections::HashSet::new();
    for node in &nodes {
        let document = read::document(file, node)?;
        if !names.insert(document.name.clone()) {
            return Err(ParseError {
                file: file.to_owned(),
                line: node.line,
                column: node.column,
                key: "name".into(),
                message: format!(
                    "expected a name of its own, `{}` names an earlier document too",
                    document.name
                ),
            });
        }
        documents.push(document);
    }
    Ok(documents)
}

/// Reads one document from the JSON that [`Document::to_json`] writes.
///
/// # Errors
/// The first thing that is not a policy.
pub fn parse_json(text: &str) -> Result<Document, ParseError> {
    const FILE: &str = "json";
    check_size(FILE, text)?;
    let node: Node = serde_json::from_str(text).map_err(|error| ParseError {
        file: FILE.into(),
        line: error.line(),
        column: error.column(),
        key: String::new(),
        message: format!("not JSON that a policy can be: {}", Excerpt(&error.to_string())),
    })?;
    read::document(FILE, &node)
}

fn check_size(file: &str, text: &str) -> Result<(), ParseError> {
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("expected at most {MAX_TEXT_BYTES} bytes, found {}", text.len());
        return Err(ParseError::somewhere(file, &message));
    }
    Ok(())
}

/// Why a text is not a policy, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// As given to [`parse_yaml`]; `json` for the wire form.
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
    fn somewhere(file: &str, message: &str) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, key: String::new(), message: message.to_owned() }
    }

    /// Key and message alone, for readers that add their own place.
    pub(super) fn without_place(&self) -> String {
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
