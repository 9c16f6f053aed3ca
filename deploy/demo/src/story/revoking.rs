//! An identity is revoked: its connections are cut, and only those.

use anyhow::{Context as _, Result};

use super::changing::report;
use super::passing::ORDER;
use super::{IN_FORCE, Load, PATIENCE, Telling, between, milliseconds};
use crate::checks::Figure;
use crate::http::Client;
use crate::mesh::id;
use crate::metrics::Metrics;
use crate::operator::Change;

/// The close reason of a connection whose peer was revoked.
const REASON: &str = "revoked_identity";

/// Revokes batch while shop has a connection to it.
pub(super) async fn identity_is_revoked(telling: &mut Telling<'_>, load: &mut Load) -> Result<()> {
    telling.account.chapter(
        "A revocation cuts a live connection",
        "shop's TCP connection to batch has been open all the time. batch's key is reported stolen.",
    )?;
    let before = load.stream.state().echoed;
    telling.account.say(&format!("The connection is alive: {before} messages so far."))?;
    let batch = id("batch");
    telling.account.command(&format!("signet revoke {batch} --reason 'key stolen'"))?;
    let change: Change =
        telling.mesh.operator()?.ask_json(&["revoke", &batch, "--reason", "key stolen"]).await?;
    report(telling, &change)?;

    let Some((at, how)) = load.stream.end_within(PATIENCE).await else {
        let error =
            telling.workload("shop")?.proxy.trouble("the connection to the revoked batch is still open");
        return Err(error);
    };
    let took = between(change.committed_at, at);
    telling.account.value("cut after", &milliseconds(took))?;
    telling.account.value("as shop saw it", &how)?;
    let logged = await_close_reason(telling).await?;
    telling.account.say("shop's proxy logged:")?;
    telling.account.quote(&logged)?;
    let metrics = Metrics::scrape(telling.workload("shop")?.metrics).await?;
    let labels = [("reason", REASON)];
    for line in metrics.lines("signet_connections_closed_total", &labels) {
        telling.account.quote(line)?;
    }
    let counted = metrics.count("signet_connections_closed_total", &labels);
    telling.conclude(
        "revocation",
        took < IN_FORCE && counted == 1 && change.closed() > 0,
        format!(
            "the live connection was cut {} after the commit, reason {REASON}; none of the others of shop",
            milliseconds(took)
        ),
        Some(Figure::Took(took)),
        "shop",
    )?;
    revoked_stays_out(telling).await
}

/// From now on batch gets nowhere, while shop's requests go on.
async fn revoked_stays_out(telling: &mut Telling<'_>) -> Result<()> {
    let address = telling.workload("batch")?.outbound("orders")?;
    telling.account.command(&format!("curl http://{address}/reports/today"))?;
    let report = Client::new(address).get("/reports/today").await;
    let (passed, said) = match report {
        Ok(answer) => (answer.status == 200, format!("{} {}", answer.status, answer.body)),
        Err(error) => (false, format!("{error:#}")),
    };
    telling.account.quote(&said)?;
    telling.account.say("orders' proxy counts the attempts:")?;
    let metrics = Metrics::scrape(telling.workload("orders")?.metrics).await?;
    for line in metrics.lines("signet_handshake_failures_total", &[("reason", REASON)]) {
        telling.account.quote(line)?;
    }
    let shop = telling.workload("shop")?.outbound("orders")?;
    let answer = Client::new(shop).get(ORDER).await.context("shop no longer reaches orders")?;
    telling.conclude(
        "revoked stays out",
        !passed && answer.status == 200,
        "batch is refused what it was allowed before; shop is served as before",
        None,
        "orders",
    )
}

/// Waits for the record of the cut connection; gives the part of it that people read.
async fn await_close_reason(telling: &Telling<'_>) -> Result<String> {
    let what = format!("a connection closed with reason {REASON}");
    telling
        .workload("shop")?
        .proxy
        .await_record(&what, PATIENCE, |record| {
            let fields = record.get("fields")?;
            let cut = fields.get("close_reason")? == REASON;
            let part = |name: &str| {
                let value = fields.get(name)?;
                Some(format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            };
            let parts = [
                "direction",
                "source",
                "destination",
                "bytes_in",
                "bytes_out",
                "duration_ms",
                "close_reason",
            ];
            cut.then(|| parts.into_iter().filter_map(part).collect::<Vec<_>>().join(" "))
        })
        .await
}
