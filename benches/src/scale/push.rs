//! From a commit to the proxies that it concerns, while all streams are open: a change for one, which nobody else
//! may be told of, and a change for all.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::fleet::Fleet;
use super::progress::Progress;
use super::report::Report;
use super::streams::QUIET;
use super::{Plan, TRUST_DOMAIN};
use crate::control::Control;
use crate::control::Operator;
use crate::numbers::percentile;

const ARRIVAL: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);
/// Between two changes, so that none waits for what the one before still costs.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// How often a change for all is made with a wait for everybody's acknowledgement.
const ACKNOWLEDGED: usize = 3;

/// Puts the documents in force that the mesh has anyway, each for one identity.
pub(super) async fn prepare(plan: &Plan, operator: &Operator) -> Result<()> {
    let yaml: String = (0..plan.documents).map(|number| for_one(plan, number, 8080)).collect();
    operator.apply(yaml, plan.documents).await?;
    Ok(())
}

/// Changes one document after the other.
pub(super) async fn to_one(
    plan: &Plan,
    fleet: &Fleet,
    control: &Control,
    operator: &Operator,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let step = progress.step("changes for one", plan.changes_for_one);
    let messages = fleet.messages();
    let idle = Idle::watch(control).await?;
    let (mut from_commit, mut from_call) = (Vec::new(), Vec::new());
    let cost = Cost::begin(control)?;
    for number in 0..plan.changes_for_one {
        let document = number % plan.documents;
        let slot = fleet.slot(whose(plan, document))?;
        let port = 10_000 + u16::try_from(number)?;
        let called = signet_proto::clock::now();
        let change = operator.apply(for_one(plan, document, port), 1).await?;
        let deadline = Instant::now() + ARRIVAL;
        while slot.revision() < change.revision {
            ensure!(Instant::now() < deadline, "revision {} did not arrive", change.revision);
            tokio::time::sleep(POLL).await;
        }
        from_commit.push(slot.told_after(change.committed_at).as_secs_f64() * 1e3);
        from_call.push(slot.told_after(called).as_secs_f64() * 1e3);
        step.advance();
        tokio::time::sleep(PAUSE).await;
    }
    let cpu = cost.each(control, &idle, plan.changes_for_one)?;
    fleet.until_quiet(QUIET, ARRIVAL).await?;
    let told = fleet.messages() - messages;
    let surplus = told.saturating_sub(plan.changes_for_one as u64);
    ensure!(told == plan.changes_for_one as u64, "{told} messages for {} changes", plan.changes_for_one);
    let failures = fleet.failures();
    ensure!(failures.is_empty(), "streams broke: {failures:?}");

    let measure = "change for one";
    report.add(measure, "from the commit, median", percentile(&mut from_commit, 0.5), "ms");
    report.add(measure, "from the commit, 99 of 100", percentile(&mut from_commit, 0.99), "ms");
    report.add(measure, "from the commit, longest", percentile(&mut from_commit, 1.0), "ms");
    report.aim_at_most(50.0);
    report.add(measure, "from the operator's call, median", percentile(&mut from_call, 0.5), "ms");
    report.add(measure, "from the operator's call, longest", percentile(&mut from_call, 1.0), "ms");
    report.add(measure, "control's CPU", cpu * 1e3, "ms");
    report.add(measure, "messages to those it does not concern", surplus as f64, "");
    report.aim_at_most(0.0);
    Ok(())
}

/// Changes a document that everybody has.
pub(super) async fn to_all(
    plan: &Plan,
    fleet: &Fleet,
    control: &Control,
    operator: &Operator,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let (count, changes) = (fleet.slots().len(), plan.changes_for_all);
    let step = progress.step("changes for all", changes + ACKNOWLEDGED);
    let idle = Idle::watch(control).await?;
    let messages = fleet.messages();
    let (mut middle, mut last) = (Vec::new(), Vec::new());
    let cost = Cost::begin(control)?;
    for number in 0..changes {
        let change = operator.apply(for_all(20_000 + u16::try_from(number)?), 1).await?;
        fleet
            .until_all("change for all", ARRIVAL, |_, slot| slot.revision() >= change.revision, |_| ())
            .await?;
        let after = |slot: &super::board::Slot| slot.told_after(change.committed_at).as_secs_f64();
        let mut lags: Vec<f64> = fleet.slots().iter().map(after).collect();
        middle.push(percentile(&mut lags, 0.5));
        last.push(percentile(&mut lags, 1.0));
        step.advance();
        tokio::time::sleep(LONG_PAUSE).await;
    }
    let cpu = cost.each(control, &idle, changes)?;
    fleet.until_quiet(QUIET, ARRIVAL).await?;
    let told = fleet.messages() - messages;
    ensure!(told == (count * changes) as u64, "{told} messages for {changes} changes to {count} proxies");
    let bytes = fleet.slots().iter().map(super::board::Slot::bytes).max().unwrap_or_default();

    let mut acknowledged = Vec::new();
    let cost = Cost::begin(control)?;
    for number in 0..ACKNOWLEDGED {
        let change = operator.apply(for_all(30_000 + u16::try_from(number)?), 1).await?;
        let concerned = operator.await_applied(change.revision).await?;
        ensure!(concerned == count, "{concerned} of {count} acknowledged");
        let now = signet_proto::clock::now();
        acknowledged.push(now.duration_since(change.committed_at).unwrap_or_default().as_secs_f64());
        step.advance();
        tokio::time::sleep(LONG_PAUSE).await;
    }
    let cpu_acknowledged = cost.each(control, &idle, ACKNOWLEDGED)?;
    let failures = fleet.failures();
    ensure!(failures.is_empty(), "streams broke: {failures:?}");

    let measure = "change for all";
    report.add(measure, "half of them have it, median", percentile(&mut middle, 0.5), "s");
    report.add(measure, "the last has it, median", percentile(&mut last, 0.5), "s");
    report.add(measure, "the last has it, longest", percentile(&mut last, 1.0), "s");
    report.aim_at_most(2.0);
    report.add(measure, "its message", bytes as f64, "bytes");
    report.add(measure, "control's CPU, reports included", cpu, "s");
    report.add(measure, "`signet` knows that all have it, longest", percentile(&mut acknowledged, 1.0), "s");
    report.add(measure, "control's CPU with that wait", cpu_acknowledged, "s");
    Ok(())
}

/// Control's processor time over some changes.
struct Cost {
    cpu: Duration,
    started: Instant,
}

impl Cost {
    fn begin(control: &Control) -> Result<Self> {
        Ok(Self { cpu: control.usage()?.cpu, started: Instant::now() })
    }

    /// Seconds for each of `changes`, without what control needs anyway.
    fn each(&self, control: &Control, idle: &Idle, changes: usize) -> Result<f64> {
        let all = (control.usage()?.cpu - self.cpu).as_secs_f64();
        let anyway = self.started.elapsed().as_secs_f64() * idle.share;
        Ok((all - anyway).max(0.0) / changes as f64)
    }
}

/// What control needs for keep-alive and reports alone, as a share of a core.
struct Idle {
    share: f64,
}

impl Idle {
    const WATCHED: Duration = Duration::from_secs(10);

    async fn watch(control: &Control) -> Result<Self> {
        let (cpu, started) = (control.usage()?.cpu, Instant::now());
        tokio::time::sleep(Self::WATCHED).await;
        let share = (control.usage()?.cpu - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        Ok(Self { share })
    }
}

/// The proxy that a document is for: documents are spread over all of them.
fn whose(plan: &Plan, document: usize) -> usize {
    document * plan.proxies / plan.documents
}

fn for_one(plan: &Plan, document: usize, port: u16) -> String {
    policy(&format!("service-{document}"), &format!("/workload/{}", whose(plan, document)), port)
}

fn for_all(port: u16) -> String {
    policy("everyone", "/*", port)
}

fn policy(name: &str, path: &str, port: u16) -> String {
    let mut yaml = String::new();
    let _ = write!(
        yaml,
        "---\nkind: Policy\nname: {name}\ntarget: spiffe://{TRUST_DOMAIN}{path}\nrules:\n  - name: callers\n    \
         allow:\n      from: [\"spiffe://{TRUST_DOMAIN}/workload/*\"]\n      ports: [{port}]\n"
    );
    yaml
}

#[cfg(test)]
mod tests {
    use signet_proto::policy::parse_yaml;

    use super::*;

    #[test]
    fn documents_are_in_the_language_of_policy() {
        let yaml = policy("service-7", "/workload/3", 10_007) + &for_all(20_000);
        let documents = parse_yaml("scale.yaml", &yaml).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].whom.to_string(), format!("spiffe://{TRUST_DOMAIN}/workload/3"));
    }
}
