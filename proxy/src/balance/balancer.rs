//! Which endpoint is next: power of two choices on peak EWMA times what is outstanding.
//!
//! ```text
//!   known ──▶ nearest tier that is well enough ──▶ without the ejected ──▶ two at random ──▶ the less loaded
//! ```
//!
//! Pure: time is passed in, chance comes from a seed. Invariants: as long as any endpoint is known, one is chosen;
//! at most half are ejected at a time, and if more than half of those that are left are, none counts as ejected
//! (panic); every ejection ends by itself; who comes new or comes back is given its load slowly.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use signet_proto::locality::{Distance, Locality};

use super::ewma::PeakEwma;
use super::outlier::{Ejected, Record};
use super::random::Random;
use crate::connections::Numbered;
use crate::mesh::Endpoint;

/// Over how long a new endpoint comes to its full share, and with which part it begins.
const SLOW_START: Duration = Duration::from_secs(10);
const SLOW_START_LEAST: f64 = 0.1;
/// Added to what an endpoint takes: differences far below a network's are noise.
const FLOOR: f64 = 0.001;
/// Loads that differ by less than this part are alike.
const ALIKE: f64 = 0.2;
/// A call that fails counts as this long at least: failing fast must not attract more.
const FAILURE_COSTS: Duration = Duration::from_secs(1);
/// A tier is well enough with so many of ten endpoints.
const ENOUGH_OF_TEN: usize = 7;
/// How often an endpoint in its slow start, or the same again, is drawn anew.
const MOST_DRAWS: usize = 8;

/// Names an endpoint here, also after it is gone.
pub type Slot = u64;

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered after this time.
    Answered(Duration),
    /// The endpoint failed it after this time.
    Failed(Duration),
}

/// The endpoints of one callee and how they are.
#[derive(Debug)]
pub struct Balancer {
    /// Ours.
    locality: Option<Locality>,
    entries: Numbered<Entry>,
    order: Vec<Slot>,
    /// Who may be chosen, until an ejection ends.
    eligible: Vec<Slot>,
    eligible_until: Option<Instant>,
    window_ends: Instant,
    next: Slot,
    random: Random,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    distance: Distance,
    ewma: PeakEwma,
    outstanding: u32,
    /// Since when its share grows, if it does.
    slow_since: Option<Instant>,
    record: Record,
}

/// How an endpoint is, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Which.
    pub endpoint: Endpoint,
    /// How much longer it gets nothing.
    pub ejected_for: Option<Duration>,
    /// Its share still grows.
    pub slow_start: bool,
    /// What it takes, in seconds.
    pub ewma: f64,
    /// Calls under way.
    pub outstanding: u32,
    /// Whether it would be chosen now, as far as locality goes.
    pub preferred: bool,
}

impl Balancer {
    /// Of a proxy at `locality`; knows no endpoint yet.
    #[must_use]
    pub fn new(locality: Option<Locality>, random: Random, now: Instant) -> Self {
        Self {
            locality,
            entries: Numbered::default(),
            order: Vec::new(),
            eligible: Vec::new(),
            eligible_until: None,
            window_ends: now + Record::WINDOW,
            next: 0,
            random,
        }
    }

    /// These are the endpoints now. Those that were there keep what is known of them.
    pub fn update(&mut self, endpoints: &[Endpoint], now: Instant) {
        let before: HashMap<Endpoint, Slot> =
            self.entries.iter().map(|(slot, entry)| (entry.endpoint.clone(), *slot)).collect();
        let first = self.entries.is_empty();
        let usual = self.usual(now);
        self.order.clear();
        let mut seen = HashSet::new();
        for endpoint in endpoints.iter().filter(|endpoint| seen.insert(*endpoint)) {
            let slot = before.get(endpoint).copied().unwrap_or_else(|| {
                let entry = Entry {
                    endpoint: endpoint.clone(),
                    distance: Locality::distance(self.locality.as_ref(), endpoint.locality.as_ref()),
                    ewma: PeakEwma::new(usual, now),
                    outstanding: 0,
                    // Those that are there from the beginning share the load from the beginning.
                    slow_since: (!first).then_some(now),
                    record: Record::default(),
                };
                self.next += 1;
                self.entries.insert(self.next, entry);
                self.next
            });
            self.order.push(slot);
        }
        let kept: HashSet<Slot> = self.order.iter().copied().collect();
        self.entries.retain(|slot, _| kept.contains(slot));
        self.refresh(now);
    }

    /// The endpoint for one call, none of `tried`; the call counts as outstanding until [`Self::released`].
    pub fn choose(&mut self, tried: &[Slot], now: Instant) -> Option<(Slot, Endpoint)> {
        if self.eligible_until.is_some_and(|until| until <= now) {
            self.refresh(now);
        }
        let slot = if tried.is_empty() {
            let eligible = std::mem::take(&mut self.eligible);
            let slot = self.pick(&eligible, now);
            self.eligible = eligible;
            slot?
        } else {
            let untried = |slots: &[Slot]| -> Vec<Slot> {
                slots.iter().copied().filter(|slot| !tried.contains(slot)).collect()
            };
            let eligible = untried(&self.eligible);
            let any = if eligible.is_empty() { untried(&self.order) } else { eligible };
            self.pick(&any, now)?
        };
        let entry = self.entries.get_mut(&slot)?;
        entry.outstanding += 1;
        Some((slot, entry.endpoint.clone()))
    }

    /// How a call went. Tells if the endpoint is ejected for it.
    pub fn ended(&mut self, slot: Slot, outcome: Outcome, now: Instant) -> Option<Ejected> {
        let ejected = self.count(slot, outcome, now);
        let others = self.end_window(now);
        if ejected.is_some() || others.is_some() {
            self.refresh(now);
        }
        ejected.or(others)
    }

    /// A call that was chosen is over.
    pub fn released(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.outstanding = entry.outstanding.saturating_sub(1);
        }
    }

    /// All endpoints and how they are.
    #[must_use]
    pub fn statuses(&self, now: Instant) -> Vec<Status> {
        let status = |slot: &Slot| {
            let entry = self.entries.get(slot)?;
            Some(Status {
                endpoint: entry.endpoint.clone(),
                ejected_for: entry.record.ejected_for(now),
                slow_start: entry.share(now) < 1.0,
                ewma: entry.ewma.seconds(now),
                outstanding: entry.outstanding,
                preferred: self.eligible.contains(slot),
            })
        };
        self.order.iter().filter_map(status).collect()
    }

    fn count(&mut self, slot: Slot, outcome: Outcome, now: Instant) -> Option<Ejected> {
        let room = self.may_eject(now);
        let entry = self.entries.get_mut(&slot)?;
        match outcome {
            Outcome::Answered(took) => {
                entry.ewma.observe(took, now);
                entry.record.succeeded();
                None
            }
            Outcome::Failed(took) => {
                entry.ewma.observe(took.max(FAILURE_COSTS), now);
                entry.record.failed(room, now)
            }
        }
    }

    /// Compares how often calls succeed, once in a while.
    fn end_window(&mut self, now: Instant) -> Option<Ejected> {
        if now < self.window_ends {
            return None;
        }
        self.window_ends = now + Record::WINDOW;
        let tallies: Vec<_> = self
            .order
            .iter()
            .filter_map(|slot| Some((*slot, self.entries.get(slot)?.record.tally())))
            .collect();
        let mut ejected = None;
        for (slot, tally) in &tallies {
            let others = tallies.iter().filter(|(other, _)| other != slot).map(|(_, tally)| *tally);
            let room = self.may_eject(now);
            if let Some(entry) = self.entries.get_mut(slot) {
                ejected = entry.record.end_window(tally.is_outlier_among(others), room, now).or(ejected);
            }
        }
        ejected
    }

    /// Whether one more may be: never more than half.
    fn may_eject(&self, now: Instant) -> bool {
        let ejected = self.entries.values().filter(|entry| entry.record.ejected_for(now).is_some()).count();
        (ejected + 1) * 2 <= self.entries.len()
    }

    fn refresh(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if let Some(back) = entry.record.return_if_due(now) {
                entry.slow_since = Some(back);
            }
        }
        let is_ejected =
            |slot: &Slot| self.entries.get(slot).is_some_and(|entry| entry.record.ejected_for(now).is_some());
        let available = self.order.iter().filter(|slot| !is_ejected(slot)).count();
        let panic = available * 2 < self.order.len();
        let mut eligible = Vec::new();
        for tier in Distance::ALL {
            let at_distance =
                |slot: &&Slot| self.entries.get(slot).is_some_and(|entry| entry.distance == tier);
            let there: Vec<Slot> = self.order.iter().filter(at_distance).copied().collect();
            eligible.extend(there.iter().filter(|slot| panic || !is_ejected(slot)));
            if !there.is_empty() && eligible.len() * 10 >= there.len() * ENOUGH_OF_TEN {
                break;
            }
        }
        let until = self.entries.values().filter_map(|entry| entry.record.ejected_until()).min();
        (self.eligible, self.eligible_until) = (eligible, until);
    }

    fn pick(&mut self, slots: &[Slot], now: Instant) -> Option<Slot> {
        if let [only] = slots {
            return Some(*only);
        }
        let first = self.draw(slots, now)?;
        let mut second = first;
        for _ in 0..MOST_DRAWS {
            if second != first {
                break;
            }
            second = self.draw(slots, now)?;
        }
        let load = |slot: Slot| self.entries.get(&slot).map_or(f64::MAX, |entry| entry.load(now));
        let (one, other) = (load(first), load(second));
        let alike = (one - other).abs() <= ALIKE * one.min(other);
        Some(if alike || one < other { first } else { second })
    }

    /// One at random; those in their slow start less often.
    fn draw(&mut self, slots: &[Slot], now: Instant) -> Option<Slot> {
        let mut drawn = None;
        for _ in 0..MOST_DRAWS {
            drawn = slots.get(self.random.below(slots.len())).copied();
            let share = self.entries.get(&drawn?).map_or(1.0, |entry| entry.share(now));
            if share >= 1.0 || self.random.fraction() < share {
                break;
            }
        }
        drawn
    }

    /// What endpoints take that are known: what a new one is taken to take.
    fn usual(&self, now: Instant) -> f64 {
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX).max(1);
        self.entries.values().map(|entry| entry.ewma.seconds(now)).sum::<f64>() / f64::from(count)
    }
}

impl Entry {
    fn load(&self, now: Instant) -> f64 {
        (self.ewma.seconds(now) + FLOOR) * f64::from(self.outstanding.saturating_add(1))
    }

    /// The part of its share that it gets.
    fn share(&self, now: Instant) -> f64 {
        let Some(since) = self.slow_since else { return 1.0 };
        let age = now.saturating_duration_since(since).as_secs_f64() / SLOW_START.as_secs_f64();
        age.clamp(SLOW_START_LEAST, 1.0)
    }
}

#[cfg(test)]
mod tests;
