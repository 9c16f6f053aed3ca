//! What the right of a connection or request depends on, and the question that policy is asked about it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HOST, HeaderValue};
use http::{Method, Request, Uri};
use signet_proto::handshake::PeerIdentity;
use signet_proto::policy::{self, HttpRequest, KeptHeaders, Layer, PolicySet, Reason, Verdict, is_grpc};
use signet_proto::settings::UnknownDestinations;
use signet_proto::spiffe::SpiffeId;

use crate::mesh::Snapshot;
use crate::telemetry::{CloseReason, Direction};

/// What the right of an entry depends on.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Which way it goes.
    pub direction: Direction,
    /// Who is at the other end.
    pub peer: Peer,
    /// The workload of this proxy.
    pub local: SpiffeId,
    /// The app's port, that of the peer's app if it is outbound; none if that is not known.
    pub port: Option<u16>,
    /// The address of the caller, if it has one.
    pub address: Option<IpAddr>,
    /// What is known of its content.
    pub content: Content,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum Peer {
    /// A verified identity.
    Proven(Arc<PeerIdentity>),
    /// Whom our app means, before an endpoint is chosen.
    Meant(SpiffeId),
    /// A caller without TLS, and so without identity: only where the mesh takes plaintext.
    Plaintext,
    /// A destination that is no peer: only where the mesh, and what our configuration says, let it pass.
    Stranger(Option<UnknownDestinations>),
}

/// [`Layer`], owned.
#[derive(Debug, Clone)]
pub enum Content {
    /// Not known yet, or HTTP between requests.
    Connection,
    /// Bytes.
    Opaque,
    /// One HTTP request.
    Http(Arc<Head>),
}

/// What rules can ask of a request, as it is forwarded. Made without copying its texts.
#[derive(Debug)]
pub struct Head {
    method: Method,
    target: Uri,
    host: Option<HeaderValue>,
    grpc: bool,
    headers: KeptHeaders,
}

impl Peer {
    /// Its identity, as far as one is known.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Proven(peer) => Some(&peer.id),
            Self::Meant(id) => Some(id),
            Self::Plaintext | Self::Stranger(_) => None,
        }
    }

    /// The identity, if it proved one.
    #[must_use]
    pub fn identity(&self) -> Option<&PeerIdentity> {
        match self {
            Self::Proven(identity) => Some(identity),
            Self::Meant(_) | Self::Plaintext | Self::Stranger(_) => None,
        }
    }
}

impl Head {
    /// Of a request in the form in which it is forwarded. Of its headers, those are kept that `policy` looks at.
    pub fn of<B>(request: &Request<B>, policy: &PolicySet) -> Self {
        Self {
            method: request.method().clone(),
            target: request.uri().clone(),
            host: request.headers().get(HOST).cloned(),
            grpc: is_grpc(request.method().as_str(), request.headers()),
            headers: policy.keep(request.headers()),
        }
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Its path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// Its host, with the port if it says one.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let field = || self.host.as_ref().and_then(|host| host.to_str().ok());
        self.target.authority().map(http::uri::Authority::as_str).or_else(field)
    }
}

impl Content {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Opaque => "bytes",
            Self::Http(_) => "request",
        }
    }

    fn layer(&self, policy: &PolicySet) -> Layer<'_> {
        match self {
            Self::Connection => Layer::Connection,
            Self::Opaque => Layer::Opaque,
            Self::Http(head) => Layer::Http(HttpRequest {
                method: head.method(),
                path: head.path(),
                host: head.host(),
                grpc: head.grpc,
                headers: policy.known(&head.headers),
            }),
        }
    }
}

impl Subject {
    /// What policy says of it now: in front of our app, and beside it if whom it may call is restricted.
    #[must_use]
    pub fn decide(&self, snapshot: &Snapshot) -> Option<Verdict> {
        let question = self.question(&snapshot.policy)?;
        let verdict = match self.peer {
            Peer::Plaintext if self.may_be_plaintext(snapshot, question.now) => {
                snapshot.policy.decide_plaintext(&question)
            }
            _ => snapshot.policy.decide(&question),
        };
        (verdict.reason != Reason::Unrestricted).then_some(verdict)
    }

    /// Whose rate its requests count towards. All who have no identity share one, which is that of who calls itself.
    #[must_use]
    pub fn charged(&self) -> &SpiffeId {
        self.peer.identity().map_or(&self.local, |peer| &peer.id)
    }

    /// The same in a sentence.
    #[must_use]
    pub fn explain(&self, snapshot: &Snapshot) -> String {
        let Some(question) = self.question(&snapshot.policy) else { return String::new() };
        match &self.peer {
            Peer::Plaintext => snapshot.policy.explain_plaintext(&question),
            Peer::Proven(_) | Peer::Meant(_) | Peer::Stranger(_) => {
                snapshot.policy.explain(&question).to_string()
            }
        }
    }

    /// None if there is nothing to ask: no rule names a destination without identity.
    fn question<'a>(&'a self, policy: &PolicySet) -> Option<policy::Request<'a>> {
        let (source, destination) = match self.direction {
            Direction::Inbound => (self.peer.id(), &self.local),
            Direction::Outbound => (Some(&self.local), self.peer.id()?),
        };
        Some(policy::Request {
            direction: self.direction.into(),
            source,
            destination,
            port: self.port,
            address: self.address,
            layer: self.content.layer(policy),
            now: signet_proto::clock::now(),
        })
    }

    fn may_be_plaintext(&self, snapshot: &Snapshot, now: SystemTime) -> bool {
        self.port.is_some_and(|port| snapshot.settings.accepts_plaintext(&self.local, port, now))
    }

    /// Why its peer may not take part under `snapshot`, whatever policy says. `unsure` asks for the costly question
    /// whether it still chains to an authority.
    pub(super) fn distrusted(&self, snapshot: &Snapshot, unsure: bool) -> Option<CloseReason> {
        match &self.peer {
            Peer::Proven(peer) => {
                if let Some(because) = snapshot.trust.revoked(peer) {
                    return Some(CloseReason::Revoked(because));
                }
                if snapshot.svid.has_ended(signet_proto::clock::now()) {
                    return Some(CloseReason::SvidEnded);
                }
                (unsure && !snapshot.trust.believes(peer)).then_some(CloseReason::TrustRemoved)
            }
            Peer::Meant(_) => None,
            Peer::Plaintext => {
                let now = signet_proto::clock::now();
                (!self.may_be_plaintext(snapshot, now)).then_some(CloseReason::PlaintextRefused)
            }
            Peer::Stranger(own) => {
                let refused = snapshot.settings.unknown_destinations(*own) == UnknownDestinations::Refuse;
                refused.then_some(CloseReason::UnknownDestination)
            }
        }
    }

    /// Why it must end under `snapshot`, if it must. `bundles_shrank` asks for the costly question whether the
    /// peer still chains to an authority.
    pub(super) fn lost_right(&self, snapshot: &Snapshot, bundles_shrank: bool) -> Option<CloseReason> {
        if let Some(reason) = self.distrusted(snapshot, bundles_shrank) {
            return Some(reason);
        }
        let denied = match &self.peer {
            // Who is restricted calls nobody without identity.
            Peer::Stranger(_) => snapshot.policy.restricts(&self.local),
            _ => self.decide(snapshot).is_some_and(|verdict| !verdict.allowed),
        };
        denied.then_some(CloseReason::PolicyLost)
    }
}

impl From<Direction> for policy::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Egress,
        }
    }
}
