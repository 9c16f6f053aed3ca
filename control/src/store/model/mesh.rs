//! What proxies see and tell: revocations, the state of the mesh, leases and streams.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use signet_proto::locality::Locality;
use signet_proto::policy::{Schema, Subtree};
use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::{BundleRead, Commit, NewService, Policy};
use crate::roles::Scope;

/// What to revoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// A whole identity, with all its instances.
    Identity(SpiffeId),
    /// One attested instance.
    Instance(InstanceId),
    /// One certificate, by serial, and with it the instance that holds it.
    Serial(Vec<u8>),
    /// A key, by the SHA-256 of its SubjectPublicKeyInfo, with every instance that has it.
    Key([u8; 32]),
    /// Every identity below, and the templates that only give such.
    Subtree(Subtree),
    /// Every identity and template of a team.
    Owner(String),
    /// All that an intermediate signed, by its id, serial or SHA-256, in hex.
    Issuer(String),
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

/// An order to renew at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationOrder {
    /// Whose proxies.
    pub scope: Scope,
    /// SVIDs that were issued before are meant.
    pub issued_before: SystemTime,
    /// Each renews at a moment within this time.
    pub within: Duration,
}

/// What proxies see, as far as it was asked for.
#[derive(Debug, Clone)]
pub struct MeshRead {
    /// The newest revision in it.
    pub commit: Commit,
    /// The trust bundle.
    pub bundle: Option<BundleRead>,
    /// All documents, by name.
    pub policies: Option<Vec<Policy>>,
    /// All revocations.
    pub revocations: Option<RevocationList>,
    /// The document of the mesh; empty: there is none.
    pub settings: Option<String>,
    /// All documents of services, by identity.
    pub services: Option<Vec<NewService>>,
    /// All orders to renew.
    pub rotations: Option<Vec<RotationOrder>>,
    /// What was known is not what the store had then: it is another history, and this is all of it.
    pub went_back: bool,
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
    /// Where it says that it runs.
    pub locality: Option<Locality>,
}

/// What is known of an instance's Watch stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether the stream was opened since this was written down last.
    pub opened: bool,
    /// Where it is and listens.
    pub lease: Lease,
    /// The number of the stream among those of its instance: the greatest is the newest.
    pub claim: u64,
    /// Version of the proxy.
    pub version: String,
    /// The policy documents that it reads.
    pub schema: Schema,
    /// When the stream was opened.
    pub opened_at: SystemTime,
    /// When anything was heard from it last.
    pub seen_at: SystemTime,
    /// The newest revision that it has in force.
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
    /// The policy documents that it reads.
    pub schema: Schema,
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
