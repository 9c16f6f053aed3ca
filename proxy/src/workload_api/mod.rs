//! The socket beside the app: the SPIFFE Workload API and Envoy's SDS, for apps that do their own TLS.
//!
//! ```text
//!   accept -> who is it (SO_PEERCRED) -> which rule -> HTTP/2, gRPC -> a stream: the newest state, at every change
//! ```
//!
//! Nobody is served unless a rule of the configuration is about the process. Each rule has an SVID of its own, made when
//! somebody first asks for it: two apps share no key, and none has ours. A stream that can show nothing valid any more
//! ends, and says whether that is for now or decided.

mod authority;
mod board;
mod callers;
mod delta;
mod discovery;
mod feed;
mod jwt;
mod sds;
mod secrets;
mod spiffe;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use signet_proto::standard::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use signet_proto::standard::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Extensions, Status};
use tower::Service;

use self::authority::Settled;
use self::board::Streaming;
pub use self::board::{Board, Connected};
pub use self::callers::{Caller, CallerRule, Gives};
use self::feed::Feed;
use self::sds::Sds;
use self::spiffe::Spiffe;
use crate::capture::{Intake, Listener, Socket};
use crate::identity::{Lender, Standing, TokenShelf, Tokens};
use crate::mesh::Mesh;
use crate::telemetry::metrics;

const MOST_CONNECTIONS: usize = 256;
const MOST_STREAMS: usize = 512;
/// Of those, for one user.
const STREAMS_OF_A_USER: u32 = 128;
const STREAMS_OF_A_CONNECTION: u32 = 32;
/// Requests are names and acknowledgements.
const LARGEST_REQUEST: usize = 64 * 1024;
const LARGEST_HEAD: u32 = 16 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// Whoever connects has something to ask.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Who is of no rule hears so, and goes.
const DENIED_LIFE: Duration = Duration::from_secs(5);
/// A process that vanished is found out.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(10);
const MOST_TOLD: usize = 256;
/// For streams to say that they end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the socket serves, and to whom.
pub struct WorkloadApi {
    mesh: Arc<Mesh>,
    shelves: Vec<Arc<Shelf>>,
    board: Arc<Board>,
    streams: Arc<Semaphore>,
    /// Whose denial was logged.
    told: Mutex<BTreeSet<(u32, u32)>>,
    stop: CancellationToken,
}

/// A rule, and the SVID that is kept for those whom it admits.
pub struct Shelf {
    /// The rule.
    pub rule: CallerRule,
    standing: watch::Sender<Standing>,
    /// Waits for the first who asks.
    lender: Mutex<Option<Lender>>,
    tokens: TokenShelf,
    stop: CancellationToken,
}

/// Who asks, as far as its connection says; with each request.
#[derive(Clone)]
struct Asking {
    caller: Caller,
    /// Without one: nobody.
    shelf: Option<Arc<Shelf>>,
    place: Arc<Connected>,
}

impl WorkloadApi {
    /// For these callers, with SVIDs that `lender` gets, until `stop`.
    #[must_use]
    pub fn new(lender: &Lender, rules: Vec<CallerRule>, stop: CancellationToken) -> Self {
        let shelf = |rule| {
            let standing = watch::Sender::new(Standing::none_yet());
            let tokens = Tokens::new(Arc::clone(&lender.control), Arc::clone(&lender.mesh));
            let lender = Mutex::new(Some(lender.clone()));
            let tokens = TokenShelf::new(tokens);
            Arc::new(Shelf { rule, standing, lender, tokens, stop: stop.clone() })
        };
        Self {
            mesh: Arc::clone(&lender.mesh),
            shelves: rules.into_iter().map(shelf).collect(),
            board: Arc::default(),
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            told: Mutex::default(),
            stop,
        }
    }

    /// Who is connected.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The rules, with their SVIDs.
    #[must_use]
    pub fn shelves(&self) -> &[Arc<Shelf>] {
        &self.shelves
    }

    /// Serves until it is stopped, and lets what is open say goodbye.
    pub async fn serve(self: Arc<Self>, listener: Listener) {
        let intake = Intake::new(MOST_CONNECTIONS, self.stop.clone());
        let routes = self.routes();
        if let Some(keeper) = self.mesh.keeper() {
            let rules: BTreeSet<String> = self.shelves.iter().map(|shelf| shelf.rule.to_string()).collect();
            keeper.only_apps_of(|rule| rules.contains(rule));
        }
        intake
            .accept(listener, "workload-api", |socket, _| {
                Arc::clone(&self).connection(routes.clone(), socket)
            })
            .await;
        intake.tasks().close();
        intake.tasks().wait().await;
    }

    fn routes(self: &Arc<Self>) -> Routes {
        let spiffe = SpiffeWorkloadApiServer::new(Spiffe(Arc::clone(self)));
        let sds = SecretDiscoveryServiceServer::new(Sds(Arc::clone(self)));
        Routes::new(spiffe.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(sds.max_decoding_message_size(LARGEST_REQUEST))
            .prepare()
    }

    /// The story of one connection.
    async fn connection(self: Arc<Self>, routes: Routes, socket: Socket) {
        let Socket::Unix(stream) = socket else { return };
        let caller: Caller = match stream.peer_cred() {
            Ok(credentials) => credentials.into(),
            Err(error) => return tracing::debug!(%error, "cannot tell who calls on the socket"),
        };
        let shelf = self.shelves.iter().find(|shelf| shelf.rule.fits(&caller)).cloned();
        let Some(place) = self.board.enter(caller, shelf.as_ref().map(|shelf| shelf.rule.to_string())) else {
            metrics::app_connected("limited");
            if self.tell_once((caller.uid, caller.gid)) {
                tracing::warn!(?caller, "too many connections of this process's user to the socket");
            }
            return;
        };
        metrics::app_connected(if shelf.is_some() { "admitted" } else { "denied" });
        let life = shelf.is_none().then_some(DENIED_LIFE);
        let (asked, asking) =
            (Arc::new(AtomicBool::new(false)), Asking { caller, shelf, place: Arc::new(place) });
        let service = service_fn(|mut request: http::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(asking.clone());
            let answer = routes.clone().call(request);
            async move { answer.await as Result<_, Infallible> }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_OF_A_CONNECTION)
            .max_header_list_size(LARGEST_HEAD)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_DEADLINE);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(Settled::from(stream)), service));
        let silent = async {
            tokio::time::sleep(FIRST_REQUEST).await;
            if asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let over = async {
            match life {
                Some(life) => tokio::time::sleep(life).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = silent => return tracing::debug!(?caller, "nothing was asked for on a connection to the socket"),
            () = over => return,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, ?caller, "a connection to the socket broke");
        }
    }

    /// Who asks, if a rule admits it.
    fn admitted(&self, method: &'static str, extensions: &Extensions) -> Result<Asking, Status> {
        let asking = extensions.get::<Asking>().cloned();
        let asking = asking.ok_or_else(|| Status::internal("a call without a caller"))?;
        if asking.shelf.is_some() {
            return Ok(asking);
        }
        let Caller { uid, gid, pid } = asking.caller;
        if self.tell_once((uid, gid)) {
            tracing::warn!(uid, gid, pid, method, "no rule of `workload-api-caller` admits this process");
        }
        let text = format!("no rule of `workload-api-caller` admits this process (uid={uid}, gid={gid})");
        Err(self.refused(method, "denied", Status::permission_denied(text)))
    }

    /// A stream of a caller, and its place among all.
    fn begin(&self, asking: &Asking, method: &'static str) -> Result<Streaming, Status> {
        let streaming = self.place(asking, method)?;
        metrics::app_called(method, "served");
        Ok(streaming)
    }

    /// A place among all for what a caller asks; a call that may wait takes one, too.
    fn place(&self, asking: &Asking, method: &'static str) -> Result<Streaming, Status> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        let Some(permit) =
            permit.ok().filter(|_| self.board.streams_of(asking.caller.uid) < STREAMS_OF_A_USER)
        else {
            let status = Status::resource_exhausted("too many streams on this socket, come again later");
            return Err(self.refused(method, "unavailable", status));
        };
        Ok(asking.place.streams(method, permit))
    }

    /// What a call that is no stream is answered.
    fn answered<T>(
        &self,
        method: &'static str,
        answer: Result<T, Status>,
    ) -> Result<tonic::Response<T>, Status> {
        let result = match &answer {
            Ok(_) => "served",
            Err(status) => match status.code() {
                tonic::Code::InvalidArgument => "invalid",
                tonic::Code::PermissionDenied => "denied",
                _ => "unavailable",
            },
        };
        metrics::app_called(method, result);
        answer.map(tonic::Response::new)
    }

    fn refused(&self, method: &'static str, result: &'static str, status: Status) -> Status {
        metrics::app_called(method, result);
        status
    }

    /// True the first time.
    fn tell_once(&self, who: (u32, u32)) -> bool {
        let mut told = self.told.lock();
        told.len() < MOST_TOLD && told.insert(who)
    }

    /// What a stream is to show; with an SVID or without.
    fn feed(&self, standing: Option<watch::Receiver<Standing>>) -> Feed {
        Feed::new(&self.mesh, standing, self.stop.clone())
    }
}

impl Asking {
    /// The SVID of the rule that admits it.
    fn svid(&self) -> Result<watch::Receiver<Standing>, Status> {
        let shelf = self.shelf.as_ref().filter(|shelf| shelf.rule.gives == Gives::Svid);
        shelf.map(|shelf| shelf.standing()).ok_or_else(|| {
            Status::permission_denied("the rule that admits this process gives it bundles, and no SVID")
        })
    }

    /// The tokens of the rule that admits it.
    fn tokens(&self) -> Result<&TokenShelf, Status> {
        let shelf = self.shelf.as_ref().ok_or_else(|| Status::internal("a call that nobody admitted"))?;
        Ok(&shelf.tokens)
    }
}

impl Shelf {
    /// The SVID of those whom the rule admits, from now on kept.
    fn standing(&self) -> watch::Receiver<Standing> {
        if let Some(lender) = self.lender.lock().take() {
            let standing = self.standing.clone();
            let stop = self.stop.clone();
            let rule = self.rule.to_string();
            tokio::spawn(async move {
                tokio::select! {
                    () = lender.lend(&rule, standing) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        self.standing.subscribe()
    }

    /// What there is now.
    #[must_use]
    pub fn now(&self) -> Standing {
        self.standing.borrow().clone()
    }
}

impl fmt::Debug for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadApi").field("board", &self.board).finish_non_exhaustive()
    }
}
