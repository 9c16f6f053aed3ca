//! A token bucket for each calling identity, kept as the moment at which it is full again (GCRA): one number each, and
//! those that are full are nobody's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::Rate;

/// Identities that are counted on their own; all others share one bucket.
const MOST_IDENTITIES: usize = 10_000;

/// When the bucket of each identity is full again.
#[derive(Debug, Default)]
pub(super) struct Rates {
    full_at: HashMap<SpiffeId, Instant>,
    others: Option<Instant>,
}

impl Rates {
    /// Takes a token, or tells when there is one.
    pub(super) fn charge(&mut self, source: &SpiffeId, rate: Rate, now: Instant) -> Result<(), Duration> {
        if let Some(full_at) = self.full_at.get_mut(source) {
            *full_at = take(*full_at, rate, now)?;
            return Ok(());
        }
        if self.full_at.len() >= MOST_IDENTITIES {
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() >= MOST_IDENTITIES {
            self.others = Some(take(self.others.unwrap_or(now), rate, now)?);
            return Ok(());
        }
        self.full_at.insert(source.clone(), take(now, rate, now)?);
        Ok(())
    }
}

/// When the bucket is full again once a token is taken; otherwise how long until there is one.
fn take(full_at: Instant, rate: Rate, now: Instant) -> Result<Instant, Duration> {
    let each = rate.per / rate.requests.max(1);
    let next = full_at.max(now) + each;
    let room = each * rate.burst.max(1);
    match next.saturating_duration_since(now).checked_sub(room) {
        Some(early) if !early.is_zero() => Err(early),
        _ => Ok(next),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(requests: u32, burst: u32) -> Rate {
        Rate { requests, per: Duration::from_secs(1), burst }
    }

    fn id(number: usize) -> SpiffeId {
        format!("spiffe://td/w{number}").parse().unwrap()
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_its_burst_and_its_rate_and_who_waits_as_told_gets_one(
            pauses in proptest::collection::vec(0..300_u64, 1..200), requests in 1..50_u32, burst in 1..50_u32,
        ) {
            let (rate, start) = (rate(requests, burst), Instant::now());
            let (mut rates, mut now, mut granted) = (Rates::default(), start, 0_u32);
            for pause in pauses {
                now += Duration::from_millis(pause);
                match rates.charge(&id(1), rate, now) {
                    Ok(()) => granted += 1,
                    Err(wait) => {
                        prop_assert!(rates.charge(&id(1), rate, now + wait / 2).is_err() || wait.as_nanos() < 2);
                        now += wait;
                        prop_assert!(rates.charge(&id(1), rate, now).is_ok());
                        granted += 1;
                    }
                }
            }
            let most = f64::from(burst) + (now - start).as_secs_f64() * f64::from(requests);
            prop_assert!(f64::from(granted) <= most + 1e-3, "{granted} of {most}");
        }
    }

    #[test]
    fn identities_are_counted_apart_and_those_beyond_the_bound_together() {
        let (mut rates, now, rate) = (Rates::default(), Instant::now(), rate(1, 1));
        for number in 0..MOST_IDENTITIES {
            assert!(rates.charge(&id(number), rate, now).is_ok());
            assert!(rates.charge(&id(number), rate, now).is_err());
        }
        assert!(rates.charge(&id(MOST_IDENTITIES), rate, now).is_ok());
        assert!(rates.charge(&id(MOST_IDENTITIES + 1), rate, now).is_err(), "they share one");
        assert_eq!(rates.full_at.len(), MOST_IDENTITIES);
        let later = now + Duration::from_secs(2);
        assert!(rates.charge(&id(MOST_IDENTITIES + 1), rate, later).is_ok());
        assert_eq!(rates.full_at.len(), 1, "whose bucket is full again is nobody");
    }
}
