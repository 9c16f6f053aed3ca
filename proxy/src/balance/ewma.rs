//! Peak EWMA: how long an endpoint takes, with a long memory for what was fast and none for what became slow. One
//! slow answer counts in full at once, and is forgotten over seconds; an endpoint that nobody asks is forgotten,
//! too, so that it is asked again.

use std::time::{Duration, Instant};

/// After this long, what was seen counts about a third.
const DECAY: Duration = Duration::from_secs(10);

/// How long something takes, lately.
#[derive(Debug, Clone)]
pub(super) struct PeakEwma {
    seconds: f64,
    at: Instant,
}

impl PeakEwma {
    /// Begins with what others take.
    pub(super) fn new(seconds: f64, now: Instant) -> Self {
        Self { seconds, at: now }
    }

    /// It took this long.
    pub(super) fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let weight = self.weight(now);
        self.seconds = if took > self.seconds { took } else { self.seconds * weight + took * (1.0 - weight) };
        self.at = self.at.max(now);
    }

    /// In seconds.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        self.seconds * self.weight(now)
    }

    fn weight(&self, now: Instant) -> f64 {
        let idle = now.saturating_duration_since(self.at);
        (-idle.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut ewma = PeakEwma::new(0.0, start);
        ewma.observe(Duration::from_millis(10), start);
        ewma.observe(Duration::from_secs(1), after(1));
        assert!((ewma.seconds(after(1)) - 1.0).abs() < 1e-9);
        ewma.observe(Duration::from_millis(10), after(2));
        assert!(ewma.seconds(after(2)) > 0.9);
        for second in 3..60 {
            ewma.observe(Duration::from_millis(10), after(second));
        }
        assert!(ewma.seconds(after(60)) < 0.02);
        assert!(ewma.seconds(after(200)) < 0.000_1, "nobody asks it: it is forgotten");
    }
}
