//! What people decide about a workload: everything that its document says.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use signet_proto::policy::Pattern;
use signet_proto::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

use super::dns::DnsName;
use super::selector::Selector;
use super::template::{Template, TemplateError};
use super::{MAX_TTL, TtlBounds, is_reserved};
use crate::duration::Span;
use crate::roles::Scope;
use crate::store::model::{UnknownWord, WorkloadStatus};

/// Most selectors of one workload.
pub const MAX_SELECTORS: usize = 16;
/// Most DNS names of one workload.
pub const MAX_DNS_NAMES: usize = 16;
/// Longest name of an environment, in bytes.
const MAX_ENVIRONMENT_BYTES: usize = 63;

/// One workload, or by a template many.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// One identity.
    Identity(SpiffeId),
    /// One for each proof that fills the template.
    Template(Template),
}

/// Who answers for a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The team.
    pub team: String,
    /// Where it is reached.
    pub contact: Option<String>,
}

/// The life of a workload's SVIDs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ttl {
    /// When nothing else is asked for; absent only until control's own is filled in.
    pub default: Option<Duration>,
    /// Shortest that may be asked for; absent: control's.
    pub min: Option<Duration>,
    /// Longest that may be asked for; absent: control's.
    pub max: Option<Duration>,
}

/// How many people approve each new instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Approval {
    /// Proof is enough.
    #[default]
    None,
    /// One approver.
    One,
    /// Two different approvers.
    Two,
}

/// A workload as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its SPIFFE ID, or a template of many.
    pub name: Name,
    /// Who answers for it.
    pub owner: Owner,
    /// What it is for.
    pub purpose: String,
    /// Where it runs, as people call it.
    pub environment: Option<String>,
    /// What has to be proven to get its identity; empty: only join tickets give it.
    pub selectors: BTreeSet<Selector>,
    /// Life of its SVIDs.
    pub ttl: Ttl,
    /// Names that its SVIDs may carry.
    pub dns: BTreeSet<DnsName>,
    /// Whether it gets SVIDs.
    pub status: WorkloadStatus,
    /// From then on it gets none.
    pub until: Option<SystemTime>,
    /// Who has to agree to each new instance.
    pub approval: Approval,
}

/// Why a declaration is not acceptable, and in which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Mistake {
    /// As in the document.
    pub field: &'static str,
    /// What was expected.
    pub message: String,
}

/// Why a text names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not a SPIFFE ID.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// Has braces, but is no template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The trust domain itself.
    #[error("it names the trust domain, not a workload: expected a path after it")]
    NotWorkload,
    /// Control's own names.
    #[error("it is reserved: names below `/signet/` are control's own")]
    Reserved,
}

impl Name {
    /// The trust domain of the workload.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Identity(id) => id.trust_domain(),
            Self::Template(template) => template.trust_domain(),
        }
    }

    /// The SPIFFE ID with or without variables.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Identity(id) => id.as_str(),
            Self::Template(template) => template.as_str(),
        }
    }

    /// All that it can name.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self {
            Self::Identity(id) => Scope::identity(id),
            Self::Template(template) => Scope::Of(Pattern::Subtree(template.subtree())),
        }
    }

    /// Whether it can name this one.
    #[must_use]
    pub fn gives(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Identity(own) => own == id,
            Self::Template(template) => template.values_of(id).is_some(),
        }
    }

    /// Whether a variable of this name can be used.
    fn has_variable(&self, wanted: &str) -> bool {
        match self {
            Self::Identity(_) => false,
            Self::Template(template) => template.variables().any(|variable| variable == wanted),
        }
    }
}

impl Declaration {
    /// Whether its parts go together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), Mistake> {
        self.check_selectors()?;
        self.check_ttl()?;
        for name in &self.dns {
            if let Some(variable) = name.variables().find(|variable| !self.name.has_variable(variable)) {
                let message = format!("`{{{variable}}}` in `{name}` is no variable of the id");
                return Err(Mistake { field: "dns", message });
            }
        }
        Ok(())
    }

    fn check_selectors(&self) -> Result<(), Mistake> {
        let wrong = |message: String| Err(Mistake { field: "selectors", message });
        if self.selectors.is_empty() && matches!(self.name, Name::Template(_)) {
            return wrong("a template needs one: the attestor whose proofs give the variables".into());
        }
        // Sorted by attestor, and an attestor alone before its facts.
        let (first, last) = (self.selectors.first(), self.selectors.last());
        if let (Some(first), Some(last)) = (first, last) {
            if first.attestor() != last.attestor() {
                return wrong(format!(
                    "a proof is of one attestor, so `{}` and `{}` never hold together",
                    first.attestor(),
                    last.attestor()
                ));
            }
            if first.key_value().is_none() && first != last {
                return wrong(format!("`{first}` says nothing that the others do not: leave it out"));
            }
        }
        Ok(())
    }

    fn check_ttl(&self) -> Result<(), Mistake> {
        let wrong = |message: String| Err(Mistake { field: "ttl", message });
        let Ttl { default, min, max } = self.ttl;
        for ttl in [min, default, max].into_iter().flatten() {
            if ttl.is_zero() || ttl > MAX_TTL || ttl.subsec_nanos() != 0 {
                return wrong(format!("expected whole seconds, from `1s` to `{}`", Span(MAX_TTL)));
            }
        }
        let steps: Vec<Duration> = [min, default, max].into_iter().flatten().collect();
        if !steps.is_sorted() {
            return wrong("expected `min` <= `default` <= `max`".into());
        }
        Ok(())
    }

    /// The declaration in the mesh of this control: checked against its bounds, its usual life filled in.
    ///
    /// # Errors
    /// What does not fit here.
    pub fn settle(mut self, trust_domain: &TrustDomain, bounds: TtlBounds) -> Result<Self, Mistake> {
        if self.name.trust_domain() != trust_domain {
            let message = format!(
                "`{}` is not of this trust domain: expected `spiffe://{trust_domain}/...`",
                self.name
            );
            return Err(Mistake { field: "id", message });
        }
        self.check()?;
        let Ttl { default, min, max } = self.ttl;
        let within = bounds.min..=bounds.max;
        if let Some(ttl) = [default, min, max].into_iter().flatten().find(|ttl| !within.contains(ttl)) {
            let message = format!(
                "`{}` is out of control's bounds: expected from `{}` to `{}`",
                Span(ttl),
                Span(bounds.min),
                Span(bounds.max)
            );
            return Err(Mistake { field: "ttl", message });
        }
        let usual = bounds.default.max(min.unwrap_or(bounds.min)).min(max.unwrap_or(bounds.max));
        self.ttl.default = Some(default.unwrap_or(usual));
        Ok(self)
    }
}

/// A word for where a workload runs.
///
/// # Errors
/// When it is not made of lower-case letters, digits and `-`.
pub(crate) fn environment(text: &str) -> Result<String, Mistake> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if text.is_empty() || text.len() > MAX_ENVIRONMENT_BYTES || !text.bytes().all(allowed) {
        let message = format!("expected 1 to {MAX_ENVIRONMENT_BYTES} lower-case letters, digits and `-`");
        return Err(Mistake { field: "environment", message });
    }
    Ok(text.to_owned())
}

impl Approval {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::One => "one",
            Self::Two => "two",
        }
    }

    /// How many people.
    #[must_use]
    pub fn approvers(self) -> u32 {
        match self {
            Self::None => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl FromStr for Approval {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "none" => Ok(Self::None),
            "one" => Ok(Self::One),
            "two" => Ok(Self::Two),
            other => Err(UnknownWord(other.to_owned())),
        }
    }
}

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<SpiffeId> for Name {
    fn from(id: SpiffeId) -> Self {
        Self::Identity(id)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(['{', '}']) {
            return Ok(Self::Template(text.parse()?));
        }
        let id: SpiffeId = text.parse()?;
        if !id.is_workload() {
            return Err(NameError::NotWorkload);
        }
        if is_reserved(&id) {
            return Err(NameError::Reserved);
        }
        Ok(Self::Identity(id))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
