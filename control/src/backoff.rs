//! How long is waited before somebody else's server is asked again: the one answer for all who ask.

use std::time::Duration;

/// After the first failure; twice as long after each further one.
const FIRST: Duration = Duration::from_secs(5);

/// After so many failures in a row, `longest` at most.
pub(crate) fn after(failures: u32, longest: Duration) -> Duration {
    FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_more_and_more_slowly() {
        let longest = Duration::from_secs(300);
        let waits: Vec<u64> = (1..=9).map(|failures| after(failures, longest).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(after(u32::MAX, Duration::MAX), FIRST * (1 << 16));
    }
}
