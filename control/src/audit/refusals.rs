//! Which refusals the audit records. Whoever is refused must not be able to fill it, or to keep the refusals of others
//! out of it: some of each, some of all who belong together, some of each kind; and those that were left out are counted
//! and told.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::Action;

/// How many at once, and how long until another one.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    refill: Duration,
}

/// Of one who is refused one thing.
const EACH: Rate = Rate { burst: 10, refill: Duration::from_secs(360) };
/// Of all who belong together: many names, or many addresses of one network, are one budget.
const TOGETHER: Rate = Rate { burst: 100, refill: Duration::from_secs(36) };
/// Of one kind: strangers do not use up what is for members.
const KIND: Rate = Rate { burst: 500, refill: Duration::from_millis(7200) };
/// Who that are remembered, and those who belong together; whoever has been quiet the longest is forgotten.
const REMEMBERED: usize = 4096;
/// Named in one summary.
const NAMED: usize = 8;

/// Somebody who was refused something.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// What.
    pub kind: Action,
    /// Who.
    pub who: &'a str,
    /// With whom they belong together: a network, a team's part of the mesh.
    pub group: &'a str,
}

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

/// How many refusals of one kind were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// All of them.
    pub count: u64,
    /// The groups that most of them were of, most first.
    pub most: Vec<(String, u64)>,
}

/// Decides. Pure: it is told the time.
#[derive(Debug)]
pub struct RefusalLimiter {
    kinds: HashMap<&'static str, Entry>,
    groups: Recent,
    each: Recent,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bucket: Bucket,
    left_out: u64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    /// Until when refills were counted.
    counted: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.counted);
        let refills = u32::try_from(passed.as_nanos() / rate.refill.as_nanos().max(1)).unwrap_or(u32::MAX);
        if refills >= rate.burst.saturating_sub(self.tokens) {
            self.tokens = rate.burst;
            self.counted = now;
        } else {
            self.tokens += refills;
            self.counted += rate.refill * refills;
        }
    }
}

impl Entry {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { bucket: Bucket { tokens: rate.burst, counted: now }, left_out: 0 }
    }
}

impl RefusalLimiter {
    /// Nothing was refused yet.
    #[must_use]
    pub fn new() -> Self {
        Self { kinds: HashMap::new(), groups: Recent::new(TOGETHER), each: Recent::new(EACH) }
    }

    /// Somebody was refused something.
    pub fn refused(&mut self, refused: Refused<'_>, now: Instant) -> Verdict {
        let Refused { kind, who, group } = refused;
        let kind = kind.as_str();
        let all = self.kinds.entry(kind).or_insert_with(|| Entry::new(KIND, now));
        all.bucket.refill(KIND, now);
        let group = self.groups.entry(kind, group, now);
        let each = self.each.entry(kind, who, now);
        let budgets = [&mut all.bucket, &mut group.bucket, &mut each.bucket];
        if budgets.iter().any(|budget| budget.tokens == 0) {
            for count in [&mut all.left_out, &mut group.left_out, &mut each.left_out] {
                *count += 1;
            }
            return Verdict::LeaveOut;
        }
        for budget in budgets {
            budget.tokens -= 1;
        }
        Verdict::Record { left_out: std::mem::take(&mut each.left_out) }
    }

    /// What was left out since this was asked last, by kind.
    pub fn left_out(&mut self) -> BTreeMap<&'static str, LeftOut> {
        let mut summary: BTreeMap<&'static str, LeftOut> = BTreeMap::new();
        for (kind, entry) in &mut self.kinds {
            let count = std::mem::take(&mut entry.left_out);
            if count > 0 {
                summary.insert(kind, LeftOut { count, most: Vec::new() });
            }
        }
        for ((group, kind), entry) in &mut self.groups.entries {
            let count = std::mem::take(&mut entry.left_out);
            if let (1.., Some(told)) = (count, summary.get_mut(kind)) {
                told.most.push((group.clone(), count));
            }
        }
        for told in summary.values_mut() {
            told.most.sort_by(|(one, few), (other, many)| many.cmp(few).then_with(|| one.cmp(other)));
            told.most.truncate(NAMED);
        }
        summary
    }
}

impl Default for RefusalLimiter {
    fn default() -> Self {
        Self::new()
    }
}

/// A bounded number of entries with a name, for each kind of refusal.
#[derive(Debug)]
struct Recent {
    rate: Rate,
    entries: HashMap<(String, &'static str), Entry>,
}

impl Recent {
    fn new(rate: Rate) -> Self {
        Self { rate, entries: HashMap::new() }
    }

    fn entry(&mut self, kind: &'static str, name: &str, now: Instant) -> &mut Entry {
        let key = (name.to_owned(), kind);
        if self.entries.len() >= REMEMBERED && !self.entries.contains_key(&key) {
            self.forget(now);
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry::new(self.rate, now));
        entry.bucket.refill(self.rate, now);
        entry
    }

    /// Makes room: those that would start anew anyway, or else the one that has been quiet the longest.
    fn forget(&mut self, now: Instant) {
        let rate = self.rate;
        self.entries.retain(|_, entry| {
            entry.bucket.refill(rate, now);
            entry.bucket.tokens < rate.burst || entry.left_out > 0
        });
        if self.entries.len() >= REMEMBERED {
            let quietest = self.entries.iter().min_by_key(|(_, entry)| entry.bucket.counted);
            if let Some(key) = quietest.map(|(key, _)| key.clone()) {
                self.entries.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn refused<'a>(kind: Action, who: &'a str, group: &'a str) -> Refused<'a> {
        Refused { kind, who, group }
    }

    fn call<'a>(who: &'a str) -> Refused<'a> {
        refused(Action::CallRefused, who, "all")
    }

    #[test]
    fn first_ones_are_recorded_and_the_rest_counted() {
        let start = Instant::now();
        let mut limiter = RefusalLimiter::new();
        for _ in 0..EACH.burst {
            assert_eq!(limiter.refused(call("a"), start), Verdict::Record { left_out: 0 });
        }
        for _ in 0..50 {
            assert_eq!(limiter.refused(call("a"), start), Verdict::LeaveOut);
        }
        assert_eq!(limiter.refused(call("b"), start), Verdict::Record { left_out: 0 }, "others are recorded");
        let renewal = refused(Action::SvidRefused, "a", "all");
        assert_eq!(limiter.refused(renewal, start), Verdict::Record { left_out: 0 });
        let later = start + EACH.refill;
        assert_eq!(limiter.refused(call("a"), later), Verdict::Record { left_out: 50 });
        assert_eq!(limiter.refused(call("a"), later), Verdict::LeaveOut);
    }

    #[test]
    fn nobody_uses_up_what_is_for_others() {
        let start = Instant::now();
        let mut limiter = RefusalLimiter::new();
        let mut recorded = |kind, group: &str, names: usize| {
            let names = (0..names).map(|name| format!("{group} {name}"));
            names
                .filter(|name| limiter.refused(refused(kind, name, group), start) != Verdict::LeaveOut)
                .count()
        };
        let networks: Vec<String> = (0..6_000).map(|network| format!("10.{network}.0.0/24")).collect();
        assert_eq!(recorded(Action::ProofRefused, "192.0.2.0/24", 6_000), TOGETHER.burst as usize);
        assert_eq!(
            recorded(Action::ProofRefused, "198.51.100.0/24", 20),
            20,
            "other networks have their own"
        );
        let many: usize = networks.iter().map(|network| recorded(Action::ProofRefused, network, 1)).sum();
        assert_eq!(many, KIND.burst as usize - TOGETHER.burst as usize - 20, "however many there are");
        assert_eq!(recorded(Action::SvidRefused, "shop", 10), 10, "members have their own");
        assert!(limiter.each.entries.len() <= REMEMBERED && limiter.groups.entries.len() <= REMEMBERED);
    }

    #[test]
    fn what_was_left_out_is_told_once_with_whose_it_was() {
        let start = Instant::now();
        let mut limiter = RefusalLimiter::new();
        assert!(limiter.left_out().is_empty());
        for (group, times) in [("one", 13), ("two", 30), ("few", 3)] {
            for _ in 0..times {
                limiter.refused(refused(Action::ProofRefused, group, group), start);
            }
        }
        let told = limiter.left_out();
        let most = vec![("two".to_owned(), 20), ("one".to_owned(), 3)];
        assert_eq!(told, [(Action::ProofRefused.as_str(), LeftOut { count: 23, most })].into());
        assert!(limiter.left_out().is_empty());
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate(steps in prop::collection::vec((0u8..4, 0u64..30), 1..400)) {
            let start = Instant::now();
            let (mut limiter, mut now, mut recorded, mut left_out) = (RefusalLimiter::new(), start, 0_u64, 0_u64);
            for (who, seconds) in &steps {
                now += Duration::from_secs(*seconds);
                match limiter.refused(call(&who.to_string()), now) {
                    Verdict::Record { .. } => recorded += 1,
                    Verdict::LeaveOut => left_out += 1,
                }
            }
            let hours = (now - start).as_secs_f64() / HOUR.as_secs_f64();
            prop_assert!(recorded as f64 <= 4.0 * (10.0 + 10.0 * hours) + 1.0);
            let told: u64 = limiter.left_out().values().map(|told| told.count).sum();
            prop_assert_eq!(told, left_out);
            prop_assert_eq!(recorded + left_out, steps.len() as u64);
        }
    }
}
