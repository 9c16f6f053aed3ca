//! The documents that people write, whatever they are about: text into trees, trees into text, and errors
//! that name the place.
//!
//! ```text
//!   YAML stream ──from_yaml──▶ Node, one a document ──Place, Fields──▶ the schema of its `kind`
//!   JSON ────────from_json──▶ Node                                     Node ──to_yaml──▶ YAML
//! ```
//!
//! The room knows no kind of document: policies are read in [`crate::policy`], others where they belong.
//! It is strict, so that what a reviewer sees is what applies: no anchors, tags or merge keys, no name twice
//! in a mapping, no unknown field. Nothing is guessed, and every size is bounded.

mod error;
mod place;
mod tree;
mod write;
mod yaml;

pub use error::ParseError;
pub use place::{Fields, Place};
pub(crate) use tree::Excerpt;
pub use tree::Node;
pub use write::to_yaml;

/// Largest text of one document, or of a stream of policies, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// How much is read of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest text.
    pub bytes: usize,
    /// Most documents.
    pub documents: usize,
}

/// Reads the documents of a YAML stream that are not empty; `file` is for messages only.
///
/// # Errors
/// The first thing that is not YAML, not in the part of it that documents need, or out of bounds.
pub fn from_yaml(file: &str, text: &str, limits: Limits) -> Result<Vec<Node>, ParseError> {
    check_size(file, text, limits.bytes)?;
    yaml::stream(file, text, limits.documents)
}

/// Reads one document as JSON; `file` is for messages only.
///
/// # Errors
/// When it is not JSON, has a name twice in one object, or is too large.
pub fn from_json(file: &str, text: &str) -> Result<Node, ParseError> {
    check_size(file, text, MAX_TEXT_BYTES)?;
    serde_json::from_str(text).map_err(|error| ParseError {
        file: file.to_owned(),
        line: error.line(),
        column: error.column(),
        key: String::new(),
        message: format!("not JSON that a document can be: {}", Excerpt(&error.to_string())),
    })
}

fn check_size(file: &str, text: &str, most: usize) -> Result<(), ParseError> {
    if text.len() > most {
        let message = format!("expected at most {most} bytes, found {}", text.len());
        return Err(ParseError::somewhere(file, &message));
    }
    Ok(())
}
