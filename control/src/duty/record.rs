//! When each duty last succeeded: what `/readyz` and the metrics say about what control does by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::telemetry::metrics;
use crate::time;

/// A duty may fail now and then, and wait for a store that is away for a moment.
const SLACK: Duration = Duration::from_secs(60);
/// So many times in a row it may be missed.
const MISSED: u32 = 3;

/// Shared by those who do the duties and those who tell of them.
#[derive(Debug, Clone, Default)]
pub struct DutyRecord(Arc<Mutex<BTreeMap<&'static str, Kept>>>);

#[derive(Debug, Clone, Copy)]
struct Kept {
    every: Duration,
    succeeded: Instant,
}

impl DutyRecord {
    /// A duty that should succeed so often, from now on.
    pub(super) fn begins(&self, duty: &'static str, every: Duration, now: Instant) {
        self.0.lock().insert(duty, Kept { every, succeeded: now });
    }

    pub(super) fn succeeded(&self, duty: &'static str, now: Instant) {
        if let Some(kept) = self.0.lock().get_mut(duty) {
            kept.succeeded = now;
        }
        metrics::duty_done(duty, time::now());
    }

    /// Duties that have not succeeded for much longer than they should, and for how long.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<(&'static str, Duration)> {
        let kept = self.0.lock();
        let since = kept.iter().map(|(duty, kept)| {
            (*duty, now.saturating_duration_since(kept.succeeded), kept.every * MISSED + SLACK)
        });
        since.filter(|(_, since, most)| since > most).map(|(duty, since, _)| (duty, since)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duty_that_keeps_failing_is_overdue_until_it_succeeds() {
        let (record, start) = (DutyRecord::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        record.begins("lapse", Duration::from_secs(1), start);
        record.begins("prune", Duration::from_secs(60), start);
        assert!(record.overdue(after(63)).is_empty());
        assert_eq!(record.overdue(after(64)), [("lapse", Duration::from_secs(64))]);
        record.succeeded("lapse", after(64));
        assert!(record.overdue(after(100)).is_empty());
        assert_eq!(record.overdue(after(300)).len(), 2);
    }
}
