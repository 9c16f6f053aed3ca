//! Calling an endpoint of a peer: connect -> handshake -> register, then check.

use std::sync::Arc;

use signet_proto::spiffe::SpiffeId;
use tokio::net::TcpStream;

use crate::connections::{self, Content, Link, Subject};
use crate::forward::upstream::{Called, Upstream, UpstreamError, dial};
use crate::forward::{Counted, Prefixed};
use crate::mesh::{Alpn, Endpoint};
use crate::run::Shared;
use crate::telemetry::{CloseReason, Direction};
use crate::tls::{self, TlsStream};

/// A TLS connection is large, and handed on several times before it settles.
pub(crate) type Boxed = Box<TlsStream<Counted<TcpStream>>>;

/// An endpoint of a peer.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: SpiffeId,
    pub(super) endpoint: Endpoint,
}

impl Upstream for Target {
    type Io = Boxed;

    async fn connect(&self, alpn: Alpn) -> Result<Called<Self::Io>, UpstreamError> {
        let address = self.endpoint.address;
        if self.shared.own.would_loop(address) {
            return Err(UpstreamError::Loop { address });
        }
        let stream = Counted::new(dial(address).await?);
        let snapshot = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let config = snapshot.client(&self.peer, alpn)?;
        let (stream, peer) = tls::connect(stream, &config)
            .await
            .map_err(|error| UpstreamError::Handshake { address, error })?;
        let _ = self.shared.sightings.certificate(&peer);
        let registration = self.shared.connections.register(Subject {
            direction: Direction::Outbound,
            peer: connections::Peer::Proven(self.shared.connections.peer(peer)),
            local: snapshot.svid.id().clone(),
            port: Some(self.endpoint.app_port).filter(|port| *port != 0),
            address: None,
            content: Content::Connection,
        });
        // Registered first, checked with what is newest now (invariant 4).
        let newest = self.shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        let denied = || registration.decide(&newest).filter(|verdict| !verdict.allowed);
        let lost = registration
            .distrusted(&newest, snapshot.generation)
            .or_else(|| denied().map(|_| CloseReason::PolicyLost));
        match lost {
            Some(reason) => Err(UpstreamError::Distrusted(reason.as_str())),
            None => {
                let volume = Arc::clone(stream.get_ref().volume());
                registration.leads(Link::new(address, stream.alpn(), volume));
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
