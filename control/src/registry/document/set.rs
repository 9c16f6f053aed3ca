//! What one `apply` is about: all documents of some files, read together.
//!
//! All mistakes are told at once, each with its place; nothing is taken from a set that has one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use signet_proto::document::{Limits, Node, ParseError, Place, from_yaml};
use signet_proto::policy::{self, CompileError, Document, PolicySet};
use signet_proto::settings::{self, Settings};
use signet_proto::traffic::{self, Service};

use super::read::{self, KIND};
use crate::registry::declaration::Declaration;

/// Most files of one set.
pub const MAX_FILES: usize = 10_000;
/// Most documents of one set.
pub const MAX_DOCUMENTS: usize = 10_000;
/// Most text of one set, in bytes: what one message to control carries.
pub const MAX_SET_BYTES: usize = 7 * 1024 * 1024;
/// Mistakes that are told.
const TOLD: usize = 20;

/// A text and how messages call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// For messages only.
    pub name: String,
    /// A stream of documents.
    pub yaml: String,
}

/// A document and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<T> {
    /// The name of the file.
    pub file: Arc<str>,
    /// The line it begins on, from 1.
    pub line: usize,
    /// What stands there.
    pub document: T,
}

/// Documents with names of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentSet {
    /// Of `kind: Workload`, in the order read.
    pub workloads: Vec<Placed<Declaration>>,
    /// Of `kind: Policy`, in the order read; they go together.
    pub policies: Vec<Placed<Document>>,
    /// Of `kind: Mesh`: at most one.
    pub mesh: Vec<Placed<Settings>>,
    /// Of `kind: Service`, in the order read.
    pub services: Vec<Placed<Service>>,
}

/// Why files are not a set of documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// Mistakes in documents, the first of them.
    #[error("{}", Told(.0))]
    Mistakes(Vec<ParseError>),
    /// The policies do not go together.
    #[error("the policies do not go together: {0}")]
    Policies(CompileError),
    /// Too much at once.
    #[error("{found} {what}, expected at most {most} in one set: apply it in parts, without `--prune`")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much.
        found: usize,
        /// The bound.
        most: usize,
    },
}

struct Told<'a>(&'a [ParseError]);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, mistake) in self.0.iter().enumerate() {
            write!(f, "{}{mistake}", if position == 0 { "" } else { "\n" })?;
        }
        if self.0.len() == TOLD { f.write_str("\nand perhaps more") } else { Ok(()) }
    }
}

impl DocumentSet {
    /// Reads files of documents of all kinds; files without any are fine, and so is a set without any.
    ///
    /// # Errors
    /// All mistakes that can be told, up to a bound.
    pub fn read<'f>(files: impl IntoIterator<Item = &'f File>) -> Result<Self, SetError> {
        let files: Vec<&File> = files.into_iter().collect();
        require("files", files.len(), MAX_FILES)?;
        require("bytes", files.iter().map(|file| file.yaml.len()).sum(), MAX_SET_BYTES)?;
        let mut set = Self::default();
        let mut mistakes = Vec::new();
        for file in files {
            set.take(file, &mut mistakes)?;
        }
        set.require_own_names(&mut mistakes);
        if !mistakes.is_empty() {
            mistakes.truncate(TOLD);
            return Err(SetError::Mistakes(mistakes));
        }
        let policies = set.policies.iter().map(|placed| placed.document.clone()).collect();
        PolicySet::compile(policies).map_err(SetError::Policies)?;
        Ok(set)
    }

    /// How many documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workloads.len() + self.policies.len() + self.mesh.len() + self.services.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&mut self, file: &File, mistakes: &mut Vec<ParseError>) -> Result<(), SetError> {
        let limits = Limits { bytes: MAX_SET_BYTES, documents: MAX_DOCUMENTS };
        let nodes = match from_yaml(&file.name, &file.yaml, limits) {
            Ok(nodes) => nodes,
            Err(mistake) => {
                mistakes.push(mistake);
                return Ok(());
            }
        };
        require("documents", self.len().saturating_add(nodes.len()), MAX_DOCUMENTS)?;
        let name: Arc<str> = file.name.as_str().into();
        for node in &nodes {
            let read = self.take_one(&name, node);
            mistakes.extend(read.err());
        }
        Ok(())
    }

    fn take_one(&mut self, file: &Arc<str>, node: &Node) -> Result<(), ParseError> {
        let place = Place::new(file, node);
        let (file, line) = (file.clone(), node.line());
        match place.kind("a document", &[KIND, policy::KIND, settings::KIND, traffic::KIND])? {
            None => return Err(place.fail("expected the field `kind`, found none")),
            Some(KIND) => {
                let document = read::read(&file, node)?;
                self.workloads.push(Placed { file, line, document });
            }
            Some(policy::KIND) => {
                let document = policy::parse_node(&file, node)?;
                self.policies.push(Placed { file, line, document });
            }
            Some(traffic::KIND) => {
                let document = traffic::parse_node(&file, node)?;
                self.services.push(Placed { file, line, document });
            }
            Some(_) => {
                let document = settings::parse_node(&file, node)?;
                self.mesh.push(Placed { file, line, document });
            }
        }
        Ok(())
    }

    fn require_own_names(&self, mistakes: &mut Vec<ParseError>) {
        own_names(&self.workloads, "id", |declaration| declaration.name.as_str(), mistakes);
        own_names(&self.policies, "name", |document| &document.name, mistakes);
        own_names(&self.mesh, "kind", |_| settings::KIND, mistakes);
        own_names(&self.services, "id", |service| service.id.as_str(), mistakes);
    }
}

fn own_names<T>(
    documents: &[Placed<T>],
    key: &str,
    name: impl Fn(&T) -> &str,
    mistakes: &mut Vec<ParseError>,
) {
    let mut seen: BTreeMap<&str, &Placed<T>> = BTreeMap::new();
    for placed in documents {
        let name = name(&placed.document);
        let first = *seen.entry(name).or_insert(placed);
        if !std::ptr::eq(first, placed) {
            mistakes.push(ParseError {
                file: placed.file.to_string(),
                line: placed.line,
                column: 1,
                key: key.to_owned(),
                message: format!("`{name}` is there twice, first at {}:{}", first.file, first.line),
            });
        }
    }
}

fn require(what: &'static str, found: usize, most: usize) -> Result<(), SetError> {
    if found > most { Err(SetError::TooMuch { what, found, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<DocumentSet, SetError> {
        let files: Vec<File> = files
            .iter()
            .map(|(name, yaml)| File { name: (*name).to_owned(), yaml: (*yaml).to_owned() })
            .collect();
        DocumentSet::read(&files)
    }

    fn workload(name: &str) -> String {
        format!("kind: Workload\nid: spiffe://td/{name}\nowner: {{ team: t }}\npurpose: p\n")
    }

    fn policy(name: &str) -> String {
        format!("kind: Policy\nname: {name}\ntarget: spiffe://td/{name}\nrules: []\n")
    }

    #[test]
    fn both_kinds_may_be_mixed_in_files_and_streams() {
        let stream = format!("{}---\n{}---\n{}", workload("a"), policy("a"), workload("b"));
        let set =
            read(&[("a.yaml", &stream), ("b.yaml", &policy("b")), ("empty.yaml", "# nothing\n")]).unwrap();
        let lines: Vec<_> = set.workloads.iter().map(|placed| (&*placed.file, placed.line)).collect();
        assert_eq!(lines, [("a.yaml", 1), ("a.yaml", 11)]);
        assert_eq!((set.workloads.len(), set.policies.len(), set.len()), (2, 2, 4));
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn all_mistakes_are_told_with_their_places() {
        let wrong = format!("{}colour: red\n---\nname: x\n---\nkind: Role\n", workload("a"));
        let error =
            read(&[("a.yaml", &wrong), ("b.yaml", "kind: ["), ("c.yaml", &workload("c"))]).unwrap_err();
        let told: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
        assert_eq!(told.len(), 4, "{error}");
        assert!(told[0].starts_with("a.yaml:5:1: unknown field `colour`"), "{}", told[0]);
        assert_eq!(told[1], "a.yaml:7:1: expected the field `kind`, found none");
        assert_eq!(
            told[2],
            "a.yaml:9:7: kind: expected `Workload`, `Policy`, `Mesh` or `Service`, found \"Role\""
        );
        assert!(told[3].starts_with("b.yaml:") && told[3].contains("not YAML"), "{}", told[3]);
    }

    #[test]
    fn names_are_unique_over_all_files() {
        let error = read(&[("a.yaml", &workload("a")), ("b.yaml", &workload("a"))]).unwrap_err().to_string();
        assert_eq!(error, "b.yaml:1:1: id: `spiffe://td/a` is there twice, first at a.yaml:1");
        let stream = format!("{}---\n{}", policy("a"), policy("a"));
        let error = read(&[("p.yaml", &stream)]).unwrap_err().to_string();
        assert_eq!(error, "p.yaml:6:1: name: `a` is there twice, first at p.yaml:1");
        let service = "kind: Service\nid: spiffe://td/a\nrate: { requests: 1 }\n";
        let error = read(&[("s.yaml", service), ("t.yaml", service)]).unwrap_err().to_string();
        assert_eq!(error, "t.yaml:1:1: id: `spiffe://td/a` is there twice, first at s.yaml:1");
        let mesh = "kind: Mesh\nmode: strict\n";
        assert_eq!(read(&[("m.yaml", mesh)]).unwrap().mesh.len(), 1);
        let error = read(&[("m.yaml", mesh), ("n.yaml", mesh)]).unwrap_err().to_string();
        assert_eq!(error, "n.yaml:1:1: kind: `Mesh` is there twice, first at m.yaml:1");
    }

    #[test]
    fn sets_are_bounded() {
        let large = " ".repeat(MAX_SET_BYTES / 2 + 1);
        let error = read(&[("a.yaml", &large), ("b.yaml", &large)]).unwrap_err();
        assert!(matches!(error, SetError::TooMuch { what: "bytes", .. }), "{error}");
        let half = "--- {}\n".repeat(MAX_DOCUMENTS / 2 + 1);
        let error = read(&[("a.yaml", &half), ("b.yaml", &half)]).unwrap_err();
        assert!(matches!(error, SetError::Mistakes(_) | SetError::TooMuch { .. }), "{error}");
        let many = "--- {a: 1}\n".repeat(1_000);
        let error = read(&[("a.yaml", &many)]).unwrap_err().to_string();
        assert_eq!(error.lines().count(), TOLD + 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}", pieces in "([-:{}\\[\\], a\n]|kind: Workload\n|id: spiffe://td/\\{a\\}\n|ttl: |dns: |---\n){0,25}") {
            let _ = read(&[("a.yaml", &text), ("b.yaml", &pieces)]);
        }
    }
}
