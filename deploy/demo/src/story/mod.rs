//! The story, top to bottom. Each chapter does something, shows it, and enters what it saw in the summary.

mod changing;
mod joining;
mod passing;
mod revoking;
mod rotating;

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;

use crate::account::Account;
use crate::checks::{Check, Checks, Figure};
use crate::load::{HttpLoad, Stream};
use crate::mesh::{Mesh, Workload};

/// A change is in force within this, or the check fails. The aim is far below.
const IN_FORCE: Duration = Duration::from_secs(1);
/// How long the demo waits for something to happen before it calls it missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells all of it. An error is something that kept the story from going on; what merely was not as claimed
/// is in `checks`.
pub(crate) async fn tell(account: &mut Account, mesh: &mut Mesh, checks: &mut Checks) -> Result<()> {
    let mut telling = Telling { account, mesh, checks };
    joining::control_starts(&mut telling).await?;
    joining::workloads_join(&mut telling).await?;
    passing::nothing_without_policy(&mut telling).await?;
    passing::policy_lets_in(&mut telling).await?;
    passing::others_are_refused(&mut telling).await?;
    let mut load = rotating::load_begins(&mut telling).await?;
    rotating::certificates_rotate(&mut telling, &load).await?;
    rotating::intermediate_rotates(&mut telling, &load).await?;
    changing::policy_changes(&mut telling).await?;
    revoking::identity_is_revoked(&mut telling, &mut load).await?;
    rotating::load_ends(&mut telling, load).await?;
    joining::audit_holds(&mut telling).await
}

/// What the chapters share.
struct Telling<'a> {
    account: &'a mut Account,
    mesh: &'a mut Mesh,
    checks: &'a mut Checks,
}

/// The load that goes on through the second half.
struct Load {
    http: HttpLoad,
    stream: Stream,
    /// Rotations that each proxy had made when the load began, in the order of `Mesh::workloads`.
    rotations_before: Vec<u64>,
}

impl Telling<'_> {
    /// Enters a result in the account and in the summary. What is not so is shown with the last words of
    /// `concerned`.
    fn conclude(
        &mut self,
        name: &'static str,
        ok: bool,
        seen: impl Into<String>,
        figure: Option<Figure>,
        concerned: &str,
    ) -> Result<()> {
        let check = Check { name, seen: seen.into(), figure, ok };
        self.account.check(&check)?;
        self.checks.push(check);
        if !ok && let Ok(workload) = self.mesh.workload(concerned) {
            let tail = workload.proxy.tail();
            self.account.tail(workload.proxy.name(), &tail)?;
        }
        Ok(())
    }

    fn workload(&self, name: &str) -> Result<&Workload> {
        self.mesh.workload(name)
    }
}

/// From `from` to `to`; nothing if the clock says that `to` was first.
fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
