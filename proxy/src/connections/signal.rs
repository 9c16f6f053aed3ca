//! Something that is said once, to all who wait for it and to whoever asks later.
//!
//! Every connection has several, and hardly any is ever given: until somebody waits, one costs its own few bytes, and
//! who is woken for another reason looks at a flag.

use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Given or not yet.
#[derive(Debug, Default)]
pub struct Signal {
    given: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// Hardly ever are there two.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    first: Option<(u64, Waker)>,
    others: Vec<(u64, Waker)>,
}

impl Waiting {
    fn all(&mut self) -> impl Iterator<Item = &mut (u64, Waker)> {
        self.first.iter_mut().chain(&mut self.others)
    }

    fn enter(&mut self, waker: Waker) -> u64 {
        let number = self.next;
        self.next += 1;
        match &self.first {
            None => self.first = Some((number, waker)),
            Some(_) => {
                // The usual growth makes room for four.
                if self.others.len() == self.others.capacity() {
                    self.others.reserve_exact(1);
                }
                self.others.push((number, waker));
            }
        }
        number
    }

    fn leave(&mut self, number: u64) {
        self.first.take_if(|(other, _)| *other == number);
        self.others.retain(|(other, _)| *other != number);
    }
}

/// The same where many are given, and hardly any is waited for: one that nobody has waited for is a few bytes.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    given: AtomicBool,
    awaited: OnceLock<Box<Signal>>,
}

impl Seldom {
    /// Gives it. A second time changes nothing.
    pub(super) fn give(&self) {
        // Either this sees who waits, or who waits sees this: one order of all four.
        self.given.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if let Some(signal) = self.awaited.get() {
            signal.give();
        }
    }

    /// Whether it was given.
    pub(super) fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Ends when it is given.
    pub(super) async fn given(&self) {
        let signal = self.awaited.get_or_init(Box::default);
        fence(Ordering::SeqCst);
        if !self.given.load(Ordering::SeqCst) {
            signal.given().await;
        }
    }
}

/// Where one waits, and how it is woken.
#[derive(Debug, Default)]
pub(super) struct Place(Option<(u64, Waker)>);

/// Ends when the signal is given.
#[derive(Debug)]
pub struct Given<'a> {
    signal: &'a Signal,
    place: Place,
}

impl Signal {
    /// Gives it. A second time changes nothing.
    pub fn give(&self) {
        self.given.store(true, Ordering::Release);
        let (first, others) = {
            let mut waiting = self.waiting.lock();
            (waiting.first.take(), std::mem::take(&mut waiting.others))
        };
        for (_, waker) in first.into_iter().chain(others) {
            waker.wake();
        }
    }

    /// Whether it was given.
    pub fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Ends when it is given.
    pub fn given(&self) -> Given<'_> {
        Given { signal: self, place: Place::default() }
    }

    pub(super) fn poll_given(&self, place: &mut Place, cx: &Context<'_>) -> Poll<()> {
        if self.is_given() {
            return Poll::Ready(());
        }
        if place.0.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let mut waiting = self.waiting.lock();
        // Whoever gives it says so before taking the wakers: it is found here, or finds the waker.
        if self.is_given() {
            return Poll::Ready(());
        }
        let known = place.0.as_ref().map(|(number, _)| *number);
        match known.and_then(|number| waiting.all().find(|(other, _)| *other == number)) {
            Some((number, waker)) => {
                waker.clone_from(cx.waker());
                place.0 = Some((*number, cx.waker().clone()));
            }
            None => {
                let number = waiting.enter(cx.waker().clone());
                place.0 = Some((number, cx.waker().clone()));
            }
        }
        Poll::Pending
    }

    pub(super) fn leave(&self, place: &mut Place) {
        if let Some((number, _)) = place.0.take()
            && !self.is_given()
        {
            self.waiting.lock().leave(number);
        }
    }
}

impl Future for Given<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.signal.poll_given(&mut this.place, cx)
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        self.signal.leave(&mut self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(given: &mut Given<'_>, woken: &Arc<Woken>) -> bool {
        let waker = Waker::from(Arc::clone(woken));
        Pin::new(given).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn all_who_wait_are_woken_once_and_who_left_is_not() {
        let signal = Signal::default();
        let woken: [Arc<Woken>; 3] = Default::default();
        let mut waiting: Vec<_> = woken.iter().map(|_| signal.given()).collect();
        for _ in 0..2 {
            for (given, woken) in waiting.iter_mut().zip(&woken) {
                assert!(!poll(given, woken));
            }
        }
        drop(waiting.pop());
        assert_eq!(signal.waiting.lock().all().count(), 2);
        signal.give();
        signal.give();
        assert_eq!(woken.each_ref().map(|woken| woken.0.load(Ordering::SeqCst)), [1, 1, 0]);
        assert!(waiting.iter_mut().zip(&woken).all(|(given, woken)| poll(given, woken)));
        assert!(poll(&mut signal.given(), &woken[2]), "who asks later is told, too");
    }

    #[test]
    fn who_waits_in_another_task_now_is_woken_there() {
        let (signal, before, now) = (Signal::default(), Arc::default(), Arc::default());
        let mut given = signal.given();
        assert!(!poll(&mut given, &before) && !poll(&mut given, &now));
        signal.give();
        assert_eq!((before.0.load(Ordering::SeqCst), now.0.load(Ordering::SeqCst)), (0, 1));
    }

    #[test]
    fn who_comes_while_it_is_given_is_not_left_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for _ in 0..500 {
            let (signal, seldom) = (Signal::default(), Seldom::default());
            thread::scope(|scope| {
                scope.spawn(|| {
                    signal.give();
                    seldom.give();
                });
                let both = async { tokio::join!(signal.given(), seldom.given()) };
                let told = async { tokio::time::timeout(Duration::from_secs(10), both).await.is_ok() };
                assert!(runtime.block_on(told));
            });
            assert!(seldom.is_given());
        }
    }
}
