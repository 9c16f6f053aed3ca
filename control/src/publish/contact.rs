//! A replica without its database, while others have theirs: it cannot hear of revocations, so its proxies are better
//! off elsewhere. After `CUT_OFF` it ends its streams with UNAVAILABLE, and opens none until it is back.
//!
//! Only where other replicas were seen with the database last: alone there is nobody to go to, and proxies keep their
//! streams and what they have. If all have lost it, each proxy is sent away once by each, keeps what it has, and tries
//! again; it is not told anything older meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Ended, Endpoints, Watchers};
use crate::store::{Contact, Store};
use crate::telemetry::metrics;

const LOOK: Duration = Duration::from_secs(1);
/// Longer than a restart or failover of the database takes in the usual case.
const CUT_OFF: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stay,
    Cut,
    Restore,
}

/// Watches the contact with the database until `stop`; `cut` tells whether streams are refused.
pub async fn keep_contact(
    store: Store,
    endpoints: Arc<Endpoints>,
    watchers: Arc<Watchers>,
    cut: watch::Sender<bool>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(contact) = store.contact() else { return };
        let is_cut = *cut.borrow();
        match step(contact, is_cut, Instant::now()) {
            Step::Stay => {}
            Step::Cut => {
                tracing::error!(
                    streams = watchers.count(),
                    other_replicas = contact.others,
                    "no contact with the database: streams are ended, so that proxies go to another replica"
                );
                cut.send_replace(true);
                watchers.end_all(Ended::CutOff);
                metrics::cut_off(true);
            }
            Step::Restore => {
                // Nobody could come here meanwhile.
                endpoints.wait_longer(Instant::now());
                cut.send_replace(false);
                metrics::cut_off(false);
                tracing::info!("in contact with the database again");
            }
        }
    }
}

fn step(contact: Contact, is_cut: bool, now: Instant) -> Step {
    let lost = now.saturating_duration_since(contact.at) >= CUT_OFF;
    match (lost, is_cut) {
        (true, false) if contact.others > 0 => Step::Cut,
        (false, true) => Step::Restore,
        _ => Step::Stay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_only_ended_for_long_and_where_there_is_another_replica() {
        let start = Instant::now();
        let after = |seconds, others, is_cut| {
            step(Contact { at: start, others }, is_cut, start + Duration::from_secs(seconds))
        };
        assert_eq!(after(9, 1, false), Step::Stay);
        assert_eq!(after(10, 1, false), Step::Cut);
        assert_eq!(after(600, 0, false), Step::Stay, "alone, there is nobody to go to");
        assert_eq!(after(600, 1, true), Step::Stay, "once");
        assert_eq!(after(0, 1, true), Step::Restore);
    }
}
