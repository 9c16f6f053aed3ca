//! Control starts, and each workload proves who it is.

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::{Telling, between};
use crate::checks::Figure;
use crate::mesh::{Plan, SVID_TTL, TRUST_DOMAIN, id};

/// Callees first, so that a caller finds them.
const PLANS: [Plan; 3] = [
    Plan {
        name: "orders",
        owner: "team-orders",
        purpose: "answers for orders and reports",
        app: Some(("orders", "")),
        calls: &[],
    },
    Plan {
        name: "batch",
        owner: "team-data",
        purpose: "takes events, writes reports",
        app: Some(("echo", "tcp://")),
        calls: &[("orders", "")],
    },
    Plan {
        name: "shop",
        owner: "team-shop",
        purpose: "sells to people",
        app: None,
        calls: &[("orders", ""), ("batch", "tcp://")],
    },
];

/// Control, on its embedded store.
pub(super) async fn control_starts(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "The control service starts",
        "It makes a root and an intermediate authority, and keeps all it knows in one file.",
    )?;
    telling.account.command(&format!("signet-control run --trust-domain {TRUST_DOMAIN} --min-ttl 2s"))?;
    telling.mesh.start_control().await?;
    let control = telling.mesh.control()?;
    let (grpc, http) = (control.grpc.to_string(), control.http.to_string());
    telling.account.value("proxies", &grpc)?;
    telling.account.value("metrics", &http)?;
    telling.account.command("signet ca status")?;
    let authorities = telling.mesh.operator()?.ask(&["ca", "status"]).await?;
    telling.account.table(&authorities)
}

/// Each workload is registered, gets a ticket that works once, and its proxy turns it into an SVID.
pub(super) async fn workloads_join(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "Three workloads prove who they are",
        "Each proxy makes its key in memory, hands in a one-time ticket, and receives a certificate (SVID).\n\
         The key never leaves the process.",
    )?;
    for plan in &PLANS {
        join(telling, plan).await?;
    }
    let identities = telling.mesh.operator()?.identities().await?;
    let expected =
        PLANS.iter().filter(|plan| identities.iter().any(|row| row.spiffe_id == id(plan.name))).count();
    telling.conclude(
        "identities",
        expected == PLANS.len() && identities.len() == PLANS.len(),
        format!("{expected} of {} workloads hold an SVID of their own", PLANS.len()),
        Some(Figure::Count(count(identities.len()), "SVIDs")),
        "orders",
    )
}

async fn join(telling: &mut Telling<'_>, plan: &Plan) -> Result<()> {
    let spiffe_id = id(plan.name);
    telling.account.command(&format!(
        "signet workload create {spiffe_id} --owner {} --purpose '{}' --ttl {SVID_TTL}",
        plan.owner, plan.purpose
    ))?;
    let operator = telling.mesh.operator()?.clone();
    let create = [
        "workload",
        "create",
        &spiffe_id,
        "--owner",
        plan.owner,
        "--purpose",
        plan.purpose,
        "--ttl",
        SVID_TTL,
    ];
    operator.ask(&create).await?;
    telling.account.command(&format!("signet token create {spiffe_id}"))?;
    let ticket = operator.ask(&["token", "create", &spiffe_id]).await?;
    telling.account.quote(&shortened(&ticket))?;
    let started = telling.mesh.start_workload(plan, &ticket).await?.arguments.clone();
    telling.account.command(&format!("signet-proxy {started}"))?;

    let identities = operator.identities().await?;
    let identity = identities.into_iter().find(|row| row.spiffe_id == spiffe_id);
    let identity = identity.with_context(|| format!("`signet identities` does not list {spiffe_id}"))?;
    let left = between(Timestamp::now(), identity.expires_at).as_secs_f64();
    telling.account.value("identity", &identity.spiffe_id)?;
    telling.account.value("instance", &identity.instance)?;
    telling.account.value("serial", &identity.serial)?;
    telling.account.value("expires", &format!("{} (in {left:.1} s)", identity.expires_at))
}

/// The first part of a ticket: the rest is a secret, and long.
fn shortened(ticket: &str) -> String {
    let start: String = ticket.chars().take(32).collect();
    format!("{start}... ({} characters, works once)", ticket.chars().count())
}

/// The audit trail has every event and its chain of hashes holds.
pub(super) async fn audit_holds(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "What is on record",
        "Every certificate, change and revocation was committed together with its audit event.",
    )?;
    telling.account.command("signet audit list --limit 4")?;
    let operator = telling.mesh.operator()?.clone();
    let newest = operator.ask(&["audit", "list", "--limit", "4"]).await?;
    telling.account.table(&newest)?;
    telling.account.command("signet audit verify")?;
    let verified = operator.run(&["audit", "verify"]).await?;
    let said = if verified.status == Some(0) { verified.out } else { verified.error };
    let said = said.lines().next().unwrap_or_default().to_owned();
    telling.conclude("audit", verified.status == Some(0), said, None, "orders")
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
