//! Refusals for the audit: who was denied what, in which call, and why. Only so many of each, of those who belong
//! together and of each kind ([`RefusalLimiter`]); what was left out is told in one event now and then.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use signet_proto::spiffe::SpiffeId;
use signet_proto::verbs::Verb;
use tonic::{Code, Status};

use super::caller::{Caller, Peer};
use crate::attest::Disbelief;
use crate::audit::{Action, Annotation, RefusalLimiter, Refused, RequestId, Verdict};
use crate::roles::{Needs, needs};
use crate::store::model::Actor;
use crate::store::{Refusal, Store, StoreError};
use crate::telemetry::metrics;

const PACKAGE: &str = "/signet.v1.";
/// Whoever has one address of a network is likely to have others of it.
const NETWORK_V4: u8 = 24;
const NETWORK_V6: u8 = 48;
/// An IPv6 host has all of these.
const HOST_V6: u8 = 64;

/// Records refusals.
#[derive(Clone)]
pub(super) struct Refusals {
    store: Store,
    limiter: Arc<Mutex<RefusalLimiter>>,
}

impl Refusals {
    pub(super) fn new(store: Store) -> Self {
        Self { store, limiter: Arc::default() }
    }

    /// A call was answered with `status`.
    pub(super) async fn call(&self, caller: &Caller, verb: Verb, status: &Status, request: RequestId) {
        let (actor, id) = match &caller.peer {
            Peer::Local { uid } => (Actor::unix(*uid), None),
            Peer::Identity(identity) => (Actor::identity(&identity.id), Some(&identity.id)),
            Peer::Anonymous => return,
        };
        let group = id.map_or("unix", part);
        let asks = matches!(verb, Verb::IdentityRenew | Verb::IdentityIssueToken);
        if let (true, Some(id), true) = (asks, id, is_about_the_caller(status.code())) {
            let refused = Refused { kind: Action::SvidRefused, who: id.as_str(), group };
            self.record(actor, refused, id.as_str(), status.message(), Some(request)).await;
        } else if matches!(needs(verb), Needs::Role(..)) && status.code() == Code::PermissionDenied {
            let call = verb.path().trim_start_matches(PACKAGE);
            let who = actor.clone();
            let refused = Refused { kind: Action::CallRefused, who: who.as_str(), group };
            self.record(actor, refused, call, status.message(), Some(request)).await;
        }
    }

    /// Somebody proved to be a workload, and got no SVID all the same.
    pub(super) async fn attested(
        &self,
        id: &SpiffeId,
        from: IpAddr,
        status: &Status,
        request: Option<RequestId>,
    ) {
        if is_about_the_caller(status.code()) {
            self.svid(id, from, status.message(), request).await;
        }
    }

    /// The same, because of what the caller is not told.
    pub(super) async fn stands_not(
        &self,
        id: &SpiffeId,
        from: IpAddr,
        refusal: &Refusal,
        request: Option<RequestId>,
    ) {
        self.svid(id, from, &refusal.to_string(), request).await;
    }

    /// A proof was not believed, or entitled to nothing.
    pub(super) async fn disbelieved(&self, disbelief: &Disbelief, from: IpAddr, request: Option<RequestId>) {
        let (host, network) = (network(from, 32, HOST_V6), network(from, NETWORK_V4, NETWORK_V6));
        let refused = Refused { kind: Action::ProofRefused, who: &host, group: &network };
        let because = format!("{}: {}", disbelief.because, disbelief.why);
        self.record(Actor::anonymous(from), refused, &disbelief.attestor, &because, request).await;
    }

    /// Records how many were left out since the last time, if any were.
    pub(super) async fn summarize(&self) -> Result<(), StoreError> {
        let left_out = self.limiter.lock().left_out();
        if left_out.is_empty() {
            return Ok(());
        }
        let kinds = left_out.into_iter().map(|(kind, told)| {
            let most: Map<String, Value> =
                told.most.into_iter().map(|(group, count)| (group, json!(count))).collect();
            (kind.to_owned(), json!({ "count": told.count, "most": most }))
        });
        let detail = Value::Object(kinds.collect());
        self.store.record_refusal(Actor::control(), Action::RefusalsLeftOut, "audit".into(), detail).await
    }

    async fn svid(&self, id: &SpiffeId, from: IpAddr, because: &str, request: Option<RequestId>) {
        // An address can be changed at will, a workload cannot.
        let refused = Refused { kind: Action::SvidRefused, who: id.as_str(), group: part(id) };
        self.record(Actor::anonymous(from), refused, id.as_str(), because, request).await;
    }

    async fn record(
        &self,
        actor: Actor,
        refused: Refused<'_>,
        subject: &str,
        because: &str,
        request: Option<RequestId>,
    ) {
        let (action, verdict) = (refused.kind, self.limiter.lock().refused(refused, Instant::now()));
        metrics::audit_refusal(matches!(verdict, Verdict::Record { .. }));
        let Verdict::Record { left_out } = verdict else { return };
        let detail = if left_out > 0 { json!({ "left_out": left_out }) } else { Value::Null };
        let detail = Annotation::request(request).because(because).on(detail);
        tracing::warn!(%actor, action = action.as_str(), subject, %detail, "refused");
        if let Err(error) = self.store.record_refusal(actor, action, subject.to_owned(), detail).await {
            tracing::error!(%error, "the audit lacks a refusal");
        }
    }
}

/// The part of the mesh that an identity is in: what is one team's, most often.
fn part(id: &SpiffeId) -> &str {
    id.path().split('/').nth(1).unwrap_or_default()
}

/// The network of an address, with a prefix of this length for either family.
fn network(address: IpAddr, v4: u8, v6: u8) -> String {
    let address = address.to_canonical();
    let prefix = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, prefix).map_or_else(|_| address.to_string(), |network| network.trunc().to_string())
}

/// Faults of ours are no refusals.
fn is_about_the_caller(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_belong_together() {
        let of = |text: &str| network(text.parse().unwrap(), NETWORK_V4, NETWORK_V6);
        assert_eq!(of("192.0.2.7"), "192.0.2.0/24");
        assert_eq!(of("::ffff:192.0.2.9"), "192.0.2.0/24");
        assert_eq!(of("2001:db8:1:2::3"), "2001:db8:1::/48");
        assert_eq!(network("2001:db8::1:2:3:4".parse().unwrap(), 32, HOST_V6), "2001:db8::/64");
    }

    #[tokio::test]
    async fn proofs_that_are_not_believed_are_recorded_and_those_left_out_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), &"mesh.local".parse().unwrap()).unwrap();
        let refusals = Refusals::new(store.clone());
        let disbelief = Disbelief::new("ci", "signature", &"the signature does not fit");
        for _ in 0..25 {
            refusals.disbelieved(&disbelief, "192.0.2.7".parse().unwrap(), None).await;
        }
        refusals.disbelieved(&disbelief, "192.0.2.8".parse().unwrap(), None).await;
        refusals.summarize().await.unwrap();
        refusals.summarize().await.unwrap();
        let events = store.newest_events(100, None).await.unwrap();
        let recorded: Vec<_> =
            events.iter().filter(|event| event.action == Action::ProofRefused.as_str()).collect();
        assert_eq!(recorded.len(), 11);
        assert_eq!((&*recorded[0].actor, &*recorded[0].subject), ("anonymous@192.0.2.7", "ci"));
        let reason = Annotation::of(&recorded[0].detail).reason.unwrap();
        assert_eq!(reason, "signature: the signature does not fit");
        let summary: Vec<_> =
            events.iter().filter(|event| event.action == Action::RefusalsLeftOut.as_str()).collect();
        assert_eq!(summary.len(), 1, "nothing was left out after the first");
        assert_eq!(
            serde_json::from_str::<Value>(&summary[0].detail).unwrap(),
            json!({ "proof.refused": { "count": 15, "most": { "192.0.2.0/24": 15 } } })
        );
    }
}
