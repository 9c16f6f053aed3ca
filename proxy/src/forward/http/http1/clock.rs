//! The one timer of a connection. Most of what is waited for comes long before its time: the timer is set to an earlier
//! moment when there is one, and to a later one only when it has rung.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Debug)]
pub(super) struct Clock {
    sleep: Pin<Box<Sleep>>,
    begun: Instant,
}

impl Clock {
    /// Of a connection that begins now, and first waits so long.
    pub(super) fn new(first: Duration) -> Self {
        let begun = Instant::now();
        Self { sleep: Box::pin(sleep_until(begun + first)), begun }
    }

    /// Whether that moment has come; the task is woken when it does. What is never over has no moment.
    pub(super) fn has_come(&mut self, cx: &mut Context<'_>, moment: Option<Instant>) -> bool {
        let Some(moment) = moment else { return false };
        if moment < self.sleep.deadline() {
            self.sleep.as_mut().reset(moment);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if self.sleep.deadline() >= moment {
                return true;
            }
            self.sleep.as_mut().reset(moment);
        }
        false
    }
}

/// Who may rest so long is not watched to the second.
const LONG: Duration = Duration::from_secs(3600);

/// Since when nothing has moved. Where that may take long, the time is looked at only when the timer has rung: nobody is
/// late who moved since it was set.
#[derive(Debug)]
pub(super) struct Rest {
    since: Instant,
    allowed: Duration,
    moved: bool,
}

impl Rest {
    pub(super) fn new(allowed: Duration, clock: &Clock) -> Self {
        let is_long = allowed >= LONG;
        let since = if is_long { clock.begun } else { Instant::now() };
        Self { since, allowed, moved: is_long }
    }

    pub(super) fn allowed(&self) -> Duration {
        self.allowed
    }

    /// No longer than that, from now on.
    pub(super) fn at_most(&mut self, limit: Duration) {
        if limit < self.allowed {
            (self.allowed, self.since) = (limit, Instant::now());
        }
    }

    pub(super) fn moved(&mut self, moved: bool) {
        if moved && self.allowed < LONG {
            self.since = Instant::now();
        }
        self.moved |= moved && self.allowed >= LONG;
    }

    /// Whether nothing moved for too long.
    pub(super) fn is_over(&mut self, clock: &mut Clock, cx: &mut Context<'_>) -> bool {
        while clock.has_come(cx, self.since.checked_add(self.allowed)) {
            if !std::mem::take(&mut self.moved) {
                return true;
            }
            self.since = Instant::now();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn moments_come_in_their_time_whatever_was_waited_for_before() {
        let begin = Instant::now();
        let mut clock = Clock::new(Duration::from_secs(60));
        for (moment, waits) in [(90_u64, 90_u64), (30, 90), (95, 95), (200, 200), (199, 200)] {
            let moment = begin + Duration::from_secs(moment);
            poll_fn(|cx| if clock.has_come(cx, Some(moment)) { Poll::Ready(()) } else { Poll::Pending })
                .await;
            assert_eq!(begin.elapsed().as_secs(), waits);
        }
        assert!(!poll_fn(|cx| Poll::Ready(clock.has_come(cx, None))).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_moves_now_and_then_does_not_rest() {
        for (allowed, at_most) in [(10, 10), (3600, 7200)] {
            let begin_of_this = Instant::now();
            let mut clock = Clock::new(Duration::ZERO);
            let mut rest = Rest::new(Duration::from_secs(allowed), &clock);
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(allowed - 1)).await;
                rest.moved(true);
                assert!(!poll_fn(|cx| Poll::Ready(rest.is_over(&mut clock, cx))).await);
            }
            poll_fn(|cx| if rest.is_over(&mut clock, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
            let still = begin_of_this.elapsed().as_secs() - 5 * (allowed - 1);
            assert!((allowed..=at_most).contains(&still), "{still}");
        }
    }
}
