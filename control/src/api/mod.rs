//! The doors: gRPC over mutual TLS, gRPC for operators on a local socket, and plain HTTP for probes.
//!
//! ```text
//!   TCP 8443 ─ handshake (ours) ─▶ with an SVID  Identity · Mesh · Report · Admin   caller: SVID
//!                              └─▶ without       Identity (to attest only)          caller: nobody
//!   unix socket ─ peer credentials ──────────────▶ Admin                             caller: uid
//!   TCP 8080 ────────────────────────────────────▶ /metrics /livez /readyz /bundle /crl  nobody asked who
//!   TCP, if set ─ TLS, certificate files or SVID ▶ /bundle                           nobody asked who
//! ```
//!
//! Every call passes [`admission`] before its message is read, and then the [`Gate`], which says who asks and what
//! roles they have: a connection does not remember rights. What the roles permit is decided in [`crate::roles`]
//! once it is known what the call touches. Every error becomes a status in one place (`status`).

mod admin;
mod admission;
mod caller;
mod connection;
mod crl;
mod health;
mod http;
mod https;
mod identity;
mod listener;
mod mesh;
mod oidc;
mod refusals;
mod report;
mod sessions;
mod shares;
mod status;
mod tls;
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::v1::admin_server::AdminServer;
use signet_proto::v1::identity_server::IdentityServer;
use signet_proto::v1::mesh_server::MeshServer;
use signet_proto::v1::report_server::ReportServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::attest::{Attestors, Tokens};
use crate::audit::AuditKey;
use crate::ca::Authority;
use crate::federation::Federations;
use crate::issue::Issuer;
use crate::policy::Policies;
use crate::publish::{Endpoints, MeshState, Watchers};
use crate::registry::Registry;
use crate::store::Store;

use admission::Admission;

pub(crate) use admission::REQUEST_ID;
pub use caller::{Caller, Gate, Peer};
pub use health::Health;
pub use http::{Told, public, serve as serve_http};
pub use https::{CertificateError, CertificateFiles, Shows, serve as serve_https};
pub use listener::bind_socket;
pub use tls::{OwnIdentity, OwnIdentityError};

/// A signing request (4 KiB), and a token (16 KiB) or a chain of certificates (24 KiB).
const IDENTITY_MESSAGE: usize = 32 * 1024;
/// Listeners and upstreams.
const MESH_MESSAGE: usize = 512 * 1024;
/// What was seen: the names of 256 peers can be long.
const REPORT_MESSAGE: usize = 256 * 1024;
/// A YAML stream of policy documents.
const ADMIN_MESSAGE: usize = 8 * 1024 * 1024;
/// Longer than the longest wait that a caller may ask for (`AwaitApplied`).
const CALL_DEADLINE: Duration = Duration::from_secs(75);
const STREAMS_PER_CONNECTION: u32 = 128;
/// Whoever has proven nothing makes one call, perhaps again.
const STREAMS_OF_STRANGERS: u32 = 4;
/// What a peer may send before it is read, by call and by connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
const WINDOW_OF_STRANGERS: u32 = 64 * 1024;
const HEADERS: u32 = 16 * 1024;
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Everything that calls are answered with. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    /// Durable state.
    pub store: Store,
    /// Signing keys.
    pub authority: Arc<Authority>,
    /// Gives out SVIDs.
    pub issuer: Issuer,
    /// Workloads.
    pub registry: Registry,
    /// Policy documents.
    pub policies: Policies,
    /// Other trust domains.
    pub federations: Federations,
    /// Ways of proving who asks.
    pub attestors: Attestors,
    /// Join tickets.
    pub tokens: Tokens,
    /// What proxies see.
    pub state: watch::Receiver<Arc<MeshState>>,
    /// Open Watch streams.
    pub watchers: Arc<Watchers>,
    /// Where instances listen.
    pub endpoints: Arc<Endpoints>,
    /// Who may ask what.
    pub gate: Gate,
    /// Whether control can serve, and what is going to keep it from that.
    pub health: Health,
    /// What checkpoints are signed with.
    pub audit_key: AuditKey,
    /// Places for those who follow the audit.
    pub tails: Arc<Semaphore>,
    /// Whether streams are refused, as there is no database.
    pub cut_off: watch::Receiver<bool>,
    /// When this process started.
    pub started_at: SystemTime,
    /// Ends all streams.
    pub stop: CancellationToken,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address or path cannot be listened on.
    #[error("{key}: cannot listen on {at}: {error}")]
    Bind {
        /// Which setting.
        key: &'static str,
        /// Where.
        at: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The server failed.
    #[error("gRPC server: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Listens on a TCP address.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(key: &'static str, at: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(at).await.map_err(|error| ServeError::Bind { key, at: at.to_string(), error })
}

/// Serves the mesh: everything, over mutual TLS, until `stop`.
///
/// # Errors
/// When the server fails as a whole; single connections never do that.
pub async fn serve_mesh(
    rooms: Rooms,
    listener: TcpListener,
    own: Arc<OwnIdentity>,
) -> Result<(), ServeError> {
    let (members, strangers) = listener::tls(listener, own, rooms.gate.clone(), rooms.stop.clone());
    let stop = rooms.stop.clone();
    let identity = IdentityServer::new(rooms.clone()).max_decoding_message_size(IDENTITY_MESSAGE);
    let strangers = server()
        .max_concurrent_streams(STREAMS_OF_STRANGERS)
        .initial_stream_window_size(WINDOW_OF_STRANGERS)
        .initial_connection_window_size(WINDOW_OF_STRANGERS)
        .layer(Admission::new(rooms.gate.clone()))
        .add_service(identity.clone())
        .serve_with_incoming_shutdown(strangers, stop.clone().cancelled_owned());
    let members = server()
        .layer(Admission::new(rooms.gate.clone()))
        .add_service(identity)
        .add_service(MeshServer::new(rooms.clone()).max_decoding_message_size(MESH_MESSAGE))
        .add_service(ReportServer::new(rooms.clone()).max_decoding_message_size(REPORT_MESSAGE))
        .add_service(AdminServer::new(rooms).max_decoding_message_size(ADMIN_MESSAGE))
        .serve_with_incoming_shutdown(members, stop.cancelled_owned());
    tokio::try_join!(members, strangers)?;
    Ok(())
}

/// Serves operators on the local socket, until `stop`.
///
/// # Errors
/// When the server fails as a whole.
pub async fn serve_operators(rooms: Rooms, listener: UnixListener) -> Result<(), ServeError> {
    let incoming = listener::unix(listener, rooms.gate.clone(), rooms.stop.clone());
    let stop = rooms.stop.clone();
    server()
        .layer(Admission::new(rooms.gate.clone()))
        .add_service(AdminServer::new(rooms).max_decoding_message_size(ADMIN_MESSAGE))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

fn server() -> Server {
    Server::builder()
        .timeout(CALL_DEADLINE)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
}

#[cfg(test)]
mod tests;
