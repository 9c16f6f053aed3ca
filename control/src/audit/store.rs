//! What the audit needs of a store besides the events themselves. A trait, so that all of it is tested without one.

use super::chain::AuditEvent;
use super::checkpoint::Checkpoint;
use super::key::AuditKeyRecord;
use crate::store::StoreError;

/// Durable state of the audit, shared by all replicas.
pub trait AuditStore: Clone + Send + Sync + 'static {
    /// At most `limit` events after `sequence`, oldest first.
    fn events_after(
        &self,
        sequence: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<AuditEvent>, StoreError>> + Send;

    /// The newest event.
    fn newest_event(&self) -> impl Future<Output = Result<Option<AuditEvent>, StoreError>> + Send;

    /// The newest revision.
    fn revision(&self) -> u64;

    /// The key that signs checkpoints, if it was made.
    fn audit_key(&self) -> impl Future<Output = Result<Option<AuditKeyRecord>, StoreError>> + Send;

    /// Keeps the key, unless there is one: of several replicas that start together the first decides. Returns the
    /// one that counts.
    fn create_audit_key(
        &self,
        record: AuditKeyRecord,
    ) -> impl Future<Output = Result<AuditKeyRecord, StoreError>> + Send;

    /// The checkpoint of the highest sequence.
    fn newest_checkpoint(&self) -> impl Future<Output = Result<Option<Checkpoint>, StoreError>> + Send;

    /// At most `limit` checkpoints of events after `sequence`, oldest first.
    fn checkpoints_after(
        &self,
        sequence: u64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Checkpoint>, StoreError>> + Send;

    /// Keeps a checkpoint; [`StoreError::Exists`] if it does not come after those that are there.
    fn add_checkpoint(&self, checkpoint: Checkpoint) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Up to where a sink has everything: 0 before the first.
    fn sink_position(&self, name: String) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Remembers up to where a sink has everything.
    fn set_sink_position(
        &self,
        name: String,
        sequence: u64,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records that control starts although the store does not contain this checkpoint.
    fn accept_older(
        &self,
        checkpoint: Checkpoint,
        because: String,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The event that records it, if there is one.
    fn accepted_older(
        &self,
        checkpoint: &Checkpoint,
    ) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;
}
