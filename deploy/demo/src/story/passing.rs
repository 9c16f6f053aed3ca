//! Nothing passes without a policy; a policy lets in whom it names; everybody else is refused and told why.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use hyper::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::changing::apply;
use super::{PATIENCE, Telling};
use crate::http::{Answer, Client};
use crate::load::Stream;
use crate::mesh::id;
use crate::metrics::Metrics;

/// What shop asks for all the time.
pub(super) const ORDER: &str = "/orders/17";

/// The policies of the demo. `batch_paths` is what batch may get from orders.
pub(super) fn policies(telling: &Telling<'_>, batch_paths: &str) -> Result<String> {
    let (shop, orders, batch) = (id("shop"), id("orders"), id("batch"));
    let (orders_port, batch_port) = (telling.mesh.app_port("orders")?, telling.mesh.app_port("batch")?);
    Ok(format!(
        r#"kind: Policy
name: orders
target: {orders}
rules:
  - name: shop-sells
    allow:
      from: [{shop}]
      ports: [{orders_port}]
      http: {{ methods: [GET, POST], paths: ["/orders/*"] }}
  - name: batch-reads
    allow:
      from: [{batch}]
      ports: [{orders_port}]
      http: {{ methods: [GET], paths: [{batch_paths}] }}
---
kind: Policy
name: batch
target: {batch}
rules:
  - name: shop-streams
    allow:
      from: [{shop}]
      ports: [{batch_port}]
"#
    ))
}

/// Deny by default: with identities but without a policy, nothing passes.
pub(super) async fn nothing_without_policy(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "An identity alone opens nothing",
        "There is no policy yet. shop asks orders, through its own proxy, over mutual TLS.",
    )?;
    let shop_port = telling.workload("shop")?.outbound("orders")?;
    telling.account.command(&format!("curl http://{shop_port}{ORDER}"))?;
    let outcome = Client::new(shop_port).get(ORDER).await;
    let (passed, said) = match &outcome {
        Ok(answer) => (answer.status == 200, format!("{} {}", answer.status, answer.body)),
        Err(error) => (false, format!("{error:#}")),
    };
    telling.account.quote(&said)?;
    let denied = await_denial(telling, "orders", "no_policy").await?;
    telling.account.say("orders' proxy logged:")?;
    telling.account.quote(&denied)?;
    telling.conclude(
        "deny by default",
        !passed,
        "without a policy shop does not reach orders: no_policy",
        None,
        "orders",
    )
}

/// The policy is applied, and the same request passes, with the identity of the caller in it.
pub(super) async fn policy_lets_in(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "A policy lets shop in",
        "The app behind orders' proxy speaks plain HTTP. It learns who called from one header.",
    )?;
    let policy = policies(telling, r#""/reports/*""#)?;
    telling.account.quote(&policy)?;
    apply(telling, "policy.yaml", &policy).await?;

    let shop_port = telling.workload("shop")?.outbound("orders")?;
    telling.account.command(&format!(
        "curl -H 'x-forwarded-client-cert: URI=spiffe://demo.mesh/admin' http://{shop_port}{ORDER}"
    ))?;
    let forged = [("x-forwarded-client-cert", "URI=spiffe://demo.mesh/admin")];
    let answer = ask_until_ok(shop_port, ORDER, &forged).await?;
    telling.account.quote(&answer.body)?;
    let seen = identity_seen(&answer.body)?;
    let by = format!("By={}", id("orders"));
    let uri = format!("URI={}", id("shop"));
    let only_real = seen.contains(&uri) && seen.contains(&by) && !seen.contains("admin");
    telling.conclude(
        "verified identity",
        answer.status == 200 && only_real,
        format!("orders saw {uri}; the forged header never arrived"),
        None,
        "orders",
    )?;

    let batch_port = telling.workload("shop")?.outbound("batch")?;
    let stream = Stream::open(batch_port).await;
    let echoed = stream.as_ref().map(|stream| stream.state().echoed).unwrap_or_default();
    let said = match &stream {
        Ok(_) => "bytes that are not HTTP come back from batch, over mutual TLS".to_owned(),
        Err(error) => format!("no bytes came back from batch: {error:#}"),
    };
    telling.conclude("opaque TCP", echoed > 0, said, None, "batch")
}

/// A caller that the policy does not name, and a caller without an identity.
pub(super) async fn others_are_refused(telling: &mut Telling<'_>) -> Result<()> {
    telling.account.chapter(
        "Who is not allowed is refused, and told why",
        "batch may read reports. It asks for a report, then for an order.",
    )?;
    let batch_port = telling.workload("batch")?.outbound("orders")?;
    let port = telling.mesh.app_port("orders")?.to_string();
    let mut client = Client::new(batch_port);
    telling.account.command(&format!("curl http://{batch_port}/reports/today"))?;
    let report = client.get("/reports/today").await?;
    telling.account.quote(&format!("{} {}", report.status, report.body))?;
    telling.account.command(&format!("curl http://{batch_port}{ORDER}"))?;
    let refused = client.get(ORDER).await?;
    telling.account.quote(&format!("{} {}", refused.status, refused.body))?;

    let (source, destination) = (id("batch"), id("orders"));
    let question = ["explain", &source, &destination, "--port", &port, "--method", "GET", "--path", ORDER];
    telling.account.command(&format!("signet {}", question.join(" ")))?;
    let explained = telling.mesh.operator()?.run(&question).await?;
    let explanation = if explained.out.is_empty() { &explained.error } else { &explained.out };
    telling.account.quote(explanation)?;

    let metrics = Metrics::scrape(telling.workload("orders")?.metrics).await?;
    let labels = [("direction", "inbound"), ("source", source.as_str()), ("reason", "no_rule")];
    for line in metrics.lines("signet_denied_total", &labels) {
        telling.account.quote(line)?;
    }
    let counted = metrics.sum("signet_denied_total", &labels) >= 1.0;
    telling.conclude(
        "refusal",
        report.status == 200 && refused.status == 403 && counted && !explanation.is_empty(),
        format!(
            "batch got {} for a report and {} for an order; explained and counted",
            report.status, refused.status
        ),
        None,
        "orders",
    )?;
    without_identity(telling).await
}

/// Plain HTTP to the port where orders' proxy expects mutual TLS.
async fn without_identity(telling: &mut Telling<'_>) -> Result<()> {
    let inbound = telling.workload("orders")?.inbound.context("orders accepts nothing")?;
    telling.account.say("Somebody without an identity asks orders' proxy directly:")?;
    telling.account.command(&format!("curl http://{inbound}{ORDER}"))?;
    let said = speak_plainly(inbound).await;
    let reached = String::from_utf8_lossy(&said).contains("\"app\"");
    let shown = if said.is_empty() {
        "closed without a word".to_owned()
    } else {
        format!("{} bytes of TLS alert", said.len())
    };
    telling.account.quote(&shown)?;
    let deadline = Instant::now() + PATIENCE;
    let counted = loop {
        let metrics = Metrics::scrape(telling.workload("orders")?.metrics).await?;
        let failures = metrics.sum("signet_handshake_failures_total", &[("direction", "inbound")]);
        if failures >= 1.0 || Instant::now() > deadline {
            break failures >= 1.0;
        }
    };
    telling.conclude(
        "no identity",
        !reached && counted,
        "a caller without a certificate gets nothing",
        None,
        "orders",
    )
}

async fn speak_plainly(address: SocketAddr) -> Vec<u8> {
    let mut said = Vec::new();
    let talk = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(format!("GET {ORDER} HTTP/1.1\r\nhost: orders\r\n\r\n").as_bytes()).await?;
        connection.read_to_end(&mut said).await
    };
    // However it ends, what matters is what was said.
    let _ = tokio::time::timeout(PATIENCE, talk).await;
    said
}

/// The policy is in force when `apply` returns; the first request may still meet a connection being closed.
async fn ask_until_ok(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = Client::new(address).send(Method::GET, path, headers).await;
        match answer {
            Ok(answer) if answer.status == 200 || Instant::now() > deadline => return Ok(answer),
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => {}
        }
    }
}

/// Waits for the access-log record of a denial; gives the part of it that people read.
async fn await_denial(telling: &Telling<'_>, workload: &str, reason: &str) -> Result<String> {
    let what = format!("a denial with reason {reason}");
    let fields = telling.workload(workload)?.proxy.await_record(&what, PATIENCE, |record| {
        let fields = record.get("fields")?;
        let denied = fields.get("verdict")? == "deny" && fields.get("reason")? == reason;
        denied.then(|| fields.clone())
    });
    let fields = fields.await?;
    let part = |name: &str| Some(format!("{name}={}", text(fields.get(name)?)));
    Ok(["direction", "source", "destination", "port", "verdict", "reason"]
        .into_iter()
        .filter_map(part)
        .collect::<Vec<_>>()
        .join(" "))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the app found in `x-forwarded-client-cert`.
fn identity_seen(body: &str) -> Result<String> {
    let body: Value = serde_json::from_str(body).with_context(|| format!("the app answered {body}"))?;
    let seen =
        body.get("x-forwarded-client-cert").and_then(Value::as_array).context("the app saw no identity")?;
    Ok(seen.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" and "))
}
