//! Whether our app may call whom it means, where egress documents restrict it. Decided before an endpoint is chosen:
//! with what is known of the connection first, then again as bytes, or request by request.
//!
//! A connection that the documents have nothing to say about is entered in the table all the same, so that a document
//! that comes later is held against it.

use std::sync::Arc;

use super::Refusal;
use super::calls::Calls;
use crate::capture::Remote;
use crate::config::Requested;
use crate::connections::{Content, Peer, Registration, Subject};
use crate::forward::upstream::UpstreamError;
use crate::mesh::Snapshot;
use crate::run::Shared;
use crate::telemetry::{AccessRecord, CloseReason, Direction};

/// The right of one connection of our app.
pub(super) struct Egress {
    shared: Arc<Shared>,
    subject: Subject,
    registration: Registration,
}

impl Egress {
    /// Enters a connection to whom our app means in the table.
    pub(super) fn register(calls: &Calls, snapshot: &Snapshot, remote: Remote) -> Self {
        let shared = &calls.shared;
        let subject = Subject {
            direction: Direction::Outbound,
            peer: Peer::Meant(calls.callee.peer.clone()),
            local: snapshot.svid.id().clone(),
            port: calls.port(snapshot),
            address: remote.address().map(|address| address.ip()),
            content: Content::Connection,
        };
        let registration = shared.connections.register(subject.clone());
        Self { shared: Arc::clone(shared), subject, registration }
    }

    /// Decides with the newest snapshot, as far as the content is known.
    pub(super) fn authorize(&self, record: &mut AccessRecord) -> Result<(), Refusal> {
        let not_ready = || (CloseReason::Error, Some(UpstreamError::NotReady.to_string()));
        let snapshot = self.shared.mesh.current().ok_or_else(not_ready)?;
        let Some(verdict) = self.registration.decide(&snapshot) else { return Ok(()) };
        let allowed = verdict.allowed;
        record.decided(verdict, snapshot.generation);
        if allowed {
            return Ok(());
        }
        Err((CloseReason::Denied, Some(self.registration.explain(&snapshot))))
    }

    /// It carries bytes that are not HTTP: decides again.
    pub(super) fn carries_bytes(&self, record: &mut AccessRecord) -> Result<(), Refusal> {
        self.registration.carries(Content::Opaque);
        self.authorize(record)
    }

    /// What ends with the right.
    pub(super) fn right(&self) -> &Registration {
        &self.registration
    }

    /// The same, for as long as bytes are carried.
    pub(super) fn into_right(self) -> Registration {
        self.registration
    }

    /// It carries requests, each of which is decided on its own: the connection gives up its own place, so that an
    /// app whose right is lost is told so instead of cut off.
    pub(super) fn into_subject(self) -> Subject {
        self.subject
    }
}

/// Why our app may not call who has no identity, if it may not: a rule can only name those that have one.
pub(super) fn restricted(shared: &Shared, requested: &Requested) -> Option<String> {
    let Some(snapshot) = shared.mesh.current() else { return Some(UpstreamError::NotReady.to_string()) };
    let local = snapshot.svid.id();
    snapshot.policy.restricts(local).then(|| {
        format!(
            "Denied: egress policy restricts whom {local} may call, and {requested} has no identity that a rule could name."
        )
    })
}
