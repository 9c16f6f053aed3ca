//! Who may talk to whom: the policy document, its compiled form, and the decision.
//!
//! ```text
//!   YAML ──parse_yaml──▶ Document ──to_json──▶ the wire ──parse_json──▶ Document
//!                            └──────── PolicySet::compile ────────┐
//!   Request (direction, source, destination, port, address, layer, now) ──▶ decide ──▶ Verdict
//!                                                               explain ──▶ a sentence
//! ```
//!
//! Control and proxies use the same `decide`, so what control predicts is what a proxy does. The room
//! is pure: no clock (the request carries the time), no I/O, and no negative conditions, so that a peer
//! without identity matches nothing. Deny by default is the invariant: an unknown field, an empty list
//! or a missing document can take rights away, never give any; removing an allow never widens access.
//!
//! Deny wins, then any allow, then deny. An absent condition means any; `deny` reads doubt as a match
//! and `allow` reads it as none (bytes that are not HTTP, a path that the app may read differently).
//!
//! A call passes two decisions: beside the source, where egress documents restrict whom it may call, and in front
//! of the destination, where documents protect it. Who has no egress document is not restricted.

mod compile;
mod decide;
mod document;
mod explain;
#[cfg(test)]
mod golden;
mod header;
mod host;
mod narrow;
mod normal;
mod parse;
mod path;
mod pattern;
mod plaintext;
mod question;
mod read;
#[cfg(test)]
mod testing;

pub use crate::document::{MAX_TEXT_BYTES, ParseError};
pub use compile::{CompileError, MAX_DOCUMENTS, PolicySet};
pub use decide::{Audited, HttpRequest, Layer, Reason, Request, Verdict, is_grpc};
pub use document::{
    Direction, Document, Effect, Grpc, Http, KIND, MAX_GRPC_NAMES, MAX_HEADERS, MAX_HOSTS, MAX_METHODS,
    MAX_NAME_BYTES, MAX_NETWORKS, MAX_PATHS, MAX_PATTERNS, MAX_PORTS, MAX_RULES, Mode, Rule,
};
pub use explain::Explanation;
pub use header::{HeaderCondition, HeaderTest, KeptHeaders};
pub use host::{HostPattern, HostPatternError};
pub use narrow::{Narrowed, Schema};
pub use normal::{PathRefused, normalize};
pub use parse::{parse_json, parse_node, parse_yaml};
pub use path::{PathPattern, PathPatternError};
pub use pattern::{Pattern, PatternError, Subtree, ancestors};
pub use question::{Answer, Asked, Question, QuestionError};
