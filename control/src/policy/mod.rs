//! Policy documents: checked on the way in, explained on the way out. What they mean is decided in
//! [`signet_proto::policy`], the same for control and for proxies.

use std::collections::HashSet;

use signet_proto::clock;
use signet_proto::policy::{
    CompileError, Document, Layer, ParseError, PolicySet, Request, Verdict, parse_json, parse_yaml,
};
use signet_proto::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

use crate::roles::{Permission, Refused, Scope};
use crate::store::model::{Commit, Mutation, NewPolicy, Policy, PolicyChange};
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
    /// A document protects someone of another trust domain.
    #[error("{file}: policy `{name}`: target: expected one of trust domain `{expected}`, found `{found}`")]
    Domain {
        /// Where it came from.
        file: String,
        /// Which document.
        name: String,
        /// Ours.
        expected: TrustDomain,
        /// What came.
        found: TrustDomain,
    },
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

/// Applies and deletes documents.
#[derive(Clone)]
pub struct Policies {
    store: Store,
    trust_domain: TrustDomain,
}

impl Policies {
    /// Of one trust domain.
    #[must_use]
    pub fn new(store: Store, trust_domain: TrustDomain) -> Self {
        Self { store, trust_domain }
    }

    /// Applies a YAML stream of documents: all, or none with the place of the mistake. `permission` has to reach
    /// the targets of all, and of those that they replace.
    ///
    /// # Errors
    /// The first mistake, or why they are not permitted.
    pub async fn apply(
        &self,
        file: &str,
        yaml: &str,
        permission: impl Permission,
    ) -> Result<(Commit, Vec<(String, PolicyChange)>), PolicyError> {
        let documents = parse(file, yaml)?;
        self.require_own_targets(file, &documents)?;
        // Before anything is told of other documents; in the commit it is decided.
        let targets: Vec<_> = documents.iter().map(|document| Scope::Of(document.target.clone())).collect();
        permission.on_all(&targets)?;
        let replaced: HashSet<&str> = documents.iter().map(|document| document.name.as_str()).collect();
        let kept = self.store.policies().await?.into_iter().filter(|old| !replaced.contains(&*old.name));
        // One that cannot be read denies what it can, until it is replaced or deleted; it stops nobody.
        let kept = kept.filter_map(|old| parse_json(&old.document).ok());
        PolicySet::compile(kept.chain(documents.iter().cloned()).collect())
            .map_err(|error| PolicyError::Compile { file: file.to_owned(), error })?;
        let new = documents
            .iter()
            .map(|document| NewPolicy {
                name: document.name.clone(),
                target: document.target.to_string(),
                document: document.to_json(),
            })
            .collect();
        Ok(self.store.apply_policies(new, permission, together).await?)
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

    fn require_own_targets(&self, file: &str, documents: &[Document]) -> Result<(), PolicyError> {
        match documents.iter().find(|document| *document.target.trust_domain() != self.trust_domain) {
            None => Ok(()),
            Some(document) => Err(PolicyError::Domain {
                file: file.to_owned(),
                name: document.name.clone(),
                expected: self.trust_domain.clone(),
                found: document.target.trust_domain().clone(),
            }),
        }
    }
}

/// Whether stored documents, as JSON, go together.
fn together(documents: &[&str]) -> Result<(), String> {
    let readable = documents.iter().filter_map(|document| parse_json(document).ok()).collect();
    PolicySet::compile(readable).map(drop).map_err(|error| error.to_string())
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
