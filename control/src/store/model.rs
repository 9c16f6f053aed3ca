//! The store's vocabulary: what goes in and what comes out, free of any engine's types.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{InstanceId, SpiffeId};

use crate::attest::Proven;
use crate::audit::RequestId;
use crate::registry::{Approval, Declaration, OwnerLabel, Template};
use crate::roles::Binding;

/// Who makes a change, as the audit names it: `unix:uid=0`, a SPIFFE ID, or `control` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    name: Arc<str>,
    request_id: Option<RequestId>,
}

impl Actor {
    /// Control's own duties.
    #[must_use]
    pub fn control() -> Self {
        Self::named("control")
    }

    /// A local user, by the credentials of its socket.
    #[must_use]
    pub fn unix(uid: u32) -> Self {
        Self::named(format!("unix:uid={uid}"))
    }

    /// A verified identity.
    #[must_use]
    pub fn identity(id: &SpiffeId) -> Self {
        Self::named(id.as_str())
    }

    /// Someone not yet identified, at this address.
    #[must_use]
    pub fn anonymous(address: IpAddr) -> Self {
        Self::named(format!("anonymous@{address}"))
    }

    fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), request_id: None }
    }

    /// The same, in a call: what it does there is recorded with the call's name.
    #[must_use]
    pub fn in_call(self, request_id: Option<RequestId>) -> Self {
        Self { request_id, ..self }
    }

    /// The call, if it is one.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.request_id
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A committed change of what proxies see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Its place in the total order.
    pub revision: u64,
    /// When.
    pub at: SystemTime,
}

/// A committed change, told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The revision it became, or the newest one if it changed nothing.
    pub commit: Commit,
    /// What it touched, one line each.
    pub effects: Vec<String>,
}

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
    /// The usual life of an SVID that begins now: it does not outlive the workload.
    #[must_use]
    pub fn life(&self, now: SystemTime) -> Duration {
        life(self.ttl, self.until, now)
    }
}

/// The life of an SVID that begins now, of a workload that ends at `until`.
pub(super) fn life(ttl: Duration, until: Option<SystemTime>, now: SystemTime) -> Duration {
    let left = until.map(|until| until.duration_since(now).unwrap_or_default());
    let left = left.map(|left| Duration::from_secs(left.as_secs().max(1)));
    left.map_or(ttl, |left| left.min(ttl))
}

/// Whom a proof entitles to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitled {
    /// The identity.
    pub id: SpiffeId,
    /// The life of an SVID that begins now.
    pub ttl: Duration,
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

/// The record of a signed certificate.
#[derive(Debug, Clone)]
pub struct Issuance {
    /// 128-bit random serial, big-endian.
    pub serial: Vec<u8>,
    /// SHA-256 of the issuer's name, DER.
    pub issuer_sha256: [u8; 32],
    /// SHA-256 of the certified key, DER.
    pub spki_sha256: [u8; 32],
    /// Which authority signed.
    pub authority: String,
    /// Whom it names.
    pub spiffe_id: SpiffeId,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// What proved who asks: believed before, and asked again in the commit as far as it can have changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Evidence {
    /// A join token, by the SHA-256 of its secret: spent in the commit.
    JoinToken {
        /// SHA-256 of the secret.
        secret_sha256: [u8; 32],
    },
    /// Facts that an attestor proved: the commit finds again whom they entitle to.
    Proven(Proven),
    /// The SVID of another instance of the same identity, which the new one succeeds.
    Svid {
        /// The instance that asks.
        instance: InstanceId,
        /// Revocation names of the certificates presented: `issuer_sha256` and serial of each.
        presented: Vec<([u8; 32], Vec<u8>)>,
    },
}

impl Evidence {
    /// The way of proving, as the inventory and the audit name it: `join_token`, `svid`, or the attestor's name.
    #[must_use]
    pub fn proof(&self) -> &str {
        match self {
            Self::JoinToken { .. } => "join_token",
            Self::Proven(proven) => &proven.attestor,
            Self::Svid { .. } => "svid",
        }
    }
}

/// How long after an attestation its answer may be asked for again, with the same key.
pub const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What accompanies the first SVID of an instance.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// The new instance.
    pub instance: InstanceId,
    /// What proved it.
    pub evidence: Evidence,
    /// Version of the program that asked.
    pub version: String,
    /// From where it asked.
    pub address: IpAddr,
    /// In which call.
    pub request_id: Option<RequestId>,
}

/// What accompanies a further SVID of an instance.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The instance.
    pub instance: InstanceId,
    /// Revocation names of the certificates presented: `issuer_sha256` and serial of each.
    pub presented: Vec<([u8; 32], Vec<u8>)>,
    /// Version of the program that asked.
    pub version: String,
    /// In which call.
    pub request_id: Option<RequestId>,
}

/// The newest SVID of one instance.
#[derive(Debug, Clone)]
pub struct IssuedIdentity {
    /// Whom it names.
    pub spiffe_id: SpiffeId,
    /// Who answers for the workload.
    pub owner: String,
    /// What the workload is for.
    pub purpose: String,
    /// The instance.
    pub instance: InstanceId,
    /// Serial, big-endian.
    pub serial: Vec<u8>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// `active`, `departed`, `revoked`, `lapsed` or `expired`.
    pub status: &'static str,
    /// When the instance proved itself.
    pub attested_at: SystemTime,
    /// How often it renewed.
    pub renewals: u64,
    /// Version of the program.
    pub version: String,
}

/// A certificate authority with its sealed key.
#[derive(Debug, Clone)]
pub struct AuthorityRecord {
    /// Key id: 32 hex digits.
    pub id: String,
    /// Root or intermediate.
    pub kind: AuthorityKind,
    /// Common name.
    pub subject: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// The private key, sealed.
    pub sealed_key: Vec<u8>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// The two steps of the hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityKind {
    /// The trust anchor.
    Root,
    /// What signs leaves.
    Intermediate,
}

impl AuthorityKind {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }
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

/// What to revoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// A whole identity, with all its instances.
    Identity(SpiffeId),
    /// One attested instance.
    Instance(InstanceId),
    /// One certificate, by serial, and with it the instance that holds it.
    Serial(Vec<u8>),
}

/// Everything revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationList {
    /// SPIFFE IDs.
    pub identities: Vec<String>,
    /// Instances, and whether they lapsed rather than were revoked.
    pub instances: Vec<(String, bool)>,
    /// Issuer's name hash and serial.
    pub certificates: Vec<([u8; 32], Vec<u8>)>,
    /// SHA-256 of public keys.
    pub keys: Vec<[u8; 32]>,
}

/// What proxies see, as far as it was asked for.
#[derive(Debug, Clone)]
pub struct MeshRead {
    /// The newest revision in it.
    pub commit: Commit,
    /// Roots, DER.
    pub roots: Option<Vec<Vec<u8>>>,
    /// All documents, by name.
    pub policies: Option<Vec<Policy>>,
    /// All revocations.
    pub revocations: Option<RevocationList>,
}

/// Where one instance accepts mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The instance.
    pub instance: InstanceId,
    /// Its identity.
    pub spiffe_id: SpiffeId,
    /// Address that control sees.
    pub address: IpAddr,
    /// Where it listens there, ascending.
    pub listeners: Vec<Listener>,
}

/// What is known of an instance's Watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether the stream was opened since this was written down last.
    pub opened: bool,
    /// Where it is and listens.
    pub lease: Lease,
    /// Version of the proxy.
    pub version: String,
    /// When the stream was opened.
    pub opened_at: SystemTime,
    /// When anything was heard from it last.
    pub seen_at: SystemTime,
    /// The newest revision it said to have in force.
    pub in_force: u64,
    /// When it said so.
    pub in_force_at: SystemTime,
    /// Connections it cut because of that revision.
    pub closed: u64,
}

/// An open Watch stream that another replica holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElsewhereStanding {
    /// Whose.
    pub spiffe_id: SpiffeId,
    /// Which instance.
    pub instance: InstanceId,
    /// Its address.
    pub address: String,
    /// Version of the proxy.
    pub version: String,
    /// The newest revision it said to have in force.
    pub in_force: u64,
    /// When it said so.
    pub in_force_at: SystemTime,
    /// Connections it cut because of that revision.
    pub closed: u64,
}

/// A port that accepts mutual TLS, and the app behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// The app's port: what policy calls the port, and what callers choose by. 0: not said.
    pub app_port: u16,
}

/// Numbers for `signet status` and the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Registered and not retired.
    pub workloads: u64,
    /// Newest SVIDs, not revoked, that have not ended.
    pub live_svids: u64,
}
