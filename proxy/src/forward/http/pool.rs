//! Connections to one called side, kept between requests: those of HTTP/1 carry one request at a time
//! ([`lines`](super::http1::lines)), one HTTP/2 connection carries many. One pool knows one peer and one version, so that
//! nothing crosses over between identities.
//!
//! A connection is used no more once our own SVID was rotated, its peer lost its right, or it is old; what it
//! is carrying then still ends in peace (a rotation closes nothing).

use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use signet_proto::handshake::Svid;
use tokio_util::task::TaskTracker;

use super::http1::lines::{AGE, IDLE, Line, Lines};
use super::load::Load;
use super::tracked::Tracked;
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

/// Connections to one called side.
pub struct Pool<U: Upstream> {
    shared: Arc<run::Shared>,
    upstream: U,
    version: Version,
    /// Those that carry one request at a time.
    pub(super) lines: Arc<Lines<U::Io>>,
    /// Those that requests share, made or being made: who comes meanwhile waits for the same.
    multiplexed: Mutex<Vec<Making>>,
}

/// A connection that is made once for all who want it, in a task: it goes on when they lose their patience.
type Making = Shared<BoxFuture<'static, Result<Arc<Kept>, Arc<UpstreamError>>>>;

/// A connection and what limits its use.
pub(super) struct Kept {
    sender: http2::SendRequest<Tracked>,
    made: Instant,
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
    /// How many requests the connection carries.
    pub(super) load: Load,
    /// Of an endpoint that was chosen for the request.
    pub(super) turn: Option<Turn>,
    /// For those who look at the connection.
    pub(super) carried: Option<Carried>,
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
        let lines = Arc::new(Lines::new(Arc::clone(&shared)));
        Self { shared, upstream, version, lines, multiplexed: Mutex::default() }
    }

    /// Puts a connection that exists already into use.
    pub async fn adopt(&self, called: Called<U::Io>) {
        if self.version == Version::Http1 {
            return self.lines.put(self.lines.open(called));
        }
        match self.open(called).await {
            Ok(kept) => {
                let made: BoxFuture<'static, _> = std::future::ready(Ok(Arc::new(kept))).boxed();
                self.multiplexed.lock().push(made.shared());
            }
            Err(error) => tracing::debug!(%error, "connection to the called side is of no use"),
        }
    }

    /// A connection of HTTP/1 that nobody used before. Boxed: the request that finds one does not carry the room to make
    /// one.
    pub(super) fn line(&self) -> BoxFuture<'_, Result<Line<U::Io>, Arc<UpstreamError>>> {
        Box::pin(async { Ok(self.lines.open(self.called().await?)) })
    }

    /// A connection for one request, and whether it was used before.
    pub(super) async fn take(self: &Arc<Self>) -> Result<(Kept, bool), Arc<UpstreamError>> {
        // What was being made when we came may have been finished long ago, with nobody there to see it fail or
        // grow old.
        for _ in 0..2 {
            let (making, origin) = self.share();
            match making.await {
                Ok(made) if usable(&self.shared)(&made) => {
                    return Ok((made.share(), origin == Origin::Used));
                }
                Err(error) if origin == Origin::New => return Err(error),
                _ => {}
            }
        }
        self.connect().await.map(|kept| (kept, false))
    }

    /// One for a request that was not answered on `broken`. Those who shared it share its successor.
    pub(super) async fn after(self: &Arc<Self>, broken: &Place) -> Result<Kept, Arc<UpstreamError>> {
        let is_broken = |kept: &Kept| broken.load.is(&kept.load);
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
            let opened = self.open(self.called().await?).await;
            opened.map_err(|error| Arc::new(UpstreamError::Http(causes(&error))))
        })
    }

    async fn called(&self) -> Result<Called<U::Io>, UpstreamError> {
        traces::measured("connect", self.upstream.connect(self.version.into())).await
    }

    /// Starts HTTP/2 on a connection. Its task ends with the connection, or when the peer at its end loses its
    /// right.
    async fn open(&self, called: Called<U::Io>) -> Result<Kept, hyper::Error> {
        let Called { stream, registration, svid } = called;
        let peer = registration.as_ref().map(Arc::downgrade);
        let at_its_end = registration;
        let io = TokioIo::new(stream);
        let tasks = &self.shared.tasks;
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
        Ok(Kept { sender, made: Instant::now(), svid, peer, load: Load::default() })
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
fn usable(shared: &run::Shared) -> impl Fn(&Kept) -> bool {
    let (now, snapshot) = (Instant::now(), shared.mesh.current());
    let drains = shared.drain.is_cancelled();
    move |kept| {
        let rotated = kept
            .svid
            .as_ref()
            .is_some_and(|svid| snapshot.as_ref().is_none_or(|snapshot| !Arc::ptr_eq(&snapshot.svid, svid)));
        let since = |then: Instant| now.saturating_duration_since(then);
        let cut = kept.peer.as_ref().is_some_and(|peer| peer.strong_count() == 0);
        !drains && !kept.sender.is_closed() && !cut && !rotated && since(kept.made) < AGE
    }
}

impl Kept {
    /// Another handle on the same connection.
    fn share(&self) -> Self {
        let (sender, svid, peer) = (self.sender.clone(), self.svid.clone(), self.peer.clone());
        Self { sender, made: self.made, svid, peer, load: self.load.clone() }
    }

    /// What a request on it holds of it.
    pub(super) fn place(&mut self) -> Place {
        let load = std::mem::take(&mut self.load);
        let peer = self.peer.as_ref().and_then(Weak::upgrade);
        let carried = peer.as_ref().and_then(|peer| peer.link()).map(Link::carry);
        Place { load, turn: None, carried }
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
        self.sender.try_send_request(request).await.map_err(unanswered)
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
    use std::time::Duration;

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
