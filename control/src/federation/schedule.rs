//! When a bundle is fetched next, and when it is too old: by what the other trust domain asks for, within bounds.

use std::time::{Duration, SystemTime};

use crate::backoff;

/// What the standard suggests where nothing is said.
const USUAL: Duration = Duration::from_secs(300);
/// Nobody asks us to call more often,
const SHORTEST: Duration = Duration::from_secs(30);
/// or less often: what is taken out there is to be distrusted here.
const LONGEST: Duration = Duration::from_secs(3600);
/// A bundle is late when it was not told so many times in a row.
const MISSED: u32 = 3;

/// How often it is fetched.
pub(super) fn interval(hint: Option<Duration>) -> Duration {
    hint.unwrap_or(USUAL).clamp(SHORTEST, LONGEST)
}

/// The next time, after `failures` in a row. `chance`, from 0 to 255, keeps many meshes from asking at the same moment.
pub(super) fn next(now: SystemTime, hint: Option<Duration>, failures: u32, chance: u8) -> SystemTime {
    let interval = interval(hint);
    let delay = match failures {
        0 => interval,
        failures => backoff::after(failures, interval),
    };
    // From four fifths of it to all.
    now + delay * 4 / 5 + delay * u32::from(chance) / (5 * 255)
}

/// Whether what was fetched then should have been fetched again by now.
pub(super) fn is_late(fetched: SystemTime, hint: Option<Duration>, now: SystemTime) -> bool {
    now.duration_since(fetched).unwrap_or_default() > interval(hint) * MISSED
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn delays(hint: Option<u64>, failures: u32) -> [u64; 2] {
        let hint = hint.map(Duration::from_secs);
        [0, 255].map(|chance| next(NOW, hint, failures, chance).duration_since(NOW).unwrap().as_secs())
    }

    #[test]
    fn hint_counts_within_bounds_and_not_to_the_second() {
        assert_eq!(delays(Some(600), 0), [480, 600]);
        assert_eq!(delays(None, 0), [240, 300]);
        assert_eq!(delays(Some(0), 0), [24, 30], "no one has us call all the time");
        assert_eq!(delays(Some(u64::MAX / 2), 0), [2880, 3600], "nor never");
    }

    #[test]
    fn failures_are_tried_again_soon_and_then_less_often() {
        assert_eq!(delays(Some(600), 1), [4, 5]);
        assert_eq!(delays(Some(600), 4), [32, 40]);
        assert_eq!(delays(Some(600), u32::MAX), [480, 600]);
    }

    #[test]
    fn bundle_is_late_when_it_was_missed_some_times() {
        let hint = Some(Duration::from_secs(100));
        assert!(!is_late(NOW, hint, NOW + Duration::from_secs(300)));
        assert!(is_late(NOW, hint, NOW + Duration::from_secs(301)));
        assert!(!is_late(NOW + Duration::from_secs(301), hint, NOW), "the clock went back");
    }
}
