//! Control is killed and started again: everybody comes back at once, each with its own backoff.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::board::Slot;
use super::fleet::Fleet;
use super::progress::Progress;
use super::report::Report;
use super::streams::QUIET;
use crate::control::Control;
use crate::control::Operator;
use crate::numbers::percentile;
use crate::process::own_usage;

const RETURN: Duration = Duration::from_secs(300);
const AIM: f64 = 60.0;

/// Kills control under all streams and waits until each has a whole first message again.
pub(super) async fn stampede(
    fleet: &Fleet,
    control: &mut Control,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let count = fleet.slots().len();
    let newest = fleet.slots().iter().map(Slot::revision).max().unwrap_or_default();
    let known: Vec<_> =
        fleet.slots().iter().map(|slot| (slot.wholes(), slot.endpoints(), slot.documents())).collect();
    let step = progress.step("coming back", count);
    let own = own_usage()?.cpu;
    let (killed, clock) = (signet_proto::clock::now(), Instant::now());
    control.kill()?;
    control.start_again().await?;
    let (listening, away) = (signet_proto::clock::now(), clock.elapsed());
    let is_back =
        |number: usize, slot: &Slot| known.get(number).is_some_and(|(wholes, ..)| slot.wholes() > *wholes);
    fleet.until_all("reconnected", RETURN, is_back, |ready| step.at(ready)).await?;
    let usage = control.usage()?;
    let own = own_usage()?.cpu - own;
    drop(step);
    fleet.until_quiet(QUIET, RETURN).await?;

    for (number, (slot, (_, endpoints, documents))) in fleet.slots().iter().zip(&known).enumerate() {
        ensure!(slot.revision() >= newest, "proxy {number} has revision {}, had {newest}", slot.revision());
        ensure!(slot.endpoints() == *endpoints, "proxy {number} knows {} endpoints", slot.endpoints());
        ensure!(slot.documents() == *documents, "proxy {number} has {} documents", slot.documents());
    }
    let failures = fleet.failures();
    let operator = Operator::connect(&control.socket()).await?;
    let status = operator.status().await?;
    ensure!(status.connected_proxies == count as u64, "control counts {} streams", status.connected_proxies);

    let seconds = |start| fleet.slots().iter().map(move |slot| slot.whole_after(start).as_secs_f64());
    let mut since_listening: Vec<f64> = seconds(listening).collect();
    let measure = "herd";
    report.add(measure, "from the kill until control listens again", away.as_secs_f64(), "s");
    report.add(measure, "then half of them are back", percentile(&mut since_listening, 0.5), "s");
    report.add(measure, "then 99 of 100 are back", percentile(&mut since_listening, 0.99), "s");
    report.add(measure, "then the last is back", percentile(&mut since_listening, 1.0), "s");
    report.add(measure, "the last is back, from the kill", seconds(killed).fold(0.0, f64::max), "s");
    report.aim_at_most(AIM);
    for (reason, times) in failures {
        report.add(measure, format!("tries that failed: {reason}"), times as f64, "");
    }
    report.add(measure, "control's CPU", usage.cpu.as_secs_f64(), "s");
    report.add(measure, "control's CPU for one", usage.cpu.as_secs_f64() * 1e3 / count as f64, "ms");
    report.add(measure, "the simulation's CPU", own.as_secs_f64(), "s");
    report.add(measure, "control's most memory", usage.peak as f64 / 1e6, "MB");
    Ok(())
}
