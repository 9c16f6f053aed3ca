//! Revocation lists as they are stored, and what is in them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Why a certificate is listed (RFC 5280 section 5.3.1): of several reasons the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Its identity is suspended, and may be resumed.
    CertificateHold,
    /// Its identity is retired.
    CessationOfOperation,
    /// A person's, in words that are in the audit.
    Unspecified,
    /// Its key was revoked.
    KeyCompromise,
    /// The key of the authority was noted as compromised.
    CaCompromise,
}

/// A certificate that nobody is to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Big-endian, without leading zero.
    pub serial: Vec<u8>,
    /// Since when.
    pub at: SystemTime,
    /// Why.
    pub reason: Reason,
    /// When it ends by itself.
    pub ends: SystemTime,
}

/// Which lists of an authority are the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlHead {
    /// Whose.
    pub authority: String,
    /// Greater than that of every list of it before.
    pub number: u64,
    /// When they were made.
    pub this_update: SystemTime,
    /// Until when they may be believed.
    pub next_update: SystemTime,
}

/// The newest lists of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Which they are.
    pub head: CrlHead,
    /// What the next ones need to know of them.
    pub contents: String,
    /// DER.
    pub complete: Vec<u8>,
    /// DER.
    pub delta: Vec<u8>,
}
