//! Refusals for the audit: who was denied what, in which call, and why. Only of those who are known, and only so many
//! ([`RefusalLimiter`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Value, json};
use signet_proto::spiffe::SpiffeId;
use signet_proto::verbs::Verb;
use tonic::{Code, Status};

use super::caller::{Caller, Peer};
use crate::audit::{Action, Annotation, RefusalLimiter, RequestId, Verdict};
use crate::roles::{Needs, needs};
use crate::store::model::Actor;
use crate::store::{Refusal, Store};
use crate::telemetry::metrics;

const PACKAGE: &str = "/signet.v1.";

/// Records refusals.
#[derive(Clone)]
pub(super) struct Refusals {
    store: Store,
    limiter: Arc<Mutex<RefusalLimiter>>,
}

impl Refusals {
    pub(super) fn new(store: Store) -> Self {
        Self { store, limiter: Arc::new(Mutex::new(RefusalLimiter::new(Instant::now()))) }
    }

    /// A call was answered with `status`.
    pub(super) async fn call(&self, caller: &Caller, verb: Verb, status: &Status, request: RequestId) {
        let (actor, id) = match &caller.peer {
            Peer::Local { uid } => (Actor::unix(*uid), None),
            Peer::Identity(identity) => (Actor::identity(&identity.id), Some(identity.id.as_str())),
            Peer::Anonymous => return,
        };
        if verb == Verb::IdentityRenew && is_about_the_caller(status.code()) {
            let subject = id.unwrap_or_default().to_owned();
            self.record(actor, Action::SvidRefused, subject, status.message(), request).await;
        } else if matches!(needs(verb), Needs::Role(..)) && status.code() == Code::PermissionDenied {
            let call = verb.path().trim_start_matches(PACKAGE).to_owned();
            self.record(actor, Action::CallRefused, call, status.message(), request).await;
        }
    }

    /// Somebody proved to be a workload, and got no SVID all the same.
    pub(super) async fn attested(&self, id: &SpiffeId, from: IpAddr, status: &Status, request: RequestId) {
        if is_about_the_caller(status.code()) {
            let subject = id.to_string();
            self.record(Actor::anonymous(from), Action::SvidRefused, subject, status.message(), request)
                .await;
        }
    }

    /// The same, because of what the caller is not told.
    pub(super) async fn stands_not(
        &self,
        id: &SpiffeId,
        from: IpAddr,
        refusal: &Refusal,
        request: RequestId,
    ) {
        let because = refusal.to_string();
        self.record(Actor::anonymous(from), Action::SvidRefused, id.to_string(), &because, request).await;
    }

    async fn record(&self, actor: Actor, action: Action, subject: String, because: &str, request: RequestId) {
        // An address can be changed at will, a workload or a user cannot.
        let who = if action == Action::SvidRefused { subject.as_str() } else { actor.as_str() };
        let verdict = self.limiter.lock().refused(who, action.as_str(), Instant::now());
        metrics::audit_refusal(matches!(verdict, Verdict::Record { .. }));
        let Verdict::Record { left_out } = verdict else { return };
        let detail = if left_out > 0 { json!({ "left_out": left_out }) } else { Value::Null };
        let detail = Annotation::request(Some(request)).because(because).on(detail);
        tracing::warn!(%actor, action = action.as_str(), subject, %detail, "refused");
        if let Err(error) = self.store.record_refusal(actor, action, subject, detail).await {
            tracing::error!(%error, "the audit lacks a refusal");
        }
    }
}

/// Faults of ours are no refusals.
fn is_about_the_caller(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition)
}
