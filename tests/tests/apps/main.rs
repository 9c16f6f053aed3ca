//! What apps do with a connection that is neither a request nor an answer: servers that speak first, bytes in
//! bulk, silence, ends and resets; and the ways in besides a TCP listener.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bulk;
mod connect;
mod ends;
mod first_byte;
mod talk;
mod unix_socket;

use std::net::SocketAddr;

use signet_tests::mesh::{Mesh, Pair, allow, id};

/// A pair of proxies in front of `app` that was told what it speaks, and one that has to find out.
async fn declared_and_detected(
    mesh: &Mesh,
    scheme: &'static str,
    app: SocketAddr,
) -> [(&'static str, Pair); 2] {
    let (frontend, declared, detected) = (id("/frontend"), id("/declared"), id("/detected"));
    for workload in [&frontend, &declared, &detected] {
        mesh.workload(workload).await;
    }
    let policies = [allow("one", &declared, &[&frontend]), allow("other", &detected, &[&frontend])];
    mesh.policy(&policies.join("---\n")).await;
    [
        (scheme, mesh.proxies(&frontend, &declared, scheme, app).await),
        ("detected", mesh.proxies(&frontend, &detected, "", app).await),
    ]
}
