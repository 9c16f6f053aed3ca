//! When to renew: at half of what is left of the SVID's life, give or take a tenth, on the monotonic clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::backoff::unit_random;

/// How far wall clock and monotonic clock may move apart before the schedule is looked at again.
const DRIFT: Duration = Duration::from_secs(5);

/// How long to wait before renewing an SVID whose certificate says `not_after`.
pub(super) fn renewal_delay(not_after: SystemTime, now: SystemTime) -> Duration {
    spread(not_after.duration_since(now).unwrap_or_default(), unit_random())
}

fn spread(remaining: Duration, random: f64) -> Duration {
    remaining.mul_f64(0.45 + random / 10.0)
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// As planned.
    Due,
    /// Early: the wall clock jumped or the machine slept, and what was planned by the old time of day is
    /// wrong (rossoctl 1899).
    ClockJumped,
}

/// Sleeps on the monotonic clock, with an eye on the wall clock.
pub(super) async fn sleep_on_both_clocks(duration: Duration) -> Woken {
    let (started, wall_started) = (Instant::now(), signet_proto::clock::now());
    loop {
        let elapsed = started.elapsed();
        if elapsed >= duration {
            return Woken::Due;
        }
        tokio::time::sleep((duration - elapsed).min(Duration::from_secs(1))).await;
        let monotonic = started.elapsed();
        let drift = match signet_proto::clock::now().duration_since(wall_started) {
            Ok(wall) => wall.abs_diff(monotonic),
            Err(backwards) => backwards.duration() + monotonic,
        };
        if drift > DRIFT {
            tracing::warn!(?drift, "the clock jumped: looking at the SVID again");
            return Woken::ClockJumped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn renewal_falls_around_half_of_what_is_left(seconds in 1_u64..604_800, random in 0.0..1.0) {
            let delay = spread(Duration::from_secs(seconds), random).as_secs_f64();
            let half = seconds as f64 / 2.0;
            prop_assert!(delay >= half * 0.899 && delay <= half * 1.101, "{delay} of {seconds}");
        }
    }

    #[test]
    fn ended_svid_is_renewed_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(renewal_delay(SystemTime::UNIX_EPOCH, now), Duration::ZERO);
    }
}
