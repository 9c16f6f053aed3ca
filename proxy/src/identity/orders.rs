//! What makes a renewal urgent: control orders it, or is about to distrust what signed the SVID. Each order is followed
//! once, whatever the clocks of both ends say; a renewal that fails is tried again like any other, and what is in force
//! goes on being used.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::handshake::Svid;
use signet_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::unit_random;
use crate::mesh::Mesh;

/// Longer orders are shortened to this: who orders wants to see the end of it.
const LONGEST: Duration = Duration::from_secs(3600);

/// An order of control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalOrder {
    /// An SVID is meant that was good before this.
    issued_before: SystemTime,
    /// We choose a moment within this time.
    within: Duration,
}

impl RenewalOrder {
    /// What control said, if that means anything.
    #[must_use]
    pub fn read(message: &v1::RenewalOrder) -> Option<Self> {
        let issued_before = SystemTime::try_from(message.issued_before?).ok()?;
        let within = message.within.and_then(|within| Duration::try_from(within).ok());
        Some(Self { issued_before, within: within.unwrap_or_default().min(LONGEST) })
    }
}

/// Within this everybody renews whose issuer is about to be distrusted.
const HASTE: Duration = Duration::from_secs(2);

/// What is urgent about one SVID and those that follow it.
#[derive(Debug)]
pub(super) struct Urgency {
    mesh: Arc<Mesh>,
    newest: watch::Receiver<Option<RenewalOrder>>,
    generations: watch::Receiver<u64>,
    /// The order that was followed last.
    followed: Option<SystemTime>,
    ordered: Option<Chosen<SystemTime>>,
    superseded: Option<Chosen<Vec<u8>>>,
}

/// The moment that we chose, so that not everybody comes at once; kept while it is about the same.
#[derive(Debug)]
struct Chosen<T> {
    about: T,
    at: Instant,
}

impl Urgency {
    pub(super) fn of(mesh: &Arc<Mesh>) -> Self {
        Self {
            newest: mesh.renewal_orders(),
            generations: mesh.generations(),
            mesh: Arc::clone(mesh),
            followed: None,
            ordered: None,
            superseded: None,
        }
    }

    /// Waits until `svid` is to be renewed whatever was planned. May be dropped while it waits, and loses no time by it.
    pub(super) async fn concern(&mut self, svid: &Svid) {
        loop {
            let order = *self.newest.borrow_and_update();
            let order = order.filter(|order| self.means(order, svid.profile().not_before));
            let ordered = order.map(|order| {
                choose(&mut self.ordered, order.issued_before, || order.within.mul_f64(unit_random()))
            });
            self.generations.mark_unchanged();
            let superseded = self.mesh.supersedes(svid).then(|| {
                let serial = svid.profile().serial.clone();
                choose(&mut self.superseded, serial, || HASTE.mul_f64(0.1 + unit_random() * 0.9))
            });
            let at = [ordered, superseded].into_iter().flatten().min();
            let moment = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = moment => {}
                // Both last as long as the mesh, which is ours as well.
                _ = self.newest.changed() => continue,
                _ = self.generations.changed() => continue,
            }
            if superseded == at {
                tracing::warn!("what signed the SVID is about to be distrusted: renewing it now");
            } else {
                tracing::info!("control wants the SVID renewed: renewing it now");
            }
            // The renewal that follows is what an order asks for, whatever it is made for.
            self.followed = order.map(|order| order.issued_before).or(self.followed);
            return;
        }
    }

    fn means(&self, order: &RenewalOrder, not_before: SystemTime) -> bool {
        not_before < order.issued_before && self.followed != Some(order.issued_before)
    }
}

fn choose<T: PartialEq>(
    chosen: &mut Option<Chosen<T>>,
    about: T,
    delay: impl FnOnce() -> Duration,
) -> Instant {
    match chosen {
        Some(chosen) if chosen.about == about => chosen.at,
        chosen => chosen.insert(Chosen { about, at: Instant::now() + delay() }).at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_means_what_was_issued_before_and_is_followed_once() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let order = |seconds| RenewalOrder { issued_before: at(seconds), within: Duration::ZERO };
        let mut urgency = Urgency::of(&Arc::new(Mesh::new(Arc::default())));
        assert!(urgency.means(&order(10), at(9)));
        assert!(!urgency.means(&order(10), at(10)), "it was issued since");
        urgency.followed = Some(at(10));
        assert!(!urgency.means(&order(10), at(9)), "SVIDs are good from before their issue on");
        assert!(urgency.means(&order(11), at(9)));
    }

    #[test]
    fn a_chosen_moment_stays_while_it_is_about_the_same() {
        let mut chosen = None;
        let first = choose(&mut chosen, 1, || Duration::from_secs(60));
        assert_eq!(choose(&mut chosen, 1, || Duration::ZERO), first);
        assert!(choose(&mut chosen, 2, || Duration::ZERO) < first);
    }

    #[test]
    fn an_order_that_says_nothing_is_none() {
        assert_eq!(RenewalOrder::read(&v1::RenewalOrder::default()), None);
        let issued_before = Some(prost_types::Timestamp { seconds: 10, nanos: 0 });
        let within = Some(prost_types::Duration { seconds: 1_000_000, nanos: 0 });
        let read = RenewalOrder::read(&v1::RenewalOrder { issued_before, within }).unwrap();
        assert_eq!(read.within, LONGEST);
        let within = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let read = RenewalOrder::read(&v1::RenewalOrder { issued_before, within }).unwrap();
        assert_eq!(read.within, Duration::ZERO);
    }
}
