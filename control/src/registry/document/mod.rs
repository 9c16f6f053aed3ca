//! Documents of `kind: Workload` and `kind: Policy`: read from files together, written in one form.
//!
//! ```text
//!   files ──DocumentSet::read──▶ Placed<Declaration>, Placed<Document> ──plan──▶ ...
//!   Declaration, Document ──to_yaml──▶ what reads as the same
//! ```

mod read;
mod set;
mod write;

pub use set::{DocumentSet, File, MAX_DOCUMENTS, MAX_FILES, MAX_SET_BYTES, Placed, SetError};
pub use write::{policy_yaml, workload_yaml};
