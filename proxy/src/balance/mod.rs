//! Which endpoint of a peer is called, and which connection to it is used again.
//!
//! ```text
//!   Services (control), Names (DNS), an address ──▶ Group: a Balancer behind a lock ──▶ Turn, for one call
//! ```
//!
//! [`balancer`] decides and is pure; a [`Turn`] tells it how the call went, and that it is over.

pub mod balancer;
pub mod budget;
mod ewma;
pub mod names;
pub mod outlier;
mod random;
pub mod split;
pub mod tunnels;

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use signet_proto::locality::Locality;
use signet_proto::spiffe::SpiffeId;

use self::balancer::{Balancer, Outcome, Slot, Status};
use self::random::Random;
use crate::mesh::Endpoint;
use crate::telemetry::metrics;

/// The endpoints of one callee, for all who call it.
#[derive(Debug)]
pub struct Group {
    peer: SpiffeId,
    /// Which of its apps, and where, as far as that is said.
    place: String,
    balancer: Mutex<Balancer>,
}

/// Everybody who is called, for people to look at.
#[derive(Debug, Default)]
pub struct Groups(Mutex<Vec<Weak<Group>>>);

impl Groups {
    /// Shows this one, too, for as long as it lives.
    pub fn show(&self, group: &Arc<Group>) {
        let mut all = self.0.lock();
        all.retain(|group| group.strong_count() > 0);
        all.push(Arc::downgrade(group));
    }

    /// All of them, by peer and place.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Group>> {
        let mut all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        all.sort_by(|one, other| (&one.peer, &one.place).cmp(&(&other.peer, &other.place)));
        all
    }
}

/// An endpoint for one call, which counts as outstanding for as long as this lives.
#[derive(Debug)]
pub struct Turn {
    group: Arc<Group>,
    slot: Slot,
    endpoint: Endpoint,
    since: Instant,
    told: bool,
}

impl Group {
    /// No endpoint of `peer` yet; we are at `locality`.
    #[must_use]
    pub fn new(peer: SpiffeId, place: String, locality: Option<Locality>) -> Self {
        let balancer = Balancer::new(locality, Random::unpredicted(), Instant::now());
        Self { peer, place, balancer: Mutex::new(balancer) }
    }

    /// Who is called.
    #[must_use]
    pub fn peer(&self) -> &SpiffeId {
        &self.peer
    }

    /// Which of its apps, and where.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// These are the endpoints now.
    pub fn update(&self, endpoints: &[Endpoint]) {
        self.balancer.lock().update(endpoints, Instant::now());
    }

    /// The endpoint for one call, none of `tried`.
    #[must_use]
    pub fn choose(self: &Arc<Self>, tried: &[Slot]) -> Option<Turn> {
        let now = Instant::now();
        let (slot, endpoint) = self.balancer.lock().choose(tried, now)?;
        Some(Turn { group: Arc::clone(self), slot, endpoint, since: now, told: false })
    }

    /// All endpoints and how they are.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        self.balancer.lock().statuses(Instant::now())
    }

    fn ended(&self, slot: Slot, outcome: Outcome) {
        let ejected = self.balancer.lock().ended(slot, outcome, Instant::now());
        if let Some(why) = ejected {
            metrics::ejected(why.as_str(), &self.peer);
            tracing::warn!(peer = %self.peer, reason = why.as_str(), "endpoint ejected: it gets nothing for a while");
        }
    }
}

impl Turn {
    /// Which endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Names it in what was tried.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Its connection is in hand: what counts from here on is how long an answer takes. A handshake is made once
    /// for many calls, and says little of them.
    pub fn connected(&mut self) {
        self.since = Instant::now();
    }

    /// The endpoint answered just now. What comes after its first answer says nothing of it.
    pub fn answered(&mut self) {
        self.tell(Outcome::Answered(self.since.elapsed()));
    }

    /// The endpoint failed the call.
    pub fn failed(&mut self) {
        self.tell(Outcome::Failed(self.since.elapsed()));
    }

    fn tell(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.told, true) {
            self.group.ended(self.slot, outcome);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.group.balancer.lock().released(self.slot);
    }
}
