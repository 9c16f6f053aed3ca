//! Which refusals the audit records. Whoever is refused must not be able to fill it: some of each, some of all, and
//! those that were left out are counted in the next one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Recorded one by one before any is left out, by who and what.
const BURST: u32 = 10;
/// One more after each of these.
const REFILL: Duration = Duration::from_secs(360);
/// The same for all together.
const BURST_OF_ALL: u32 = 1000;
const REFILL_OF_ALL: Duration = Duration::from_millis(3600);
/// Who and what that are remembered; whoever has been quiet the longest is forgotten.
const REMEMBERED: usize = 4096;

/// What becomes of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is recorded.
    Record {
        /// How many of the same were left out before it.
        left_out: u64,
    },
    /// It is only counted.
    LeaveOut,
}

/// Decides. Pure: it is told the time.
#[derive(Debug)]
pub struct RefusalLimiter {
    all: Bucket,
    each: HashMap<(String, &'static str), Entry>,
}

#[derive(Debug)]
struct Entry {
    bucket: Bucket,
    left_out: u64,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// Until when refills were counted.
    counted: Instant,
}

impl Bucket {
    fn refill(&mut self, burst: u32, every: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        let refills = u32::try_from(passed.as_nanos() / every.as_nanos().max(1)).unwrap_or(u32::MAX);
        if refills >= burst.saturating_sub(self.tokens) {
            self.tokens = burst;
            self.counted = now;
        } else {
            self.tokens += refills;
            self.counted += every * refills;
        }
    }
}

impl RefusalLimiter {
    /// Nothing was refused yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { all: Bucket { tokens: BURST_OF_ALL, counted: now }, each: HashMap::new() }
    }

    /// `who` was refused `what`.
    pub fn refused(&mut self, who: &str, what: &'static str, now: Instant) -> Verdict {
        self.all.refill(BURST_OF_ALL, REFILL_OF_ALL, now);
        let key = (who.to_owned(), what);
        if self.each.len() >= REMEMBERED && !self.each.contains_key(&key) {
            self.forget(now);
        }
        let entry = self
            .each
            .entry(key)
            .or_insert_with(|| Entry { bucket: Bucket { tokens: BURST, counted: now }, left_out: 0 });
        entry.bucket.refill(BURST, REFILL, now);
        if entry.bucket.tokens == 0 || self.all.tokens == 0 {
            entry.left_out += 1;
            return Verdict::LeaveOut;
        }
        entry.bucket.tokens -= 1;
        self.all.tokens -= 1;
        Verdict::Record { left_out: std::mem::take(&mut entry.left_out) }
    }

    /// Makes room: those that would start anew anyway, or else the one that has been quiet the longest.
    fn forget(&mut self, now: Instant) {
        self.each.retain(|_, entry| {
            entry.bucket.refill(BURST, REFILL, now);
            entry.bucket.tokens < BURST || entry.left_out > 0
        });
        if self.each.len() >= REMEMBERED {
            let quietest = self.each.iter().min_by_key(|(_, entry)| entry.bucket.counted);
            if let Some(key) = quietest.map(|(key, _)| key.clone()) {
                self.each.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn first_ones_are_recorded_and_the_rest_counted() {
        let start = Instant::now();
        let mut limiter = RefusalLimiter::new(start);
        for _ in 0..BURST {
            assert_eq!(limiter.refused("a", "call", start), Verdict::Record { left_out: 0 });
        }
        for _ in 0..50 {
            assert_eq!(limiter.refused("a", "call", start), Verdict::LeaveOut);
        }
        assert_eq!(
            limiter.refused("b", "call", start),
            Verdict::Record { left_out: 0 },
            "others are recorded"
        );
        assert_eq!(limiter.refused("a", "renew", start), Verdict::Record { left_out: 0 });
        let later = start + REFILL;
        assert_eq!(limiter.refused("a", "call", later), Verdict::Record { left_out: 50 });
        assert_eq!(limiter.refused("a", "call", later), Verdict::LeaveOut);
    }

    #[test]
    fn many_names_do_not_help() {
        let start = Instant::now();
        let mut limiter = RefusalLimiter::new(start);
        let recorded = (0..6_000)
            .filter(|name| {
                matches!(limiter.refused(&name.to_string(), "call", start), Verdict::Record { .. })
            })
            .count();
        assert_eq!(recorded, BURST_OF_ALL as usize);
        assert!(limiter.each.len() <= REMEMBERED);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(steps in prop::collection::vec((0u8..4, 0u64..30), 1..400)) {
            let start = Instant::now();
            let (mut limiter, mut now, mut recorded) = (RefusalLimiter::new(start), start, 0_u64);
            for (who, seconds) in steps {
                now += Duration::from_secs(seconds);
                if let Verdict::Record { .. } = limiter.refused(&who.to_string(), "call", now) {
                    recorded += 1;
                }
            }
            let hours = (now - start).as_secs_f64() / HOUR.as_secs_f64();
            prop_assert!(recorded as f64 <= 4.0 * (10.0 + 10.0 * hours) + 1.0);
        }
    }
}
