//! Connections to one called side, kept between requests. HTTP/1 connections carry one request at a time and
//! wait here in between; one HTTP/2 connection carries many. One pool knows one peer and one version, so that
//! nothing crosses over between identities.
//!
//! A connection is used no more once our own SVID was rotated, its peer lost its right, or it is old; what it
//! is carrying then still ends in peace (a rotation closes nothing).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use signet_proto::handshake::Svid;
use tokio_util::task::TaskTracker;

use super::load::Load;
use super::tracked::Tracked;
use super::waiting::{Lent, Waiting};
use super::{CONNECTION_WINDOW, LARGEST_HEAD, MOST_STREAMS, PING, STREAM_WINDOW, Version, cut};
use crate::balance::Turn;
use crate::causes::causes;
use crate::connections::{Carried, Link, Registration};
use crate::forward::upstream::{Called, Upstream, UpstreamError};
use crate::run;
use crate::telemetry::traces;

/// HTTP/2 connections over which requests are spread, and how many one carries before there is another: what
/// befalls a connection befalls all of them, and many on one take fewer reads and writes than few on each. More
/// connections only for more requests than fit.
const SPREAD: usize = 4;
const ENOUGH_STREAMS: usize = 64;
const MOST_MULTIPLEXED: usize = 16;
/// Shorter than the time after which the other end closes an idle connection, so that we are first.
const IDLE: Duration = Duration::from_secs(45);
const AGE: Duration = Duration::from_secs(3600);

/// Connections to one called side.
pub struct Pool<U: Upstream> {
    shared: Arc<run::Shared>,
    upstream: U,
    version: Version,
    waiting: Arc<Waiting>,
    /// Those that requests share, made or being made: who comes meanwhile waits for the same.
    multiplexed: Mutex<Vec<Making>>,
}

/// A connection that is made once for all who want it, in a task: it goes on when they lose their patience.
type Making = Shared<BoxFuture<'static, Result<Arc<Kept>, Arc<UpstreamError>>>>;

/// A connection and what limits its use.
pub(super) struct Kept {
    sender: Sender,
    made: Instant,
    since: Instant,
    svid: Option<Arc<Svid>>,
    /// Weak, so that a connection that waits here does not stay in the table after it was cut.
    peer: Option<Weak<Registration>>,
    load: Load,
}

/// Where a shared connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// It was there and in use.
    Used,
    /// Somebody else began to make it.
    Joined,
    /// We did.
    New,
}

/// What a request holds of the connection that carries it.
pub(super) struct Place {
    /// The called side in the table of live connections, if it is a peer.
    pub(super) peer: Option<Arc<Registration>>,
    /// For HTTP/2.
    pub(super) load: Option<Load>,
    /// Of an endpoint that was chosen for the request.
    pub(super) turn: Option<Turn>,
    /// For those who look at the connection.
    pub(super) carried: Option<Carried>,
    /// For HTTP/1, once it is answered.
    pub(super) lent: Option<Lent>,
}

enum Sender {
    Http1(http1::SendRequest<Tracked>),
    Http2(http2::SendRequest<Tracked>),
}

/// A request that was not answered on a connection.
pub(super) struct Unanswered {
    pub(super) error: hyper::Error,
    /// The called side reset this request alone: its connection is as good as before.
    pub(super) reset: bool,
    /// The called side says that nobody looked at it (RFC 9113 s6.8, s8.7).
    pub(super) unprocessed: bool,
    /// The request itself, if it was not sent at all.
    pub(super) unsent: Option<http::Request<Tracked>>,
}

impl<U: Upstream> Pool<U> {
    /// An empty pool.
    pub fn new(shared: Arc<run::Shared>, upstream: U, version: Version) -> Self {
        let waiting = Arc::new(Waiting::new(Arc::clone(&shared)));
        Self { shared, upstream, version, waiting, multiplexed: Mutex::default() }
    }

    /// Puts a connection that exists already into use.
    pub async fn adopt(&self, called: Called<U::Io>) {
        match (self.open(called).await, self.version) {
            (Ok(kept), Version::Http1) => self.waiting.put(kept),
            (Ok(kept), Version::Http2) => {
                let made: BoxFuture<'static, _> = std::future::ready(Ok(Arc::new(kept))).boxed();
                self.multiplexed.lock().push(made.shared());
            }
            (Err(error), _) => tracing::debug!(%error, "connection to the called side is of no use"),
        }
    }

    /// A connection for one request, and whether it was used before.
    pub(super) async fn take(self: &Arc<Self>) -> Result<(Kept, bool), Arc<UpstreamError>> {
        if self.version == Version::Http1 {
            return match self.waiting.take().await {
                Some(kept) => Ok((kept, true)),
                None => self.connect().await.map(|kept| (kept, false)),
            };
        }
        // What was being made when we came may have been finished long ago, with nobody there to see it fail or
        // grow old.
        for _ in 0..2 {
            let (making, origin) = self.share();
            match making.await {
                Ok(made) if usable(&self.shared)(&made) => {
                    if let Some(kept) = made.share() {
                        return Ok((kept, origin == Origin::Used));
                    }
                }
                Err(error) if origin == Origin::New => return Err(error),
                _ => {}
            }
        }
        self.connect().await.map(|kept| (kept, false))
    }

    /// One for a request that was not answered on `broken`. Those who shared it share its successor.
    pub(super) async fn after(self: &Arc<Self>, broken: &Place) -> Result<Kept, Arc<UpstreamError>> {
        if self.version == Version::Http1 {
            return self.connect().await;
        }
        let is_broken = |kept: &Kept| broken.load.as_ref().is_some_and(|load| load.is(&kept.load));
        self.multiplexed.lock().retain(|making| match making.peek() {
            Some(made) => made.as_ref().is_ok_and(|kept| !is_broken(kept)),
            None => true,
        });
        self.take().await.map(|(kept, _)| kept)
    }

    /// An HTTP/2 connection in use or being made that has room, otherwise a new one.
    fn share(self: &Arc<Self>) -> (Making, Origin) {
        let usable = usable(&self.shared);
        let mut all = self.multiplexed.lock();
        all.retain(|making| match making.peek() {
            Some(made) => made.as_ref().is_ok_and(|kept| usable(kept)),
            None => true,
        });
        let load = |making: &Making| match making.peek() {
            Some(Ok(kept)) => (kept.load.is_stuck(), kept.load.count()),
            _ => (false, making.strong_count().unwrap_or_default()),
        };
        let least = all.iter().map(|making| (load(making), making)).min_by_key(|(load, _)| *load);
        if let Some(((stuck, streams), making)) = least
            && ((!stuck && streams <= ENOUGH_STREAMS)
                || (all.len() >= SPREAD && streams <= MOST_STREAMS as usize)
                || all.len() >= MOST_MULTIPLEXED)
        {
            let origin = if making.peek().is_some() { Origin::Used } else { Origin::Joined };
            return (making.clone(), origin);
        }
        let pool = Arc::clone(self);
        let task =
            self.shared.tasks.spawn(traces::carried(async move { pool.connect().await.map(Arc::new) }));
        let made = async { task.await.unwrap_or_else(|_| Err(Arc::new(UpstreamError::NotReady))) };
        let making = made.boxed().shared();
        all.push(making.clone());
        let waiting = making.clone();
        let (pool, drain) = (Arc::downgrade(self), self.shared.drain.clone());
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = retire(pool, waiting) => {}
                () = drain.cancelled() => {}
            }
        });
        (making, Origin::New)
    }

    /// A connection that nobody used before. Boxed: the request that finds one does not carry the room to make one.
    pub(super) fn connect(&self) -> BoxFuture<'_, Result<Kept, Arc<UpstreamError>>> {
        Box::pin(async {
            let called = traces::measured("connect", self.upstream.connect(self.version.into())).await?;
            let opened = self.open(called).await;
            opened.map_err(|error| Arc::new(UpstreamError::Http(causes(&error))))
        })
    }

    /// An HTTP/1 connection that carries a request, until its response has been read to the end.
    pub(super) fn lend(&self, kept: Kept) -> Option<Lent> {
        matches!(kept.sender, Sender::Http1(_)).then(|| Waiting::lend(&self.waiting, kept))
    }

    /// Starts HTTP on a connection. Its task ends with the connection, or when the peer at its end loses its
    /// right.
    async fn open(&self, called: Called<U::Io>) -> Result<Kept, hyper::Error> {
        let Called { stream, registration, svid } = called;
        let peer = registration.as_ref().map(Arc::downgrade);
        let at_its_end = registration;
        let io = TokioIo::new(stream);
        let tasks = &self.shared.tasks;
        let sender = match self.version {
            Version::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .writev(false)
                    .max_buf_size(LARGEST_HEAD)
                    .max_header_size(LARGEST_HEAD)
                    .handshake(io)
                    .await?;
                tasks.spawn(async move {
                    tokio::select! {
                        result = connection.with_upgrades() => ended(result),
                        _ = cut(at_its_end.as_deref()) => {}
                    }
                });
                Sender::Http1(sender)
            }
            Version::Http2 => {
                let executor = Leashed { tasks: tasks.clone(), peer: at_its_end };
                let (sender, connection) = http2::Builder::new(executor)
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_header_list_size(u32::try_from(LARGEST_HEAD).unwrap_or(u32::MAX))
                    .keep_alive_interval(PING.0)
                    .keep_alive_timeout(PING.1)
                    .handshake(io)
                    .await?;
                tasks.spawn(async move { ended(connection.await) });
                Sender::Http2(sender)
            }
        };
        let now = Instant::now();
        Ok(Kept { sender, made: now, since: now, svid, peer, load: Load::default() })
    }
}

/// Takes a shared connection out of use once it carried nothing for a while, or is old.
async fn retire<U: Upstream>(pool: Weak<Pool<U>>, making: Making) {
    let Ok(made) = making.await.map(|made| Arc::downgrade(&made)) else { return };
    let mut idle = false;
    loop {
        tokio::time::sleep(IDLE).await;
        let Some((pool, made)) = pool.upgrade().zip(made.upgrade()) else { return };
        // The place that it holds itself.
        let free = made.load.count() <= 1;
        if (free && idle) || !usable(&pool.shared)(&made) {
            pool.multiplexed.lock().retain(|making| match making.peek() {
                Some(Ok(kept)) => !kept.load.is(&made.load),
                _ => true,
            });
            return;
        }
        idle = free;
    }
}

/// Which connections may be used now.
pub(super) fn usable(shared: &run::Shared) -> impl Fn(&Kept) -> bool {
    let (now, snapshot) = (Instant::now(), shared.mesh.current());
    let drains = shared.drain.is_cancelled();
    move |kept| {
        let rotated = kept
            .svid
            .as_ref()
            .is_some_and(|svid| snapshot.as_ref().is_none_or(|snapshot| !Arc::ptr_eq(&snapshot.svid, svid)));
        let since = |then: Instant| now.saturating_duration_since(then);
        let (closed, idle) = match &kept.sender {
            Sender::Http1(sender) => (sender.is_closed(), since(kept.since)),
            Sender::Http2(sender) => (sender.is_closed(), Duration::ZERO),
        };
        let cut = kept.peer.as_ref().is_some_and(|peer| peer.strong_count() == 0);
        !drains && !closed && !cut && !rotated && idle < IDLE && since(kept.made) < AGE
    }
}

impl Kept {
    /// It carries nothing from now on.
    pub(super) fn waits(&mut self) {
        self.since = Instant::now();
        let peer = self.peer.as_ref().and_then(Weak::upgrade);
        if let Some(link) = peer.as_ref().and_then(|peer| peer.link()) {
            link.waits();
        }
    }

    /// Whether its response has ended and it can carry the next request, for HTTP/1.
    pub(super) fn is_ready(&self) -> bool {
        matches!(&self.sender, Sender::Http1(sender) if sender.is_ready())
    }

    /// Ends when it can, or never will.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(_) => Ok(()),
        }
    }

    /// Another handle on the same connection, which only HTTP/2 has.
    fn share(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        let sender = Sender::Http2(sender.clone());
        let (svid, peer) = (self.svid.clone(), self.peer.clone());
        Some(Self { sender, made: self.made, since: self.since, svid, peer, load: self.load.clone() })
    }

    /// What a request on it holds of it.
    pub(super) fn place(&mut self) -> Place {
        let load = matches!(self.sender, Sender::Http2(_)).then(|| std::mem::take(&mut self.load));
        let peer = self.peer.as_ref().and_then(Weak::upgrade);
        let carried = peer.as_ref().and_then(|peer| peer.link()).map(Link::carry);
        Place { peer, load, turn: None, carried, lent: None }
    }

    /// Sends a request and awaits the head of its response.
    pub(super) async fn send(
        &mut self,
        request: http::Request<Tracked>,
    ) -> Result<http::Response<Incoming>, Box<Unanswered>> {
        let unanswered = |mut error: hyper::client::conn::TrySendError<_>| {
            let (unsent, error) = (error.take_message(), error.into_error());
            let http2 = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>());
            let remote = http2.filter(|cause| cause.is_remote());
            let reset = remote.is_some_and(h2::Error::is_reset);
            let unprocessed = remote.is_some_and(|cause| {
                // A stream that is told of GOAWAY came after the last one that was looked at.
                cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)
            });
            Box::new(Unanswered { error, reset, unprocessed, unsent })
        };
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await.map_err(unanswered),
            Sender::Http2(sender) => sender.try_send_request(request).await.map_err(unanswered),
        }
    }
}

/// Runs what an HTTP/2 connection spawns for as long as its peer has its right: hyper keeps the socket in such
/// a task, not in the connection that it returns. The peer stays in the live table until all of them ended.
#[derive(Clone)]
struct Leashed {
    tasks: TaskTracker,
    peer: Option<Arc<Registration>>,
}

impl<F> hyper::rt::Executor<F> for Leashed
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let peer = self.peer.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                _ = cut(peer.as_deref()) => {}
                _ = task => {}
            }
        });
    }
}

fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(error = causes(&error), "connection to the called side ended");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::forward::Prefixed;
    use crate::mesh::Alpn;

    /// Connects when it is let, and keeps the other ends open.
    #[derive(Default)]
    pub(in super::super) struct Slow {
        pub(in super::super) connects: AtomicUsize,
        pub(in super::super) others: Mutex<Vec<DuplexStream>>,
        gate: Option<Arc<Semaphore>>,
    }

    impl Upstream for Arc<Slow> {
        type Io = DuplexStream;

        async fn connect(&self, _: Alpn) -> Result<Called<DuplexStream>, UpstreamError> {
            self.connects.fetch_add(1, Ordering::Relaxed);
            if let Some(gate) = &self.gate {
                gate.acquire().await.map_err(|_| UpstreamError::NotReady)?.forget();
            }
            let (ours, theirs) = duplex(1024);
            self.others.lock().push(theirs);
            Ok(Called { stream: Prefixed::new(ours), registration: None, svid: None })
        }
    }

    #[tokio::test]
    async fn those_who_want_the_same_connection_wait_for_one() {
        let gate = Arc::new(Semaphore::new(0));
        let upstream = Arc::new(Slow { gate: Some(Arc::clone(&gate)), ..Slow::default() });
        let pool = Arc::new(Pool::new(run::Shared::for_a_test(), Arc::clone(&upstream), Version::Http2));
        let impatient = tokio::time::timeout(Duration::from_millis(1), pool.take()).await;
        assert!(impatient.is_err());
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move { pool.take().await.is_ok() })
            })
            .collect();
        gate.add_permits(10);
        for taken in waiting {
            assert!(taken.await.unwrap());
        }
        assert_eq!(upstream.connects.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_connection_that_could_not_be_made_is_tried_again_by_the_next() {
        let closed = Arc::new(Semaphore::new(0));
        closed.close();
        let upstream = Arc::new(Slow { gate: Some(closed), ..Slow::default() });
        let pool = Arc::new(Pool::new(run::Shared::for_a_test(), Arc::clone(&upstream), Version::Http2));
        assert!(pool.take().await.is_err());
        assert!(pool.take().await.is_err());
        assert_eq!(upstream.connects.load(Ordering::Relaxed), 2);
    }
}
