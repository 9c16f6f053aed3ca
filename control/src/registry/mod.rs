//! Workloads: who may have an identity, who answers for it, what for, and what has to be proven to get it.
//!
//! ```text
//!   files ─▶ document ─▶ declarations ─▶ plan ─▶ store (which plans again, in the commit)
//!   proof ─▶ selectors ─▶ matching ─▶ one workload, by its own name or through a template
//! ```

mod apply;
mod claims;
mod declaration;
mod dns;
mod document;
mod label;
mod matching;
mod plan;
mod selector;
mod template;
#[cfg(test)]
mod testing;

pub use apply::{Application, Applied, ApplyError, Parts};
pub(crate) use claims::{require_own, require_own_names};
pub(crate) use declaration::environment;
pub use declaration::{
    Approval, Declaration, MAX_DNS_NAMES, MAX_SELECTORS, Mistake, Name, NameError, Owner, Ttl,
};
pub use dns::{DnsName, DnsNameError};
pub use document::{
    DocumentSet, File, MAX_DOCUMENTS, MAX_FILES, MAX_SET_BYTES, Placed, SetError, policy_yaml, workload_yaml,
};
pub use label::{OwnerLabel, OwnerLabelError};
pub use matching::{ChooseError, Match, Matches, choose, matching};
pub use plan::{Action, Change, FieldChange, Kind, Plan, PlanOptions, Refused, Write, plan};
pub use selector::{Selector, SelectorError};
pub use template::{ExpandError, Template, TemplateError, Values};

use std::sync::Arc;
use std::time::Duration;

use signet_proto::spiffe::{SpiffeId, TrustDomain};

use crate::roles::Permission;
use crate::store::model::{Actor, Mutation, Registered, WorkloadStatus};
use crate::store::{Store, StoreError};
use crate::visible::is_hidden;
use tokio::sync::Semaphore;

/// Control's own identity.
pub const CONTROL_PATH: &str = "/signet/control";
/// What is below is control's.
const RESERVED_SEGMENT: &str = "signet";
/// Owner and purpose: enough for a team with its contact, or a sentence.
const MAX_TEXT: usize = 256;
/// Sets of documents that are read at the same time.
const READ_AT_ONCE: usize = 2;
/// No SVID lives longer.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a workload is not registered or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The SPIFFE ID does not parse.
    #[error("spiffe id: {0}")]
    Id(#[from] signet_proto::spiffe::SpiffeIdError),
    /// Another trust domain's.
    #[error("`{id}` is not of this trust domain: expected `spiffe://{expected}/...`")]
    Domain {
        /// What came.
        id: SpiffeId,
        /// Ours.
        expected: TrustDomain,
    },
    /// The trust domain itself.
    #[error("`{0}` names the trust domain, not a workload: expected a path after it")]
    NotWorkload(SpiffeId),
    /// Control's own names.
    #[error("`{0}` is reserved: names below `/signet/` are control's own")]
    Reserved(SpiffeId),
    /// The name is neither a SPIFFE ID nor a template.
    #[error("`{name}`: {error}")]
    Name {
        /// What came.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// A field of a workload is not acceptable.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// A text is empty, too long or unprintable.
    #[error(
        "{field}: expected 1 to {MAX_TEXT} bytes, and nothing that is not seen: no control or formatting characters"
    )]
    Text {
        /// Which.
        field: &'static str,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The life of SVIDs: what is allowed and what is usual.
#[derive(Debug, Clone, Copy)]
pub struct TtlBounds {
    /// Shortest.
    pub min: Duration,
    /// Unless told otherwise.
    pub default: Duration,
    /// Longest: a half of an intermediate's life, as one signs that long before it is replaced.
    pub max: Duration,
}

/// Registers and changes workloads.
#[derive(Clone)]
pub struct Registry {
    store: Store,
    trust_domain: TrustDomain,
    ttl: TtlBounds,
    /// Sets of documents are large: few are read at the same time.
    reading: Arc<Semaphore>,
}

impl Registry {
    /// Of one trust domain.
    #[must_use]
    pub fn new(store: Store, trust_domain: TrustDomain, ttl: TtlBounds) -> Self {
        Self { store, trust_domain, ttl, reading: Arc::new(Semaphore::new(READ_AT_ONCE)) }
    }

    /// Registers a workload or template by hand, if `permission` reaches all that it can name.
    ///
    /// # Errors
    /// What is wrong with it, or why it is not permitted.
    pub async fn create(
        &self,
        declaration: Declaration,
        permission: impl Permission,
    ) -> Result<Registered, RegistryError> {
        let settled = declaration.settle(&self.trust_domain, self.ttl)?;
        Ok(self.store.create_workload(settled, permission).await?)
    }

    /// Whose workloads these are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All workloads and templates, and the identities that templates gave, by name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<Registered>, RegistryError> {
        Ok(self.store.workloads().await?)
    }

    /// Suspends, resumes or retires by hand.
    ///
    /// # Errors
    /// When there is no such workload, or it is retired.
    pub async fn set_status(
        &self,
        name: Name,
        status: WorkloadStatus,
        reason: &str,
        actor: Actor,
    ) -> Result<Mutation, RegistryError> {
        let reason = if reason.is_empty() { String::new() } else { text("reason", reason)? };
        Ok(self.store.set_workload_status(name, status, reason, actor).await?)
    }

    /// A workload's SPIFFE ID as [`Self::parse`] takes it, or a template of this trust domain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_name(&self, name: &str) -> Result<Name, RegistryError> {
        if !name.contains(['{', '}']) {
            return self.parse(name).map(Name::Identity);
        }
        let name = parse_name(name)?;
        if *name.trust_domain() != self.trust_domain {
            let message = format!(
                "`{name}` is not of this trust domain: expected `spiffe://{}/...`",
                self.trust_domain
            );
            return Err(Mistake { field: "id", message }.into());
        }
        Ok(name)
    }

    /// A workload's SPIFFE ID: of this trust domain, with a path, and not control's own.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(&self, id: &str) -> Result<SpiffeId, RegistryError> {
        let id: SpiffeId = id.parse()?;
        if *id.trust_domain() != self.trust_domain {
            return Err(RegistryError::Domain { id, expected: self.trust_domain.clone() });
        }
        if !id.is_workload() {
            return Err(RegistryError::NotWorkload(id));
        }
        if is_reserved(&id) {
            return Err(RegistryError::Reserved(id));
        }
        Ok(id)
    }
}

/// Whether a name is control's own.
fn is_reserved(id: &SpiffeId) -> bool {
    id.path().split('/').nth(1) == Some(RESERVED_SEGMENT)
}

/// A SPIFFE ID or template.
///
/// # Errors
/// When it is neither.
pub fn parse_name(name: &str) -> Result<Name, RegistryError> {
    name.parse().map_err(|error| RegistryError::Name { name: name.to_owned(), error })
}

/// A text for people, safe to print on a terminal and in a log.
pub(crate) fn text(field: &'static str, text: &str) -> Result<String, RegistryError> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.len() > MAX_TEXT || trimmed.chars().any(is_hidden) {
        return Err(RegistryError::Text { field });
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (tempfile::TempDir, Registry) {
        let directory = tempfile::tempdir().unwrap();
        let domain: TrustDomain = "mesh.local".parse().unwrap();
        let store = Store::open(directory.path(), &domain).unwrap();
        let ttl = TtlBounds {
            min: Duration::from_secs(60),
            default: Duration::from_secs(3600),
            max: Duration::from_secs(86_400),
        };
        (directory, Registry::new(store, domain, ttl))
    }

    fn named(name: &str) -> Result<Declaration, RegistryError> {
        let name = parse_name(name)?;
        Ok(Declaration { name, ..testing::declared("spiffe://mesh.local/w") })
    }

    #[tokio::test]
    async fn only_workloads_of_this_domain_outside_the_reserved_paths_are_registered() {
        let (_directory, registry) = registry();
        let create = async |id: &str| registry.create(named(id)?, Actor::control()).await;
        for (id, expected) in [
            ("spiffe://other.local/orders", "not of this trust domain"),
            ("spiffe://mesh.local", "names the trust domain"),
            ("spiffe://mesh.local/signet/control", "reserved"),
            ("spiffe://mesh.local/signet", "reserved"),
            ("spiffe://mesh.local/signet/{a}", "control's own"),
            ("spiffe://mesh.local/{a}", "a template needs one"),
            ("orders", "starts with `spiffe://`"),
        ] {
            let error = create(id).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{id}: {error}");
        }
        for id in ["spiffe://mesh.local/orders", "spiffe://mesh.local/signets"] {
            create(id).await.unwrap();
        }
        let again = create("spiffe://mesh.local/orders").await.unwrap_err();
        assert!(matches!(again, RegistryError::Store(StoreError::Exists { .. })));
    }

    #[tokio::test]
    async fn lives_out_of_bounds_are_refused_and_the_usual_one_is_filled_in() {
        let (_directory, registry) = registry();
        let life = |seconds| Some(Duration::from_secs(seconds));
        for ttl in [
            Ttl { default: life(59), ..Ttl::default() },
            Ttl { default: life(86_401), ..Ttl::default() },
            Ttl { default: life(0), ..Ttl::default() },
            Ttl { max: life(90_000), ..Ttl::default() },
            Ttl { min: life(600), default: life(500), max: None },
        ] {
            let declaration = Declaration { ttl, ..named("spiffe://mesh.local/orders").unwrap() };
            let refused = registry.create(declaration, Actor::control()).await;
            assert!(matches!(refused, Err(RegistryError::Mistake(Mistake { field: "ttl", .. }))), "{ttl:?}");
        }
        let long = Ttl { min: life(7_200), ..Ttl::default() };
        let declaration = Declaration { ttl: long, ..named("spiffe://mesh.local/orders").unwrap() };
        let created = registry.create(declaration, Actor::control()).await.unwrap();
        assert_eq!(created.declaration.ttl.default, life(7_200), "the usual hour is too short for it");
    }

    #[test]
    fn texts_for_people_are_short_and_printable() {
        for wrong in ["", "  ", "a\nb", "\u{1b}[31m", "sho\u{202e}p", "shop\u{200b}", &"x".repeat(257)] {
            assert!(matches!(text("owner", wrong), Err(RegistryError::Text { field: "owner" })), "{wrong:?}");
        }
    }
}
