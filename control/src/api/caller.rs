//! Who asks, and whether they still may. Asked again on every call: revocation, lapse and a withdrawn role
//! count from the next call on, whatever the connection once proved. Lapse alone can be answered: whoever shows
//! an SVID that has not ended was taken for lapsed by a clock that was ahead, and is live again.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::handshake::{PeerIdentity, RevokedBecause};
use signet_proto::spiffe::{InstanceId, TrustDomain};
use signet_proto::{because, clock};
use tokio::sync::watch;
use tonic::{Extensions, Status};

use super::admission::Call;
use super::connection::Asked;
use super::refusals::Refusals;
use super::status::ToStatus;
use crate::audit::RequestId;
use crate::inventory::Seen;
use crate::publish::MeshState;
use crate::registry::CONTROL_PATH;
use crate::roles::{Binding, Operator, Role, Scope, Subject};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;

/// A commit is published within milliseconds; whoever waits longer is refused and asks again.
const PUBLISHED: Duration = Duration::from_secs(2);

/// What a connection proved when it was made; in the extensions of each of its requests.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub peer: Peer,
    /// From where; the unspecified address for local sockets.
    pub address: IpAddr,
    /// Whether the connection was asked anything yet.
    pub(super) asked: Asked,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A local user.
    Local {
        /// By the socket's peer credentials.
        uid: u32,
    },
    /// A verified SVID of this trust domain.
    Identity(Arc<PeerIdentity>),
    /// No certificate: someone who wants to attest.
    Anonymous,
}

/// A workload's instance that may take part.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its SVID's facts.
    pub identity: Arc<PeerIdentity>,
    /// The instance.
    pub instance: InstanceId,
    /// From where.
    pub address: IpAddr,
    /// In which call.
    pub request_id: Option<RequestId>,
}

/// Decides who may.
#[derive(Clone)]
pub struct Gate {
    store: Store,
    state: watch::Receiver<Arc<MeshState>>,
    trust_domain: TrustDomain,
    admin_uids: Arc<HashSet<u32>>,
    refusals: Refusals,
    seen: Arc<Seen>,
}

impl Gate {
    /// Local users in `admin_uids` are admin on everything; others have the roles that they were given.
    #[must_use]
    pub fn new(
        store: Store,
        state: watch::Receiver<Arc<MeshState>>,
        trust_domain: TrustDomain,
        admin_uids: HashSet<u32>,
    ) -> Self {
        let refusals = Refusals::new(store.clone());
        Self { store, state, trust_domain, admin_uids: admin_uids.into(), refusals, seen: Arc::default() }
    }

    /// The attested instance that calls: its SVID is of this trust domain and nothing of it is revoked; if
    /// the SVID ended since the connection was made, the instance has another that has not.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without an SVID, `PERMISSION_DENIED` when it may not take part.
    pub async fn member(&self, extensions: &Extensions) -> Result<Member, Status> {
        let caller = caller(extensions)?;
        let Peer::Identity(identity) = &caller.peer else {
            return Err(unauthenticated());
        };
        self.revive(identity).await?;
        self.require_standing(identity)?;
        let instance = identity
            .instance
            .ok_or_else(|| denied("this SVID belongs to no attested instance: attest with a join token"))?;
        if identity.not_after <= clock::now() {
            let live = self
                .store
                .instance_is_live(instance, identity.id.clone(), clock::now())
                .await
                .map_err(|error| error.to_status())?;
            if !live {
                return Err(denied("the SVID of this connection has ended: reconnect"));
            }
        }
        self.seen.note(identity, crate::time::now());
        Ok(Member {
            identity: Arc::clone(identity),
            instance,
            address: caller.address,
            request_id: request_id(extensions),
        })
    }

    /// The operator that calls. What they may is not said by that: ask it about all that the call touches.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for whoever has proven nothing, `PERMISSION_DENIED` for who may not take part.
    pub async fn operator(&self, extensions: &Extensions) -> Result<Operator, Status> {
        let caller = caller(extensions)?;
        let call = extensions.get::<Call>().ok_or_else(|| Status::internal("call that was not admitted"))?;
        let subject = match &caller.peer {
            Peer::Anonymous => return Err(unauthenticated()),
            Peer::Local { uid } => Subject::Unix(*uid),
            Peer::Identity(identity) => {
                self.member(extensions).await?;
                Subject::Identity(identity.id.clone())
            }
        };
        let by_settings = matches!(subject, Subject::Unix(uid) if self.is_admin(uid));
        let bindings = self.roles_of(&subject).await?;
        let operator = Operator::new(subject, bindings, call.verb, call.judged.clone());
        let operator = operator.in_call(request_id(extensions));
        Ok(if by_settings { operator.by_settings() } else { operator })
    }

    /// Whether this local user is admin on everything, whatever roles were given.
    #[must_use]
    pub fn is_admin(&self, uid: u32) -> bool {
        self.admin_uids.contains(&uid)
    }

    /// Whether this local user has any role at all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_role(&self, uid: u32) -> Result<bool, Status> {
        Ok(!self.roles_of(&Subject::Unix(uid)).await?.is_empty())
    }

    async fn roles_of(&self, subject: &Subject) -> Result<Vec<Binding>, Status> {
        match subject {
            Subject::Unix(uid) if self.is_admin(*uid) => {
                Ok(vec![Binding { subject: subject.clone(), role: Role::Admin, scope: Scope::Everything }])
            }
            _ => self.store.roles_of(subject.clone()).await.map_err(|error| error.to_status()),
        }
    }

    /// Nothing of this identity is revoked, by the newest state; for streams, which ask on every change.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` with what is revoked.
    pub fn require_standing(&self, identity: &PeerIdentity) -> Result<(), Status> {
        if *identity.id.trust_domain() != self.trust_domain {
            return Err(denied(format!("`{}` is not of trust domain `{}`", identity.id, self.trust_domain)));
        }
        if identity.id.path() == CONTROL_PATH {
            return Err(denied("control's own identity is no client"));
        }
        match self.listed(identity) {
            None => Ok(()),
            Some(listed) => {
                let why = format!("`{}` may not take part: {}", identity.id, listed.as_str());
                Err(because::with(denied(why), listed.as_str()))
            }
        }
    }

    /// Whether a connection of this identity may stay: it may take part, or is only taken for lapsed.
    #[must_use]
    pub fn welcomes(&self, identity: &PeerIdentity) -> bool {
        let ours = *identity.id.trust_domain() == self.trust_domain && identity.id.path() != CONTROL_PATH;
        ours && match self.listed(identity) {
            None => true,
            Some(RevokedBecause::Lapsed) => identity.not_after > clock::now(),
            Some(_) => false,
        }
    }

    /// Who was refused, for the audit.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Records how many refusals the audit lacks since the last time, if it lacks any.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn summarize_refusals(&self) -> Result<(), StoreError> {
        self.refusals.summarize().await
    }

    /// The certificates that callers showed.
    pub(crate) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// What it decides by, to be told of changes.
    pub(super) fn states(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.clone()
    }

    fn listed(&self, identity: &PeerIdentity) -> Option<RevokedBecause> {
        let state = self.state.borrow();
        state.revocations.index.matching(&identity.id, identity.instance.as_ref(), identity.handles.iter())
    }

    /// Takes an instance off the list that is there only as lapsed, if its SVID has not ended by the clock now.
    async fn revive(&self, identity: &PeerIdentity) -> Result<(), Status> {
        let (Some(instance), Some(RevokedBecause::Lapsed)) = (identity.instance, self.listed(identity))
        else {
            return Ok(());
        };
        if identity.not_after <= clock::now() {
            return Ok(());
        }
        let commit = match self.store.revive_instance(instance, identity.id.clone()).await {
            Ok(commit) => commit,
            Err(StoreError::Refused(_)) => return Ok(()),
            Err(error) => return Err(error.to_status()),
        };
        tracing::warn!(id = %identity.id, %instance, "instance was taken for lapsed and is live again");
        let mut state = self.state.clone();
        let published = state.wait_for(|state| state.processed >= commit.revision);
        let _ = tokio::time::timeout(PUBLISHED, published).await;
        Ok(())
    }
}

/// The caller of a request.
///
/// # Errors
/// `INTERNAL` if the listener did not say, which is a defect.
pub(super) fn caller(extensions: &Extensions) -> Result<&Caller, Status> {
    extensions.get::<Caller>().ok_or_else(|| Status::internal("connection without a caller"))
}

/// The name of a request.
pub(super) fn request_id(extensions: &Extensions) -> Option<RequestId> {
    extensions.get().copied()
}

fn unauthenticated() -> Status {
    metrics::call_failed("unauthenticated");
    Status::unauthenticated("this call needs an SVID: present one as TLS client certificate")
}

fn denied(why: impl Into<String>) -> Status {
    metrics::call_failed("permission_denied");
    Status::permission_denied(why)
}
