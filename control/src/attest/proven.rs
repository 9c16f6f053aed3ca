//! What every attestor with selectors ends in: a set of facts about who asks, and what is kept of the proof.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::registry::Selector;

/// What an attestor has proven about a caller. A workload is the caller's if all of its selectors are here.
#[derive(Debug, Clone, PartialEq)]
pub struct Proven {
    /// The attestor, by its name in the settings.
    pub attestor: String,
    /// All that is proven: always at least the attestor alone.
    pub selectors: BTreeSet<Selector>,
    /// What the audit keeps of the proof: small, and nothing that proves anything again.
    pub evidence: serde_json::Value,
    /// By what it is known again.
    pub proof: ProofUse,
    /// Whether it is good with one key only, decided in the commit.
    pub one_key: bool,
}

/// A proof that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofUse {
    /// SHA-256 of what was signed of a token, of the public key of a certificate: of what has one form only.
    pub sha256: [u8; 32],
    /// From then on it proves nothing.
    pub ends: SystemTime,
}
