//! What the lists of an authority hold, from one to the next. Pure.
//!
//! A delta tells what changed since its base, which is a complete list that was given out a life of lists ago or
//! longer: whoever has a complete list that may still be believed can bring it up to date with the newest delta.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{CrlError, LIFE};
use crate::store::model::{Reason, Revoked};
use crate::time;

/// What lists hold, and what deltas go by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    base: Option<Given>,
    /// What is the base next, when it is old enough.
    coming: Option<Given>,
    /// By serial, in hex of one length.
    entries: BTreeMap<String, Entry>,
}

/// A complete list that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    number: u64,
    at_ms: i64,
}

/// A certificate that is listed, or was since the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    at_ms: i64,
    /// None: it is not listed any more.
    reason: Option<Reason>,
    ends_ms: i64,
    /// The number of the list with which it became what it is.
    since: u64,
}

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) serial: Vec<u8>,
    pub(super) at: SystemTime,
    /// None, only in deltas: it is not listed any more.
    pub(super) reason: Option<Reason>,
}

impl Contents {
    pub(super) fn read(authority: &str, text: &str) -> Result<Self, CrlError> {
        serde_json::from_str(text)
            .map_err(|error| CrlError::Contents { authority: authority.to_owned(), error })
    }

    pub(super) fn write(&self, authority: &str) -> Result<String, CrlError> {
        serde_json::to_string(self)
            .map_err(|error| CrlError::Contents { authority: authority.to_owned(), error })
    }

    /// What the list with this number, made `now`, holds if this is `revoked`: all that is revoked and ends at `since` or
    /// later, which is when the list before was made. And whether anything is different.
    pub(super) fn next(
        &self,
        revoked: Vec<Revoked>,
        since: SystemTime,
        number: u64,
        now: SystemTime,
    ) -> (Self, bool) {
        let (base, coming) = self.bases(number, now);
        let (since, now) = (time::to_millis(since), time::to_millis(now));
        let base_number = base.map_or(number, |base| base.number);
        let mut changed = false;
        let mut entries = BTreeMap::new();
        for Revoked { serial, at, reason, ends } in revoked {
            let serial = crate::hex::encode(&serial);
            let before = self.entries.get(&serial).filter(|before| before.reason == Some(reason));
            changed |= before.is_none();
            // Nothing is revoked after the list that says so.
            let new = Entry {
                at_ms: time::to_millis(at).min(now),
                reason: Some(reason),
                ends_ms: time::to_millis(ends),
                since: number,
            };
            entries.insert(serial, before.copied().unwrap_or(new));
        }
        for (serial, before) in &self.entries {
            if entries.contains_key(serial) || before.ends_ms < since {
                continue;
            }
            if before.reason.is_some() {
                changed = true;
                entries.insert(serial.clone(), Entry { reason: None, since: number, ..*before });
            } else if before.since > base_number {
                entries.insert(serial.clone(), *before);
            }
        }
        (Self { base, coming, entries }, changed)
    }

    fn bases(&self, number: u64, now: SystemTime) -> (Option<Given>, Option<Given>) {
        let this = Given { number, at_ms: time::to_millis(now) };
        let (base, coming) = (self.base.unwrap_or(this), self.coming.unwrap_or(this));
        match now.duration_since(time::from_millis(coming.at_ms)) {
            Ok(age) if age >= LIFE => (Some(coming), Some(this)),
            _ => (Some(base), Some(coming)),
        }
    }

    /// The list that deltas change; of none before: the first one.
    pub(super) fn base(&self) -> u64 {
        self.base.map_or(0, |base| base.number)
    }

    /// All that is listed, in the order of serials.
    pub(super) fn complete(&self) -> Vec<Line> {
        self.lines(|entry| entry.reason.is_some())
    }

    /// All that changed since the base, in the order of serials.
    pub(super) fn delta(&self) -> Vec<Line> {
        self.lines(|entry| entry.since > self.base())
    }

    fn lines(&self, is_in: impl Fn(&Entry) -> bool) -> Vec<Line> {
        let lines = self.entries.iter().filter(|(_, entry)| is_in(entry)).filter_map(|(serial, entry)| {
            Some(Line {
                serial: crate::hex::decode(serial)?,
                at: time::from_millis(entry.at_ms),
                reason: entry.reason,
            })
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_800_000_000_000;

    fn at(second: u64) -> SystemTime {
        time::from_millis(START) + Duration::from_secs(second)
    }

    fn revoked(serial: u8, ends: u64, reason: Reason) -> Revoked {
        Revoked { serial: vec![serial], at: at(0), reason, ends: at(ends) }
    }

    fn serials(lines: &[Line]) -> Vec<(u8, bool)> {
        lines.iter().map(|line| (line.serial[0], line.reason.is_some())).collect()
    }

    /// What happens to certificates between two lists.
    #[derive(Debug, Clone)]
    enum Happens {
        Revoked { serial: u8, life: u64 },
        Resumed { serial: u8 },
        Passes(u64),
        Listed,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            4 => (0u8..12, 1u64..200_000).prop_map(|(serial, life)| Happens::Revoked { serial, life }),
            2 => (0u8..12).prop_map(|serial| Happens::Resumed { serial }),
            3 => (1u64..100_000).prop_map(Happens::Passes),
            4 => Just(Happens::Listed),
        ]
    }

    proptest! {
        /// Each list holds exactly what is revoked and has not ended, and what ended since the one before; and whoever
        /// has any complete list that may be believed, and the newest delta, knows the same of what has not ended.
        #[test]
        fn lists_and_deltas_hold_exactly_what_is_revoked(story in prop::collection::vec(happens(), 1..60)) {
            let (mut contents, mut now, mut since, mut number) = (Contents::default(), 0, 0, 0);
            let mut ends: BTreeMap<u8, u64> = BTreeMap::new();
            let mut held: BTreeSet<u8> = BTreeSet::new();
            let mut given: Vec<(u64, u64, BTreeSet<u8>)> = Vec::new();
            for happens in story {
                match happens {
                    Happens::Passes(seconds) => now += seconds,
                    Happens::Revoked { serial, life } => {
                        let end = *ends.entry(serial).or_insert(now + life);
                        if end > now {
                            held.insert(serial);
                        }
                    }
                    Happens::Resumed { serial } => {
                        if ends.get(&serial).is_some_and(|end| *end > now) {
                            held.remove(&serial);
                        }
                    }
                    Happens::Listed => {
                        number += 1;
                        let found = held.iter().filter(|serial| ends[serial] >= since);
                        let found: Vec<_> =
                            found.map(|serial| revoked(*serial, ends[serial], Reason::Unspecified)).collect();
                        let expected: BTreeSet<u8> = found.iter().map(|one| one.serial[0]).collect();
                        (contents, _) = contents.next(found, at(since), number, at(now));
                        let complete: BTreeSet<u8> =
                            contents.complete().iter().map(|line| line.serial[0]).collect();
                        prop_assert_eq!(&complete, &expected);
                        prop_assert!(contents.base() <= number);
                        given.retain(|(_, made, _)| now - made < LIFE.as_secs());
                        for (of, _, older) in &given {
                            prop_assert!(*of >= contents.base(), "{of} may be believed and is older than the base");
                            let mut known = older.clone();
                            for line in contents.delta() {
                                let serial = line.serial[0];
                                if line.reason.is_some() { known.insert(serial); } else { known.remove(&serial); }
                            }
                            let live = |serial: &&u8| ends[serial] > now;
                            let known: BTreeSet<_> = known.iter().filter(live).collect();
                            prop_assert_eq!(known, complete.iter().filter(live).collect::<BTreeSet<_>>());
                        }
                        given.push((number, now, complete));
                        since = now;
                    }
                }
            }
        }
    }

    #[test]
    fn what_ended_before_it_was_listed_is_listed_once() {
        let (first, _) = Contents::default().next(Vec::new(), at(0), 1, at(0));
        let (second, changed) = first.next(vec![revoked(7, 5, Reason::KeyCompromise)], at(0), 2, at(60));
        assert!(changed);
        assert_eq!(serials(&second.complete()), [(7, true)]);
        let (third, changed) = second.next(Vec::new(), at(60), 3, at(120));
        assert!(!changed, "that it ended makes no new list");
        assert!(third.complete().is_empty() && third.delta().is_empty());
    }

    #[test]
    fn who_is_resumed_is_taken_off_in_the_delta_and_a_stronger_reason_is_told() {
        let hold = || vec![revoked(7, 1000, Reason::CertificateHold)];
        let (first, _) = Contents::default().next(hold(), at(0), 10, at(0));
        assert!(first.delta().is_empty(), "the first list is its own base");
        let (second, changed) = first.next(Vec::new(), at(0), 11, at(10));
        assert!(changed && second.complete().is_empty());
        assert_eq!((second.base(), serials(&second.delta())), (10, vec![(7, false)]));
        let (third, _) = second.next(vec![revoked(7, 1000, Reason::KeyCompromise)], at(10), 12, at(20));
        assert_eq!(serials(&third.delta()), [(7, true)]);
        let read = Contents::read("ca", &third.write("ca").unwrap()).unwrap();
        assert_eq!(read, third);
    }
}
