//! The doors: gRPC over mutual TLS, gRPC for operators on a local socket, and plain HTTP for probes.
//!
//! ```text
//!   TCP 8443 ─ handshake (ours, 10 s) ─▶ Identity · Mesh · Report · Admin   caller: SVID, or none (only Attest)
//!   unix socket ─ peer credentials ────▶ Admin                              caller: uid
//!   TCP 8080 ──────────────────────────▶ /metrics /livez /readyz /bundle    nobody asked who
//! ```
//!
//! Every call passes the [`Gate`], which says who asks and whether they still may: a connection does not
//! remember rights. Every error becomes a status in one place (`status`).

mod admin;
mod caller;
mod http;
mod identity;
mod listener;
mod mesh;
mod report;
mod status;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::v1::admin_server::AdminServer;
use signet_proto::v1::identity_server::IdentityServer;
use signet_proto::v1::mesh_server::MeshServer;
use signet_proto::v1::report_server::ReportServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::attest::Tokens;
use crate::ca::Authority;
use crate::issue::Issuer;
use crate::policy::Policies;
use crate::publish::{Endpoints, MeshState, Watchers};
use crate::registry::Registry;
use crate::store::Store;

pub use caller::{Caller, Gate, Peer};
pub use http::Health;
pub use tls::OwnIdentity;

/// A signing request and a token: small.
const IDENTITY_MESSAGE: usize = 16 * 1024;
/// Listeners and upstreams.
const MESH_MESSAGE: usize = 512 * 1024;
const REPORT_MESSAGE: usize = 64 * 1024;
/// A YAML stream of policy documents.
const ADMIN_MESSAGE: usize = 8 * 1024 * 1024;
/// Longer than the longest wait that a caller may ask for (`AwaitApplied`).
const CALL_DEADLINE: Duration = Duration::from_secs(75);
const STREAMS_PER_CONNECTION: u32 = 128;
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

pub use listener::bind_socket;

/// Serves the mesh: everything, over mutual TLS, until `stop`.
///
/// # Errors
/// When the server fails as a whole; single connections never do that.
pub async fn serve_mesh(
    rooms: Rooms,
    listener: TcpListener,
    own: Arc<OwnIdentity>,
) -> Result<(), ServeError> {
    let incoming = listener::tls(listener, own, rooms.stop.clone());
    let stop = rooms.stop.clone();
    server()
        .add_service(IdentityServer::new(rooms.clone()).max_decoding_message_size(IDENTITY_MESSAGE))
        .add_service(MeshServer::new(rooms.clone()).max_decoding_message_size(MESH_MESSAGE))
        .add_service(ReportServer::new(rooms.clone()).max_decoding_message_size(REPORT_MESSAGE))
        .add_service(AdminServer::new(rooms).max_decoding_message_size(ADMIN_MESSAGE))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Serves operators on the local socket, until `stop`.
///
/// # Errors
/// When the server fails as a whole.
pub async fn serve_operators(rooms: Rooms, listener: UnixListener) -> Result<(), ServeError> {
    let incoming = listener::unix(listener, rooms.stop.clone());
    let stop = rooms.stop.clone();
    server()
        .add_service(AdminServer::new(rooms).max_decoding_message_size(ADMIN_MESSAGE))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

pub use http::serve as serve_http;

fn server() -> Server {
    Server::builder()
        .timeout(CALL_DEADLINE)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
}
