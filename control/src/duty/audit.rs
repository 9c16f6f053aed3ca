//! The audit's duties: verify the chain, sign it, bring copies up to date.
//!
//! Signing and each copy have a loop of their own: what fails is tried more and more rarely, and holds up nothing
//! else. Of replicas the leading one does both; the others keep its checkpoints beside the store.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Duties, DutyRecord, Failure};
use crate::audit::ChainVerifier;
use crate::telemetry::metrics;
use crate::time;

const PAGE: u32 = 1000;
const LOOK: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Duties {
    pub(super) async fn audit(&self) -> Result<(), Failure> {
        let mut verifier = ChainVerifier::from_genesis();
        loop {
            let events = self.store.events_after(verifier.position(), PAGE).await?;
            if events.is_empty() {
                metrics::audit_intact(true);
                return Ok(());
            }
            for event in &events {
                if let Err(broken) = verifier.take(event) {
                    metrics::audit_intact(false);
                    return Err(format!("the audit was tampered with: {broken}").into());
                }
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn spawn_checkpoints(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let duties = self.clone();
        let work = async move || {
            duties.checkpointer.run(&duties.store, time::now(), duties.store.leads()).await?;
            Ok(LOOK)
        };
        let (stop, record) = (stop.clone(), self.record.clone());
        record.begins("checkpoint", LOOK, Instant::now());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = repeat("checkpoint", &record, work) => {}
            }
        });
    }

    pub(super) fn spawn_exports(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        for exporter in self.exports.iter() {
            let (store, exporter, stop) = (self.store.clone(), exporter.clone(), stop.clone());
            let work = async move || {
                if store.leads() {
                    return Ok(exporter.run(&store, time::now()).await?);
                }
                exporter.rest();
                Ok(LOOK)
            };
            let record = self.record.clone();
            record.begins("export", LOOK, Instant::now());
            tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = repeat("export", &record, work) => {}
                }
            });
        }
    }
}

/// Does it for ever; each time it says when to come again.
async fn repeat(duty: &'static str, record: &DutyRecord, work: impl AsyncFn() -> Result<Duration, Failure>) {
    let mut failures = 0;
    loop {
        let pause = match work().await {
            Ok(pause) => {
                failures = 0;
                record.succeeded(duty, Instant::now());
                pause
            }
            Err(error) => {
                failures += 1;
                tracing::error!(duty, %error, "duty failed; it is tried again");
                metrics::duty_failed(duty);
                after_failures(failures)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// A second, doubled with each failure in a row.
fn after_failures(failures: u32) -> Duration {
    LOOK.saturating_mul(1 << failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_more_and_more_rarely() {
        let pauses: Vec<u64> = (1..9).map(|failures| after_failures(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(after_failures(u32::MAX), LONGEST_PAUSE);
    }
}
