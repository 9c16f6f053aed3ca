//! What can go wrong at the store, in words for the caller. No engine's types leak.

use std::time::SystemTime;

use signet_proto::spiffe::{SpiffeId, TrustDomain};

use super::model::{Phase, WorkloadStatus};
use super::requests::Part;
use crate::registry::ChooseError;
use crate::roles::Refused;
use crate::time;

/// A failed call. Unless it says otherwise nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Something named does not exist.
    #[error("{what} `{name}` does not exist")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Its name as asked for.
        name: String,
    },
    /// Something named exists already.
    #[error("{what} `{name}` exists already")]
    Exists {
        /// What kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The state of things does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Whoever asks may not: it touches what their roles do not reach.
    #[error(transparent)]
    NotPermitted(#[from] Refused),
    /// No room left on the device.
    #[error(
        "the store's disk is full: nothing was changed; free space in the data directory, then try again"
    )]
    Full,
    /// Reading or writing the store failed.
    #[error("the store cannot be read or written ({0}): nothing was changed; check the data directory")]
    Io(String),
    /// The database is away, or the way to it.
    #[error(
        "the store's database is not reachable ({0}): nothing was changed; it is tried again with the next call"
    )]
    Unavailable(String),
    /// The connection was lost in the moment of the commit, and what became of it could not be found out.
    #[error(
        "the store's database was lost while it committed: look whether the change was made before trying again"
    )]
    Unknown,
    /// What is stored cannot be understood.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A change did not write its audit event. A defect of this program; the change was not made.
    #[error("change without an audit event refused: nothing was changed")]
    Unaudited,
    /// The store cannot be opened.
    #[error("cannot open the store: {0}")]
    Open(String),
    /// More changes wait than fit in the queue.
    #[error("too many changes are waiting: try again in a moment")]
    Overloaded,
    /// Control is shutting down.
    #[error("the store is closed: control is shutting down")]
    Closed,
}

/// Why the state of things does not allow a change or an issuance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No token has this secret.
    #[error("join token is unknown")]
    TokenUnknown,
    /// The token was redeemed or withdrawn before.
    #[error("join token was used or withdrawn")]
    TokenSpent,
    /// The token's time is over.
    #[error("join token has expired")]
    TokenExpired,
    /// The workload gets no SVID.
    #[error("workload `{id}` is {status}: it gets no SVID")]
    WorkloadNotActive {
        /// Which.
        id: SpiffeId,
        /// Suspended or retired.
        status: WorkloadStatus,
    },
    /// Retired is for good.
    #[error("workload `{0}` is retired for good: create another SPIFFE ID")]
    WorkloadRetired(String),
    /// The workload's time is over.
    #[error("workload `{id}` was temporary and ended at {}: it gets no SVID", time::rfc3339(*until))]
    WorkloadEnded {
        /// Which.
        id: SpiffeId,
        /// When.
        until: SystemTime,
    },
    /// A proof that no workload asks for, or that several do.
    #[error("{0}")]
    Unmatched(ChooseError),
    /// Documents that cannot be applied, each with its reason.
    #[error("nothing was applied: {0}")]
    NotApplied(String),
    /// A proof that is good with one key only came with another.
    #[error("the token was used with another key before: ask the issuer for another one")]
    ProofUsed,
    /// A DNS name that another workload has, or its template can give.
    #[error(
        "`{name}` of `{workload}` is the DNS name of another workload, or one that a template can give: choose another \
         one, or let somebody apply it who may change both"
    )]
    DnsNameTaken {
        /// The name.
        name: String,
        /// Who wants it.
        workload: String,
    },
    /// A label that documents carry which whoever applies may not change.
    #[error("the label `{0}` is on documents that you may not change: apply yours with a label of your own")]
    LabelOfOthers(String),
    /// A template gave as many identities as one can.
    #[error(
        "`{template}` has given {given} identities, as many as a template can: `template-limit` of control"
    )]
    TemplateFull {
        /// Which.
        template: String,
        /// How many.
        given: u64,
    },
    /// The instance was revoked.
    #[error("instance is revoked: it must attest again with a new join token")]
    InstanceRevoked,
    /// The instance's last SVID ended without a renewal.
    #[error("instance has lapsed, its last SVID ended: it must attest again with a new join token")]
    InstanceLapsed,
    /// The instance of the presented SVID is not known here.
    #[error("instance is not known here: it must attest with a new join token")]
    InstanceUnknown,
    /// The presented certificate is revoked.
    #[error("the presented certificate is revoked")]
    CertificateRevoked,
    /// The key is revoked or belonged to something revoked.
    #[error("the key of the signing request is revoked: make a new key")]
    KeyRevoked,
    /// The key was certified for another identity.
    #[error("the key of the signing request was certified for another identity: make a new key")]
    KeyOfAnother,
    /// Policy documents were changed meanwhile, and the new ones do not go together with those.
    #[error("the documents do not go together with those in force: {0}")]
    PoliciesDoNotFit(String),
    /// Another replica rotated at the same time.
    #[error("another authority signs since a moment ago: nothing was changed; look at `signet ca status`")]
    RotatedMeanwhile,
    /// Something was sealed, or its key erased, while all of it was sealed anew.
    #[error(
        "keys were added or erased meanwhile: nothing was changed; make sure that no control runs, and try again"
    )]
    SealedMeanwhile,
    /// A replica has the key that is to be replaced.
    #[error(
        "replica `{0}` runs, or ran half a minute ago, with the seal key of now: stop all replicas, and try again"
    )]
    ReplicaRuns(String),
    /// The step is not the next one.
    #[error("{kind} {id} is {phase}: expected one that is {needed}; `signet ca status` shows all of them")]
    AuthorityPhase {
        /// Root, intermediate or JWT key.
        kind: &'static str,
        /// Which.
        id: String,
        /// Where it is.
        phase: Phase,
        /// Where it would have to be.
        needed: String,
    },
    /// One rotation at a time.
    #[error(
        "{kind} {id} is {phase} still: `signet ca retire {id}` ends that, when nothing needs it any more"
    )]
    RotationUnderWay {
        /// Root, intermediate or JWT key.
        kind: &'static str,
        /// Which.
        id: String,
        /// Where it is.
        phase: Phase,
    },
    /// A name that fits none, or several.
    #[error(
        "`{name}` is {found}: name one of those that `signet ca status` shows, by the first digits of its id"
    )]
    AuthorityName {
        /// As it was said.
        name: String,
        /// How many it could be.
        found: String,
    },
    /// A name of a replica that fits none, or several.
    #[error(
        "replica: `{name}` is {found}: name one of those that `signet ca status` shows, by the first digits of its name"
    )]
    ReplicaName {
        /// As it was said.
        name: String,
        /// How many it could be.
        found: String,
    },
    /// What it signs would not be believed by these.
    #[error(
        "{id} is not known to {count} proxies yet, which would refuse what it signs: {missing}. They get it when they are connected; `--force` does not wait for them"
    )]
    NotAcknowledged {
        /// Which.
        id: String,
        /// How many.
        count: u64,
        /// Who.
        missing: String,
    },
    /// What it signs would not be believed by those who keep what they read before.
    #[error(
        "{id} signs no token yet: systems that read the keys before may keep them until {}; `--force` does not wait \
         for them", time::rfc3339(*until)
    )]
    AnnouncedLately {
        /// Which.
        id: String,
        /// Until then.
        until: SystemTime,
    },
    /// Somebody would not be believed any more.
    #[error("{id} is needed by {chained}. It is removed by itself when they have ended")]
    StillChained {
        /// Which.
        id: String,
        /// What.
        chained: String,
    },
    /// It was said before.
    #[error("{0} is known to be compromised: trust in it ends on time, or sooner")]
    AlreadyCompromised(String),
    /// A control that would not tell its proxies of a second root, or of keys of tokens.
    #[error("replica {0} is of an older version, and would keep new keys from its proxies: upgrade it first")]
    OlderReplica(String),
    /// What signed it may not sign any more.
    #[error("what signed it was taken out meanwhile: ask again")]
    SignerRemoved,
    /// Whoever asks had roles when the call was judged that they do not have any more.
    #[error("your roles were changed meanwhile: nothing was changed; try again")]
    RolesChanged,
    /// A subject has a bounded number of roles.
    #[error("the subject has as many roles as one can have: withdraw some, or grant one on a wider scope")]
    TooManyRoles,
    /// People have to agree first.
    #[error("new instances of this workload need an approval")]
    ApprovalRequired,
    /// Somebody said no.
    #[error("request {request} was denied for good: {reason}")]
    RequestDenied {
        /// Which.
        request: String,
        /// Why.
        reason: String,
    },
    /// Nobody decided in time, or it was withdrawn with its workload.
    #[error("request {0} has expired, or was withdrawn: ask again with a new key")]
    RequestExpired(String),
    /// The approval is used.
    #[error("request {0} was approved and used: another instance needs another signing request")]
    RequestUsed(String),
    /// The request is for another key than the one that is meant.
    #[error(
        "request {request} is for the signing request with SHA-256 {found}, not {meant}: look at it again"
    )]
    RequestDiffers {
        /// Which.
        request: String,
        /// What it is for.
        found: String,
        /// What was named.
        meant: String,
    },
    /// Whoever approves has a part in what is approved.
    #[error("`{actor}` {part}: somebody else has to approve it")]
    NotIndependent {
        /// Who.
        actor: String,
        /// What part.
        part: Part,
    },
    /// No more of this identity, or of all, are held at a time.
    #[error("as many requests wait for approval as can: have some of them decided, then ask again")]
    TooManyRequests,
    /// An operator has stopped issuance.
    #[error("issuance is frozen on {scope}: {reason}")]
    Frozen {
        /// Where.
        scope: String,
        /// Why.
        reason: String,
    },
    /// What proved an instance that was revoked proves no other.
    #[error(
        "the proof gave an instance that was revoked: another token, or a certificate for another key, is needed"
    )]
    ProofRevoked,
    /// The workload ends sooner than it did when the SVID was signed.
    #[error("the workload was changed in this moment: nothing is issued; ask again")]
    ChangedMeanwhile,
    /// It got as many in this hour as an identity may.
    #[error(
        "`{id}` got {quota} SVIDs since {}, as many as an identity gets in an hour: ask again after {}; does something \
         ask in a loop? (`issuance-quota` of control)",
        crate::time::rfc3339(*until - crate::store::quota::WINDOW), crate::time::rfc3339(*until)
    )]
    QuotaUsed {
        /// Which.
        id: SpiffeId,
        /// How many an identity may.
        quota: u64,
        /// From then on it gets more.
        until: SystemTime,
    },
    /// There is a bounded number of them.
    #[error(
        "there are as many freezes and rules about approval as can be: set some on a wider scope instead"
    )]
    TooManyRestrictions,
    /// The identity came from one template, and another one gives it too.
    #[error("`{0}` was given by another template, and follows from that one: give the two different names")]
    OtherTemplate(SpiffeId),
    /// A proof that nobody can choose by.
    #[error("the proof fits too many workloads: give them more selectors")]
    TooManyMatches,
    /// There is a bounded number of them.
    #[error(
        "there are as many orders to renew as can be: give one on a wider scope, which takes their place"
    )]
    TooManyRotations,
    /// There is a bounded number of them.
    #[error("there are as many federated trust domains as can be: each is in the memory of every proxy")]
    TooManyFederations,
    /// Another replica was told a newer one meanwhile.
    #[error("a newer bundle of `{0}` came meanwhile: nothing was changed")]
    BundleWentBack(TrustDomain),
    /// An operator, or another fetch, came in between.
    #[error("`{0}` was changed while its bundle was fetched: what was fetched is not believed; try again")]
    FetchedMeanwhile(TrustDomain),
    /// Nobody would believe what it signs.
    #[error(
        "{0} is revoked, and cannot sign: `signet ca retire {0}` takes it back, then prepare another one"
    )]
    AuthorityRevoked(String),
    /// A root is not revoked, it leaves the trust bundle.
    #[error(
        "a root cannot be revoked: whoever believes it believes what it says; revoke the intermediates that it signed"
    )]
    RootIssuer,
    /// Without this intermediate control itself would be believed by nobody.
    #[error(
        "intermediate {0} signs now, or signed control's own SVID: `signet ca rotate-intermediate`, then \
         `signet rotate --now everything`, and revoke it when control has replaced its own SVID, too"
    )]
    IssuerInUse(String),
    /// Control's own identity cannot be revoked through itself.
    #[error("control's own identity cannot be revoked: rotate the intermediate instead")]
    OwnIdentity,
}

impl Refusal {
    /// Whether it is about who asks, rather than about the request: only the former is kept from a caller,
    /// who has perhaps proven nothing.
    #[must_use]
    pub fn is_about_standing(&self) -> bool {
        !matches!(
            self,
            Self::KeyRevoked
                | Self::KeyOfAnother
                | Self::ApprovalRequired
                | Self::RequestDenied { .. }
                | Self::RequestExpired(_)
                | Self::RequestUsed(_)
                | Self::TooManyRequests
                | Self::Frozen { .. }
                | Self::QuotaUsed { .. }
                | Self::ChangedMeanwhile
                | Self::SignerRemoved
        )
    }

    /// The stable name used in metrics, logs and the audit.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TokenUnknown => "token_unknown",
            Self::TokenSpent => "token_spent",
            Self::TokenExpired => "token_expired",
            Self::WorkloadNotActive { .. } => "workload_not_active",
            Self::WorkloadRetired(_) => "workload_retired",
            Self::WorkloadEnded { .. } => "workload_ended",
            Self::Unmatched(_) => "unmatched",
            Self::NotApplied(_) => "not_applied",
            Self::DnsNameTaken { .. } => "dns_name_taken",
            Self::LabelOfOthers(_) => "label_of_others",
            Self::TemplateFull { .. } => "template_full",
            Self::ProofUsed => "proof_used",
            Self::InstanceRevoked => "instance_revoked",
            Self::InstanceLapsed => "instance_lapsed",
            Self::InstanceUnknown => "instance_unknown",
            Self::CertificateRevoked => "certificate_revoked",
            Self::KeyRevoked => "key_revoked",
            Self::KeyOfAnother => "key_of_another",
            Self::PoliciesDoNotFit(_) => "policies_do_not_fit",
            Self::RotatedMeanwhile => "rotated_meanwhile",
            Self::SealedMeanwhile => "sealed_meanwhile",
            Self::ReplicaRuns(_) => "replica_runs",
            Self::AuthorityPhase { .. } => "authority_phase",
            Self::RotationUnderWay { .. } => "rotation_under_way",
            Self::AuthorityName { .. } => "authority_name",
            Self::ReplicaName { .. } => "replica_name",
            Self::NotAcknowledged { .. } => "not_acknowledged",
            Self::AnnouncedLately { .. } => "announced_lately",
            Self::StillChained { .. } => "still_chained",
            Self::AlreadyCompromised(_) => "already_compromised",
            Self::OlderReplica(_) => "older_replica",
            Self::SignerRemoved => "signer_removed",
            Self::RolesChanged => "roles_changed",
            Self::TooManyRoles => "too_many_roles",
            Self::ApprovalRequired => "approval_required",
            Self::RequestDenied { .. } => "request_denied",
            Self::RequestExpired(_) => "request_expired",
            Self::RequestUsed(_) => "request_used",
            Self::RequestDiffers { .. } => "request_differs",
            Self::NotIndependent { .. } => "not_independent",
            Self::TooManyRequests => "too_many_requests",
            Self::Frozen { .. } => "frozen",
            Self::ProofRevoked => "proof_revoked",
            Self::QuotaUsed { .. } => "quota_used",
            Self::ChangedMeanwhile => "changed_meanwhile",
            Self::TooManyRestrictions => "too_many_restrictions",
            Self::OtherTemplate(_) => "other_template",
            Self::TooManyMatches => "too_many_matches",
            Self::TooManyRotations => "too_many_rotations",
            Self::TooManyFederations => "too_many_federations",
            Self::BundleWentBack(_) => "bundle_went_back",
            Self::FetchedMeanwhile(_) => "fetched_meanwhile",
            Self::AuthorityRevoked(_) => "authority_revoked",
            Self::RootIssuer => "root_issuer",
            Self::IssuerInUse(_) => "issuer_in_use",
            Self::OwnIdentity => "own_identity",
        }
    }
}

impl StoreError {
    pub(super) fn missing(what: &'static str, name: &str) -> Self {
        Self::NotFound { what, name: name.to_owned() }
    }

    pub(super) fn exists(what: &'static str, name: &str) -> Self {
        Self::Exists { what, name: name.to_owned() }
    }
}
