//! What a proof amounts to, whatever kind it was.

use std::collections::BTreeSet;

use crate::registry::Selector;

/// The facts that an attestor believes about whoever asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Proven {
    /// The attestor's name.
    pub attestor: String,
    /// The facts. A workload matches when all its selectors are among them.
    pub selectors: BTreeSet<Selector>,
    /// Small, for the audit.
    pub evidence: serde_json::Value,
}
