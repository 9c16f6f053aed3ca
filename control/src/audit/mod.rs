//! The audit: what happened, proof that the record of it is whole, and copies of both off the box.
//!
//! ```text
//!   change ──commit──▶ event N = hash over event N-1 (chain) ──▶ checkpoint: N, signed (checkpoint, key)
//!                         │                                         │
//!                         └────────── lines (line) ─────────────────┴──▶ sinks: file, HTTP (sink, export)
//!   signet audit verify ◀── lines: is every event what was written, and is none missing? (verify)
//!   start of control    ◀── newest checkpoint: is this store as new as it was? (guard)
//! ```
//!
//! The chain alone proves that nothing was changed in the middle; whoever can write the store can still write
//! another chain, or cut its end. Checkpoints are what they cannot make (the key is sealed) and cannot take back
//! (they are kept elsewhere). Invariants: nothing is signed that was not verified against the checkpoint before
//! it; nobody waits for a sink; a sink misses nothing, whatever happens to it or to control.

mod annotation;
mod chain;
mod checkpoint;
mod checkpointer;
pub(crate) mod durable;
mod export;
mod guard;
mod key;
mod line;
mod refusals;
mod sink;
mod store;
mod verify;

#[cfg(test)]
pub(crate) mod testing;

pub use annotation::{Annotation, RequestId};
pub use chain::{Action, AuditEvent, BrokenChain, ChainVerifier, GENESIS};
pub use checkpoint::{Checkpoint, CheckpointError, FORMAT};
pub use checkpointer::{CheckpointFailure, Checkpointer};
pub use export::{ExportError, Exporter, Exports, Progress, export_once, one_batch};
pub use guard::{
    CHECKPOINT_FILE, GuardError, TooOld, keep_newest, kept_checkpoints, newest_checkpoint,
    older_than_checkpoint, require_all_contained, require_contained,
};
pub use key::{AuditKey, AuditKeyError, AuditKeyRecord, AuditSigner};
pub use line::{Line, LineError};
pub use refusals::{LeftOut, RefusalLimiter, Refused, Verdict};
pub use sink::{HttpAddress, HttpError, Sink, SinkAddress, SinkAddressError, SinkError};
pub use store::AuditStore;
pub use verify::{CheckpointList, Finding, Report, Start, Verifier, verify};
