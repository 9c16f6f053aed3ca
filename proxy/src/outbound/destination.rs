//! Whom our app means.

use std::collections::HashMap;
use std::sync::Arc;

use signet_proto::settings::UnknownDestinations;
use signet_proto::spiffe::SpiffeId;

use super::calls::{Callee, Callees, Calls, Whereabouts};
use crate::capture::proxy_protocol::Balancers;
use crate::capture::{Socket, connect, original};
use crate::config::{self, Destination, Place, Protocol, Requested, Route, Unknown};
use crate::forward::Prefixed;
use crate::mesh::{Behind, Snapshot};
use crate::run::Shared;

/// What all outbound listeners know of destinations.
pub struct Destinations {
    routes: HashMap<Requested, (SpiffeId, Place, Protocol)>,
    unknown: Option<UnknownDestinations>,
    pub(super) callees: Arc<Callees>,
}

/// One outbound listener at work.
pub struct Outbound {
    pub(super) shared: Arc<Shared>,
    pub(super) listen: String,
    pub(super) port: Option<u16>,
    pub(super) destination: Destination,
    pub(super) balancers: Balancers,
    protocol: Protocol,
    pub(super) destinations: Arc<Destinations>,
}

/// What the app asked for.
pub(super) enum Asked<'a> {
    /// Nothing: the listener alone says whom it means.
    Always(&'a SpiffeId, &'a Place),
    /// This destination.
    For(Requested),
}

/// Who is behind that.
pub(super) enum Meant {
    /// A peer.
    Peer(Arc<Calls>),
    /// Nobody whom we know, or ever knew.
    Stranger(Requested),
    /// It cannot be told who, or it is a peer that is gone.
    Unclear(Requested),
}

/// Why nobody is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum DestinationError {
    /// Captured means by TCP.
    #[error("a unix socket has no original destination: say whom the listener means")]
    NotCaptured,
    /// The socket does not tell.
    #[error("cannot find out where the connection was going: {0}")]
    Original(#[from] std::io::Error),
    /// The rules capture the proxy itself.
    #[error(
        "a connection of this proxy was captured: install the rules with its user (`capture install --proxy-uid`)"
    )]
    Ourselves,
    /// CONNECT failed.
    #[error(transparent)]
    Connect(#[from] connect::ConnectError),
    /// One of our own.
    #[error("{0} is this proxy's own listener: connect to the app, not to the proxy")]
    Own(Requested),
}

impl Destinations {
    /// From the configuration.
    #[must_use]
    pub fn new(routes: Vec<Route>, unknown: Option<Unknown>) -> Self {
        let routes = routes
            .into_iter()
            .map(|Route { destination, peer, place, protocol }| (destination, (peer, place, protocol)));
        Self { routes: routes.collect(), unknown: unknown.map(Into::into), callees: Arc::default() }
    }
}

impl Outbound {
    /// A listener that is bound as `listen` says; `port` is its port.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        destinations: Arc<Destinations>,
        settings: config::Outbound,
        listen: String,
        port: Option<u16>,
    ) -> Self {
        let config::Outbound { destination, protocol, proxy_protocol_from, .. } = settings;
        let balancers = proxy_protocol_from.into();
        Self { shared, listen, port, destination, balancers, protocol, destinations }
    }

    /// What the configuration says of destinations that nobody knows.
    pub(super) fn unknown(&self) -> Option<UnknownDestinations> {
        self.destinations.unknown
    }

    /// What the app asks for.
    pub(super) async fn asked(&self, caller: &mut Prefixed<Socket>) -> Result<Asked<'_>, DestinationError> {
        match &self.destination {
            Destination::Peer(peer, place) => Ok(Asked::Always(peer, place)),
            Destination::Original => {
                let Socket::Tcp(stream) = caller.get_ref() else { return Err(DestinationError::NotCaptured) };
                if self.shared.own.calls_from(stream.peer_addr()?) {
                    return Err(DestinationError::Ourselves);
                }
                let destination = original::destination(stream)?;
                if self.shared.own.has(destination) {
                    return Err(DestinationError::Own(destination.into()));
                }
                Ok(Asked::For(destination.into()))
            }
            Destination::Connect => {
                let authority = connect::requested(caller).await?;
                let requested = Requested::new(authority.host(), authority.port_u16().unwrap_or_default());
                if requested.address().is_some_and(|address| self.shared.own.has(address)) {
                    let refusal = DestinationError::Own(requested);
                    connect::deny(caller, &refusal).await;
                    return Err(refusal);
                }
                Ok(Asked::For(requested))
            }
        }
    }

    /// Who that is: what the configuration says goes before what control says.
    pub(super) fn meant(&self, asked: Asked<'_>, snapshot: &Snapshot) -> Meant {
        let callee = |peer: &SpiffeId, place: &Place, protocol| Callee {
            peer: peer.clone(),
            whereabouts: match &place.address {
                Some(address) => Whereabouts::Address(address.clone(), place.port),
                None => Whereabouts::Anywhere(place.port),
            },
            protocol,
        };
        let callee = match asked {
            Asked::Always(peer, place) => callee(peer, place, self.protocol),
            Asked::For(requested) => {
                if let Some((peer, place, protocol)) = self.destinations.routes.get(&requested) {
                    callee(peer, place, *protocol)
                } else {
                    let Some(app) = requested.address() else { return Meant::Stranger(requested) };
                    match snapshot.services.behind(app) {
                        Behind::Peer(peer) => {
                            let whereabouts = Whereabouts::App(app);
                            Callee { peer: peer.clone(), whereabouts, protocol: self.protocol }
                        }
                        Behind::Unclear => return Meant::Unclear(requested),
                        Behind::Stranger => return Meant::Stranger(requested),
                    }
                }
            }
        };
        Meant::Peer(self.destinations.callees.calls(&self.shared, callee))
    }
}
