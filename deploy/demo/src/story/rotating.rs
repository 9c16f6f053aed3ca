//! Certificates and their issuer are replaced while requests pass and a connection stays open.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::passing::ORDER;
use super::{Load, Telling, milliseconds};
use crate::checks::Figure;
use crate::load::{HttpLoad, KEPT_CLIENTS, NEW_CLIENTS, Stream};
use crate::mesh::id;
use crate::metrics::Metrics;
use crate::operator::RotatedIntermediate;

/// Rotations that each proxy makes before the story goes on.
const ROTATIONS_SHOWN: u64 = 4;
/// Rotations that each proxy makes under the new intermediate.
const ROTATIONS_AFTER: u64 = 3;
/// A rotation takes half of the life of an SVID; this is several of them.
const ROTATION_PATIENCE: Duration = Duration::from_secs(30);
/// More than the audit trail of a demo has.
const EVENTS_LOOKED_AT: u32 = 1000;
const SCRAPE_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Starts the load that goes on to the end.
pub(super) async fn load_begins(telling: &mut Telling<'_>) -> Result<Load> {
    telling.account.chapter(
        "Certificates rotate under load",
        &format!(
            "{KEPT_CLIENTS} clients keep their connection to orders, {NEW_CLIENTS} open a new one for every request, and one TCP\n\
             connection to batch stays open. Each SVID lives 6 s and is replaced at half of that."
        ),
    )?;
    let shop = telling.workload("shop")?;
    let (orders, batch) = (shop.outbound("orders")?, shop.outbound("batch")?);
    let rotations_before = rotations(telling).await?;
    Ok(Load { http: HttpLoad::start(orders, ORDER), stream: Stream::open(batch).await?, rotations_before })
}

/// Waits until every proxy has replaced its certificate a few times.
pub(super) async fn certificates_rotate(telling: &mut Telling<'_>, load: &Load) -> Result<()> {
    let before = load.rotations_before.clone();
    let made = watch_rotations(telling, load, &before, ROTATIONS_SHOWN).await?;
    let failed = load.http.counts.failed();
    telling.conclude(
        "rotation",
        failed == 0 && load.stream.state().ended.is_none(),
        format!("{made} new certificates during {} requests, {failed} failed", load.http.counts.requests()),
        Some(Figure::Count(made, "rotations")),
        "orders",
    )
}

/// Replaces the intermediate that signs, and waits until every proxy has certificates of the new one.
pub(super) async fn intermediate_rotates(telling: &mut Telling<'_>, load: &Load) -> Result<()> {
    telling.account.chapter(
        "The authority that signs is replaced, under the same load",
        "Old and new are both trusted until the last certificate of the old one has ended.",
    )?;
    telling.account.command("signet ca rotate-intermediate")?;
    let operator = telling.mesh.operator()?.clone();
    let rotated: RotatedIntermediate = operator.ask_json(&["ca", "rotate-intermediate"]).await?;
    telling.account.value("signed so far", &rotated.previous.subject)?;
    telling.account.value("signs now", &rotated.current.subject)?;
    let before = rotations(telling).await?;
    watch_rotations(telling, load, &before, ROTATIONS_AFTER).await?;

    let events = operator.audit(EVENTS_LOOKED_AT).await?;
    let signed: Vec<_> = events.iter().filter(|event| event.issued_by(&rotated.current)).collect();
    let everybody =
        telling.mesh.workloads().iter().all(|one| signed.iter().any(|event| event.subject == id(one.name)));
    let (signed, failed) = (u64::try_from(signed.len())?, load.http.counts.failed());
    telling.conclude(
        "intermediate",
        everybody && failed == 0 && load.stream.state().ended.is_none(),
        format!(
            "{signed} certificates of the new intermediate, for all three workloads; {failed} requests failed"
        ),
        Some(Figure::Count(signed, "certificates")),
        "orders",
    )
}

/// Ends the load and enters its totals.
pub(super) async fn load_ends(telling: &mut Telling<'_>, load: Load) -> Result<()> {
    telling.account.chapter(
        "The load, from start to end",
        "Through every rotation, both policy changes and the revocation.",
    )?;
    let counts = load.http.stop().await;
    let (requests, failed) = (counts.requests(), counts.failed());
    let (kept, new) = (counts.kept_connects(), counts.new_connects());
    telling.account.value("requests", &requests.to_string())?;
    telling.account.value("half within", &milliseconds(counts.quantile(0.5)))?;
    telling.account.value("99 % within", &milliseconds(counts.quantile(0.99)))?;
    telling.account.value("longest", &milliseconds(counts.quantile(1.0)))?;
    for failure in counts.failures() {
        telling.account.quote(&failure)?;
    }
    telling.conclude(
        "no request failed",
        failed == 0 && requests > 0,
        format!("{requests} requests from shop to orders, {failed} failed"),
        Some(Figure::Count(failed, "failed")),
        "shop",
    )?;
    telling.conclude(
        "connections kept",
        kept == KEPT_CLIENTS && new > 0,
        format!(
            "{KEPT_CLIENTS} clients needed {kept} connections for the whole run; {new} others came and went"
        ),
        Some(Figure::Count(kept.saturating_sub(KEPT_CLIENTS), "lost")),
        "shop",
    )
}

/// Shows the load until every proxy has made `wanted` more rotations than `before`; gives how many that were.
async fn watch_rotations(telling: &mut Telling<'_>, load: &Load, before: &[u64], wanted: u64) -> Result<u64> {
    let deadline = Instant::now() + ROTATION_PATIENCE;
    let mut next_line = Instant::now() + LINE_EVERY;
    let mut progress = telling.account.progress();
    loop {
        let now = rotations(telling).await?;
        let made: Vec<u64> =
            now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect();
        let since_start: u64 =
            now.iter().zip(&load.rotations_before).map(|(now, before)| now.saturating_sub(*before)).sum();
        let counts = &load.http.counts;
        progress.show(format!(
            "{:>6} requests   {:>3} rotations   {} failed   {:>5} messages on one TCP connection",
            counts.requests(),
            since_start,
            counts.failed(),
            load.stream.state().echoed,
        ));
        if made.iter().all(|made| *made >= wanted) {
            progress.finish(telling.account)?;
            return Ok(made.iter().sum());
        }
        if Instant::now() > next_line {
            next_line += LINE_EVERY;
            progress.mark(telling.account)?;
        }
        if Instant::now() > deadline {
            let slow = telling.mesh.workloads().iter().zip(&made).find(|(_, made)| **made < wanted);
            let Some((slow, made)) = slow else { bail!("no proxy to watch") };
            return Err(slow
                .proxy
                .trouble(format!("{} rotated only {made} times in {ROTATION_PATIENCE:?}", slow.name)));
        }
        tokio::time::sleep(SCRAPE_EVERY).await;
    }
}

/// Successful rotations of each proxy since it started.
async fn rotations(telling: &Telling<'_>) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for workload in telling.mesh.workloads() {
        let metrics = Metrics::scrape(workload.metrics).await?;
        all.push(metrics.count("signet_svid_rotations_total", &[("result", "success")]));
    }
    Ok(all)
}
