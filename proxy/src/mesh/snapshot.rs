//! One consistent view: leaf, key, bundles, policy, revocations and services of one moment.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use signet_proto::handshake::{
    ALPN_H2, ALPN_HTTP1, ClientAuth, ConfigError, Svid, Trust, client_config, server_config,
};
use signet_proto::policy::PolicySet;
use signet_proto::spiffe::SpiffeId;
use signet_proto::tunnel;

use super::Inputs;

/// Where instances of each peer listen.
pub type Services = BTreeMap<SpiffeId, Vec<Endpoint>>;

/// One listening instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its mutual-TLS port.
    pub address: SocketAddr,
    /// The port of the app behind it.
    pub app_port: u16,
}

/// Everything a connection is decided and secured with. Never changed, only replaced.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts snapshots of this process, from 1.
    pub generation: u64,
    /// Control's revision that it reflects.
    pub revision: u64,
    /// Who we are.
    pub svid: Arc<Svid>,
    /// Whom we believe.
    pub trust: Arc<Trust>,
    /// Who may call us.
    pub policy: Arc<PolicySet>,
    /// Where peers listen.
    pub services: Arc<Services>,
    /// For accepting.
    pub server: Arc<ServerConfig>,
    clients: HashMap<SpiffeId, Clients>,
}

/// What is offered in the ALPN extension (RFC 7301) of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// Nothing: bytes, or not known yet.
    None,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque streams between two Signet proxies.
    Signet,
}

/// The configurations for calling one peer.
#[derive(Debug)]
struct Clients {
    none: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    signet: Arc<ClientConfig>,
}

impl Snapshot {
    /// Makes the snapshot of `inputs`, or none while something is missing.
    pub(super) fn prepare(
        inputs: &Inputs,
        generation: u64,
        upstreams: &[SpiffeId],
    ) -> Result<Option<Self>, ConfigError> {
        let (Some(svid), Some(policy)) = (&inputs.svid, &inputs.policy) else { return Ok(None) };
        if inputs.bundles.is_empty() {
            return Ok(None);
        }
        let trust = Arc::new(Trust::new(inputs.bundles.iter().cloned(), inputs.revocations.clone()));
        let server = server_config(
            svid,
            Arc::clone(&trust),
            ClientAuth::Required,
            &[tunnel::ALPN, ALPN_H2, ALPN_HTTP1],
        )?;
        let clients = upstreams
            .iter()
            .map(|peer| {
                let config =
                    |alpn: &[&[u8]]| client_config(Some(svid), Arc::clone(&trust), peer.clone(), alpn);
                let clients = Clients {
                    none: config(&[])?,
                    http1: config(&[ALPN_HTTP1])?,
                    http2: config(&[ALPN_H2])?,
                    signet: config(&[tunnel::ALPN])?,
                };
                Ok((peer.clone(), clients))
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(Some(Self {
            generation,
            revision: inputs.revision,
            svid: Arc::clone(svid),
            trust,
            policy: Arc::clone(policy),
            services: Arc::clone(&inputs.services),
            server,
            clients,
        }))
    }

    /// The configuration for calling `peer`, one of the configured upstreams.
    #[must_use]
    pub fn client(&self, peer: &SpiffeId, alpn: Alpn) -> Option<&Arc<ClientConfig>> {
        self.clients.get(peer).map(|clients| match alpn {
            Alpn::None => &clients.none,
            Alpn::Http1 => &clients.http1,
            Alpn::Http2 => &clients.http2,
            Alpn::Signet => &clients.signet,
        })
    }

    /// Whether an authority of this snapshot is missing in `next`.
    pub(super) fn believes_more_than(&self, next: &Self) -> bool {
        self.trust.bundles().any(|bundle| match next.trust.bundle(bundle.trust_domain()) {
            Some(kept) => {
                bundle.authorities().iter().any(|authority| !kept.authorities().contains(authority))
            }
            None => true,
        })
    }
}
