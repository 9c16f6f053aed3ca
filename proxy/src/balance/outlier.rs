//! When an endpoint gets nothing for a while: after failures in a row, or when it fails far more often than the
//! others. Each time longer than the time before, and shorter again once it does well.

use std::time::{Duration, Instant};

/// Failures in a row.
const MOST_IN_A_ROW: u32 = 5;
/// The first ejection, and the longest.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);
/// Doublings that are remembered.
const MOST_REMEMBERED: u32 = 8;
/// Calls in a window without which nothing is said of an endpoint.
const LEAST_CALLS: u32 = 20;
/// How much lower the part that succeeds may be than that of the others.
const TOLERATED: f64 = 0.3;

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejected {
    /// It failed several times in a row.
    Consecutive,
    /// It fails more often than the others.
    SuccessRate,
}

/// Calls of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    succeeded: u32,
    failed: u32,
}

/// What an endpoint has done.
#[derive(Debug, Default)]
pub(super) struct Record {
    in_a_row: u32,
    tally: Tally,
    until: Option<Instant>,
    /// Ejections that are held against it.
    times: u32,
    /// It came back and has not succeeded yet: one more failure is enough.
    on_trial: bool,
}

impl Ejected {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::SuccessRate => "success_rate",
        }
    }
}

impl Tally {
    fn calls(self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    fn rate(self) -> f64 {
        f64::from(self.succeeded) / f64::from(self.calls().max(1))
    }

    /// Whether this is far worse than all others together, if there is enough to tell.
    pub(super) fn is_outlier_among(self, others: impl Iterator<Item = Self>) -> bool {
        let others =
            others.filter(|other| other.calls() >= LEAST_CALLS).fold(Self::default(), |sum, other| Self {
                succeeded: sum.succeeded.saturating_add(other.succeeded),
                failed: sum.failed.saturating_add(other.failed),
            });
        self.calls() >= LEAST_CALLS
            && others.calls() >= LEAST_CALLS
            && self.rate() < others.rate() - TOLERATED
    }
}

impl Record {
    /// How long calls are counted before they are compared.
    pub(super) const WINDOW: Duration = Duration::from_secs(10);

    pub(super) fn succeeded(&mut self) {
        (self.in_a_row, self.on_trial) = (0, false);
        self.tally.succeeded = self.tally.succeeded.saturating_add(1);
    }

    /// `room`: it may be ejected.
    pub(super) fn failed(&mut self, room: bool, now: Instant) -> Option<Ejected> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.tally.failed = self.tally.failed.saturating_add(1);
        let enough = self.in_a_row >= MOST_IN_A_ROW || self.on_trial;
        if enough { self.eject(Ejected::Consecutive, room, now) } else { None }
    }

    /// What was counted since the last time.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// Begins a new window.
    pub(super) fn end_window(&mut self, outlier: bool, room: bool, now: Instant) -> Option<Ejected> {
        let tally = std::mem::take(&mut self.tally);
        if outlier {
            return self.eject(Ejected::SuccessRate, room, now);
        }
        if tally.failed == 0 && tally.succeeded > 0 {
            self.times = self.times.saturating_sub(1);
        }
        None
    }

    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.until
    }

    /// How much longer it is.
    pub(super) fn ejected_for(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Lets it back if its time is over; tells since when it is back.
    pub(super) fn return_if_due(&mut self, now: Instant) -> Option<Instant> {
        let until = self.until.filter(|until| *until <= now)?;
        (self.until, self.on_trial, self.in_a_row) = (None, true, 0);
        self.tally = Tally::default();
        Some(until)
    }

    fn eject(&mut self, why: Ejected, room: bool, now: Instant) -> Option<Ejected> {
        if !room || self.until.is_some() {
            return None;
        }
        let doubled = FIRST.saturating_mul(1 << self.times.min(MOST_REMEMBERED)).min(LONGEST);
        self.times = (self.times + 1).min(MOST_REMEMBERED);
        (self.until, self.in_a_row, self.on_trial) = (Some(now + doubled), 0, false);
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ejection_is_longer_up_to_a_bound_and_shorter_again_after_good_times() {
        let (mut record, mut now) = (Record::default(), Instant::now());
        let mut eject = |record: &mut Record| {
            while record.failed(true, now).is_none() {}
            let left = record.ejected_for(now).unwrap();
            now += left;
            assert!(record.return_if_due(now).is_some());
            left
        };
        let times: Vec<u64> = (0..9).map(|_| eject(&mut record).as_secs()).collect();
        assert_eq!(times, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        for _ in 0..8 {
            record.succeeded();
            record.end_window(false, true, Instant::now());
        }
        assert_eq!(eject(&mut record).as_secs(), 5);
    }

    #[test]
    fn who_comes_back_has_one_try_until_it_succeeds() {
        let (mut record, now) = (Record::default(), Instant::now());
        assert!((1..MOST_IN_A_ROW).all(|_| record.failed(true, now).is_none()));
        assert_eq!(record.failed(true, now), Some(Ejected::Consecutive));
        let later = now + FIRST;
        assert!(record.return_if_due(later).is_some());
        assert_eq!(record.failed(true, later), Some(Ejected::Consecutive));
        let later = later + FIRST * 2;
        assert!(record.return_if_due(later).is_some());
        record.succeeded();
        assert_eq!(record.failed(true, later), None);
    }

    #[test]
    fn outliers_are_told_from_what_befalls_all() {
        let tally = |succeeded, failed| Tally { succeeded, failed };
        let good = [tally(100, 0), tally(95, 5)];
        assert!(tally(50, 50).is_outlier_among(good.into_iter()));
        assert!(!tally(80, 20).is_outlier_among(good.into_iter()));
        assert!(!tally(0, 19).is_outlier_among(good.into_iter()), "too few to tell");
        assert!(!tally(10, 90).is_outlier_among([tally(10, 90), tally(20, 80)].into_iter()));
        assert!(!tally(0, 100).is_outlier_among(std::iter::empty()));
    }
}
