//! Policy documents: checked on the way in, explained on the way out. What they mean is decided in
//! [`signet_proto::policy`], the same for control and for proxies.

mod older;

use signet_proto::clock;
use signet_proto::policy::{
    Answer, CompileError, Direction, Document, ParseError, PolicySet, Question, QuestionError, parse_yaml,
};
use signet_proto::settings::Settings;

pub use older::{OlderReader, warnings};

use crate::roles::{Permission, Refused};
use crate::store::model::{Mutation, Policy};
use crate::store::{Store, StoreError};

/// Why policy is not applied or explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The text is not acceptable; says where.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The text holds no document.
    #[error("{0}: no policy document in it: expected `kind: Policy`")]
    Empty(String),
    /// The documents do not go together.
    #[error("{file}: {error}")]
    Compile {
        /// Where they came from.
        file: String,
        /// What does not fit.
        error: CompileError,
    },
    /// A question that cannot be answered.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// Whoever asks may not: the documents protect whom their roles do not reach.
    #[error(transparent)]
    NotPermitted(#[from] Refused),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Lists and deletes documents; they are applied with those of workloads, in the registry.
#[derive(Clone)]
pub struct Policies {
    store: Store,
}

impl Policies {
    /// Those of a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// All documents, by name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<Policy>, PolicyError> {
        Ok(self.store.policies().await?)
    }

    /// Deletes one document, if `permission` reaches its target.
    ///
    /// # Errors
    /// When there is none of this name, or it is not permitted.
    pub async fn delete(&self, name: String, permission: impl Permission) -> Result<Mutation, PolicyError> {
        Ok(self.store.delete_policy(name, permission).await?)
    }
}

/// Reads a YAML stream of documents and checks that they go together: what `signet policy validate` does.
///
/// # Errors
/// The first mistake.
pub fn parse(file: &str, yaml: &str) -> Result<Vec<Document>, PolicyError> {
    let documents = parse_yaml(file, yaml)?;
    if documents.is_empty() {
        return Err(PolicyError::Empty(file.to_owned()));
    }
    PolicySet::compile(documents.clone())
        .map_err(|error| PolicyError::Compile { file: file.to_owned(), error })?;
    Ok(documents)
}

/// What the proxies on both sides would decide now, in the order in which a call comes to them: beside the source, if
/// egress documents restrict it, and in front of the destination.
#[must_use]
pub fn answers(question: &Question, policies: &PolicySet, settings: &Settings) -> Vec<Answer> {
    let now = clock::now();
    let answer = |direction| question.answer(direction, policies, settings, now);
    let restricted = question.source().is_some_and(|source| policies.restricts(source));
    let egress = restricted.then(|| answer(Direction::Egress));
    egress.into_iter().chain([answer(Direction::Inbound)]).collect()
}
