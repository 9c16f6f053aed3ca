//! Connections of HTTP/1 on their way back to their pool. A response has ended, and its reader may send the next request,
//! a moment before its connection can carry one: who comes then waits for that moment, and makes no other connection.
//!
//! Invariant: the body of a response lets go of its connection before its reader gets the last bytes, so that whoever
//! comes after it finds the connection idle, or coming.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A response whose reader went away ends its connection instead: that takes longer.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

const LENT: u8 = 0;
const COMING: u8 = 1;
const BACK: u8 = 2;

/// How many are coming.
#[derive(Debug, Default)]
pub(super) struct Returns {
    coming: AtomicUsize,
    came: Notify,
}

/// One connection and one response.
#[derive(Debug)]
struct Lending {
    state: AtomicU8,
    returns: Arc<Returns>,
}

/// Held until the response has ended.
#[derive(Debug)]
pub(super) struct Lent(Arc<Lending>);

/// Held until the connection is idle, or gone.
#[derive(Debug)]
pub(super) struct Awaited(Arc<Lending>);

impl Returns {
    /// A connection is used.
    pub(super) fn lend(self: &Arc<Self>) -> (Lent, Awaited) {
        let lending = Arc::new(Lending { state: AtomicU8::new(LENT), returns: Arc::clone(self) });
        (Lent(Arc::clone(&lending)), Awaited(lending))
    }

    /// Ends when the next one came, for a while; `None` if none is coming. Ask this before looking for what is idle.
    pub(super) fn next(&self) -> Option<impl Future<Output = ()>> {
        let came = self.came.notified();
        let coming = self.coming.load(Ordering::Acquire) > 0;
        coming.then_some(async {
            let _ = tokio::time::timeout(LONGEST_WAIT, came).await;
        })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Lending { state, returns } = &*self.0;
        returns.coming.fetch_add(1, Ordering::AcqRel);
        if state.swap(COMING, Ordering::AcqRel) == BACK {
            returns.coming.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let Lending { state, returns } = &*self.0;
        if state.swap(BACK, Ordering::AcqRel) == COMING {
            returns.coming.fetch_sub(1, Ordering::AcqRel);
        }
        returns.came.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_comes_is_waited_for_and_nothing_else() {
        let returns = Arc::new(Returns::default());
        let (lent, awaited) = returns.lend();
        assert!(returns.next().is_none(), "its response goes on");
        drop(lent);
        assert!(returns.next().is_some(), "it is coming");
        drop(awaited);
        assert!(returns.next().is_none(), "it is there");

        let (lent, awaited) = returns.lend();
        drop(awaited);
        drop(lent);
        assert!(returns.next().is_none(), "it was there before its response was read to the end");
    }

    #[tokio::test]
    async fn who_asked_before_it_came_is_told() {
        let returns = Arc::new(Returns::default());
        let (lent, awaited) = returns.lend();
        drop(lent);
        let next = returns.next().unwrap();
        drop(awaited);
        assert!(next.now_or_never().is_some());
    }
}
