//! From a commit to every proxy that it concerns: pushed, never polled.
//!
//! ```text
//!   store commit ──▶ Publisher: reload what changed ──▶ one immutable MeshState (watch channel)
//!                                                          │ each Watch stream: View::next
//!   Watch streams open and close ──▶ Endpoints (leases) ──▶│ (its own documents, its own upstreams)
//!                                                          ▼
//!                                      only the sections whose content changed ──▶ proxy
//!   Report (acknowledgement) ──▶ Watchers ──▶ AwaitApplied
//! ```
//!
//! Invariants: a message that carries revision N contains everything of N that concerns its proxy; the first
//! message of a stream is complete; a slow proxy gets the newest state, not a queue of old ones; policy that
//! cannot be read denies, and keeps no revocation from anyone.

mod elsewhere;
mod endpoints;
mod view;
mod watchers;

use std::sync::Arc;
use std::time::Duration;

use signet_proto::handshake::Revocations;
use signet_proto::policy::{Pattern, PolicySet, parse_json};
use signet_proto::spiffe::TrustDomain;
use signet_proto::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::model::{Commit, MeshRead, Policy, RevocationList};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;

pub use elsewhere::{follow_endpoints, write_standings};
pub use endpoints::{Endpoints, ServiceStream};
pub use view::View;
pub use watchers::{Applied, NewWatcher, Progress, WatcherInfo, Watchers};

const RETRY: Duration = Duration::from_millis(200);

/// What proxies may be told, as of one commit.
#[derive(Debug, Clone)]
pub struct MeshState {
    /// The newest commit that changed any of it.
    pub commit: Commit,
    /// The newest revision looked at; those after `commit` changed nothing here.
    pub processed: u64,
    /// Trust bundles.
    pub bundles: Arc<v1::Bundles>,
    /// Policy documents.
    pub policies: Arc<PolicySection>,
    /// Revocations.
    pub revocations: Arc<RevocationSection>,
}

/// All documents, by name, with their targets; and compiled, for explanations.
#[derive(Debug)]
pub struct PolicySection {
    /// Without a target that can be read, a document is everyone's.
    pub(crate) documents: Vec<(Option<Pattern>, Arc<str>)>,
    /// Compiled, as a proxy that all of it concerns would have it.
    pub compiled: PolicySet,
}

/// All revocations, as they are sent and as they are asked.
#[derive(Debug)]
pub struct RevocationSection {
    pub(crate) message: v1::Revocations,
    /// To match callers with.
    pub index: Revocations,
}

/// Keeps the [`MeshState`] up to date.
pub struct Publisher {
    store: Store,
    endpoints: Arc<Endpoints>,
    trust_domain: TrustDomain,
    state: watch::Sender<Arc<MeshState>>,
}

impl Publisher {
    /// Loads the state as it is now.
    ///
    /// # Errors
    /// When the store cannot be read or what it holds cannot be understood.
    pub async fn load(
        store: Store,
        endpoints: Arc<Endpoints>,
        trust_domain: TrustDomain,
    ) -> Result<Self, StoreError> {
        let read = store.mesh_since(None).await?;
        let empty = MeshState {
            commit: read.commit,
            processed: 0,
            bundles: Arc::default(),
            policies: Arc::new(PolicySection { documents: Vec::new(), compiled: PolicySet::empty() }),
            revocations: Arc::new(RevocationSection {
                message: v1::Revocations::default(),
                index: Revocations::default(),
            }),
        };
        let state = advance(&empty, read, &trust_domain)?.unwrap_or(empty);
        endpoints.drop_revoked(&state.revocations.index);
        let (state, _) = watch::channel(Arc::new(state));
        Ok(Self { store, endpoints, trust_domain, state })
    }

    /// The state, and every later one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<MeshState>> {
        self.state.subscribe()
    }

    /// Follows the commits until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut committed = self.store.committed();
        loop {
            let known = self.state.borrow().processed;
            if committed.borrow_and_update().revision > known {
                if let Err(error) = self.catch_up(known).await {
                    tracing::error!(%error, "cannot read what changed; proxies keep what they have");
                    tokio::time::sleep(RETRY).await;
                } else if self.state.borrow().processed <= known {
                    tracing::error!(
                        known,
                        "the store is behind what it told before: is it a copy that lags?"
                    );
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = committed.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn catch_up(&self, known: u64) -> Result<(), StoreError> {
        let read = self.store.mesh_since(Some(known)).await?;
        let processed = read.commit.revision;
        let current = self.state.borrow().clone();
        match advance(&current, read, &self.trust_domain)? {
            Some(next) => {
                let revocations = Arc::clone(&next.revocations);
                self.state.send_replace(Arc::new(next));
                metrics::published(processed);
                let gone = self.endpoints.drop_revoked(&revocations.index);
                if !gone.is_empty() {
                    self.store.remove_leases(gone).await?;
                }
            }
            // Nothing that a proxy sees: nobody is woken.
            None => {
                self.state.send_if_modified(|state| {
                    Arc::make_mut(state).processed = processed;
                    false
                });
            }
        }
        Ok(())
    }
}

/// The next state, or `None` if nothing in it changed.
fn advance(
    current: &MeshState,
    read: MeshRead,
    trust_domain: &TrustDomain,
) -> Result<Option<MeshState>, StoreError> {
    let MeshRead { commit, roots, policies, revocations } = read;
    if roots.is_none() && policies.is_none() && revocations.is_none() {
        return Ok(None);
    }
    let mut next = MeshState { commit, processed: commit.revision, ..current.clone() };
    if let Some(roots) = roots {
        next.bundles = Arc::new(v1::Bundles {
            bundles: vec![v1::Bundle {
                trust_domain: trust_domain.to_string(),
                x509_authorities: roots,
                sequence: 1,
            }],
        });
    }
    if let Some(policies) = policies {
        next.policies = Arc::new(policy_section(policies));
    }
    if let Some(revocations) = revocations {
        next.revocations = Arc::new(revocation_section(revocations)?);
    }
    Ok(Some(next))
}

/// A document that cannot be read is sent as it is to those it is for: they deny (invariant 1).
fn policy_section(policies: Vec<Policy>) -> PolicySection {
    let mut documents = Vec::with_capacity(policies.len());
    let mut parsed = Vec::with_capacity(policies.len());
    let mut unreadable = None;
    for policy in policies {
        let target = match parse_json(&policy.document) {
            Ok(document) => {
                parsed.push(document);
                parsed.last().map(|document| document.target.clone())
            }
            Err(error) => {
                unreadable = Some(format!("policy `{}`: {error}", policy.name));
                policy.target.parse().ok()
            }
        };
        documents.push((target, Arc::from(policy.document)));
    }
    let compiled = match unreadable {
        None => PolicySet::compile(parsed).map_err(|error| error.to_string()),
        Some(why) => Err(why),
    };
    metrics::policy_readable(compiled.is_ok());
    let compiled = compiled.unwrap_or_else(|why| {
        tracing::error!(
            why,
            "stored policy cannot be read: whom it concerns denies; apply it anew or delete it"
        );
        PolicySet::deny_all(why)
    });
    PolicySection { documents, compiled }
}

fn revocation_section(list: RevocationList) -> Result<RevocationSection, StoreError> {
    let message = v1::Revocations {
        identities: list.identities,
        instances: list
            .instances
            .into_iter()
            .map(|(instance, lapsed)| v1::RevokedInstance { instance, lapsed })
            .collect(),
        certificates: list
            .certificates
            .into_iter()
            .map(|(issuer, serial)| v1::RevokedCertificate { issuer_sha256: issuer.to_vec(), serial })
            .collect(),
        keys: list.keys.into_iter().map(|key| key.to_vec()).collect(),
    };
    let index = Revocations::try_from(message.clone())
        .map_err(|error| StoreError::Damaged(format!("stored revocations: {error}")))?;
    Ok(RevocationSection { message, index })
}
