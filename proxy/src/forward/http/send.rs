//! One request, sent until it is answered: to the next endpoint if one cannot be connected, and again where that is
//! safe. Once a byte of an answer was passed on nothing is sent again.
//!
//! | what happened | is it sent again? |
//! | --- | --- |
//! | no connection, or the request was not sent at all | always: nobody saw it |
//! | REFUSED_STREAM, or GOAWAY without it | always: nobody looked at it (RFC 9113 s8.7, s6.8) |
//! | a connection that was kept broke | idempotent methods: it may have been closed long ago |
//! | broke otherwise, took too long, answered with such a status, of HTTP or of gRPC before any message | as the service's `retries` say, from its budget |

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderName, Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use signet_proto::policy::is_grpc;
use signet_proto::traffic::{Condition, Retries};
use tokio::sync::Notify;

use super::failure::{BodyError, Failure};
use super::load::Sending;
use super::pool::{Kept, Place, Pool, Unanswered};
use super::replay::Replay;
use super::route::{Stop, Trip};
use super::tracked::Tracked;
use super::{Http, Route};
use crate::backoff::unit_random;
use crate::balance::Turn;
use crate::causes::causes;
use crate::forward::upstream::{Upstream, UpstreamError};
use crate::telemetry::metrics;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNAVAILABLE: &str = "14";
/// What [`RETRY_AFTER`] is, to gRPC ("gRPC Retry Design", Pushback).
const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// How often one request is sent where that is safe, whatever the document says.
const MOST_SENT: u32 = 3;
/// How many endpoints are connected for one request, and for how long.
const MOST_CONNECTED: u32 = 8;
const CONNECTS_DEADLINE: Duration = Duration::from_secs(12);
/// Before the first retry that may hit an endpoint that is not well; twice as much before the next.
const PAUSE: Duration = Duration::from_millis(25);

/// A request that can be sent again.
pub(super) struct Repeatable {
    head: Request<()>,
    body: Option<Replay>,
}

/// What is known of a body while it is being sent.
#[derive(Default)]
pub(super) struct Progress {
    /// Told of every frame.
    pub(super) frame: Notify,
    /// How it gets away.
    pub(super) sending: Arc<Sending>,
}

/// What goes along with a request.
pub(super) struct Sent {
    /// Its body, if it has one.
    pub(super) body: Option<Arc<Progress>>,
    /// How long nothing may move.
    pub(super) idle: Duration,
}

/// Why a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Unsent,
    Unprocessed,
    Stale,
    Reset,
    Timeout,
    Status,
}

impl Repeatable {
    /// The head of `request`, and what `replay` remembers of its body, if it has one.
    pub(super) fn new<B>(request: &Request<B>, body: Option<Replay>) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        Self { head, body }
    }

    /// Whether it is a gRPC call.
    fn is_call(&self) -> bool {
        is_grpc(self.head.method().as_str(), self.head.headers())
    }

    fn request(&self) -> Option<Request<Tracked>> {
        let body = match &self.body {
            None => Bytes::new(),
            Some(body) => body.whole()?,
        };
        Some(Self::new(&self.head, None).head.map(|()| Tracked::repeated(body)))
    }
}

impl Again {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Unprocessed => "unprocessed",
            Self::Stale => "stale",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
        }
    }

    /// Whether the request did not reach anybody who looked at it.
    fn is_safe(self) -> bool {
        matches!(self, Self::Unsent | Self::Unprocessed)
    }

    /// Whether a request of that method that was sent so often may be sent once more. What is not free is paid for.
    pub(super) fn is_allowed(self, trip: &impl Trip, method: &Method, tries: u32) -> bool {
        let retries = trip.retries();
        let allowed = match self {
            Self::Unsent | Self::Unprocessed => tries < MOST_SENT,
            Self::Stale => tries < MOST_SENT && method.is_idempotent(),
            Self::Reset => retries.on.contains(&Condition::Reset),
            Self::Timeout => retries.on.contains(&Condition::Timeout),
            Self::Status => true,
        };
        let free = self.is_safe() || self == Self::Stale;
        let granted = allowed
            && (free || (tries < retries.attempts && retries.allows(method.as_str()) && trip.grants_retry()));
        if granted {
            metrics::retried(self.as_str());
        }
        granted
    }
}

/// The endpoints that are tried, one after the other, until one can be connected.
pub(super) struct Reaching {
    started: Option<Instant>,
    connected: u32,
    failure: Option<Arc<UpstreamError>>,
}

impl Reaching {
    pub(super) fn new() -> Self {
        Self { started: None, connected: 0, failure: None }
    }

    /// The next one; `again` if the request was sent before, and one that had it may have it once more.
    pub(super) fn next<T: Trip>(&mut self, trip: &mut T, again: bool) -> Result<Stop<T::Upstream>, Failure> {
        self.connected += 1;
        let stop = trip.next(again && self.failure.is_none());
        match stop.map_err(|error| Failure::Unreachable(error.into()))? {
            Some(stop) => Ok(stop),
            None => Err(self.gives_up(trip)),
        }
    }

    /// It is connected now.
    pub(super) fn connects(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// It could not be connected. The error says that no other is tried.
    pub(super) fn failed(
        &mut self,
        trip: &impl Trip,
        turn: Option<Turn>,
        error: Arc<UpstreamError>,
    ) -> Result<(), Failure> {
        if let Some(mut turn) = turn {
            turn.failed();
        }
        let last = !error.is_of_this_endpoint()
            || self.connected == MOST_CONNECTED
            || self.started.is_some_and(|started| started.elapsed() > CONNECTS_DEADLINE);
        trip.unreached(&error, false);
        self.failure = Some(error);
        if last { Err(self.gives_up(trip)) } else { Ok(()) }
    }

    fn gives_up(&mut self, trip: &impl Trip) -> Failure {
        let failure = self.failure.take().unwrap_or_else(|| Arc::new(UpstreamError::NotReady));
        trip.unreached(&failure, true);
        Failure::Unreachable(failure)
    }
}

/// A connection that carries a request.
struct Carried<U: Upstream> {
    stop: Stop<U>,
    kept: Kept,
    used_before: bool,
}

impl<R: Route> Http<R> {
    /// Sends a request until it is answered.
    pub(super) async fn send(
        &self,
        trip: &mut R::Trip,
        mut request: Request<Tracked>,
        repeat: Option<Repeatable>,
        sent: &Sent,
    ) -> Result<(Response<Incoming>, Place), Failure> {
        let mut broken: Option<(Arc<Pool<R::Upstream>>, Place)> = None;
        let mut tries = 0;
        loop {
            let Carried { mut stop, mut kept, used_before } =
                self.carried(trip, broken.take(), tries > 0).await?;
            tries += 1;
            // Held from before the request, as an upgrade ends the task that holds it otherwise.
            let mut place = kept.place();
            if let Some(body) = &sent.body {
                place.load.watch(&body.sending);
            }
            let quiet = trip.timeouts().first_byte.unwrap_or(sent.idle).min(sent.idle);
            let still = async {
                match &sent.body {
                    // As long as the body goes on, the called side has nothing to answer yet.
                    Some(body) => while tokio::time::timeout(quiet, body.frame.notified()).await.is_ok() {},
                    None => tokio::time::sleep(quiet).await,
                }
            };
            let answered = tokio::select! {
                biased;
                answered = kept.send(request) => Some(answered),
                () = still => None,
            };
            let turn = stop.turn.as_mut();
            let (again, failure, unsent) = match answered {
                Some(Ok(response)) => {
                    let unavailable = repeat.as_ref().is_some_and(Repeatable::is_call)
                        && trip.retries().on.contains(&Condition::Unavailable)
                        && is_unavailable(&response);
                    let ill = unavailable || is_failure(response.status());
                    if let Some(turn) = turn {
                        if ill { turn.failed() } else { turn.answered() }
                    }
                    let retry = is_retried(trip.retries(), &response, unavailable);
                    let next =
                        if retry { self.again(trip, Again::Status, tries, repeat.as_ref()) } else { None };
                    let Some(next) = next else {
                        place.turn = stop.turn;
                        return Ok((response, place));
                    };
                    request = next;
                    pause(tries).await;
                    continue;
                }
                Some(Err(unanswered)) => {
                    let Unanswered { error, unprocessed, reset, unsent } = *unanswered;
                    let again = match (&unsent, unprocessed, reset) {
                        (Some(_), ..) => Some(Again::Unsent),
                        (None, true, _) => Some(Again::Unprocessed),
                        // The called side gave up this request alone, and had looked at it.
                        (None, false, true) => None,
                        (None, false, false) if used_before || tries == 1 => Some(Again::Stale),
                        (None, false, false) => Some(Again::Reset),
                    };
                    (again, broken_off(&error), unsent)
                }
                None => (Some(Again::Timeout), Failure::Slow(quiet), None),
            };
            if let Some(turn) = turn
                && again != Some(Again::Unprocessed)
            {
                turn.failed();
            }
            let next = again.and_then(|again| match unsent {
                Some(unsent) if tries < MOST_SENT => Some(unsent),
                _ => self.again(trip, again, tries, repeat.as_ref()),
            });
            request = match next {
                Some(next) => next,
                None => return Err(failure),
            };
            if again == Some(Again::Timeout) {
                pause(tries).await;
            }
            broken = Some((stop.pool, place));
        }
    }

    /// A connection to the next endpoint that can be connected; `again` if the request was sent before, and one that
    /// had it may have it once more.
    async fn carried(
        &self,
        trip: &mut R::Trip,
        broken: Option<(Arc<Pool<R::Upstream>>, Place)>,
        again: bool,
    ) -> Result<Carried<R::Upstream>, Failure> {
        let mut reaching = Reaching::new();
        loop {
            let mut stop = reaching.next(trip, again)?;
            reaching.connects();
            let connect = async {
                match &broken {
                    // Those who shared it share its successor.
                    Some((pool, place)) if Arc::ptr_eq(pool, &stop.pool) => {
                        stop.pool.after(place).await.map(|kept| (kept, false))
                    }
                    _ => stop.pool.take().await,
                }
            };
            match within(trip.timeouts().connect, connect).await {
                Ok((kept, used_before)) => {
                    if let Some(turn) = &mut stop.turn {
                        turn.connected();
                    }
                    return Ok(Carried { stop, kept, used_before });
                }
                Err(error) => reaching.failed(trip, stop.turn, error)?,
            }
        }
    }

    /// The request once more, if that is allowed.
    fn again(
        &self,
        trip: &R::Trip,
        again: Again,
        tries: u32,
        repeat: Option<&Repeatable>,
    ) -> Option<Request<Tracked>> {
        let repeat = repeat?;
        let request = repeat.request()?;
        again.is_allowed(trip, repeat.head.method(), tries).then_some(request)
    }
}

/// Connects, within that time.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    connect: impl Future<Output = Result<T, Arc<UpstreamError>>>,
) -> Result<T, Arc<UpstreamError>> {
    match limit {
        Some(limit) => {
            let made = tokio::time::timeout(limit, connect).await;
            made.unwrap_or_else(|_| Err(Arc::new(UpstreamError::Late(limit))))
        }
        None => connect.await,
    }
}

/// Whose fault it is.
fn broken_off(error: &hyper::Error) -> Failure {
    match BodyError::behind(error) {
        Some(ours) => Failure::Body(ours.clone()),
        None => Failure::Broken(causes(error)),
    }
}

pub(super) fn is_retried<B>(retries: &Retries, response: &Response<B>, unavailable: bool) -> bool {
    let told = unavailable || retries.on.contains(&Condition::Status(response.status().as_u16()));
    // Who says when to come back does not want to be asked again at once.
    told && ![RETRY_AFTER, GRPC_RETRY_PUSHBACK].iter().any(|field| response.headers().contains_key(field))
}

/// Whether a call ended so before its first message ("gRPC over HTTP/2", Trailers-Only).
fn is_unavailable<B: Body>(response: &Response<B>) -> bool {
    let status = response.headers().get(GRPC_STATUS);
    status.is_some_and(|status| status == UNAVAILABLE) && response.body().is_end_stream()
}

/// Whether the endpoint, rather than the request, is at fault.
pub(super) fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
        && status != StatusCode::NOT_IMPLEMENTED
        && status != StatusCode::HTTP_VERSION_NOT_SUPPORTED
}

/// Longer each time, and never the same for all.
pub(super) async fn pause(tries: u32) {
    let longest = PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(4));
    tokio::time::sleep(longest.mul_f64(0.5 + unit_random() / 2.0)).await;
}
