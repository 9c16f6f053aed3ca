//! HTTP/1.x and HTTP/2: each request is decided on its own, told who calls, and forwarded on a connection
//! that is kept for the next one. The protocol of the caller's side is also that of the called side.
//!
//! `decide` says whether a request may go on, `respond` says no in a way that the client understands, `pool` keeps
//! connections to the called side. Of HTTP/2, which hyper speaks, `serve` owns the caller's connection, `exchange` is the
//! story of one request, and `send` sends it until it is answered; [`http1`] has its own.

mod decide;
mod exchange;
mod failure;
mod framing;
mod headers;
pub mod http1;
mod load;
mod pool;
mod probe;
mod replay;
mod respond;
mod route;
mod send;
mod tracked;

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::stated::Stated;
use super::{Duplex, Prefixed};
use crate::causes::causes;
use crate::connections::{Carrier, Registration, Subject};
use crate::run::Shared;
use crate::telemetry::{CloseReason, Direction, Facts, Meters};

pub use headers::{TargetError, settle_path, to_forwarded_form};
pub use pool::Pool;
pub use probe::Http2Support;
pub use route::{Direct, Route, Stop, Trip};

/// From the first byte of a request head to its last; also how long a kept-alive connection waits.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of a request head; beyond that the answer is 431.
const LARGEST_HEAD: usize = 64 * 1024;
/// Fields in a request head; beyond that the answer is 431. hyper's own bound: for another one it takes memory for
/// each head.
const MOST_FIELDS: usize = 100;
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 100;
/// Streams that our app opened and reset and that still cost us something (CVE-2023-44487): as many as it may
/// have open, since one that cancels all of its calls is no attacker.
const MOST_RESETS: usize = MOST_STREAMS as usize;
/// The same for a peer, whose apps share a connection and come and go.
const MOST_RESETS_SHARED: usize = 1000;
/// Streams that we reset as the client broke a rule, the bound on how many it may open among them
/// (CVE-2025-8671).
const MOST_FAULTS: usize = 1024;
/// What one HTTP/2 stream may have in flight towards a slow reader, and all of one connection: who does not read
/// holds up nobody else. How many small frames may wait to be read follows from the latter.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;
/// An HTTP/2 connection whose other end does not answer pings is dead.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// How long a caller may stay whose every request would be refused.
const REFUSED_LIFE: Duration = Duration::from_secs(10);
/// How long a request that was cut may take to end by itself.
const STALLED: Duration = Duration::from_millis(250);

/// How a connection ended, if not by both sides finishing.
pub type Ended = Result<(), (CloseReason, Option<String>)>;

/// Which HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Forwards the requests of one caller's connection.
pub struct Http<R: Route> {
    /// What all connections of this proxy share.
    pub shared: Arc<Shared>,
    /// Where its requests go.
    pub route: R,
    /// What is spoken.
    pub version: Version,
    /// What requests are decided as, with their content.
    pub subject: Subject,
    /// What the app is told of the caller, where requests are let in.
    pub stated: Stated,
    /// `Host` for requests without one.
    pub authority: String,
    /// Of the connection; requests inherit them.
    pub facts: Facts,
    /// The connection's counters.
    pub meters: Arc<Meters>,
    /// The generation that verified the caller.
    pub handshake: u64,
    /// Close after the first response.
    pub only_one: bool,
    /// From then on it takes no more requests.
    pub until: Option<Instant>,
    /// Where requests of this connection that are cut and stall are noticed.
    pub carrier: Arc<Carrier>,
}

impl<R: Route> Http<R> {
    /// Serves the caller until it is done, or it is time to say so: the proxy drains, the connection is old, or it
    /// was told to close by `closing`. Requests under way then end by themselves, as those without a right are cut.
    pub async fn serve<S>(self, caller: Prefixed<S>, closing: impl Future<Output = ()>) -> Ended
    where
        S: Duplex + Send + 'static,
    {
        match self.version {
            Version::Http1 => self.serve_http1(caller, closing).await,
            Version::Http2 => Box::pin(self.serve_http2(caller, closing)).await,
        }
    }

    async fn serve_http2<S>(self, caller: Prefixed<S>, closing: impl Future<Output = ()>) -> Ended
    where
        S: Duplex + Send + 'static,
    {
        let (shared, until, direction) = (Arc::clone(&self.shared), self.until, self.facts.direction);
        let carrier = Arc::clone(&self.carrier);
        let life = self.only_one.then_some(REFUSED_LIFE);
        let this = Arc::new(self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { Ok::<_, Infallible>(Box::pin(this.exchange(request)).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .max_pending_accept_reset_streams(match direction {
                Direction::Inbound => MOST_RESETS_SHARED,
                Direction::Outbound => MOST_RESETS,
            })
            .max_local_error_reset_streams(MOST_FAULTS)
            .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(caller), service);
        // GOAWAY crosses nothing (RFC 9113 s6.8), but who was let in while we leave came for a reason.
        let leaving = if shared.leaving.is_cancelled() { &shared.drain } else { &shared.leaving };
        let last = async {
            tokio::select! {
                () = closing => {}
                () = leaving.cancelled() => {}
                () = grown_old(until) => {}
            }
        };
        drive(last, &carrier, life, connection, |connection| connection.graceful_shutdown()).await
    }
}

/// Serves a connection, from the end of `last` on only what has begun.
async fn drive<C>(
    last: impl Future<Output = ()>,
    carrier: &Carrier,
    life: Option<Duration>,
    connection: C,
    graceful_shutdown: impl Fn(Pin<&mut C>),
) -> Ended
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = Box::pin(connection);
    let stalled = carrier.stalled(STALLED);
    let over = life.map_or(Either::Left(pending()), |life| Either::Right(tokio::time::sleep(life)));
    tokio::pin!(stalled, over, last);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = &mut stalled => {
                return Err((CloseReason::PolicyLost, Some("a request was cut while its reader stalled".into())));
            }
            () = &mut over => return Ok(()),
            result = connection.as_mut() => return result.or_else(|error| caller_error(&error)),
            () = &mut last, if !draining => {
                draining = true;
                graceful_shutdown(connection.as_mut());
            }
        }
    }
}

async fn grown_old(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => pending().await,
    }
}

fn caller_error(error: &hyper::Error) -> Ended {
    // A caller that leaves between or inside requests is its own business; what it sent wrong is worth a line.
    if error.is_incomplete_message() || error.is_closed() {
        return Ok(());
    }
    let reason = if error.is_timeout() { CloseReason::Idle } else { CloseReason::Error };
    Err((reason, Some(format!("HTTP: {}", causes(error)))))
}

/// Ends when the entry was told to close; never without an entry.
pub(crate) async fn cut(registration: Option<&Registration>) -> CloseReason {
    match registration {
        Some(registration) => {
            registration.closing().await;
            registration.close_reason().unwrap_or(CloseReason::Error)
        }
        None => pending().await,
    }
}
