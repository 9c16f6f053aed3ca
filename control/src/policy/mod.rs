//! Policy documents: checked on the way in, explained on the way out. What they mean is decided in
//! [`signet_proto::policy`], the same for control and for proxies.

use signet_proto::clock;
use signet_proto::policy::{
    CompileError, Document, Layer, ParseError, PolicySet, Request, Verdict, parse_yaml,
};
use signet_proto::spiffe::{SpiffeId, SpiffeIdError};

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
    /// An ID in a question does not parse.
    #[error("{field}: {error}")]
    Id {
        /// Source or destination.
        field: &'static str,
        /// What is wrong with it.
        error: SpiffeIdError,
    },
    /// A port in a question is out of range.
    #[error("port: expected 1 to 65535, found {0}")]
    Port(u32),
    /// Half an HTTP question.
    #[error("method and path go together: expected both, or neither for an opaque connection")]
    HalfHttp,
    /// Whoever asks may not: the documents protect whom their roles do not reach.
    #[error(transparent)]
    NotPermitted(#[from] Refused),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A question about one connection or request.
#[derive(Debug)]
pub struct Question {
    source: SpiffeId,
    destination: SpiffeId,
    port: u16,
    http: Option<(String, String)>,
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

impl Question {
    /// Reads a question; method and path both empty: an opaque connection.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(
        source: &str,
        destination: &str,
        port: u32,
        method: &str,
        path: &str,
    ) -> Result<Self, PolicyError> {
        let id = |field, text: &str| text.parse().map_err(|error| PolicyError::Id { field, error });
        Ok(Self {
            source: id("source", source)?,
            destination: id("destination", destination)?,
            port: u16::try_from(port).ok().filter(|port| *port != 0).ok_or(PolicyError::Port(port))?,
            http: match (method.is_empty(), path.is_empty()) {
                (true, true) => None,
                (false, false) => Some((method.to_owned(), path.to_owned())),
                _ => return Err(PolicyError::HalfHttp),
            },
        })
    }

    /// Who is called: whose policy decides.
    #[must_use]
    pub fn destination(&self) -> &SpiffeId {
        &self.destination
    }

    /// What a proxy would decide now, and why.
    #[must_use]
    pub fn answer(&self, policies: &PolicySet) -> (Verdict, String) {
        let layer = match &self.http {
            None => Layer::Opaque,
            Some((method, path)) => Layer::Http { method, path },
        };
        let request = Request {
            source: Some(&self.source),
            destination: &self.destination,
            port: self.port,
            layer,
            now: clock::now(),
        };
        (policies.decide(&request), policies.explain(&request).to_string())
    }
}
