//! Peers that we did not write, with SVIDs of the same authority, on both sides of a proxy: who has the right
//! identity gets through over every protocol, whoever's TLS it is, and who has another does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod envoy;
mod haproxy;
mod others;

use std::net::SocketAddr;

use serde_json::Value;
use signet_tests::apps::header_values;
use signet_tests::client::{Finished, curl};
use signet_tests::door::{FAILURES, Frame};
use signet_tests::proxy::Proxy;
use signet_tests::{PATIENCE, eventually};

/// `GET /`, over HTTP/1.1 or HTTP/2 with prior knowledge, with an identity of the caller's own invention.
async fn get(address: SocketAddr, version: &str) -> Finished {
    curl()
        .args(["--include", version, "--header", "x-forwarded-client-cert: URI=spiffe://door.test/forged"])
        .arg(format!("http://{address}/"))
        .run()
        .await
        .succeeded()
}

/// Waits until handshakes in that `direction` have failed for `reason`.
async fn refused(proxy: &Proxy, direction: &str, reason: &str) {
    let labels = [("direction", direction), ("reason", reason)];
    eventually(&format!("a handshake fails: {labels:?}"), PATIENCE, async || {
        let metrics = proxy.metrics().await;
        let reasons = metrics.values(FAILURES, "reason");
        if metrics.count(FAILURES, &labels) > 0 { Ok(()) } else { Err(format!("only {reasons:?}")) }
    })
    .await;
}

/// The identity headers in the answer of a `RequestApp`.
fn identities(answer: &str) -> Vec<String> {
    let body = answer.rsplit("\r\n\r\n").next().unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    header_values(&body, |name| name.replace('_', "-") == "x-forwarded-client-cert")
}

/// What an app behind our proxy is told of `/client`.
fn names_the_client(frame: &Frame, identities: &[String]) -> bool {
    let (by, uri) = (frame.authority.id("/server"), frame.authority.id("/client"));
    matches!(identities, [only] if only.starts_with(&format!("By={by};Hash=")) && only.ends_with(&format!(";URI={uri}")))
}
