//! How many SVIDs an identity gets in an hour: whoever asks in a loop is stopped, and the audit says so once.

use std::time::{Duration, SystemTime};

use serde_json::json;
use signet_proto::spiffe::SpiffeId;

use super::change::Change;
use super::model::Actor;
use super::sql::values;
use super::{Refusal, StoreError};
use crate::audit::Action;
use crate::time;

/// Unless told otherwise; a hundred instances that renew every minute need 6000. 0 means no quota.
pub(super) const DEFAULT_ISSUANCE_QUOTA: u64 = 10_000;

pub(super) const WINDOW: Duration = Duration::from_secs(3600);

/// What is counted: SVIDs, and tokens apart from them, so that whoever asks for tokens in a loop can still renew.
pub(super) const SVIDS: Counted = Counted { table: "issuance_count", what: "svid" };
pub(super) const TOKENS: Counted = Counted { table: "jwt_count", what: "jwt" };

/// Where something is counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    table: &'static str,
    what: &'static str,
}

/// What an identity got in the hour that began at `since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) since: SystemTime,
    pub(super) count: u64,
}

impl Issued {
    /// With one more at `now`, of `before` if that hour is not over. One that begins in the future was begun by a wrong
    /// clock, and is none.
    pub(super) fn one_more(
        before: Option<Self>,
        id: &SpiffeId,
        quota: u64,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        let runs = |issued: &Self| now.duration_since(issued.since).is_ok_and(|past| past < WINDOW);
        let issued = before.filter(runs).unwrap_or(Self { since: now, count: 0 });
        if quota != 0 && issued.count >= quota {
            return Err(Refusal::QuotaUsed { id: id.clone(), quota, until: issued.since + WINDOW });
        }
        Ok(Self { count: issued.count.saturating_add(1), ..issued })
    }

    /// Keeps it; and if that was the last one of the quota, tells of it.
    pub(super) fn keep(
        self,
        change: &mut Change<'_>,
        counted: Counted,
        id: &SpiffeId,
        quota: u64,
    ) -> Result<(), StoreError> {
        let Counted { table, what } = counted;
        change.sql.post(
            &format!(
                "INSERT INTO {table} (spiffe_id, since_ms, issued) VALUES (?1, ?2, ?3)
                 ON CONFLICT (spiffe_id) DO UPDATE SET since_ms = excluded.since_ms, issued = excluded.issued"
            ),
            values![id.as_str(), self.since, self.count],
        )?;
        if self.count != quota {
            return Ok(());
        }
        let until = time::rfc3339(self.since + WINDOW);
        let detail =
            json!({ "of": what, "issued": self.count, "since": time::rfc3339(self.since), "until": until });
        change.audit(&Actor::control(), Action::QuotaUsed, id.as_str(), &detail)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> SpiffeId {
        "spiffe://mesh.local/orders".parse().unwrap()
    }

    fn second(number: i64) -> SystemTime {
        time::from_millis(number * 1000)
    }

    #[test]
    fn last_one_of_the_hour_is_the_quota_and_the_next_hour_begins_anew() {
        let mut issued = None;
        for count in 1..=3 {
            let next = Issued::one_more(issued, &id(), 3, second(101)).unwrap();
            assert_eq!(next, Issued { since: second(101), count });
            issued = Some(next);
        }
        let refused = Issued::one_more(issued, &id(), 3, second(3700)).unwrap_err();
        assert_eq!(refused, Refusal::QuotaUsed { id: id(), quota: 3, until: second(3701) });
        let anew = Issued::one_more(issued, &id(), 3, second(3701)).unwrap();
        assert_eq!(anew, Issued { since: second(3701), count: 1 });
    }

    #[test]
    fn clock_that_was_ahead_stops_nobody() {
        let ahead = Issued { since: second(1_000_000), count: 3 };
        let issued = Issued::one_more(Some(ahead), &id(), 3, second(100)).unwrap();
        assert_eq!(issued, Issued { since: second(100), count: 1 });
    }

    proptest! {
        #[test]
        fn never_more_than_the_quota_in_one_window(
            quota in 1_u64..20,
            pauses in proptest::collection::vec(0_i64..900, 1..200),
        ) {
            let (mut now, mut issued, mut given) = (0, None, Vec::new());
            for pause in pauses {
                now += pause;
                if let Ok(next) = Issued::one_more(issued, &id(), quota, second(now)) {
                    issued = Some(next);
                    given.push((next.since, next.count));
                }
            }
            for (since, count) in &given {
                prop_assert!(*count <= quota);
                let same = given.iter().filter(|(other, _)| other == since).count();
                prop_assert!(u64::try_from(same).unwrap() <= quota);
            }
        }

        #[test]
        fn without_a_quota_nobody_is_stopped(count in 0..u64::MAX) {
            let issued = Some(Issued { since: second(100), count });
            prop_assert_eq!(Issued::one_more(issued, &id(), 0, second(101)).unwrap().count, count + 1);
        }
    }
}
