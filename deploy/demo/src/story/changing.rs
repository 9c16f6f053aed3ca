//! A change of policy takes effect at once, on open connections too.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::passing::{ORDER, policies};
use super::{IN_FORCE, PATIENCE, Telling, between, milliseconds};
use crate::checks::Figure;
use crate::operator::Change;
use crate::probe::Probe;

/// batch is let in, and put out again; both times it asks all the while, on a connection it keeps.
pub(super) async fn policy_changes(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "A policy change takes effect",
        "batch asks for an order every millisecond. The policy is widened for it, and narrowed again.",
    )?;
    let mut probe = Probe::start(telling.workload("batch")?.outbound("orders")?, ORDER);
    probe.await_status(403, PATIENCE).await.context("batch is not refused before the change")?;
    let wide = policies(telling, r#""/reports/*", "/orders/*""#)?;
    let narrow = policies(telling, r#""/reports/*""#)?;

    let change = apply(telling, "wide.yaml", &wide).await?;
    let allowed = first_with(telling, &mut probe, 200, &change).await?;
    conclude(telling, "policy allows", "first request allowed", allowed, &change)?;

    let change = apply(telling, "narrow.yaml", &narrow).await?;
    let refused = first_with(telling, &mut probe, 403, &change).await?;
    conclude(telling, "policy refuses", "first request refused", refused, &change)
}

/// How long after the commit the first answer with `status` came.
async fn first_with(
    telling: &Telling<'_>,
    probe: &mut Probe,
    status: u16,
    change: &Change,
) -> Result<Duration> {
    let seen = probe.await_status(status, PATIENCE).await;
    match seen {
        Ok((_, at)) => Ok(between(change.committed_at, at)),
        Err(error) => Err(telling.workload("orders")?.proxy.trouble(format!("{error:#}"))),
    }
}

fn conclude(
    telling: &mut Telling<'_>,
    name: &'static str,
    what: &str,
    took: Duration,
    change: &Change,
) -> Result<()> {
    let reported = change.reported();
    let said = reported.map_or_else(|| "not every proxy reported".to_owned(), milliseconds);
    telling.conclude(
        name,
        took < IN_FORCE && reported.is_some_and(|reported| reported < IN_FORCE),
        format!(
            "{what} {} after the commit; the last proxy reported it in force after {said}",
            milliseconds(took)
        ),
        Some(Figure::Took(took)),
        "orders",
    )
}

/// Applies `policy` as an operator does, from a file, and shows what `signet` reports.
pub(super) async fn apply(telling: &mut Telling<'_>, file: &str, policy: &str) -> Result<Change> {
    let path = telling.mesh.directory().join(file);
    std::fs::write(&path, policy).with_context(|| format!("cannot write {}", path.display()))?;
    telling.account.command(&format!("signet policy apply -f {file}"))?;
    let path = path.display().to_string();
    let change: Change = telling.mesh.operator()?.ask_json(&["policy", "apply", "-f", &path]).await?;
    report(telling, &change)?;
    Ok(change)
}

/// Who has a change in force, since when, and how many connections it closed.
pub(super) fn report(telling: &mut Telling<'_>, change: &Change) -> Result<()> {
    for proxy in &change.proxies {
        let after = match proxy.after_ms {
            Some(after) if proxy.applied => format!("in force after {after} ms"),
            _ => "NOT in force".to_owned(),
        };
        telling.account.quote(&format!(
            "{:<26} {after}, connections closed: {}",
            proxy.spiffe_id, proxy.closed_connections
        ))?;
    }
    Ok(())
}
