//! Streams held: what control needs for each, and what it does when nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Plan;
use super::fleet::Fleet;
use super::members::Roll;
use super::progress::Progress;
use super::report::Report;
use crate::control::Control;
use crate::control::Operator;
use crate::process::own_usage;

const OPEN: Duration = Duration::from_secs(300);
const SETTLE: Duration = Duration::from_secs(60);
pub(super) const QUIET: Duration = Duration::from_secs(1);
/// Longer than the interval of every keep-alive.
const IDLE: Duration = Duration::from_secs(20);
/// 10,000 streams in 400 MB, with all that control needs besides.
const AIM: (usize, f64) = (10_000, 400.0);

/// Opens everybody's stream and waits until each knows the endpoints of its upstreams.
pub(super) async fn hold(
    plan: &Plan,
    roll: Roll,
    control: &Control,
    operator: &Operator,
    progress: &Progress,
    report: &mut Report,
) -> Result<Fleet> {
    tokio::time::sleep(QUIET).await;
    let before = control.usage()?;
    let own_before = own_usage()?;
    let count = roll.members.len();
    let started = Instant::now();
    let fleet = Fleet::start(roll, control.grpc, plan.upstreams)?;
    let step = progress.step("opening streams", count);
    fleet.until_all("streams", OPEN, |_, slot| slot.wholes() > 0, |ready| step.at(ready)).await?;
    let opened = started.elapsed();
    drop(step);
    let upstreams = plan.upstreams as u64;
    fleet
        .until_all("endpoints of upstreams", SETTLE, |_, slot| slot.endpoints() == upstreams, |_| ())
        .await?;
    fleet.until_quiet(QUIET, SETTLE).await?;
    let failures = fleet.failures();
    ensure!(failures.is_empty(), "streams that did not open at once: {failures:?}");
    let status = operator.status().await?;
    ensure!(status.connected_proxies == count as u64, "control counts {} streams", status.connected_proxies);
    let after = control.usage()?;
    let own = own_usage()?;

    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let each = |bytes: u64| bytes as f64 / 1e3 / count as f64;
    let measure = "streams";
    report.add(measure, "held", count as f64, "");
    report.add(measure, "until all were open", opened.as_secs_f64(), "s");
    report.add(
        measure,
        "control's CPU to open one",
        (after.cpu - before.cpu).as_secs_f64() * 1e3 / count as f64,
        "ms",
    );
    report.add(measure, "control's memory before", megabytes(before.resident), "MB");
    report.add(measure, "control's memory with them", megabytes(after.resident), "MB");
    if count >= AIM.0 {
        report.aim_at_most(AIM.1);
    }
    report.add(measure, "control's most memory", megabytes(after.peak), "MB");
    report.add(
        measure,
        "control's memory for one",
        each(after.resident.saturating_sub(before.resident)),
        "kB",
    );
    report.add(
        measure,
        "the simulation's memory for one",
        each(own.resident.saturating_sub(own_before.resident)),
        "kB",
    );

    let _step = progress.step("watching control idle, seconds", IDLE.as_secs() as usize);
    let share = idle(control).await?;
    report.add(measure, "control's CPU while nothing happens", share * 100.0, "% of a core");
    Ok(fleet)
}

/// How much of a core control needs for keep-alive and reports alone.
async fn idle(control: &Control) -> Result<f64> {
    let (before, started) = (control.usage()?.cpu, Instant::now());
    tokio::time::sleep(IDLE).await;
    Ok((control.usage()?.cpu - before).as_secs_f64() / started.elapsed().as_secs_f64())
}
