//! One call: whom it is for, if its service is split; which endpoint, and which next if that one fails.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::{Leg, Retries, Service, Timeouts};
use signet_proto::tunnel::MAX_EARLY_BYTES;

use super::calls::{Callee, Callees, Calls, Whereabouts};
use super::lane::{Lane, Way};
use super::peer::{Boxed, Target};
use crate::balance::Turn;
use crate::balance::balancer::Slot;
use crate::forward::http::{Route, Stop, Trip, Version};
use crate::forward::upstream::{Called, Upstream, UpstreamError};
use crate::mesh::{Alpn, Snapshot};

/// How many endpoints are tried for one connection, and for how long.
const MOST_TRIES: usize = 8;
const TRIES_DEADLINE: Duration = Duration::from_secs(12);

/// Where the calls of one connection of our app go.
pub(super) struct Outgoing {
    callees: Arc<Callees>,
    named: Arc<Calls>,
    version: Version,
    /// What was chosen for the first request already, while it was found out that it is one.
    begun: Mutex<Option<Call>>,
}

/// One call.
pub(super) struct Call {
    /// Whom our app means: by its document the call is made.
    named: Arc<Calls>,
    service: Option<Arc<Service>>,
    /// Whom it goes to.
    leg: Arc<Calls>,
    tried: Vec<Slot>,
    chosen: Option<(Arc<Lane>, Turn)>,
}

/// A call that has its connection.
pub(super) struct Connected<T> {
    pub(super) with: T,
    pub(super) lane: Arc<Lane>,
    pub(super) turn: Turn,
}

impl Outgoing {
    pub(super) fn new(
        callees: Arc<Callees>,
        named: Arc<Calls>,
        version: Version,
        begun: Option<Call>,
    ) -> Self {
        Self { callees, named, version, begun: Mutex::new(begun) }
    }
}

impl Route for Outgoing {
    type Upstream = Target;
    type Trip = VersionedCall;

    async fn set_out(&self) -> Result<VersionedCall, UpstreamError> {
        let begun = self.begun.lock().take();
        let call = match begun {
            Some(call) => call,
            None => Call::begin(&self.callees, &self.named).await?,
        };
        self.named.deposit(call.retries().budget);
        Ok(VersionedCall { call, version: self.version })
    }
}

/// A call of which it is known what it speaks.
pub(super) struct VersionedCall {
    call: Call,
    version: Version,
}

impl Trip for VersionedCall {
    type Upstream = Target;

    fn next(&mut self, again: bool) -> Result<Option<Stop<Target>>, UpstreamError> {
        let chosen = self.call.next(again)?;
        Ok(chosen.map(|(lane, turn)| Stop { pool: Arc::clone(lane.pool(self.version)), turn: Some(turn) }))
    }

    fn callee(&self) -> Option<&SpiffeId> {
        Some(self.call.callee())
    }

    fn named(&self) -> Option<&SpiffeId> {
        Some(&self.call.named.callee.peer)
    }

    fn retries(&self) -> &Retries {
        self.call.retries()
    }

    fn timeouts(&self) -> Timeouts {
        self.call.timeouts()
    }

    fn grants_retry(&self) -> bool {
        self.call.named.withdraw(self.call.retries().budget)
    }

    fn unreached(&self, error: &UpstreamError, last: bool) {
        self.call.leg.unreached(error, last);
    }
}

impl Call {
    /// A call to `named`, or to the leg of it whose turn it is.
    pub(super) async fn begin(callees: &Callees, named: &Arc<Calls>) -> Result<Self, UpstreamError> {
        let snapshot = named.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let service = snapshot.traffic.of(&named.callee.peer).cloned();
        let leg = match service.as_ref().filter(|service| !service.split.is_empty()) {
            Some(service) => leg_of(callees, named, service, &snapshot),
            None => Arc::clone(named),
        };
        drop(snapshot);
        leg.located().await.inspect_err(|error| leg.unreached(error, true))?;
        Ok(Self { named: Arc::clone(named), service, leg, tried: Vec::new(), chosen: None })
    }

    /// Who must be at the other end.
    pub(super) fn callee(&self) -> &SpiffeId {
        &self.leg.callee.peer
    }

    pub(super) fn retries(&self) -> &Retries {
        static USUAL: LazyLock<Retries> = LazyLock::new(Retries::default);
        self.service.as_ref().and_then(|service| service.retries.as_ref()).unwrap_or(&USUAL)
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.service.as_ref().and_then(|service| service.timeouts).unwrap_or_default()
    }

    fn next(&mut self, again: bool) -> Result<Option<(Arc<Lane>, Turn)>, UpstreamError> {
        if let Some(chosen) = self.chosen.take() {
            return Ok(Some(chosen));
        }
        let mut chosen = self.leg.choose(&self.tried).inspect_err(|error| self.leg.unreached(error, true))?;
        if chosen.is_none() && again {
            self.tried.clear();
            chosen = self.leg.choose(&[])?;
        }
        if let Some((_, turn)) = &chosen {
            self.tried.push(turn.slot());
        }
        Ok(chosen)
    }

    /// A way for bytes from `source`: the endpoints are tried one after the other for as long as none of them can have
    /// what the app has said `already`.
    pub(super) async fn way(
        &mut self,
        source: Option<SocketAddr>,
        already: &[u8],
    ) -> Result<Connected<Way>, UpstreamError> {
        let alpn = self.leg.alpn_of_bytes();
        // Who is given up at a deadline of its document cannot be asked how far it got.
        let already = if self.timeouts().connect.is_some() { &[] } else { already };
        let already = already.get(..MAX_EARLY_BYTES).unwrap_or(already);
        self.connected(|lane| async move { lane.way(alpn, source, already).await }).await
    }

    /// A connection of which it is not known yet what it carries.
    pub(super) async fn connection(&mut self) -> Result<Connected<Called<Boxed>>, UpstreamError> {
        self.connected(|lane| async move { lane.target.connect(Alpn::None).await }).await
    }

    /// Puts a connection that was made for this call to use for its first request.
    pub(super) async fn adopt(&mut self, version: Version, connected: Connected<Called<Boxed>>) {
        let Connected { with, lane, turn } = connected;
        lane.pool(version).adopt(with).await;
        self.chosen = Some((lane, turn));
    }

    async fn connected<T, F>(
        &mut self,
        connect: impl Fn(Arc<Lane>) -> F,
    ) -> Result<Connected<T>, UpstreamError>
    where
        F: Future<Output = Result<T, UpstreamError>>,
    {
        let started = Instant::now();
        let mut failure = None;
        for _ in 0..MOST_TRIES {
            let Some((lane, mut turn)) = self.next(false)? else { break };
            let connecting = connect(Arc::clone(&lane));
            let made = match self.timeouts().connect {
                Some(limit) => {
                    let made = tokio::time::timeout(limit, connecting).await;
                    made.unwrap_or(Err(UpstreamError::Late(limit)))
                }
                None => connecting.await,
            };
            let error = match made {
                Ok(with) => {
                    turn.answered();
                    return Ok(Connected { with, lane, turn });
                }
                Err(error) => error,
            };
            turn.failed();
            self.leg.unreached(&error, false);
            let over = !error.is_of_this_endpoint() || started.elapsed() > TRIES_DEADLINE;
            failure = Some(error);
            if over {
                break;
            }
        }
        let failure = failure.unwrap_or_else(|| UpstreamError::NoEndpoint(self.callee().clone()));
        self.leg.unreached(&failure, true);
        Err(failure)
    }
}

/// The leg whose turn it is. One without any endpoint is passed over as long as another has some.
fn leg_of(callees: &Callees, named: &Arc<Calls>, service: &Arc<Service>, snapshot: &Snapshot) -> Arc<Calls> {
    let is_named = |leg: &Leg| leg.to == named.callee.peer && leg.port.is_none();
    let usable = |number: usize| {
        service.split.get(number).is_some_and(|leg| {
            let elsewhere = matches!(named.callee.whereabouts, Whereabouts::Address(..)) && is_named(leg);
            elsewhere || !snapshot.services.of(&leg.to).is_empty()
        })
    };
    let turn = named.turn_of(service, usable).or_else(|| named.turn_of(service, |_| true));
    match turn.and_then(|number| service.split.get(number)) {
        Some(leg) if !is_named(leg) => {
            let there =
                |port: &u16| snapshot.services.of(&leg.to).iter().any(|known| known.app_port == *port);
            let asked = match &named.callee.whereabouts {
                Whereabouts::Anywhere(port) | Whereabouts::Address(_, port) => *port,
                Whereabouts::App(app) => Some(app.port()),
            };
            let port = leg.port.map(NonZeroU16::get).or(asked.filter(there));
            let whereabouts = Whereabouts::Anywhere(port);
            let protocol = named.callee.protocol;
            callees.calls(&named.shared, Callee { peer: leg.to.clone(), whereabouts, protocol })
        }
        _ => Arc::clone(named),
    }
}
