//! Calling a peer: pick endpoint -> connect -> handshake -> register, then check.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::calls::{Callee, Whereabouts};
use crate::balance::Rotation;
use crate::connections::{Content, Subject};
use crate::forward::Prefixed;
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::mesh::{Alpn, Endpoint, Snapshot};
use crate::run::Shared;
use crate::telemetry::{Direction, metrics};
use crate::tls;

/// How many endpoints are tried for one connection, and for how long.
const MOST_TRIES: usize = 8;
const TRIES_DEADLINE: Duration = Duration::from_secs(12);

/// A TLS connection is large, and handed on several times before it settles.
pub(crate) type Boxed = Box<TlsStream<TcpStream>>;

/// A peer that is called.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) shared: Arc<Shared>,
    pub(super) callee: Arc<Callee>,
    rotation: Arc<Rotation>,
}

impl Upstream for Peer {
    type Io = Boxed;

    async fn connect(&self, alpn: Alpn) -> Result<Called<Self::Io>, UpstreamError> {
        self.reach(alpn).await.map(|(called, _)| called)
    }
}

impl Peer {
    pub(super) fn new(shared: Arc<Shared>, callee: Callee) -> Self {
        Self { shared, callee: Arc::new(callee), rotation: Arc::default() }
    }

    /// Tries the endpoints in turn; nothing has been sent yet, so the next one may be tried. Tells the app's
    /// port, too.
    pub(super) async fn reach(&self, alpn: Alpn) -> Result<(Called<Boxed>, u16), UpstreamError> {
        let reached = self.try_endpoints(alpn).await;
        if let Err(failure) = &reached {
            let (peer, port) = (&self.callee.peer, self.port());
            self.shared.sightings.unreached(peer, port, failure.reason());
        }
        reached
    }

    async fn try_endpoints(&self, alpn: Alpn) -> Result<(Called<Boxed>, u16), UpstreamError> {
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let peer = &self.callee.peer;
        let endpoints = self.endpoints(&snapshot)?;
        let mut failure = UpstreamError::NoEndpoint(peer.clone());
        let started = Instant::now();
        for Endpoint { address, app_port } in endpoints.into_iter().take(MOST_TRIES) {
            if started.elapsed() > TRIES_DEADLINE {
                break;
            }
            match self.call(address, alpn).await {
                Ok(called) => return Ok((called, app_port)),
                Err(error) => failure = error,
            }
            metrics::upstream_failed(failure.reason(), peer);
        }
        Err(failure)
    }

    /// The port of the app that is meant, 0 if that is not known.
    fn port(&self) -> u16 {
        match self.callee.whereabouts {
            Whereabouts::Anywhere(Some(port)) | Whereabouts::Address(_, Some(port)) => port,
            Whereabouts::App(app) => app.port(),
            Whereabouts::Address(_, None) => 0,
            Whereabouts::Anywhere(None) => {
                let snapshot = self.shared.mesh.current();
                let known =
                    snapshot.as_ref().and_then(|snapshot| snapshot.services.of(&self.callee.peer).first());
                known.map_or(0, |endpoint| endpoint.app_port)
            }
        }
    }

    /// The endpoints of the app that is meant, in turn. Several apps behind one identity are never mixed.
    fn endpoints(&self, snapshot: &Snapshot) -> Result<Vec<Endpoint>, UpstreamError> {
        let Callee { peer, whereabouts, .. } = &*self.callee;
        let known = snapshot.services.of(peer);
        let port = match whereabouts {
            Whereabouts::Address(address, port) => {
                return Ok(vec![Endpoint { address: *address, app_port: port.unwrap_or_default() }]);
            }
            Whereabouts::App(app) => {
                let here = |known: &&Endpoint| known.address.ip() == app.ip() && known.app_port == app.port();
                let endpoints: Vec<_> = known.iter().filter(here).copied().collect();
                return Ok(self.rotation.order(&endpoints));
            }
            Whereabouts::Anywhere(port) => port,
        };
        let mut endpoints = known.to_vec();
        match port {
            Some(port) => endpoints.retain(|endpoint| endpoint.app_port == *port),
            None => {
                let ports: BTreeSet<u16> = endpoints.iter().map(|endpoint| endpoint.app_port).collect();
                if ports.len() > 1 {
                    return Err(UpstreamError::SeveralApps { peer: peer.clone(), ports });
                }
            }
        }
        Ok(self.rotation.order(&endpoints))
    }

    async fn call(&self, address: SocketAddr, alpn: Alpn) -> Result<Called<Boxed>, UpstreamError> {
        if self.shared.own.would_loop(address) {
            return Err(UpstreamError::Loop { address });
        }
        let stream = dial(address).await?;
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let config = snapshot.client(&self.callee.peer, alpn)?;
        let (stream, peer) = tls::connect(stream, &config)
            .await
            .map_err(|error| UpstreamError::Handshake { address, error })?;
        let _ = self.shared.sightings.certificate(&peer);
        let registration = self.shared.connections.register(Subject {
            direction: Direction::Outbound,
            peer: Arc::new(peer),
            local: snapshot.svid.id().clone(),
            port: address.port(),
            content: Content::Connection,
        });
        // Registered first, checked with what is newest now (invariant 4).
        let newest = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        match registration.distrusted(&newest, snapshot.generation) {
            Some(reason) => Err(UpstreamError::Distrusted(reason.as_str())),
            None => {
                let svid = Some(Arc::clone(&snapshot.svid));
                Ok(Called {
                    stream: Prefixed::new(Box::new(stream)),
                    registration: Some(Arc::new(registration)),
                    svid,
                })
            }
        }
    }
}
