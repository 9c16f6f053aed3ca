//! Control at scale: N simulated proxies in this process against a real `signet-control` in its own, over the
//! doors that everybody uses.
//!
//! ```text
//!   this process                                                 signet-control, a child in its own directory
//!   Operator ── unix socket: workloads, tickets, policy ─────▶ ┐
//!   joiners  ── TLS without certificate: Attest ─────────────▶ │── SQLite, or a PostgreSQL of our own
//!   renewers ── mutual TLS, few connections: Renew ──────────▶ │
//!   Fleet    ── mutual TLS, one connection each: Watch ◀─────▶ ┘
//! ```
//!
//! Invariant: a figure is reported only if what it counts was checked: every SVID against the bundle, its key and
//! its identity, every stream's first message for being whole, every change for reaching those it concerns and
//! nobody else. Anything else ends the run with an error. Both sides share the machine, so the figures hold what
//! the simulation costs, too; its share of the processor time is a figure itself.

mod board;
mod fleet;
mod herd;
mod issuance;
mod members;
mod observe;
mod postgres;
mod progress;
mod push;
mod report;
mod streams;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use signet_proto::spiffe::TrustDomain;

use crate::control::{Control, Operator};
use postgres::Postgres;

pub use progress::Progress;
pub use report::{Figure, Report};

/// Where control keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// Its embedded database.
    Sqlite,
    /// A PostgreSQL that the benchmark starts for itself.
    Postgres,
}

/// One of the measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Measure {
    /// Durable SVIDs a second.
    Svids,
    /// Streams held, and the memory of each.
    Streams,
    /// From a commit to the proxies it concerns.
    Push,
    /// All proxies at once, after control was killed.
    Herd,
}

/// What is measured, and how much of it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Simulated proxies, each with an identity of its own.
    pub proxies: usize,
    /// Control's store.
    pub store: StoreKind,
    /// Renewals.
    pub svids: usize,
    /// Connections that renewals reuse.
    pub connections: usize,
    /// Calls waiting for their answer at any moment.
    pub in_flight: usize,
    /// Policy documents in force, each for one identity.
    pub documents: usize,
    /// Peers whose endpoints each proxy follows.
    pub upstreams: usize,
    /// Changes that concern one proxy.
    pub changes_for_one: usize,
    /// Changes that concern every proxy.
    pub changes_for_all: usize,
    /// Which measures.
    pub measures: BTreeSet<Measure>,
    /// Where data directories are made: the disk that is measured.
    pub directory: PathBuf,
    /// The program under measurement.
    pub control: PathBuf,
}

/// What everybody is called after.
const TRUST_DOMAIN: &str = "scale.test";

/// Runs the measures of `plan`. Every process that it starts has ended when this returns or is dropped.
///
/// # Errors
/// When something cannot be set up, or a check does not hold.
pub async fn run(plan: &Plan, progress: &Progress) -> Result<Report> {
    ensure!(plan.proxies > plan.upstreams, "more upstreams for each proxy than there are others");
    ensure!(
        plan.documents > 0 && plan.documents <= plan.proxies,
        "documents: from 1 to the number of proxies"
    );
    crate::limits::make_room(plan.proxies)?;
    let mut builder = tempfile::Builder::new();
    let directory = builder.prefix("signet-scale-").tempdir_in(&plan.directory);
    let directory = directory.with_context(|| format!("no directory in {}", plan.directory.display()))?;
    let postgres = match plan.store {
        StoreKind::Sqlite => None,
        StoreKind::Postgres => Some(Postgres::start(&plan.directory).await?),
    };
    let url = postgres.as_ref().map(Postgres::url);
    let mut control = Control::start(&plan.control, TRUST_DOMAIN, directory.path(), url).await?;
    let mut report = Report::new(plan);
    let measured = measure(plan, progress, &mut control, postgres.as_ref(), &mut report).await;
    if let Err(error) = measured {
        let kept = directory.keep();
        return Err(error.context(format!(
            "control's last words, all of them in {}:\n{}",
            kept.display(),
            control.tail()
        )));
    }
    Ok(report)
}

async fn measure(
    plan: &Plan,
    progress: &Progress,
    control: &mut Control,
    postgres: Option<&Postgres>,
    report: &mut Report,
) -> Result<()> {
    let wanted = |measure| plan.measures.contains(&measure);
    let domain: TrustDomain = TRUST_DOMAIN.parse()?;
    let operator = Operator::connect(&control.socket()).await?;
    push::prepare(plan, &operator).await?;
    let candidates = members::candidates(&domain, plan.proxies, &operator, progress).await?;
    let roll = issuance::attest(plan, candidates, control, postgres, progress, report).await?;
    if wanted(Measure::Svids) {
        issuance::renew(plan, &roll, control, postgres, progress, report).await?;
    }
    drop(operator);
    if !(wanted(Measure::Streams) || wanted(Measure::Push) || wanted(Measure::Herd)) {
        return control.end().await;
    }
    // What issuance left on the heap is not what streams cost.
    control.end().await?;
    control.start_again().await?;
    let operator = Operator::connect(&control.socket()).await?;
    let fleet = streams::hold(plan, roll, control, &operator, progress, report).await?;
    if wanted(Measure::Push) {
        push::to_one(plan, &fleet, control, &operator, progress, report).await?;
        push::to_all(plan, &fleet, control, &operator, progress, report).await?;
    }
    drop(operator);
    if wanted(Measure::Herd) {
        herd::stampede(&fleet, control, progress, report).await?;
    }
    fleet.end().await;
    control.end().await
}

/// The SPIFFE ID of the proxy with this number.
fn id_of(domain: &TrustDomain, number: usize) -> Result<signet_proto::spiffe::SpiffeId> {
    Ok(signet_proto::spiffe::SpiffeId::new(domain, &format!("/workload/{number}"))?)
}
