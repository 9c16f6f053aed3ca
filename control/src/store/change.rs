//! One change inside a batch: its time, its audit event, its revision.

use std::time::SystemTime;

use serde_json::Value;

use super::follow::Channels;
use super::heads::Heads;
use super::mesh::Topics;
use super::model::{Actor, Commit};
use super::sql::{Session, Sql, values};
use super::{StoreError, roles};
use crate::audit::{Action, Annotation};

/// What a job works with on the writer thread.
pub(super) struct Change<'a> {
    pub(super) sql: Sql<'a>,
    pub(super) at: SystemTime,
    heads: Heads,
    accounted: bool,
    /// Whether the roles by which its actor may have been asked again.
    judged: bool,
    channels: Option<&'a Channels>,
}

impl<'a> Change<'a> {
    pub(super) fn new(
        session: &'a dyn Session,
        heads: Heads,
        at: SystemTime,
        channels: Option<&'a Channels>,
    ) -> Self {
        Self { sql: Sql::new(session), at, heads, accounted: false, judged: false, channels }
    }

    /// Appends the audit event, with the name of the actor's call. If that fails, so does the change; and if the
    /// actor's roles are not any more what the call was judged by.
    pub(super) fn audit(
        &mut self,
        actor: &Actor,
        action: Action,
        subject: &str,
        detail: &Value,
    ) -> Result<(), StoreError> {
        if let (Some(held), false) = (actor.roles(), self.judged) {
            roles::require_held(&self.sql, actor.as_str(), held)?;
            self.judged = true;
        }
        let detail = Annotation::request(actor.request_id()).on(detail.clone());
        self.heads.audit(&self.sql, self.at, actor, action, subject, &detail)?;
        self.accounted = true;
        Ok(())
    }

    /// Marks bookkeeping that is nobody's decision (leases, pruning of what is over): no audit event.
    pub(super) fn operational(&mut self) {
        self.accounted = true;
    }

    /// Appends the revision; `topics` say which parts of the mesh's view it changed.
    pub(super) fn revise(&mut self, topics: Topics, subject: &str) -> Result<Commit, StoreError> {
        self.heads.revise(&self.sql, self.at, topics.bits(), subject, None)
    }

    /// Appends the revision of a change that concerns only those that the `targets` match.
    pub(super) fn revise_for<'t>(
        &mut self,
        topics: Topics,
        subject: &str,
        targets: impl IntoIterator<Item = &'t str>,
    ) -> Result<Commit, StoreError> {
        let targets: Vec<_> = targets.into_iter().collect();
        self.heads.revise(&self.sql, self.at, topics.bits(), subject, Some(&targets.join("\n")))
    }

    /// Tells other replicas, with the commit, that the endpoints of an instance changed.
    pub(super) fn tell_endpoints(&self, instance: &str) -> Result<(), StoreError> {
        if let Some(channels) = self.channels {
            self.sql.post("SELECT pg_notify(?1, ?2)", values![&channels.endpoints, instance])?;
        }
        Ok(())
    }

    /// The newest commit, for a change that turned out to change nothing.
    pub(super) fn newest(&self) -> Commit {
        self.heads.commit
    }

    /// A mutation that cannot be audited does not happen; neither does one that forgot to.
    pub(super) fn require_accounted(&self) -> Result<(), StoreError> {
        if self.accounted || !self.sql.has_changed() { Ok(()) } else { Err(StoreError::Unaudited) }
    }

    /// Where the logs end with this change.
    pub(super) fn heads(&self) -> Heads {
        self.heads
    }
}
