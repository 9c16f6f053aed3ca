//! The hash chain of audit events: pure, shared by the store that appends and by whoever verifies.
//!
//! `hash(n) = SHA-256(label || hash(n-1) || sequence || at || actor || action || subject || detail)`, numbers
//! as 8 bytes big-endian, texts preceded by their length: no two different events have the same input.
//! Changing, removing or reordering any event breaks every hash after it.

use std::time::SystemTime;

use aws_lc_rs::digest;

use crate::time;

/// What stands before the first event.
pub const GENESIS: [u8; 32] = [0; 32];
const LABEL: &[u8] = b"signet audit event v1";

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its place, from 1, without gaps.
    pub sequence: u64,
    /// When, to the millisecond.
    pub at: SystemTime,
    /// Who.
    pub actor: String,
    /// What was done: a word of [`Action`].
    pub action: String,
    /// To what.
    pub subject: String,
    /// More, as JSON.
    pub detail: String,
    /// Covers this event and the one before.
    pub hash: [u8; 32],
}

impl AuditEvent {
    /// The hash this event must have after an event with the hash `previous`.
    #[must_use]
    pub fn expected_hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(LABEL);
        context.update(previous);
        context.update(&self.sequence.to_be_bytes());
        context.update(&time::to_millis(self.at).to_be_bytes());
        for text in [&self.actor, &self.action, &self.subject, &self.detail] {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }
}

/// Where a chain of events is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenChain {
    /// An event is missing, or the order is not the one it was written in.
    #[error("event {expected} is missing: event {found} follows where it should be")]
    Gap {
        /// The sequence that should have come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// An event is not what was written.
    #[error("event {0} is not what was written: its hash does not match it and the event before")]
    Hash(u64),
}

/// Follows a chain, event after event, over as many pages as needed.
#[derive(Debug, Clone)]
pub struct ChainVerifier {
    last: Option<(u64, [u8; 32])>,
    verified: u64,
}

impl ChainVerifier {
    /// Starts at the first event ever.
    #[must_use]
    pub fn from_genesis() -> Self {
        Self { last: Some((0, GENESIS)), verified: 0 }
    }

    /// Starts in the middle: the first event is taken as given, those after it are verified against it.
    #[must_use]
    pub fn from_middle() -> Self {
        Self { last: None, verified: 0 }
    }

    /// Starts after an event whose hash is known for sure: that of a checkpoint.
    #[must_use]
    pub fn from_point(sequence: u64, hash: [u8; 32]) -> Self {
        Self { last: Some((sequence, hash)), verified: 0 }
    }

    /// Takes the next event, in ascending order.
    ///
    /// # Errors
    /// Where the chain breaks.
    pub fn take(&mut self, event: &AuditEvent) -> Result<(), BrokenChain> {
        if let Some((sequence, hash)) = self.last {
            let expected = sequence.saturating_add(1);
            if event.sequence != expected {
                return Err(BrokenChain::Gap { expected, found: event.sequence });
            }
            if event.expected_hash(&hash) != event.hash {
                return Err(BrokenChain::Hash(event.sequence));
            }
            self.verified += 1;
        }
        self.last = Some((event.sequence, event.hash));
        Ok(())
    }

    /// How many events were verified.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified
    }

    /// The sequence of the last event taken; 0 before the first.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.last.map_or(0, |(sequence, _)| sequence)
    }
}

/// The closed set of things the audit records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Root and first intermediate were made.
    AuthorityCreated,
    /// The signing intermediate was replaced.
    AuthorityRotated,
    /// A root elsewhere is asked for an intermediate.
    AuthorityRequested,
    /// A root or intermediate was made that signs nothing yet.
    AuthorityPrepared,
    /// It signs, and the one before it retires.
    AuthorityActivated,
    /// Its key may be somebody else's: it is believed for a while only.
    AuthorityCompromised,
    /// That while is over.
    AuthorityDistrusted,
    /// One that never signed was taken back.
    AuthorityWithdrawn,
    /// An intermediate with which nobody signs any more retires.
    AuthorityStopped,
    /// One to which nothing live chained any more was taken out.
    AuthorityRemoved,
    /// A workload was registered.
    WorkloadCreated,
    /// What is declared about a workload changed.
    WorkloadUpdated,
    /// A workload was suspended, resumed or retired.
    WorkloadStatus,
    /// A join token was made.
    TokenCreated,
    /// A known join token was presented that could not be redeemed.
    TokenRefused,
    /// An instance proved itself and got its first SVID.
    SvidIssued,
    /// An instance got its next SVID.
    SvidRenewed,
    /// An instance got a JWT-SVID.
    JwtIssued,
    /// A policy document was created or replaced.
    PolicyApplied,
    /// A policy document was deleted.
    PolicyDeleted,
    /// A document of a service was created or replaced.
    ServiceApplied,
    /// A document of a service was deleted.
    ServiceDeleted,
    /// The settings of the mesh were applied.
    MeshApplied,
    /// The settings of the mesh were taken away: it is strict.
    MeshDeleted,
    /// An identity was revoked.
    IdentityRevoked,
    /// An instance was revoked.
    InstanceRevoked,
    /// A certificate was revoked.
    CertificateRevoked,
    /// A key was revoked, and what had it.
    KeyRevoked,
    /// All that an intermediate signed was revoked.
    AuthorityRevoked,
    /// SVIDs that were issued before are to be renewed at once.
    RotationOrdered,
    /// Another trust domain was registered.
    FederationCreated,
    /// Identities of another trust domain are believed by these roots.
    FederationBundle,
    /// Another trust domain says that nobody of it is to be believed.
    FederationDistrusted,
    /// Another trust domain was forgotten.
    FederationDeleted,
    /// An instance's last SVID ended without a renewal.
    InstanceLapsed,
    /// An instance that was taken for lapsed showed an SVID that has not ended.
    InstanceRevived,
    /// An instance said goodbye.
    InstanceDeparted,
    /// Revocations whose certificates have all ended were dropped.
    RevocationsPruned,
    /// A role was given.
    RoleGranted,
    /// A role was taken.
    RoleWithdrawn,
    /// Somebody was denied what operators do.
    CallRefused,
    /// Somebody known was denied an SVID.
    SvidRefused,
    /// A proof of somebody unknown was not believed.
    ProofRefused,
    /// So many refusals were not recorded one by one.
    RefusalsLeftOut,
    /// A new instance waits for approval.
    RequestMade,
    /// Somebody agreed to it.
    RequestApproved,
    /// Somebody refused it.
    RequestDenied,
    /// Nobody decided about it in time.
    RequestExpired,
    /// New instances of a subtree need approval.
    ApprovalRequired,
    /// They do not any more.
    ApprovalNotRequired,
    /// Issuance was stopped on a subtree.
    IssuanceFrozen,
    /// It goes on.
    IssuanceUnfrozen,
    /// An identity got as many SVIDs in an hour as one may: something asks in a loop, or it is too little.
    QuotaUsed,
    /// What is sealed was sealed with another key.
    KeysResealed,
    /// The key that signs checkpoints was made.
    AuditKeyCreated,
    /// Control was told to start on a store that lacks events.
    OlderStoreAccepted,
}

impl Action {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorityCreated => "authority.created",
            Self::AuthorityRotated => "authority.rotated",
            Self::AuthorityRequested => "authority.requested",
            Self::AuthorityPrepared => "authority.prepared",
            Self::AuthorityActivated => "authority.activated",
            Self::AuthorityCompromised => "authority.compromised",
            Self::AuthorityDistrusted => "authority.distrusted",
            Self::AuthorityWithdrawn => "authority.withdrawn",
            Self::AuthorityStopped => "authority.stopped",
            Self::AuthorityRemoved => "authority.removed",
            Self::WorkloadCreated => "workload.created",
            Self::WorkloadUpdated => "workload.updated",
            Self::WorkloadStatus => "workload.status",
            Self::TokenCreated => "token.created",
            Self::TokenRefused => "token.refused",
            Self::SvidIssued => "svid.issued",
            Self::SvidRenewed => "svid.renewed",
            Self::JwtIssued => "jwt.issued",
            Self::PolicyApplied => "policy.applied",
            Self::PolicyDeleted => "policy.deleted",
            Self::ServiceApplied => "service.applied",
            Self::ServiceDeleted => "service.deleted",
            Self::MeshApplied => "mesh.applied",
            Self::MeshDeleted => "mesh.deleted",
            Self::IdentityRevoked => "identity.revoked",
            Self::InstanceRevoked => "instance.revoked",
            Self::CertificateRevoked => "certificate.revoked",
            Self::KeyRevoked => "key.revoked",
            Self::AuthorityRevoked => "authority.revoked",
            Self::RotationOrdered => "rotation.ordered",
            Self::FederationCreated => "federation.created",
            Self::FederationBundle => "federation.bundle",
            Self::FederationDistrusted => "federation.distrusted",
            Self::FederationDeleted => "federation.deleted",
            Self::InstanceLapsed => "instance.lapsed",
            Self::InstanceRevived => "instance.revived",
            Self::InstanceDeparted => "instance.departed",
            Self::RevocationsPruned => "revocations.pruned",
            Self::RoleGranted => "role.granted",
            Self::RoleWithdrawn => "role.withdrawn",
            Self::CallRefused => "call.refused",
            Self::SvidRefused => "svid.refused",
            Self::ProofRefused => "proof.refused",
            Self::RefusalsLeftOut => "refusals.left_out",
            Self::RequestMade => "request.made",
            Self::RequestApproved => "request.approved",
            Self::RequestDenied => "request.denied",
            Self::RequestExpired => "request.expired",
            Self::ApprovalRequired => "approval.required",
            Self::ApprovalNotRequired => "approval.not_required",
            Self::IssuanceFrozen => "issuance.frozen",
            Self::IssuanceUnfrozen => "issuance.unfrozen",
            Self::QuotaUsed => "svid.quota_used",
            Self::KeysResealed => "keys.resealed",
            Self::AuditKeyCreated => "audit.key_created",
            Self::OlderStoreAccepted => "store.older_accepted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(count: u64) -> Vec<AuditEvent> {
        let mut previous = GENESIS;
        (1..=count)
            .map(|sequence| {
                let mut event = AuditEvent {
                    sequence,
                    at: time::from_millis(1_700_000_000_000 + sequence as i64),
                    actor: "unix:uid=0".into(),
                    action: Action::WorkloadCreated.as_str().into(),
                    subject: format!("spiffe://mesh.local/w{sequence}"),
                    detail: "{}".into(),
                    hash: [0; 32],
                };
                event.hash = event.expected_hash(&previous);
                previous = event.hash;
                event
            })
            .collect()
    }

    fn verify(events: &[AuditEvent]) -> Result<u64, BrokenChain> {
        let mut verifier = ChainVerifier::from_genesis();
        for event in events {
            verifier.take(event)?;
        }
        Ok(verifier.verified())
    }

    #[test]
    fn intact_chain_verifies() {
        assert_eq!(verify(&chain(20)), Ok(20));
    }

    #[test]
    fn every_change_of_one_event_is_found() {
        for tamper in [
            (|event: &mut AuditEvent| event.actor.push('x')) as fn(&mut AuditEvent),
            |event| event.action.push('x'),
            |event| event.subject.push('x'),
            |event| event.detail.push('x'),
            |event| event.at += std::time::Duration::from_millis(1),
            |event| event.hash[0] ^= 1,
            |event| event.actor = event.actor.split_off(1),
        ] {
            let mut events = chain(5);
            tamper(&mut events[2]);
            assert_eq!(verify(&events), Err(BrokenChain::Hash(3)));
        }
    }

    #[test]
    fn removed_event_is_found() {
        let mut events = chain(5);
        events.remove(2);
        assert_eq!(verify(&events), Err(BrokenChain::Gap { expected: 3, found: 4 }));
    }

    #[test]
    fn text_moved_between_fields_changes_the_hash() {
        let mut one = chain(1).remove(0);
        one.actor = "ab".into();
        one.action = "c".into();
        let mut other = one.clone();
        other.actor = "a".into();
        other.action = "bc".into();
        assert_ne!(one.expected_hash(&GENESIS), other.expected_hash(&GENESIS));
    }

    proptest! {
        #[test]
        fn swapped_events_are_found(a in 0usize..10, b in 0usize..10) {
            prop_assume!(a != b);
            let mut events = chain(10);
            events.swap(a, b);
            prop_assert!(verify(&events).is_err());
        }
    }
}
