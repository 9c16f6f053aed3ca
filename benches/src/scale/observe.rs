//! What happened between two moments: processor time on each side, and control's own metrics.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::postgres::Postgres;
use crate::control::Control;
use crate::control::Scrape;
use crate::process::own_usage;

/// One moment.
pub(super) struct Moment {
    at: Instant,
    control: Duration,
    own: Duration,
    store: Duration,
    scrape: Scrape,
}

/// What lies between two moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) wall: Duration,
    /// Control's processor time.
    pub(super) control: Duration,
    /// This process'.
    pub(super) own: Duration,
    /// PostgreSQL's; none with the embedded store.
    pub(super) store: Duration,
    /// Changes for each commit of the store.
    pub(super) jobs_per_commit: f64,
    /// The mean time of one commit.
    pub(super) commit: Duration,
}

impl Moment {
    pub(super) async fn now(control: &Control, postgres: Option<&Postgres>) -> Result<Self> {
        let scrape = control.scrape().await?;
        Ok(Self {
            control: control.usage()?.cpu,
            own: own_usage()?.cpu,
            store: postgres.map(Postgres::cpu).transpose()?.unwrap_or_default(),
            scrape,
            at: Instant::now(),
        })
    }

    /// From this moment to a later one.
    pub(super) fn until(&self, later: &Self) -> Span {
        let grown = |name: &str| later.scrape.sum(name) - self.scrape.sum(name);
        let commits = grown("signet_control_store_commit_seconds_count");
        let each = |sum: f64| if commits > 0.0 { sum / commits } else { 0.0 };
        let commit = each(grown("signet_control_store_commit_seconds_sum"));
        Span {
            wall: later.at - self.at,
            control: later.control.saturating_sub(self.control),
            own: later.own.saturating_sub(self.own),
            store: later.store.saturating_sub(self.store),
            jobs_per_commit: each(grown("signet_control_store_commit_jobs_sum")),
            commit: Duration::try_from_secs_f64(commit).unwrap_or_default(),
        }
    }
}
