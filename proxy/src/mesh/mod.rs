//! What this proxy knows, as one immutable [`Snapshot`] behind one atomic pointer (invariant 4).
//!
//! Identity sources and the stream from control write into [`Inputs`]; each write makes a whole new snapshot,
//! swaps it in, and holds every live connection against it before the writer goes on. Until an identity, a
//! bundle and a policy are in hand there is no snapshot, and nothing is accepted (invariant 1).

mod duty;
pub mod sealed;
mod services;
mod snapshot;
mod told;
mod traffic;
pub mod watch;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use signet_proto::handshake::{ConfigError, Lists, Revocations, Svid, Trust};
use signet_proto::policy::PolicySet;
use signet_proto::settings::Settings;
use signet_proto::spiffe::TrustBundle;
use tokio::sync::watch as latest;

pub use duty::expire_rights;
pub use services::{Behind, Endpoint, Services};
pub use snapshot::{Alpn, Snapshot};
pub use traffic::Traffic;

use self::sealed::Keeper;
use crate::connections::{Applied, Connections};
use crate::identity::RenewalOrder;
use crate::telemetry::{CloseReason, metrics};

/// The parts that a snapshot is made of; absent until their source delivered them.
#[derive(Debug, Default, Clone)]
pub struct Inputs {
    /// Our own SVID.
    pub svid: Option<Arc<Svid>>,
    /// Bundles by trust domain; empty until known.
    pub bundles: Vec<TrustBundle>,
    /// What is revoked.
    pub revocations: Revocations,
    /// What other authorities say of whom they certified.
    pub lists: Lists,
    /// Who may call us.
    pub policy: Option<Arc<PolicySet>>,
    /// Where the peers listen.
    pub services: Arc<Services>,
    /// How calls are made and taken.
    pub traffic: Arc<Traffic>,
    /// What holds for the whole mesh; strict until control says otherwise.
    pub settings: Arc<Settings>,
    /// Control's revision.
    pub revision: u64,
    /// The first generation after we gave up an identity.
    renounced: u64,
}

impl Inputs {
    fn trust(&self) -> Trust {
        Trust::new(self.bundles.iter().cloned(), self.revocations.clone()).with_lists(self.lists.clone())
    }

    /// Whether SVIDs of this issuer, in the domain of `svid`, are to be renewed at once.
    fn supersede(&self, svid: &Svid, issuer: &[u8; 32]) -> bool {
        let ours = self.bundles.iter().find(|bundle| bundle.trust_domain() == svid.id().trust_domain());
        ours.is_some_and(|bundle| bundle.supersedes(issuer))
    }
}

/// The mesh as this proxy sees it.
#[derive(Debug)]
pub struct Mesh {
    current: ArcSwapOption<Snapshot>,
    inputs: Mutex<Inputs>,
    generation: latest::Sender<u64>,
    next_renewal: Mutex<Option<SystemTime>>,
    /// The newest order of control to renew the SVID.
    renewal: latest::Sender<Option<RenewalOrder>>,
    connections: Arc<Connections>,
    keeper: Option<Arc<Keeper>>,
    /// When what is in force was sealed, until control says something.
    restored: Mutex<Option<SystemTime>>,
}

impl Mesh {
    /// A mesh of which nothing is known yet.
    #[must_use]
    pub fn new(connections: Arc<Connections>) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            inputs: Mutex::default(),
            generation: latest::Sender::new(0),
            next_renewal: Mutex::default(),
            renewal: latest::Sender::new(None),
            connections,
            keeper: None,
            restored: Mutex::default(),
        }
    }

    /// The same with a sealed copy on disk.
    #[must_use]
    pub fn kept_by(self, keeper: Option<Arc<Keeper>>) -> Self {
        Self { keeper, ..self }
    }

    /// Who keeps the sealed copy, if anybody does.
    #[must_use]
    pub fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.keeper.as_ref()
    }

    /// When that was sealed which is in force for want of anything newer.
    #[must_use]
    pub fn sealed_at(&self) -> Option<SystemTime> {
        *self.restored.lock()
    }

    /// What is in force was sealed at that time.
    pub(super) fn restored(&self, saved_at: SystemTime) {
        *self.restored.lock() = Some(saved_at);
        metrics::state_restored(Some(saved_at));
    }

    /// Control said something, which is in force.
    pub(super) fn heard(&self) {
        if self.restored.lock().take().is_some() {
            metrics::state_restored(None);
            tracing::info!("control answers again: what was sealed is replaced");
        }
    }

    /// The snapshot in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// Follows the generations of snapshots; 0 while there is none.
    #[must_use]
    pub fn generations(&self) -> latest::Receiver<u64> {
        self.generation.subscribe()
    }

    /// What is still missing before there can be a snapshot, for `/readyz`.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let inputs = self.inputs.lock();
        let mut missing = Vec::new();
        match &inputs.svid {
            None => missing.push("identity: no SVID yet"),
            Some(svid) if svid.has_ended(signet_proto::clock::now()) => {
                missing.push("identity: the SVID has ended and could not be renewed");
            }
            Some(_) => {}
        }
        if inputs.bundles.is_empty() {
            missing.push("trust bundle: none yet");
        }
        if inputs.policy.is_none() {
            missing.push("policy: none received yet");
        }
        missing
    }

    /// What will break unless somebody does something, for `/readyz`.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let inputs = self.inputs.lock();
        let left = inputs.svid.as_ref()?.overdue(signet_proto::clock::now())?;
        Some(format!(
            "the SVID should have been renewed and ends in {} s; the log says why it is not",
            left.as_secs()
        ))
    }

    /// What to prove ourselves to control with: known from the join on, before there is a policy.
    #[must_use]
    pub fn credentials(&self) -> Option<(Arc<Svid>, Arc<Trust>)> {
        if let Some(snapshot) = self.current() {
            return Some((Arc::clone(&snapshot.svid), snapshot.trust.using_expired_lists()));
        }
        let inputs = self.inputs.lock();
        inputs.svid.clone().map(|svid| (svid, Arc::new(inputs.trust()).using_expired_lists()))
    }

    /// When the SVID will be renewed, if that is up to us.
    #[must_use]
    pub fn next_renewal(&self) -> Option<SystemTime> {
        *self.next_renewal.lock()
    }

    /// Notes when the SVID will be renewed.
    pub(super) fn renews_at(&self, time: SystemTime) {
        *self.next_renewal.lock() = Some(time);
    }

    /// Control wants the SVID renewed.
    pub(super) fn order_renewal(&self, order: RenewalOrder) {
        self.renewal.send_replace(Some(order));
    }

    /// What control wants of that.
    #[must_use]
    pub fn renewal_orders(&self) -> latest::Receiver<Option<RenewalOrder>> {
        self.renewal.subscribe()
    }

    /// The policy in hand.
    pub(crate) fn policy(&self) -> Option<Arc<PolicySet>> {
        self.inputs.lock().policy.clone()
    }

    /// The trust bundles in hand.
    pub(crate) fn bundles(&self) -> Vec<TrustBundle> {
        self.inputs.lock().bundles.clone()
    }

    /// The revocation lists of other authorities in hand.
    pub(crate) fn lists(&self) -> Lists {
        self.inputs.lock().lists.clone()
    }

    /// Whether this SVID is to be renewed at once: what signed it is about to be distrusted.
    pub(crate) fn supersedes(&self, svid: &Svid) -> bool {
        self.inputs.lock().supersede(svid, &svid.profile().issuer_sha256)
    }

    /// Whether that was so of SVIDs of this issuer, and ours is of another one.
    pub(super) fn has_left(&self, issuer: &[u8; 32]) -> bool {
        let inputs = self.inputs.lock();
        let other = |svid: &&Arc<Svid>| svid.profile().issuer_sha256 != *issuer;
        inputs.svid.as_ref().filter(other).is_some_and(|svid| inputs.supersede(svid, issuer))
    }

    /// Changes the inputs and brings the result into force: when this returns, every connection that the
    /// change forbids has been told to close.
    ///
    /// # Errors
    /// When no TLS configuration can be made of the inputs; what was in force before stays in force.
    pub fn update(&self, change: impl FnOnce(&mut Inputs)) -> Result<Applied, ConfigError> {
        let started = Instant::now();
        let mut inputs = self.inputs.lock();
        let mut changed = inputs.clone();
        change(&mut changed);
        let previous = self.current.load_full();
        let generation = *self.generation.borrow() + 1;
        let next = Snapshot::prepare(&changed, generation)?;
        *inputs = changed;
        let Some(next) = next.map(Arc::new) else { return Ok(Applied::default()) };
        let bundles_shrank = previous.as_ref().is_some_and(|previous| previous.believes_more_than(&next));
        self.current.store(Some(Arc::clone(&next)));
        let applied = self.connections.decide_again(&next, bundles_shrank);
        self.generation.send_replace(generation);
        metrics::snapshot(generation, next.revision, started.elapsed());
        Ok(applied)
    }

    /// Gives up our identity, which somebody decided: nothing is accepted or called until there is another, and what is open
    /// ends.
    pub fn withdraw(&self) {
        let mut inputs = self.inputs.lock();
        inputs.svid = None;
        if self.current.swap(None).is_some() {
            self.connections.close_all(CloseReason::SvidEnded);
            self.generation.send_modify(|generation| *generation += 1);
            inputs.renounced = *self.generation.borrow();
        }
    }

    /// How calls are made and taken.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.inputs.lock().traffic)
    }

    /// Takes where the peers listen and how they are called, if that changed. That gives nobody a right and takes none away: nothing is decided again.
    pub fn relocate(&self, services: Option<Services>, traffic: Option<Arc<Traffic>>, revision: u64) {
        let mut inputs = self.inputs.lock();
        if let Some(traffic) = traffic {
            inputs.traffic = traffic;
        }
        if let Some(services) = services {
            inputs.services = Arc::new(services.after(&inputs.services));
        }
        inputs.revision = revision;
        if let Some(current) = self.current.load_full() {
            self.current.store(Some(Arc::new(current.relocated(&inputs))));
            metrics::revision(revision);
        }
    }

    /// Decides all live connections again without a change from outside, as when a rule's time is up.
    pub fn decide_again(&self) -> Applied {
        let _one_at_a_time = self.inputs.lock();
        self.current().map(|snapshot| self.connections.decide_again(&snapshot, false)).unwrap_or_default()
    }
}
