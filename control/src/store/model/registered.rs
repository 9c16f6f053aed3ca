//! What is registered: workloads, policies, roles, and tokens to join as one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{InstanceId, SpiffeId};

use crate::registry::{Approval, Declaration, OwnerLabel, Template};
use crate::roles::Binding;

/// Whether a workload gets SVIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadStatus {
    /// It does.
    Active,
    /// Not now; can be resumed.
    Suspended,
    /// Never again.
    Retired,
}

impl WorkloadStatus {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for WorkloadStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stored word that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown value `{0}`")]
pub struct UnknownWord(pub String);

impl FromStr for WorkloadStatus {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "active" => Ok(Self::Active),
            "suspended" => Ok(Self::Suspended),
            "retired" => Ok(Self::Retired),
            other => Err(UnknownWord(other.to_owned())),
        }
    }
}

/// One identity, for whoever gives out SVIDs.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name.
    pub spiffe_id: SpiffeId,
    /// Who answers for it.
    pub owner: String,
    /// What it is for.
    pub purpose: String,
    /// Usual life of its SVIDs.
    pub ttl: Duration,
    /// Shortest that may be asked for; `None`: control's.
    pub ttl_min: Option<Duration>,
    /// Longest that may be asked for; `None`: control's.
    pub ttl_max: Option<Duration>,
    /// DNS names that its SVIDs may carry.
    pub dns: Vec<String>,
    /// Whether it gets SVIDs.
    pub status: WorkloadStatus,
    /// From then on it gets none.
    pub until: Option<SystemTime>,
    /// Who has to agree to each new instance.
    pub approval: Approval,
    /// The template that gave it, if it has no registration of its own.
    pub template: Option<Template>,
    /// Suspended by hand or with a revocation: no document lifts that.
    pub held: bool,
    /// When it was registered.
    pub created_at: SystemTime,
    /// The revision of its last change.
    pub revision: u64,
}

impl Workload {
    /// What its SVIDs may be.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            ttl: self.ttl,
            ttl_min: self.ttl_min,
            ttl_max: self.ttl_max,
            dns: self.dns.iter().cloned().collect(),
            until: self.until,
        }
    }
}

/// What the SVIDs of a workload may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Their usual life.
    pub ttl: Duration,
    /// Shortest that may be asked for; `None`: control's.
    pub ttl_min: Option<Duration>,
    /// Longest that may be asked for; `None`: control's.
    pub ttl_max: Option<Duration>,
    /// Their DNS names.
    pub dns: BTreeSet<String>,
    /// None outlives this.
    pub until: Option<SystemTime>,
}

/// Whom a proof entitles to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitled {
    /// The identity.
    pub id: SpiffeId,
    /// What its SVIDs may be.
    pub terms: Terms,
}

/// A workload or template as it is registered: what `apply` compares with, and what `export` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// What was declared; its status is the one in force.
    pub declaration: Declaration,
    /// Of an identity: the template that gave it; `None`: it has a registration of its own.
    pub template: Option<Template>,
    /// Whose documents it is in; `None`: registered by hand.
    pub managed_by: Option<OwnerLabel>,
    /// Suspended by hand or with a revocation: no document lifts that.
    pub held: bool,
    /// When it was registered.
    pub created_at: SystemTime,
    /// The revision of its last change.
    pub revision: u64,
}

/// All that documents can say, as of one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// Workloads and templates by name, without the identities that templates gave.
    pub workloads: Vec<Registered>,
    /// Policies by name.
    pub policies: Vec<ManagedPolicy>,
    /// The settings of the mesh, if somebody applied some.
    pub mesh: Option<ManagedMesh>,
    /// Services, by identity.
    pub services: Vec<ManagedService>,
    /// The revision of their last change.
    pub changed: u64,
}

/// A stored policy document, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedPolicy {
    /// The document.
    pub policy: Policy,
    /// Whose documents it is in; `None`: nobody said.
    pub managed_by: Option<OwnerLabel>,
}

/// A stored document of a service, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedService {
    /// The document.
    pub service: NewService,
    /// Whose documents it is in.
    pub managed_by: Option<OwnerLabel>,
}

/// A document of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewService {
    /// Whose calls it is about.
    pub id: SpiffeId,
    /// The document, as JSON.
    pub document: String,
}

/// The stored settings of the mesh, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedMesh {
    /// The document, as JSON.
    pub document: String,
    /// When it was applied.
    pub applied_at: SystemTime,
    /// By whom.
    pub applied_by: String,
    /// The revision that it became.
    pub revision: u64,
    /// Whose documents it is in.
    pub managed_by: Option<OwnerLabel>,
}

/// A join token to be stored: its secret only as a hash.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// The one workload it is for.
    pub spiffe_id: SpiffeId,
    /// When it stops being redeemable.
    pub expires_at: SystemTime,
}

/// What a presented secret stands for.
#[derive(Debug, Clone)]
pub struct Token {
    /// The workload it is for.
    pub workload: Workload,
    /// The instance that redeemed it a moment ago, and may ask again: its answer may be lost.
    pub redeemed_by: Option<InstanceId>,
}

/// A policy document to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPolicy {
    /// Its name.
    pub name: String,
    /// Whom it protects.
    pub target: String,
    /// JSON.
    pub document: String,
}

/// A stored policy document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whom it protects.
    pub target: String,
    /// JSON.
    pub document: String,
    /// When it was applied last.
    pub applied_at: SystemTime,
    /// By whom.
    pub applied_by: String,
}

/// A role that someone has, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedRole {
    /// Who has what on what.
    pub binding: Binding,
    /// Since when.
    pub granted_at: SystemTime,
    /// By whom.
    pub granted_by: String,
}
