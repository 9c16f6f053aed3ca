//! One consistent view: leaf, key, bundles, policy, revocations and services of one moment.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use signet_proto::handshake::{
    ALPN_H2, ALPN_HTTP1, ClientAuth, ConfigError, Svid, Trust, client_config, server_config,
};
use signet_proto::policy::PolicySet;
use signet_proto::settings::Settings;
use signet_proto::spiffe::SpiffeId;
use signet_proto::tunnel;

use super::{Inputs, Services, Traffic};

/// Configurations that are kept for the next call; more are made anew.
const MOST_CLIENTS: usize = 4096;

/// Everything a connection is decided and secured with. Never changed, only replaced.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts snapshots of this process, from 1.
    pub generation: u64,
    /// Control's revision that it reflects.
    pub revision: u64,
    /// Handshakes of generations before this one were made with an identity that we gave up.
    pub renounced: u64,
    /// Who we are.
    pub svid: Arc<Svid>,
    /// Whom we believe.
    pub trust: Arc<Trust>,
    /// Who may call us.
    pub policy: Arc<PolicySet>,
    /// Where peers listen.
    pub services: Arc<Services>,
    /// How calls are made and taken.
    pub traffic: Arc<Traffic>,
    /// What holds for the whole mesh.
    pub settings: Arc<Settings>,
    /// For accepting.
    pub server: Arc<ServerConfig>,
    /// The same without HTTP/2, for apps that do not speak it.
    pub server_http1: Arc<ServerConfig>,
    /// Made when a peer is first called: the configuration of each names whom it is for.
    clients: Arc<Mutex<Clients>>,
}

type Clients = HashMap<(SpiffeId, Alpn), Arc<ClientConfig>>;

/// What is offered in the ALPN extension (RFC 7301) of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

impl Alpn {
    fn offered(self) -> &'static [&'static [u8]] {
        match self {
            Self::None => &[],
            Self::Http1 => &[ALPN_HTTP1],
            Self::Http2 => &[ALPN_H2],
            Self::Signet => &[tunnel::ALPN],
        }
    }
}

impl Snapshot {
    /// Makes the snapshot of `inputs`, or none while something is missing.
    pub(super) fn prepare(inputs: &Inputs, generation: u64) -> Result<Option<Self>, ConfigError> {
        let (Some(svid), Some(policy)) = (&inputs.svid, &inputs.policy) else { return Ok(None) };
        if inputs.bundles.is_empty() {
            return Ok(None);
        }
        let trust = Arc::new(inputs.trust());
        let server = |alpn: &[&[u8]]| server_config(svid, Arc::clone(&trust), ClientAuth::Required, alpn);
        let (server, server_http1) =
            (server(&[tunnel::ALPN, ALPN_H2, ALPN_HTTP1])?, server(&[tunnel::ALPN, ALPN_HTTP1])?);
        Ok(Some(Self {
            generation,
            revision: inputs.revision,
            renounced: inputs.renounced,
            svid: Arc::clone(svid),
            trust,
            policy: Arc::clone(policy),
            services: Arc::clone(&inputs.services),
            traffic: Arc::clone(&inputs.traffic),
            settings: Arc::clone(&inputs.settings),
            server,
            server_http1,
            clients: Arc::default(),
        }))
    }

    /// The same with the services of `inputs`.
    pub(super) fn relocated(&self, inputs: &Inputs) -> Self {
        Self {
            generation: self.generation,
            revision: inputs.revision,
            renounced: self.renounced,
            svid: Arc::clone(&self.svid),
            trust: Arc::clone(&self.trust),
            policy: Arc::clone(&self.policy),
            services: Arc::clone(&inputs.services),
            traffic: Arc::clone(&inputs.traffic),
            settings: Arc::clone(&self.settings),
            server: Arc::clone(&self.server),
            server_http1: Arc::clone(&self.server_http1),
            clients: Arc::clone(&self.clients),
        }
    }

    /// The configuration for calling `peer`.
    ///
    /// # Errors
    /// When none can be made of our SVID.
    pub fn client(&self, peer: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, ConfigError> {
        let mut clients = self.clients.lock();
        let key = (peer.clone(), alpn);
        if let Some(known) = clients.get(&key) {
            return Ok(Arc::clone(known));
        }
        let config = client_config(Some(&self.svid), Arc::clone(&self.trust), peer.clone(), alpn.offered())?;
        if clients.len() < MOST_CLIENTS {
            clients.insert(key, Arc::clone(&config));
        }
        Ok(config)
    }

    /// Whether an authority of this snapshot, retired ones included, is missing in `next`: who was let in by it may have
    /// to leave. One that retires stays good for them.
    pub(super) fn believes_more_than(&self, next: &Self) -> bool {
        self.trust.bundles().any(|bundle| match next.trust.bundle(bundle.trust_domain()) {
            Some(kept) => bundle.authorities().iter().chain(bundle.retired()).any(|authority| {
                !kept.authorities().contains(authority) && !kept.retired().contains(authority)
            }),
            None => true,
        })
    }
}
