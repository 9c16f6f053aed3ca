//! Which of control's addresses comes next. Every process has an order of its own, so that the proxies of a replica
//! that is gone spread over all the others; the replica that answered is kept until it fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::backoff::unit_random;

/// Over how long the proxies of a lost replica come back.
const SPREAD: Duration = Duration::from_secs(2);

/// Control's addresses, in this process' order.
#[derive(Debug)]
pub struct Addresses {
    order: Vec<String>,
    /// Whose turn it is: the one that answered last, or the one after the one that failed last.
    next: AtomicUsize,
}

/// One of the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

impl Addresses {
    /// In random order.
    #[must_use]
    pub fn new(addresses: Vec<String>) -> Self {
        Self::shuffled(addresses, unit_random)
    }

    fn shuffled(mut addresses: Vec<String>, draw: impl FnMut() -> f64) -> Self {
        shuffle(&mut addresses, draw);
        Self { order: addresses, next: AtomicUsize::new(0) }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.order
    }

    /// Each once, beginning with the one whose turn it is.
    fn attempts(&self) -> impl Iterator<Item = (Place, &str)> {
        let first = self.next.load(Ordering::Relaxed);
        let places = (0..self.order.len()).cycle().skip(first).take(self.order.len());
        places.filter_map(|place| Some((Place(place), self.order.get(place)?.as_str())))
    }

    /// What `connect` made of the first address where it succeeded. That address is kept.
    ///
    /// # Errors
    /// The last address that was tried, and why it failed; `None` without addresses.
    pub async fn first<T, E, C: Future<Output = Result<T, E>>>(
        &self,
        connect: impl Fn(String) -> C,
    ) -> Result<(Place, T), Option<(String, E)>> {
        let mut failure = None;
        for (place, address) in self.attempts() {
            match connect(address.to_owned()).await {
                Ok(connected) => {
                    self.next.store(place.0, Ordering::Relaxed);
                    return Ok((place, connected));
                }
                Err(error) => {
                    self.failed(place);
                    failure = Some((address.to_owned(), error));
                }
            }
        }
        Err(failure)
    }

    /// That address is of no use now: the one after it has its turn, unless somebody moved on already.
    pub fn failed(&self, place: Place) {
        let after = (place.0 + 1) % self.order.len().max(1);
        let _ = self.next.compare_exchange(place.0, after, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How long to wait before connecting again after a connection was lost that had worked, by a number in [0, 1): all
/// that were on the same replica lose it at the same moment.
pub(super) fn pause_after_loss(random: f64) -> Duration {
    SPREAD.mul_f64(random.clamp(0.0, 1.0))
}

/// Every order is as likely as any other (Fisher and Yates), as far as numbers in [0, 1) are evenly drawn.
pub(super) fn shuffle<T>(items: &mut [T], mut draw: impl FnMut() -> f64) {
    for last in (1..items.len()).rev() {
        #[expect(clippy::cast_precision_loss, reason = "a handful of addresses")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to `last`")]
        let other = (draw() * (last + 1) as f64) as usize;
        items.swap(last, other.min(last));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn named(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("control-{number}:8443")).collect()
    }

    fn order(addresses: &Addresses) -> Vec<String> {
        addresses.attempts().map(|(_, address)| address.to_owned()).collect()
    }

    proptest! {
        #[test]
        fn every_attempt_tries_each_address_once(count in 0usize..8, failures in 0usize..20) {
            let addresses = Addresses::new(named(count));
            for _ in 0..failures {
                let first = addresses.attempts().next().map(|(place, _)| place);
                if let Some(place) = first {
                    addresses.failed(place);
                    prop_assert!(count == 1 || addresses.attempts().next().map(|(next, _)| next) != first);
                }
            }
            let mut tried = order(&addresses);
            tried.sort();
            prop_assert_eq!(tried, named(count));
        }

        #[test]
        fn pause_is_within_the_spread(random in 0.0..1.0) {
            prop_assert!(pause_after_loss(random) <= SPREAD);
        }
    }

    #[test]
    fn proxies_of_a_lost_replica_spread_evenly_over_the_others() {
        let mut moved_to: HashMap<String, usize> = HashMap::new();
        let mut lost = 0;
        for _ in 0..8000 {
            let addresses = Addresses::new(named(4));
            let (place, first) = addresses.attempts().next().unwrap();
            if first == "control-0:8443" {
                lost += 1;
                addresses.failed(place);
                *moved_to.entry(order(&addresses)[0].clone()).or_default() += 1;
            }
        }
        assert!((1700..2300).contains(&lost), "a quarter was there: {lost}");
        assert_eq!(moved_to.len(), 3);
        assert!(moved_to.values().all(|count| (500..850).contains(count)), "{moved_to:?}");
    }

    #[test]
    fn pauses_after_a_loss_are_spread_from_the_first_moment_to_the_last() {
        assert_eq!(pause_after_loss(0.0), Duration::ZERO);
        assert_eq!(pause_after_loss(0.5), SPREAD / 2);
        assert_eq!(pause_after_loss(7.0), SPREAD);
    }

    #[test]
    fn who_failed_late_does_not_take_the_turn_of_who_works() {
        let addresses = Addresses::new(named(3));
        let places: Vec<Place> = addresses.attempts().map(|(place, _)| place).collect();
        addresses.failed(places[0]);
        addresses.failed(places[0]);
        assert_eq!(addresses.attempts().next().unwrap().0, places[1]);
    }

    #[tokio::test]
    async fn a_dead_address_is_passed_over_and_one_that_answers_is_kept() {
        let (one, other) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let [first, second] = [&one, &other].map(|listener| listener.local_addr().unwrap().to_string());
        // Drawing the highest number swaps nothing.
        let addresses = Addresses::shuffled(vec![first.clone(), second.clone()], || 0.999);
        let reach = async || {
            let connected = addresses.first(TcpStream::connect).await;
            connected.map(|(place, stream)| (place, stream.peer_addr().unwrap().to_string()))
        };
        let (place, reached) = reach().await.unwrap();
        assert_eq!(reached, first);
        drop(one);
        assert_eq!(reach().await.unwrap().1, second, "the first is gone");
        let _back = TcpListener::bind(&first).await.unwrap();
        assert_eq!(reach().await.unwrap().1, second, "what works is kept");
        addresses.failed(place);
        assert_eq!(reach().await.unwrap().1, second);
        drop(other);
        assert_eq!(reach().await.unwrap().1, first);
    }

    #[tokio::test]
    async fn without_an_answer_the_last_failure_is_told() {
        let addresses = Addresses::new(named(3));
        let last = order(&addresses).pop().unwrap();
        let failed = addresses.first(async |_| Err::<(), _>("no")).await.unwrap_err();
        assert_eq!(failed, Some((last, "no")));
        assert_eq!(Addresses::new(Vec::new()).first(async |_| Ok::<_, ()>(())).await.unwrap_err(), None);
    }
}
