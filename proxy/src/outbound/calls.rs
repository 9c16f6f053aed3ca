//! The callees that are known, and what is known of each: its endpoints, and the connections to them.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::{Budget as Terms, Service};

use super::lane::Lane;
use super::peer::Target;
use crate::balance::balancer::Slot;
use crate::balance::budget::Budget;
use crate::balance::names::Name;
use crate::balance::split::Split;
use crate::balance::{Group, Turn};
use crate::config::{Protocol, Requested};
use crate::forward::upstream::UpstreamError;
use crate::mesh::{Alpn, Endpoint, Services, Snapshot};
use crate::run::Shared;
use crate::telemetry::metrics;

/// Callees whose connections are kept for the next call.
const MOST_CALLEES: usize = 1024;

/// Whom a connection is for: connections to one callee are never used for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Callee {
    /// Who must be at the other end.
    pub(super) peer: SpiffeId,
    /// Where.
    pub(super) whereabouts: Whereabouts,
    /// What is spoken there.
    pub(super) protocol: Protocol,
}

/// Where a callee is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Whereabouts {
    /// At any of the endpoints that control knows, with this port of the app if it has several.
    Anywhere(Option<u16>),
    /// At those of them whose app is at this address.
    App(SocketAddr),
    /// Where the configuration says, by address or name, with this port of the app.
    Address(Requested, Option<u16>),
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere(None) => f.write_str("its only app"),
            Self::Anywhere(Some(port)) => write!(f, "its app on port {port}"),
            Self::App(app) => write!(f, "its app at {app}"),
            Self::Address(place, None) => write!(f, "at {place}"),
            Self::Address(place, Some(port)) => write!(f, "at {place}, its app on port {port}"),
        }
    }
}

/// A callee at work.
pub(super) struct Calls {
    pub(super) callee: Callee,
    pub(super) shared: Arc<Shared>,
    pub(super) group: Arc<Group>,
    lanes: Mutex<HashMap<Endpoint, Arc<Lane>>>,
    /// Its addresses, if the configuration gives it a name.
    name: Option<Arc<Name>>,
    /// What its endpoints were last taken from.
    taken: Mutex<Taken>,
    budget: Mutex<Option<Budget>>,
    /// Whose turn it is among the legs of its document.
    split: Mutex<Option<(Arc<Service>, Split)>>,
}

#[derive(Default)]
enum Taken {
    #[default]
    Nothing,
    Services(Weak<Services>),
    Addresses(Arc<[SocketAddr]>),
}

/// The callees at work. Those that nobody calls make room.
#[derive(Default)]
pub(super) struct Callees(Mutex<HashMap<Callee, (Arc<Calls>, Instant)>>);

impl Callees {
    /// The callee's connections.
    pub(super) fn calls(&self, shared: &Arc<Shared>, callee: Callee) -> Arc<Calls> {
        let mut known = self.0.lock();
        if let Some((calls, used)) = known.get_mut(&callee) {
            *used = Instant::now();
            return Arc::clone(calls);
        }
        let calls = Arc::new(Calls::new(shared, callee.clone()));
        if known.len() >= MOST_CALLEES {
            let unused = known.iter().filter(|(_, (calls, _))| Arc::strong_count(calls) == 1);
            if let Some(oldest) = unused.min_by_key(|(_, (_, used))| *used).map(|(callee, _)| callee.clone())
            {
                known.remove(&oldest);
            }
        }
        if known.len() < MOST_CALLEES {
            known.insert(callee, (Arc::clone(&calls), Instant::now()));
        }
        calls
    }
}

impl Calls {
    /// No connection yet.
    fn new(shared: &Arc<Shared>, callee: Callee) -> Self {
        let name = match &callee.whereabouts {
            Whereabouts::Address(place, _) if place.address().is_none() => {
                Some(shared.names.follow(place, &shared.tasks, &shared.drain))
            }
            _ => None,
        };
        let place = callee.whereabouts.to_string();
        let group = Arc::new(Group::new(callee.peer.clone(), place, shared.locality.clone()));
        shared.groups.show(&group);
        Self {
            group,
            callee,
            shared: Arc::clone(shared),
            lanes: Mutex::default(),
            name,
            taken: Mutex::default(),
            budget: Mutex::default(),
            split: Mutex::default(),
        }
    }

    /// Waits for the first answer of DNS, if one is needed.
    pub(super) async fn located(&self) -> Result<(), UpstreamError> {
        match (&self.name, &self.callee.whereabouts) {
            (Some(name), Whereabouts::Address(place, _)) if name.addresses().await.is_none() => {
                Err(UpstreamError::Name(place.clone()))
            }
            _ => Ok(()),
        }
    }

    /// An endpoint that was not tried for this call, and the connections to it.
    pub(super) fn choose(&self, tried: &[Slot]) -> Result<Option<(Arc<Lane>, Turn)>, UpstreamError> {
        self.settle()?;
        let Some(turn) = self.group.choose(tried) else {
            return match tried {
                [] => Err(UpstreamError::NoEndpoint(self.callee.peer.clone())),
                _ => Ok(None),
            };
        };
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(turn.endpoint().clone()).or_insert_with(|| {
            let (shared, peer) = (Arc::clone(&self.shared), self.callee.peer.clone());
            Arc::new(Lane::new(Target { shared, peer, endpoint: turn.endpoint().clone() }))
        });
        Ok(Some((Arc::clone(lane), turn)))
    }

    /// What is offered for bytes. Who answers at a configured address may be no Signet proxy, and need not know
    /// its protocol.
    pub(super) fn alpn_of_bytes(&self) -> Alpn {
        match self.callee.whereabouts {
            Whereabouts::Address(..) => Alpn::None,
            Whereabouts::Anywhere(_) | Whereabouts::App(_) => Alpn::Signet,
        }
    }

    /// A call begins: it pays for a part of a retry.
    pub(super) fn deposit(&self, terms: Terms) {
        let now = Instant::now();
        self.budget.lock().get_or_insert_with(|| Budget::new(terms, now)).deposit(terms, now);
    }

    /// Takes a retry from the budget.
    pub(super) fn withdraw(&self, terms: Terms) -> bool {
        let now = Instant::now();
        let granted = self.budget.lock().get_or_insert_with(|| Budget::new(terms, now)).withdraw(terms, now);
        if !granted {
            metrics::retry_budget_exhausted(&self.callee.peer);
        }
        granted
    }

    /// Whose turn it is among the legs of `service`, of those that can be used.
    pub(super) fn turn_of(&self, service: &Arc<Service>, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let mut split = self.split.lock();
        let is_same =
            split.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, service) || known == service);
        if !is_same {
            *split = Some((Arc::clone(service), Split::new(service.split.iter().map(|leg| leg.weight))));
        }
        split.as_mut().and_then(|(_, split)| split.next(usable))
    }

    /// An endpoint could not be connected; `last`: and no other is tried.
    pub(super) fn unreached(&self, error: &UpstreamError, last: bool) {
        if last {
            let snapshot = self.shared.mesh.current();
            let port = snapshot.and_then(|snapshot| self.port(&snapshot)).unwrap_or_default();
            self.shared.sightings.unreached(&self.callee.peer, port, error.reason());
        } else {
            metrics::upstream_failed(error.reason(), &self.callee.peer);
        }
    }

    /// The port of the app that is meant, if that is known.
    pub(super) fn port(&self, snapshot: &Snapshot) -> Option<u16> {
        match &self.callee.whereabouts {
            Whereabouts::Anywhere(Some(port)) | Whereabouts::Address(_, Some(port)) => Some(*port),
            Whereabouts::App(app) => Some(app.port()),
            Whereabouts::Address(_, None) => None,
            Whereabouts::Anywhere(None) => {
                snapshot.services.of(&self.callee.peer).first().map(|endpoint| endpoint.app_port)
            }
        }
    }

    /// Takes the endpoints as they are now, if they changed. Connections to those that are gone go with them.
    pub(super) fn settle(&self) -> Result<(), UpstreamError> {
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let mut taken = self.taken.lock();
        let (now, endpoints) = match &self.callee.whereabouts {
            Whereabouts::Address(place, port) => {
                let addresses: Arc<[SocketAddr]> = match (&*taken, &self.name) {
                    (_, Some(name)) => name.known().ok_or_else(|| UpstreamError::Name(place.clone()))?,
                    (Taken::Addresses(_), None) => return Ok(()),
                    (_, None) => place.address().into_iter().collect(),
                };
                if matches!(&*taken, Taken::Addresses(known) if Arc::ptr_eq(known, &addresses)) {
                    return Ok(());
                }
                let endpoint = |address: &SocketAddr| Endpoint {
                    address: *address,
                    app_port: port.unwrap_or_default(),
                    instance: None,
                    locality: None,
                };
                let endpoints = addresses.iter().map(endpoint).collect();
                (Taken::Addresses(addresses), endpoints)
            }
            Whereabouts::Anywhere(_) | Whereabouts::App(_) => {
                let services = &snapshot.services;
                if matches!(&*taken, Taken::Services(known) if std::ptr::eq(known.as_ptr(), Arc::as_ptr(services)))
                {
                    return Ok(());
                }
                (Taken::Services(Arc::downgrade(services)), self.endpoints(&snapshot)?)
            }
        };
        self.group.update(&endpoints);
        let there: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
        self.lanes
            .lock()
            .retain(|endpoint, _| there.contains(&endpoint.address) && endpoints.contains(endpoint));
        *taken = now;
        Ok(())
    }

    /// The endpoints of the app that is meant. Several apps behind one identity are never mixed.
    fn endpoints(&self, snapshot: &Snapshot) -> Result<Vec<Endpoint>, UpstreamError> {
        let Callee { peer, whereabouts, .. } = &self.callee;
        let known = snapshot.services.of(peer);
        let at = |meant: &dyn Fn(&Endpoint) -> bool| {
            known.iter().filter(|endpoint| meant(endpoint)).cloned().collect()
        };
        Ok(match whereabouts {
            Whereabouts::App(app) => {
                at(&|known| known.address.ip() == app.ip() && known.app_port == app.port())
            }
            Whereabouts::Anywhere(Some(port)) => at(&|known| known.app_port == *port),
            Whereabouts::Anywhere(None) => {
                let ports: BTreeSet<u16> = known.iter().map(|endpoint| endpoint.app_port).collect();
                if ports.len() > 1 {
                    return Err(UpstreamError::SeveralApps { peer: peer.clone(), ports });
                }
                known.to_vec()
            }
            Whereabouts::Address(..) => Vec::new(),
        })
    }
}
