//! Mutual TLS 1.3, both ends in one thread, without a network.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use super::Case;
use crate::{Error, Mesh, shake_hands};

pub(super) fn cases(mesh: &Mesh) -> Result<Vec<Case>, Error> {
    let (client, server) = (Arc::clone(mesh.client()), Arc::clone(mesh.server()));
    let full = Case::new("handshake, full", move || is(HandshakeKind::Full, &client, &server))?;
    let (client, server) = (resuming_client(mesh), resuming_server(mesh));
    shake_hands(&client, &server)?;
    let resumed = Case::new("handshake, resumed", move || is(HandshakeKind::Resumed, &client, &server))?;
    Ok(vec![full, resumed])
}

fn is(expected: HandshakeKind, client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(), Error> {
    let kind = shake_hands(client, server)?;
    if kind != Some(expected) {
        return Err(format!("a handshake of another kind: {kind:?}").into());
    }
    Ok(())
}

/// What `signet-proxy` uses resumes nothing: a session would outlive what was checked. This is what that costs.
fn resuming_client(mesh: &Mesh) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(mesh.client());
    config.resumption = Resumption::in_memory_sessions(16);
    Arc::new(config)
}

fn resuming_server(mesh: &Mesh) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(mesh.server());
    config.session_storage = ServerSessionMemoryCache::new(16);
    config.send_tls13_tickets = 1;
    Arc::new(config)
}
