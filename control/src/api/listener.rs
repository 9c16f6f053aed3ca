//! Accepting connections: handshake with a deadline, caps, and who is at the other end.
//!
//! ```text
//!   accept ─ a place among all, and among those of the address that have proven nothing
//!     ─▶ ClientHello (5 s) ─▶ a place among the handshakes (waits 4 s) ─▶ handshake (5 s)
//!     ─▶ SVID, welcome:  member     until it leaves, or is revoked; so many for each instance
//!        SVID, revoked:  stranger   hears why on its first call, 10 s
//!        no SVID:        stranger   may attest, 30 s
//! ```
//!
//! Whoever says nothing holds only what is its own address' share.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rustls::server::Acceptor;
use signet_proto::handshake::{PeerIdentity, verify_failure};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::ServeError;
use super::caller::{Caller, Gate, Peer};
use super::connection::{Asked, Connection, Holds, Io};
use super::sessions::Sessions;
use super::shares::{Share, Shares};
use super::tls::OwnIdentity;
use crate::telemetry::metrics;

const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// A herd waits this long for its turn before it is turned away: somewhat shorter than a proxy waits for a connection, so
/// that nothing is begun that nobody will finish.
const TURN: Duration = Duration::from_secs(4);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Open TCP connections: room for 10,000 proxies that renew and report over a second one now and then.
const MAX_CONNECTIONS: usize = 24_000;
/// Handshakes at the same time: they cost CPU before anyone is known.
const MAX_HANDSHAKES: usize = 1024;
/// Connections of strangers, and how long one lives: enough to attest, or to hear why not.
const MAX_STRANGERS: usize = 1024;
const ANONYMOUS_LIFE: Duration = Duration::from_secs(30);
const REFUSED_LIFE: Duration = Duration::from_secs(10);
const MAX_LOCAL: usize = 256;
/// Local users without a role; long enough to hear so.
const MAX_FOREIGN: usize = 16;
const FOREIGN_LIFE: Duration = Duration::from_secs(5);
/// After a failed accept (usually: no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Accepted connections that the server has not picked up yet.
const BACKLOG: usize = 64;

/// Connections for the server.
pub(super) type Incoming = ReceiverStream<io::Result<Connection>>;

/// Connections over TLS, one task per handshake: of members, and of strangers.
pub(super) fn tls(
    listener: TcpListener,
    own: Arc<OwnIdentity>,
    gate: Gate,
    stop: CancellationToken,
) -> (Incoming, Incoming) {
    let (members, incoming) = mpsc::channel(BACKLOG);
    let (strangers, unproven) = mpsc::channel(BACKLOG);
    let sessions = Arc::new(Sessions::default());
    tokio::spawn(cut_revoked(Arc::clone(&sessions), gate.clone(), stop.clone()));
    let door = Arc::new(Door {
        own,
        gate,
        members,
        strangers,
        sessions,
        shares: Shares::default(),
        open: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        handshakes: Semaphore::new(MAX_HANDSHAKES),
        unproven: Arc::new(Semaphore::new(MAX_STRANGERS)),
    });
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => door.admit(stream, remote.ip().to_canonical()),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    metrics::connection("grpc", "accept_failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    (ReceiverStream::new(incoming), ReceiverStream::new(unproven))
}

/// Ends the connections of whoever is revoked while connected, after a moment in which its calls hear why.
async fn cut_revoked(sessions: Arc<Sessions>, gate: Gate, stop: CancellationToken) {
    let mut states = gate.states();
    let mut known = Arc::clone(&states.borrow().revocations);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
        let now = Arc::clone(&states.borrow_and_update().revocations);
        if Arc::ptr_eq(&known, &now) {
            continue;
        }
        let added = now.added_since(&known);
        known = now;
        let touched = sessions.touched_by(&added).into_iter();
        let revoked: Vec<_> = touched.filter(|open| !gate.welcomes(&open.identity)).collect();
        if revoked.is_empty() {
            continue;
        }
        let gate = gate.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REFUSED_LIFE).await;
            // Who was only taken for lapsed may be back meanwhile.
            revoked.iter().filter(|open| !gate.welcomes(&open.identity)).for_each(|open| open.cut.cancel());
        });
    }
}

/// Connections on the local socket.
pub(super) fn unix(listener: UnixListener, gate: Gate, stop: CancellationToken) -> Incoming {
    let (connections, incoming) = mpsc::channel(BACKLOG);
    let operators = Arc::new(Semaphore::new(MAX_LOCAL));
    let foreign = Arc::new(Semaphore::new(MAX_FOREIGN));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Some((uid, permit)) = local(&stream, &gate, &operators, &foreign) else { continue };
                    let entry = Entry { uid, permit, connections: connections.clone() };
                    if gate.is_admin(uid) {
                        entry.enter(stream, None).await;
                    } else {
                        // Not waited for: whoever is nobody must not hold up the others.
                        tokio::spawn(entry.judge(stream, gate.clone(), Arc::clone(&operators)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    metrics::connection("unix", "accept_failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(incoming)
}

/// Who is there, and a place: of those of foreigners, there are few.
fn local(
    stream: &UnixStream,
    gate: &Gate,
    operators: &Arc<Semaphore>,
    foreign: &Arc<Semaphore>,
) -> Option<(u32, OwnedSemaphorePermit)> {
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            tracing::warn!(%error, "local connection without credentials");
            metrics::connection("unix", "no_credentials");
            return None;
        }
    };
    let places = if gate.is_admin(uid) { operators } else { foreign };
    let Ok(permit) = Arc::clone(places).try_acquire_owned() else {
        metrics::connection("unix", "too_many");
        return None;
    };
    Some((uid, permit))
}

/// A local connection on its way in.
struct Entry {
    uid: u32,
    permit: OwnedSemaphorePermit,
    connections: mpsc::Sender<io::Result<Connection>>,
}

impl Entry {
    /// Users with a role get a place among the operators; without one, a moment: enough to hear who may.
    async fn judge(mut self, stream: UnixStream, gate: Gate, operators: Arc<Semaphore>) {
        let mut life = Some(FOREIGN_LIFE);
        if gate.has_role(self.uid).await.unwrap_or(false) {
            let Ok(permit) = operators.try_acquire_owned() else {
                metrics::connection("unix", "too_many");
                return;
            };
            self.permit = permit;
            life = None;
        }
        self.enter(stream, life).await;
    }

    async fn enter(self, stream: UnixStream, life: Option<Duration>) {
        metrics::connection("unix", if life.is_none() { "accepted" } else { "foreign" });
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let caller = Caller { peer: Peer::Local { uid: self.uid }, address, asked: Asked::default() };
        let holds = Holds { permits: [Some(self.permit), None], ..Holds::default() };
        let _ = self.connections.send(Ok(Connection::new(Io::Unix(stream), caller, life, holds))).await;
    }
}

struct Door {
    own: Arc<OwnIdentity>,
    gate: Gate,
    members: mpsc::Sender<io::Result<Connection>>,
    strangers: mpsc::Sender<io::Result<Connection>>,
    sessions: Arc<Sessions>,
    shares: Shares,
    open: Arc<Semaphore>,
    handshakes: Semaphore,
    unproven: Arc<Semaphore>,
}

/// Why a connection does not get in.
enum Turned {
    /// It never said what it wants.
    Silent,
    /// Too many handshakes, all this time.
    Busy,
    /// It did not wait for its turn.
    Gone,
    /// It said hello, and no more.
    Slow,
    /// What it said is no good.
    Failed(io::Error),
}

impl Door {
    fn admit(self: &Arc<Self>, stream: TcpStream, address: IpAddr) {
        let Some(share) = self.shares.take(address) else {
            metrics::connection("grpc", "too_many_of_address");
            return;
        };
        let Ok(open) = Arc::clone(&self.open).try_acquire_owned() else {
            metrics::connection("grpc", "too_many");
            return;
        };
        let door = Arc::clone(self);
        tokio::spawn(async move {
            match door.shake(stream).await {
                Ok(stream) => door.enter(stream, address, open, share).await,
                Err(Turned::Failed(error)) => failed(&error, address),
                Err(Turned::Gone) => metrics::connection("grpc", "gone"),
                Err(Turned::Busy) => metrics::connection("grpc", "too_many_handshakes"),
                Err(turned) => {
                    let reason = if matches!(turned, Turned::Silent) { "silent" } else { "timeout" };
                    tracing::debug!(%address, reason, "handshake took too long");
                    metrics::handshake_failed(reason);
                }
            }
        });
    }

    async fn shake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Turned> {
        stream.set_nodelay(true).map_err(Turned::Failed)?;
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let hello = tokio::time::timeout(HELLO_DEADLINE, hello).await.map_err(|_| Turned::Silent)?;
        let hello = hello.map_err(Turned::Failed)?;
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.handshakes.acquire()).await else {
            return Err(Turned::Busy);
        };
        // Who went while it waited costs nothing more: neither a signature nor the time of those behind it.
        if matches!(hello.io.peek(&mut [0]).now_or_never(), Some(Ok(0) | Err(_))) {
            return Err(Turned::Gone);
        }
        let stream = hello.into_stream(self.own.server_config());
        let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, stream).await.map_err(|_| Turned::Slow)?;
        stream.map_err(Turned::Failed)
    }

    async fn enter(
        &self,
        stream: TlsStream<TcpStream>,
        address: IpAddr,
        open: OwnedSemaphorePermit,
        share: Share,
    ) {
        let identity = match stream.get_ref().1.peer_certificates() {
            None => None,
            Some(chain) => match PeerIdentity::from_verified(Some(chain)) {
                Ok(identity) => Some(Arc::new(identity.without_chain())),
                Err(error) => {
                    tracing::warn!(%address, %error, "peer cannot be read after its handshake");
                    metrics::handshake_failed("unreadable");
                    return;
                }
            },
        };
        let io = Io::Tls(Box::new(stream));
        let caller = |peer| Caller { peer, address, asked: Asked::default() };
        let (peer, life) = match identity {
            Some(identity) => {
                let Some(session) = self.sessions.enter(&identity) else {
                    tracing::warn!(id = %identity.id, %address, "too many connections of one instance");
                    metrics::connection("grpc", "too_many_of_instance");
                    return;
                };
                // In the table first, then judged: a revocation in between is not lost.
                if self.gate.welcomes(&identity) {
                    metrics::connection("grpc", "identity");
                    let caller = caller(Peer::Identity(identity));
                    let holds =
                        Holds { permits: [Some(open), None], session: Some(session), ..Holds::default() };
                    drop(share);
                    let _ = self.members.send(Ok(Connection::new(io, caller, None, holds))).await;
                    return;
                }
                (Peer::Identity(identity), REFUSED_LIFE)
            }
            None => (Peer::Anonymous, ANONYMOUS_LIFE),
        };
        let Ok(permit) = Arc::clone(&self.unproven).try_acquire_owned() else {
            metrics::connection("grpc", "too_many_strangers");
            return;
        };
        metrics::connection("grpc", if matches!(peer, Peer::Anonymous) { "anonymous" } else { "refused" });
        let holds = Holds { permits: [Some(open), Some(permit)], share: Some(share), session: None };
        let connection = Connection::new(io, caller(peer), Some(life), holds);
        let _ = self.strangers.send(Ok(connection)).await;
    }
}

fn failed(error: &io::Error, address: IpAddr) {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let reason = match tls {
        None => "io",
        Some(tls) => verify_failure(tls).map_or("tls", |failure| failure.reason()),
    };
    tracing::debug!(%address, %error, reason, "handshake failed");
    metrics::handshake_failed(reason);
}

/// Listens on the admin socket. A socket left by a process that was killed is replaced; anything else at
/// the path is not. Who connects is decided by peer credentials; with `everyone` the file lets others try.
///
/// # Errors
/// When something else is there, another process listens, or the path cannot be used.
pub fn bind_socket(path: &Path, everyone: bool) -> Result<UnixListener, ServeError> {
    let failed = |error| ServeError::Bind { key: "admin-socket", at: path.display().to_string(), error };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(failed(io::Error::other("a file that is no socket is there: remove it")));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(failed(io::Error::other("another process listens there")));
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = if everyone { 0o666 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}
