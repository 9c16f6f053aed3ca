//! The one backoff: exponential, capped, with full jitter, so that a thousand proxies that lost control at
//! the same moment do not return at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from `first` to `most`; every delay is drawn evenly from the upper half of its step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    /// A backoff that has not failed yet.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, attempt: 0 }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempt.min(16)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        step.mul_f64(0.5 + unit_random() / 2.0)
    }

    /// Starts again from the first step.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// A number in [0, 1) that is good enough to spread load; never for secrets.
#[must_use]
pub fn unit_random() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    let value = bits as f64 / (1_u64 << 53) as f64;
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_restart_after_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        let mut previous_step = Duration::ZERO;
        for _ in 0..40 {
            let delay = backoff.next_delay();
            assert!(delay <= Duration::from_secs(3), "{delay:?}");
            assert!(delay >= previous_step / 4, "{delay:?} after {previous_step:?}");
            previous_step = delay;
        }
        assert!(previous_step >= Duration::from_millis(1500));
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }

    #[test]
    fn random_numbers_stay_in_the_unit_interval_and_differ() {
        let drawn: Vec<f64> = (0..100).map(|_| unit_random()).collect();
        assert!(drawn.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(drawn.windows(2).any(|pair| pair.first() != pair.last()));
    }
}
