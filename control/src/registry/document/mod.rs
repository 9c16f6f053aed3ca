//! Documents of `kind: Workload`, `kind: Policy` and `kind: Mesh`: read from files together, written in one form.
//!
//! ```text
//!   files ──DocumentSet::read──▶ Placed<Declaration>, Placed<Document>, Placed<Settings> ──plan──▶ ...
//!   Declaration, Document, Settings ──to_yaml──▶ what reads as the same
//! ```

mod read;
mod set;
mod write;

pub use set::{DocumentSet, File, MAX_DOCUMENTS, MAX_FILES, MAX_SET_BYTES, Placed, SetError};
pub(super) use write::{mesh_yaml, service_yaml};
pub use write::{policy_yaml, workload_yaml};
