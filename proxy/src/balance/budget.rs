//! How many retries there may be: so many of a hundred requests, and so many in a second whatever the load, so that
//! retries end an outage of one endpoint and do not begin one of all.

use std::time::{Duration, Instant};

use signet_proto::traffic::Budget as Terms;

/// What is saved up counts for as many seconds of the least.
const SAVED: f64 = 10.0;

/// What is left for retries.
#[derive(Debug)]
pub struct Budget {
    tokens: f64,
    at: Instant,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub fn new(terms: Terms, now: Instant) -> Self {
        Self { tokens: most(terms), at: now }
    }

    /// A request was made: it pays for a part of a retry.
    pub fn deposit(&mut self, terms: Terms, now: Instant) {
        self.refill(terms, now);
        self.tokens = (self.tokens + f64::from(terms.percent) / 100.0).min(most(terms));
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&mut self, terms: Terms, now: Instant) -> bool {
        self.refill(terms, now);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }

    fn refill(&mut self, terms: Terms, now: Instant) {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + passed.as_secs_f64() * f64::from(terms.per_second)).min(most(terms));
        self.at = self.at.max(now);
    }
}

/// What can be saved up: the least of some seconds, and room for a burst of what requests pay.
fn most(terms: Terms) -> f64 {
    f64::from(terms.per_second) * SAVED + f64::from(terms.percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn retries_are_never_more_than_their_part_and_the_least(
            steps in proptest::collection::vec((0..200_u64, 0..20_u32), 1..200),
            percent in 0..=100_u32, per_second in 0..=50_u32,
        ) {
            let terms = Terms { percent, per_second };
            let start = Instant::now();
            let (mut now, mut requests, mut retries) = (start, 0_u32, 0_u32);
            let mut budget = Budget::new(terms, start);
            for (passed, wanted) in steps {
                now += Duration::from_millis(passed);
                requests += 1;
                budget.deposit(terms, now);
                for _ in 0..wanted {
                    retries += u32::from(budget.withdraw(terms, now));
                }
            }
            let allowed = most(terms) + f64::from(requests * percent) / 100.0
                + (now - start).as_secs_f64() * f64::from(per_second);
            prop_assert!(f64::from(retries) <= allowed + 1e-6, "{retries} of {requests}, allowed {allowed}");
        }
    }

    #[test]
    fn without_requests_the_least_is_there_every_second() {
        let terms = Terms { percent: 20, per_second: 2 };
        let start = Instant::now();
        let mut budget = Budget::new(terms, start);
        while budget.withdraw(terms, start) {}
        let later = start + Duration::from_secs(1);
        assert!(budget.withdraw(terms, later) && budget.withdraw(terms, later));
        assert!(!budget.withdraw(terms, later));
    }
}
