//! What lists of the inventory are made of.

use std::time::SystemTime;

use signet_proto::spiffe::{InstanceId, SpiffeId};

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Big-endian.
    pub serial: Vec<u8>,
    /// Whom it names.
    pub spiffe_id: SpiffeId,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// When it was signed.
    pub issued_at: SystemTime,
    /// When it was last seen in use, to a few minutes; `None`: never.
    pub seen_at: Option<SystemTime>,
    /// SHA-256 of the issuer's name, DER.
    pub issuer_sha256: [u8; 32],
    /// SHA-256 of its key, DER.
    pub spki_sha256: [u8; 32],
    /// Which authority signed it.
    pub authority: String,
    /// That one's common name.
    pub issuer: String,
    /// The instance it was issued to; `None`: control itself.
    pub instance: Option<InstanceId>,
    /// That instance stopped renewing.
    pub instance_lapsed: bool,
    /// That instance has no newer one.
    pub is_newest: bool,
    /// Who answers for the workload.
    pub owner: String,
    /// How they are reached.
    pub contact: String,
    /// What the workload is for.
    pub purpose: String,
}

/// An attested instance and its newest SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedInstance {
    /// Its identity.
    pub spiffe_id: SpiffeId,
    /// The instance.
    pub instance: InstanceId,
    /// As it is stored: `active`, `departed`, `revoked` or `lapsed`.
    pub status: String,
    /// What proved it: `join_token`, `svid`, or the attestor's name.
    pub proof: String,
    /// The facts of that, as JSON; empty: none.
    pub evidence: String,
    /// Where its stream is or was; if it never had one, from where it attested.
    pub address: String,
    /// Version of the program.
    pub version: String,
    /// When it proved itself.
    pub attested_at: SystemTime,
    /// How often it renewed.
    pub renewals: u64,
    /// Of the newest SVID, big-endian.
    pub serial: Vec<u8>,
    /// Its start.
    pub not_before: SystemTime,
    /// Its end.
    pub not_after: SystemTime,
    /// Who answers for the workload.
    pub owner: String,
    /// How they are reached.
    pub contact: String,
    /// What the workload is for.
    pub purpose: String,
    /// Neither suspended nor retired.
    pub workload_is_active: bool,
    /// The replica that holds its open stream.
    pub replica: Option<String>,
    /// When anything was heard of it.
    pub last_seen: SystemTime,
}
