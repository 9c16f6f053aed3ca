//! Whether the clock on the wall can be believed: what ends things for everyone must not follow a jump.

use std::time::{Duration, Instant, SystemTime};

/// More than clock discipline slews between two looks, less than anything that makes an SVID end early.
const DRIFT: Duration = Duration::from_secs(5);

/// Compares the wall clock with the monotonic one. Pure: it is told both.
#[derive(Debug)]
pub(super) struct SteadyClock {
    baseline: (Instant, SystemTime),
    jumped: Option<Instant>,
}

impl SteadyClock {
    /// Believes the wall clock as it is now: there is nothing yet to compare it with.
    pub(super) fn new(monotonic: Instant, wall: SystemTime) -> Self {
        Self { baseline: (monotonic, wall), jumped: None }
    }

    /// Whether the wall clock has kept pace with the monotonic one for at least `long`, or ever since the
    /// start. A jump, back as well as forth, starts the count anew.
    pub(super) fn steady_for(&mut self, long: Duration, monotonic: Instant, wall: SystemTime) -> bool {
        let (since, at) = self.baseline;
        let expected = at + monotonic.saturating_duration_since(since);
        let drift = wall.duration_since(expected).unwrap_or_else(|early| early.duration());
        if drift > DRIFT {
            tracing::warn!(
                ?drift,
                "the clock jumped: instances lapse only after it has been steady for a while"
            );
            self.baseline = (monotonic, wall);
            self.jumped = Some(monotonic);
        }
        self.jumped.is_none_or(|jumped| monotonic.saturating_duration_since(jumped) >= long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn jump_there_and_back_is_waited_out() {
        let (start, wall) = (Instant::now(), time::now());
        let mut clock = SteadyClock::new(start, wall);
        let mut steady = |after: u64, jump: i64| {
            let after = Duration::from_secs(after);
            let jump = Duration::from_secs(jump.unsigned_abs());
            clock.steady_for(MINUTE, start + after, wall + after + jump)
        };
        assert!(steady(1, 0), "nothing to wait for after a start");
        assert!(steady(2, 4), "slewing is not jumping");
        assert!(!steady(3, 4000));
        assert!(!steady(6, 4000));
        assert!(!steady(7, 0), "back is a jump, too");
        assert!(!steady(66, 0));
        assert!(steady(67, 0));
    }

    #[test]
    fn clock_that_drifts_slowly_is_found_out_in_the_end() {
        let (start, wall) = (Instant::now(), time::now());
        let mut clock = SteadyClock::new(start, wall);
        let found = (1..10).any(|step: u64| {
            let after = Duration::from_secs(step);
            !clock.steady_for(MINUTE, start + after, wall + after * 2)
        });
        assert!(found);
    }
}
