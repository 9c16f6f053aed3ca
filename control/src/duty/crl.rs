//! Revocation lists: the replica that leads makes them, every replica gives out the same.

use std::time::Instant;

use super::{Duties, Failure};
use crate::crl;
use crate::telemetry::metrics;
use crate::time;

impl Duties {
    /// What the leader makes when it is time, and what everybody takes in.
    pub(super) async fn lists(&self) -> Result<(), Failure> {
        let made = if self.store.leads() && self.lists.is_due(Instant::now()) {
            crl::issue_due(&self.authority, &self.store, self.lists.url(), time::now()).await
        } else {
            Ok(())
        };
        // What was made for others is given out, whatever failed.
        self.lists.refresh(&self.store).await?;
        if let Some((oldest, first_end)) = self.lists.times() {
            let age = time::now().duration_since(oldest).unwrap_or_default();
            metrics::lists(age, first_end, self.lists.size());
        }
        Ok(made?)
    }
}
