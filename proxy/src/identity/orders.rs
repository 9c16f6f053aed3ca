//! Orders of control to renew the SVID at once. Each is followed once, whatever the clocks of both ends say; a renewal
//! that fails is tried again like any other, and what is in force goes on being used.

use std::time::{Duration, SystemTime};

use signet_proto::handshake::Svid;
use signet_proto::v1;
use tokio::sync::watch;

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

/// The orders as they come, and which was followed last.
#[derive(Debug)]
pub(super) struct Orders {
    newest: watch::Receiver<Option<RenewalOrder>>,
    followed: Option<SystemTime>,
}

impl Orders {
    pub(super) fn of(mesh: &Mesh) -> Self {
        Self { newest: mesh.renewal_orders(), followed: None }
    }

    /// Waits until there is an order that means `svid`, and then for the moment that we choose. It counts as followed
    /// from there on.
    pub(super) async fn concern(&mut self, svid: &Svid) {
        let issued_before = loop {
            let order = *self.newest.borrow_and_update();
            match order.filter(|order| self.means(order, svid.profile().not_before)) {
                Some(order) => {
                    tokio::time::sleep(order.within.mul_f64(unit_random())).await;
                    break order.issued_before;
                }
                // Without anybody who could order there is nothing to wait for.
                None => match self.newest.changed().await {
                    Ok(()) => {}
                    Err(_) => return std::future::pending().await,
                },
            }
        };
        tracing::info!("control wants the SVID renewed: renewing it now");
        self.followed = Some(issued_before);
    }

    fn means(&self, order: &RenewalOrder, not_before: SystemTime) -> bool {
        not_before < order.issued_before && self.followed != Some(order.issued_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_means_what_was_issued_before_and_is_followed_once() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let order = |seconds| RenewalOrder { issued_before: at(seconds), within: Duration::ZERO };
        let (_control, newest) = watch::channel(None);
        let mut orders = Orders { newest, followed: None };
        assert!(orders.means(&order(10), at(9)));
        assert!(!orders.means(&order(10), at(10)), "it was issued since");
        orders.followed = Some(at(10));
        assert!(!orders.means(&order(10), at(9)), "SVIDs are good from before their issue on");
        assert!(orders.means(&order(11), at(9)));
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
