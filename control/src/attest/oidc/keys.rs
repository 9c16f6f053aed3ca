//! What is known of an issuer's keys, and when they are fetched. Pure: the time comes from outside, on the
//! monotonic clock, which nobody sets.
//!
//! - Keys are replaced whole, so that one which the issuer removed is gone.
//! - They are fetched anew before they are stale, and when a token names a key that is not among them: a new
//!   one may have been published. As a stranger decides what a token names, that is bounded in time, and all
//!   who ask meanwhile share one fetch.
//! - Keys that cannot be replaced stay good for [`HARD_LIMIT`]: an issuer that is down for an hour stops
//!   nobody, and one that is cut off for good is not believed for ever.

use std::sync::Arc;
use std::time::Duration;

use signet_proto::jose::KeySet;
use tokio::time::Instant;

use crate::backoff;

/// Between two fetches for keys that tokens name.
const MIN_BETWEEN: Duration = Duration::from_secs(30);
/// The same while there are no keys at all: nobody can be believed before.
const MIN_BETWEEN_WITHOUT_KEYS: Duration = Duration::from_secs(5);
/// Keys are stale after what the issuer says, within these bounds; the lower one if it says nothing.
const MIN_AGE: Duration = Duration::from_secs(5 * 60);
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// The age from which keys are not used, whatever could be fetched since.
pub(super) const HARD_LIMIT: Duration = Duration::from_secs(24 * 3600);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// The keys of one issuer over time.
#[derive(Debug)]
pub(super) struct KeyCache {
    current: Option<(Arc<KeySet>, Instant)>,
    due: Instant,
    begun: Option<Instant>,
    under_way: bool,
    failures: u32,
}

impl KeyCache {
    /// Without keys: they are due now.
    pub(super) fn new(now: Instant) -> Self {
        Self { current: None, due: now, begun: None, under_way: false, failures: 0 }
    }

    /// The keys to verify with.
    pub(super) fn usable(&self, now: Instant) -> Option<Arc<KeySet>> {
        let (keys, fetched) = self.current.as_ref()?;
        (now.duration_since(*fetched) < HARD_LIMIT).then(|| Arc::clone(keys))
    }

    /// When the next fetch is to begin.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A token needs keys that are not there. Whether it is worth to wait: a fetch is under way, or is to begin now.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let between = if self.usable(now).is_some() { MIN_BETWEEN } else { MIN_BETWEEN_WITHOUT_KEYS };
        if self.under_way || self.begun.is_some_and(|begun| now.duration_since(begun) < between) {
            return self.under_way;
        }
        self.due = now;
        self.begin(now);
        true
    }

    /// A fetch begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.under_way = true;
        self.begun = Some(now);
    }

    /// A fetch brought keys, that the issuer calls good for `max_age`.
    pub(super) fn fetched(&mut self, keys: KeySet, max_age: Option<Duration>, now: Instant) {
        let age = max_age.unwrap_or(MIN_AGE).clamp(MIN_AGE, MAX_AGE);
        self.current = Some((Arc::new(keys), now));
        self.due = now + age * 4 / 5;
        self.under_way = false;
        self.failures = 0;
    }

    /// A fetch failed. Whether keys are left to go on with.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.due = now + backoff::after(self.failures, LAST_RETRY);
        self.under_way = false;
        self.usable(now).is_some()
    }

    /// As if all had happened so much earlier.
    #[cfg(test)]
    pub(super) fn later(&mut self, by: Duration) {
        self.due -= by;
        self.begun = self.begun.map(|begun| begun - by);
        self.current = self.current.take().map(|(keys, fetched)| (keys, fetched - by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn no_keys() -> KeySet {
        KeySet::read(br#"{"keys":[]}"#).unwrap()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn fetched(now: Instant, max_age: Option<Duration>) -> KeyCache {
        let mut cache = KeyCache::new(now);
        cache.begin(now);
        cache.fetched(no_keys(), max_age, now);
        cache
    }

    #[tokio::test]
    async fn keys_are_fetched_anew_before_they_are_stale() {
        let now = Instant::now();
        for (max_age, due) in [
            (None, 240),
            (Some(0), 240),
            (Some(60), 240),
            (Some(3_600), 2_880),
            (Some(86_400), 69_120),
            (Some(u64::MAX), 69_120),
        ] {
            assert_eq!(fetched(now, max_age.map(seconds)).due(), now + seconds(due), "{max_age:?}");
        }
    }

    #[tokio::test]
    async fn unknown_keys_are_looked_for_once_in_thirty_seconds() {
        let now = Instant::now();
        let mut cache = fetched(now, None);
        assert!(!cache.ask(now + seconds(29)));
        assert!(cache.ask(now + seconds(30)), "begins a fetch");
        assert!(cache.ask(now + seconds(31)), "shares it");
        cache.fetched(no_keys(), None, now + seconds(32));
        assert!(!cache.ask(now + seconds(59)));
        assert!(cache.ask(now + seconds(60)));
    }

    #[tokio::test]
    async fn without_keys_it_is_tried_sooner() {
        let now = Instant::now();
        let mut cache = KeyCache::new(now);
        assert!(cache.ask(now));
        assert!(!cache.failed(now));
        assert!(!cache.ask(now + seconds(4)));
        assert!(cache.ask(now + seconds(5)));
    }

    #[tokio::test]
    async fn keys_stay_good_for_a_day_without_the_issuer() {
        let now = Instant::now();
        let mut cache = fetched(now, Some(seconds(86_400)));
        assert!(cache.failed(now + seconds(86_399)));
        assert!(cache.usable(now + seconds(86_399)).is_some());
        assert!(cache.usable(now + seconds(86_400)).is_none());
        assert!(!cache.failed(now + seconds(86_400)));
        cache.fetched(no_keys(), None, now + seconds(90_000));
        assert!(cache.usable(now + seconds(90_001)).is_some());
    }

    #[tokio::test]
    async fn failures_are_retried_more_and_more_slowly() {
        let now = Instant::now();
        let mut cache = KeyCache::new(now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            cache.begin(now);
            cache.failed(now);
            waits.push((cache.due() - now).as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    proptest! {
        #[test]
        fn whatever_strangers_ask_fetches_are_apart(steps in proptest::collection::vec((0u64..20, any::<bool>()), 1..200)) {
            let mut now = Instant::now();
            let mut cache = fetched(now, Some(MAX_AGE));
            let mut begun = now;
            for (step, fails) in steps {
                now += seconds(step);
                if cache.ask(now) {
                    prop_assert!(now - begun >= MIN_BETWEEN);
                    begun = now;
                    if fails { cache.failed(now); } else { cache.fetched(no_keys(), None, now); }
                }
            }
        }
    }
}
