//! Times as they are stored, sent and shown. Milliseconds are the finest step everywhere.

use std::time::{Duration, SystemTime};

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

/// Milliseconds since the epoch; times before it count as 0.
#[must_use]
pub fn to_millis(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The time at these milliseconds since the epoch; negative ones count as 0.
#[must_use]
pub fn from_millis(millis: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Now, to the millisecond, so that what is answered equals what is stored.
#[must_use]
pub fn now() -> SystemTime {
    from_millis(to_millis(signet_proto::clock::now()))
}

/// Certificates and revocation lists know whole seconds; what is recorded must equal what is signed.
#[must_use]
pub fn whole_seconds(at: SystemTime) -> SystemTime {
    let whole = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(whole)
}

/// For messages.
#[must_use]
pub fn to_proto(at: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(at)
}

/// From messages; nonsense counts as the epoch.
#[must_use]
pub fn from_proto(at: Option<&prost_types::Timestamp>) -> SystemTime {
    at.and_then(|at| SystemTime::try_from(*at).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// For messages.
#[must_use]
pub fn duration_to_proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

/// From messages; absent, negative and too large ones are `None`.
#[must_use]
pub fn duration_from_proto(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| Duration::try_from(*duration).ok())
}

/// RFC 3339 in UTC, to the second that has begun: nothing is shown that has not been yet.
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    Timestamp::try_from(at)
        .ok()
        .and_then(|at| at.round(TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Floor)).ok())
        .map_or_else(|| "out of range".to_owned(), |at| at.to_string())
}

/// RFC 3339 in UTC, with a fraction only if there is one: reads as the same time.
#[must_use]
pub fn rfc3339_shortest(at: SystemTime) -> String {
    Timestamp::try_from(from_millis(to_millis(at)))
        .map_or_else(|_| "out of range".to_owned(), |at| at.to_string())
}

/// RFC 3339 in UTC, to the millisecond.
#[must_use]
pub fn rfc3339_millis(at: SystemTime) -> String {
    Timestamp::try_from(from_millis(to_millis(at)))
        .map_or_else(|_| "out of range".to_owned(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_shown_in_rfc_3339() {
        let at = from_millis(1_700_000_000_250);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339_millis(at), "2023-11-14T22:13:20.250Z");
        let late = from_millis(1_700_000_000_500) + Duration::from_micros(999);
        assert_eq!(rfc3339(late), "2023-11-14T22:13:20Z", "the second has not ended yet");
        assert_eq!(rfc3339_millis(late), "2023-11-14T22:13:20.500Z");
    }

    proptest! {
        #[test]
        fn stored_and_sent_times_come_back(millis in 0i64..4_000_000_000_000) {
            let at = from_millis(millis);
            prop_assert_eq!(to_millis(at), millis);
            prop_assert_eq!(from_proto(Some(&to_proto(at))), at);
        }
    }
}
