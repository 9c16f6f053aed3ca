//! What is issued, on what proof, and by which authority.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{InstanceId, SpiffeId};

use crate::attest::Proven;
use crate::audit::RequestId;

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

    /// The facts of it for the inventory, as JSON; empty: none.
    #[must_use]
    pub fn facts(&self) -> String {
        let facts = match self {
            Self::JoinToken { .. } => return String::new(),
            Self::Proven(proven) => proven.evidence.to_string(),
            Self::Svid { instance, .. } => {
                serde_json::json!({ "succeeds": instance.to_string() }).to_string()
            }
        };
        if facts.len() <= LONGEST_FACTS { facts } else { String::new() }
    }
}

/// Facts that are longer are in the audit only.
const LONGEST_FACTS: usize = 4096;

/// How long after an attestation its answer may be asked for again, with the same key.
pub const ASK_AGAIN: Duration = Duration::from_secs(600);

/// What accompanies the first SVID of an instance.
#[derive(Debug, Clone)]
pub struct Attestation {
    /// The new instance.
    pub instance: InstanceId,
    /// What proved it.
    pub evidence: Evidence,
    /// SHA-256 of the signing request.
    pub csr_sha256: [u8; 32],
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
