//! Connections of HTTP/1 that wait for their next request. A response has ended, and its reader may send the next request,
//! a moment before its connection can carry one: it waits here all the same, and who takes it waits for that moment, and
//! makes no other connection.
//!
//! Invariant: the body of a response puts its connection here before its reader gets the last bytes, so that whoever
//! comes after it finds it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::pool::{Kept, usable};
use crate::run;

/// More are closed.
const MOST: usize = 128;
/// A response whose reader went away ends its connection, and a request that is answered early goes on: that takes longer.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// Those of one pool.
pub(super) struct Waiting {
    shared: Arc<run::Shared>,
    /// Who came first is first.
    idle: Mutex<Vec<Kept>>,
}

/// A connection that carries a request, until this is dropped.
pub(super) struct Lent {
    kept: Option<Kept>,
    waiting: Arc<Waiting>,
}

impl Waiting {
    pub(super) fn new(shared: Arc<run::Shared>) -> Self {
        Self { shared, idle: Mutex::default() }
    }

    /// The response on it is held by whoever holds this.
    pub(super) fn lend(this: &Arc<Self>, kept: Kept) -> Lent {
        Lent { kept: Some(kept), waiting: Arc::clone(this) }
    }

    /// It waits from now on.
    pub(super) fn put(&self, mut kept: Kept) {
        kept.waits();
        let usable = usable(&self.shared);
        if !usable(&kept) {
            return;
        }
        let mut idle = self.idle.lock();
        // Who waited longest shows whether to look at all: there is one connection for each request under way.
        if idle.len() >= MOST || idle.first().is_some_and(|oldest| !usable(oldest)) {
            idle.retain(usable);
        }
        if idle.len() < MOST {
            idle.push(kept);
        }
    }

    /// One that can carry a request; if its last response ended just now, in a moment.
    pub(super) async fn take(&self) -> Option<Kept> {
        while let Some(mut kept) = self.pop() {
            if kept.is_ready() {
                return Some(kept);
            }
            match tokio::time::timeout(LONGEST_WAIT, kept.ready()).await {
                Ok(Ok(())) => return Some(kept),
                Ok(Err(_)) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// The one that came last of those that are ready, or else of all.
    fn pop(&self) -> Option<Kept> {
        let usable = usable(&self.shared);
        let mut idle = self.idle.lock();
        loop {
            let place = idle.iter().rposition(Kept::is_ready).or(idle.len().checked_sub(1))?;
            let kept = idle.remove(place);
            if usable(&kept) {
                return Some(kept);
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.waiting.put(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::super::Version;
    use super::super::pool::Pool;
    use super::super::pool::tests::Slow;
    use super::super::tracked::Tracked;
    use super::*;

    /// A request under way on a new connection: how it is answered up to there, and the other end.
    async fn answered(pool: &Pool<Arc<Slow>>, upstream: &Slow) -> (Lent, Incoming, DuplexStream) {
        let mut kept = pool.connect().await.unwrap();
        let mut other = upstream.others.lock().pop().unwrap();
        let answer = async {
            let _ = other.read(&mut [0; 1024]).await.unwrap();
            other.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await.unwrap();
        };
        let (response, ()) = tokio::join!(kept.send(http::Request::new(Tracked::empty())), answer);
        let body = response.ok().unwrap().into_body();
        (pool.lend(kept).unwrap(), body, other)
    }

    #[tokio::test(start_paused = true)]
    async fn whose_response_is_about_to_end_is_waited_for_and_no_other_is_made() {
        let upstream = Arc::<Slow>::default();
        let pool = Arc::new(Pool::new(run::Shared::for_a_test(), Arc::clone(&upstream), Version::Http1));
        let (lent, body, mut other) = answered(&pool, &upstream).await;
        drop(lent);
        let rest = async {
            other.write_all(b"ok").await.unwrap();
            body.collect().await.unwrap()
        };
        let (taken, _) = tokio::join!(pool.take(), rest);
        assert!(taken.is_ok_and(|(_, used_before)| used_before));
        assert_eq!(upstream.connects.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_response_goes_on_is_not_waited_for() {
        let upstream = Arc::<Slow>::default();
        let pool = Arc::new(Pool::new(run::Shared::for_a_test(), Arc::clone(&upstream), Version::Http1));
        let (lent, _body, _other) = answered(&pool, &upstream).await;
        let before = tokio::time::Instant::now();
        drop(lent);
        assert!(pool.take().await.is_ok_and(|(_, used_before)| !used_before));
        assert_eq!(before.elapsed(), LONGEST_WAIT);
        assert_eq!(upstream.connects.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_is_passed_over() {
        let upstream = Arc::<Slow>::default();
        let pool = Arc::new(Pool::new(run::Shared::for_a_test(), Arc::clone(&upstream), Version::Http1));
        let (lent, body, other) = answered(&pool, &upstream).await;
        drop((other, lent));
        assert!(body.collect().await.is_err());
        let before = tokio::time::Instant::now();
        assert!(pool.take().await.is_ok_and(|(_, used_before)| !used_before));
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
