//! Durations as people write them: `90s`, `10m`, `1h30m`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::de::{self, Deserialize, Deserializer};

use crate::time;

/// A duration in whole seconds, written with units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as `90s`, `10m`, `1h30m` or `7d`, found `{0}`")]
pub struct SpanError(String);

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let wrong = || SpanError(text.to_owned());
        let mut rest = text;
        let mut seconds: u64 = 0;
        let mut allowed = UNITS.as_slice();
        while !rest.is_empty() {
            let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let unit = after.chars().next().ok_or_else(wrong)?;
            let position = allowed.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let (_, factor) = allowed.get(position).ok_or_else(wrong)?;
            seconds =
                number.checked_mul(*factor).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
            // Each unit once, from the largest to the smallest.
            allowed = allowed.get(position + 1..).unwrap_or_default();
            rest = after.get(unit.len_utf8()..).unwrap_or_default();
        }
        if text.is_empty() {
            return Err(wrong());
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

impl Span {
    /// When it began if it ends now; not before there was time.
    #[must_use]
    pub fn ago(self) -> SystemTime {
        let began = time::now().checked_sub(self.0);
        began.map_or(SystemTime::UNIX_EPOCH, |began| began.max(SystemTime::UNIX_EPOCH))
    }

    /// When it ends if it begins now; not after the last time that can be written.
    #[must_use]
    pub fn ahead(self) -> SystemTime {
        let last = SystemTime::from(jiff::Timestamp::MAX);
        time::now().checked_add(self.0).map_or(last, |end| end.min(last))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_secs();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Rounded to its two largest units, for people: `41m 12s`, `2d 3h`.
#[must_use]
pub fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let Some(index) = UNITS.iter().position(|(_, factor)| seconds >= *factor) else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, factor) in UNITS.iter().skip(index).take(2) {
        if rest >= *factor {
            parts.push(format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<u64> {
        text.parse::<Span>().ok().map(|span| span.0.as_secs())
    }

    #[test]
    fn durations_are_read_with_units() {
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("1h30m"), Some(5_400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("0s"), Some(0));
        for wrong in ["", "10", "s", "1x", "-1s", "1m1h", "1s1s", "1.5h", "99999999999999999999d", "1é"] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn spans_begin_and_end_within_time() {
        let hour = Span(Duration::from_secs(3_600));
        let (before, ago, after) = (time::now(), hour.ago(), time::now());
        assert!(before <= ago + hour.0 && ago + hour.0 <= after);
        assert!(before + hour.0 <= hour.ahead() && hour.ahead() <= time::now() + hour.0);
        for long in [Duration::from_secs(100 * 365 * 86_400), Duration::from_secs(u64::MAX)] {
            assert_eq!(Span(long).ago(), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(time::rfc3339(Span(Duration::from_secs(u64::MAX)).ahead()), "9999-12-30T22:00:00Z");
    }

    #[test]
    fn people_see_two_units() {
        assert_eq!(rough(Duration::from_secs(2_532)), "42m 12s");
        assert_eq!(rough(Duration::from_secs(86_400 * 2 + 5)), "2d");
        assert_eq!(rough(Duration::from_millis(300)), "0s");
    }

    proptest! {
        #[test]
        fn printed_durations_are_read_back(seconds in 0u64..10_000_000) {
            let span = Span(Duration::from_secs(seconds));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = text.parse::<Span>();
        }
    }
}
