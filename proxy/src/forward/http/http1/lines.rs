//! Connections of HTTP/1 to one called side. Each carries one request at a time and rests here in between, watched by a
//! keeper of its own: one that the called side closes, that loses its right or that nobody needs is not found here again.
//!
//! Invariant: a response puts its connection here before its reader gets the last bytes, so that whoever comes after it
//! finds it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::handshake::Svid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, unconstrained};

use super::wire::Wire;
use crate::connections::{Carried, Closing, Link, Registration};
use crate::forward::Prefixed;
use crate::forward::upstream::Called;
use crate::run;

/// More are closed.
const MOST: usize = 128;
/// Shorter than the time after which the other end closes an idle connection, so that we are first.
pub(in crate::forward::http) const IDLE: Duration = Duration::from_secs(45);
pub(in crate::forward::http) const AGE: Duration = Duration::from_secs(3600);

/// Those of one pool.
pub(in crate::forward::http) struct Lines<S> {
    shared: Arc<run::Shared>,
    next: AtomicU64,
    /// Who came last is taken first.
    resting: Mutex<Vec<Line<S>>>,
}

/// A connection to the called side.
pub(in crate::forward::http) struct Line<S> {
    pub(super) wire: Wire<S>,
    number: u64,
    made: Instant,
    since: Instant,
    svid: Option<Arc<Svid>>,
    pub(super) peer: Option<Arc<Registration>>,
    closing: Option<Closing>,
    keeper: Keeper,
}

/// Who is woken when a resting connection says something.
type Awake = Arc<Mutex<Option<Waker>>>;

struct Keeper {
    awake: Awake,
    task: AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Lines<S> {
    pub(in crate::forward::http) fn new(shared: Arc<run::Shared>) -> Self {
        Self { shared, next: AtomicU64::new(0), resting: Mutex::default() }
    }

    /// Makes a line of a connection that exists.
    pub(in crate::forward::http) fn open(self: &Arc<Self>, called: Called<S>) -> Line<S> {
        let Called { stream, registration: peer, svid } = called;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let awake = Awake::default();
        let closing = || peer.as_ref().map(|peer| peer.closing());
        let kept = keep(Arc::downgrade(self), number, closing(), Arc::clone(&awake));
        let task = self.shared.tasks.spawn(kept).abort_handle();
        let closing = closing();
        let (now, keeper) = (Instant::now(), Keeper { awake, task });
        Line { wire: Wire::new(stream), number, made: now, since: now, svid, peer, closing, keeper }
    }

    /// It rests from now on, if it may be used again.
    pub(in crate::forward::http) fn put(&self, mut line: Line<S>) {
        line.since = Instant::now();
        if line.since.saturating_duration_since(line.made) >= AGE {
            return;
        }
        let mut resting = self.resting.lock();
        // From here on the keeper finds it, whenever it looks.
        let awake = line.keeper.awake.lock().clone();
        // What is said now was not asked for.
        if line.is_cut() || !line.is_silent(awake.as_ref().unwrap_or(Waker::noop())) || resting.len() >= MOST
        {
            drop(resting);
            return;
        }
        if let Some(link) = line.peer.as_ref().and_then(|peer| peer.link()) {
            link.waits();
        }
        resting.push(line);
    }

    /// One that can carry a request.
    pub(in crate::forward::http) fn take(&self) -> Option<Line<S>> {
        loop {
            let mut line = self.resting.lock().pop()?;
            if line.is_usable(&self.shared) && line.is_silent(Waker::noop()) {
                return Some(line);
            }
        }
    }

    /// Takes out the line of that number, if it rests and is to rest no longer; otherwise it says until when it may.
    fn look(&self, number: u64, cx: &mut Context<'_>, lost: bool) -> Result<Line<S>, Option<Instant>> {
        let mut resting = self.resting.lock();
        let place = resting.iter().position(|line| line.number == number).ok_or(None)?;
        let line = resting.get_mut(place).ok_or(None)?;
        let until = (line.since + IDLE).min(line.made + AGE);
        let over = lost || until <= Instant::now() || !line.is_silent(cx.waker());
        if over { Ok(resting.remove(place)) } else { Err(Some(until)) }
    }
}

/// Watches one connection while it rests.
async fn keep<S>(lines: Weak<Lines<S>>, number: u64, mut closing: Option<Closing>, awake: Awake)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut idle = Box::pin(tokio::time::sleep(IDLE));
    let taken = poll_fn(move |cx| {
        let Some(lines) = lines.upgrade() else { return Poll::Ready(None) };
        *awake.lock() = Some(cx.waker().clone());
        let lost = closing.as_mut().is_some_and(|closing| std::pin::Pin::new(closing).poll(cx).is_ready());
        loop {
            let until = match lines.look(number, cx, lost) {
                Ok(line) => return Poll::Ready(Some(line)),
                // Whoever has it sees that it lost its right.
                Err(_) if lost => return Poll::Ready(None),
                Err(until) => until,
            };
            if idle.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            idle.as_mut().reset(until.unwrap_or_else(|| Instant::now() + IDLE).into());
        }
    });
    drop(taken.await);
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// Whether nothing comes on it, not even its end. Whoever waits is woken when something does.
    fn is_silent(&mut self, waker: &Waker) -> bool {
        if !self.wire.input().is_empty() {
            return false;
        }
        // Who is not asked, as this task has done much already, is not silent.
        let more = pin!(unconstrained(poll_fn(|cx| self.wire.poll_more(cx))));
        more.poll(&mut Context::from_waker(waker)).is_pending()
    }

    fn is_cut(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.close_reason().is_some())
    }

    fn is_usable(&self, shared: &run::Shared) -> bool {
        let rotated = || {
            self.svid.as_ref().is_some_and(|svid| {
                shared.mesh.current().is_none_or(|snapshot| !Arc::ptr_eq(&snapshot.svid, svid))
            })
        };
        !shared.drain.is_cancelled() && !self.is_cut() && !rotated()
    }

    /// Ends when its peer loses its right.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> bool {
        self.closing.as_mut().is_some_and(|closing| std::pin::Pin::new(closing).poll(cx).is_ready())
    }

    /// The connection itself, and its place in the table of live ones.
    pub(super) fn into_parts(self) -> (Prefixed<S>, Option<Arc<Registration>>) {
        (self.wire.into_inner(), self.peer)
    }

    /// A request begins on it.
    pub(super) fn carries(&self) -> Option<Carried> {
        self.peer.as_ref().and_then(|peer| peer.link()).map(Link::carry)
    }
}

#[cfg(test)]
mod tests {

    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::forward::Prefixed;

    async fn resting() -> (Arc<Lines<DuplexStream>>, DuplexStream) {
        let lines = Arc::new(Lines::new(run::Shared::for_a_test()));
        let (ours, theirs) = duplex(1024);
        let line = lines.open(Called { stream: Prefixed::new(ours), registration: None, svid: None });
        tokio::task::yield_now().await;
        lines.put(line);
        (lines, theirs)
    }

    async fn gone(lines: &Lines<DuplexStream>) {
        while !lines.resting.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_rests_is_found_again() {
        let (lines, _theirs) = resting().await;
        let line = lines.take().unwrap();
        assert!(lines.take().is_none());
        lines.put(line);
        assert!(lines.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_or_speaks_unasked_is_closed_at_once() {
        let (lines, theirs) = resting().await;
        drop(theirs);
        gone(&lines).await;
        let (lines, mut theirs) = resting().await;
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        gone(&lines).await;
        let (lines, mut theirs) = resting().await;
        let line = lines.take().unwrap();
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        lines.put(line);
        assert!(lines.take().is_none(), "it spoke before it rested");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_known_for_it_by_whoever_has_done_much_already() {
        let (lines, theirs) = resting().await;
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::consume_budget().await;
        }
        drop(theirs);
        assert!(lines.take().is_none());
    }
}
