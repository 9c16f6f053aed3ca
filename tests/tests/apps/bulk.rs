//! Bytes in bulk: nothing is lost, added or swapped on the way.

use std::time::Instant;

use signet_tests::apps::{Iperf, Nginx, iperf, iperf_received};
use signet_tests::files::{GIBIBYTE, checksum_of, digest, write_gibibyte};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::report::measured;

#[tokio::test(flavor = "multi_thread")]
async fn iperf3_moves_bytes_both_ways() {
    const MEGABYTES: u64 = 500;
    /// iperf3 ends when all is sent: what the sockets on the way still hold then has not arrived.
    const ON_THE_WAY: u64 = 64;
    let (mesh, app) = (Mesh::start().await, Iperf::start().await);
    let (client, speed) = (id("/client"), id("/speed"));
    mesh.policy(&allow("speed", &speed, &[&client])).await;
    let pair = mesh.pair(&client, &speed, "tcp://", app.address).await;

    for (direction, option) in [("to the app", None), ("from the app", Some("--reverse"))] {
        let finished = iperf(pair.entry(), MEGABYTES + ON_THE_WAY, option.as_slice()).run().await;
        let (bytes, gigabits) = iperf_received(finished);
        assert!(bytes >= MEGABYTES * 1_000_000, "{direction}: {bytes} bytes");
        measured(&format!("iperf3 through a pair, {direction}"), format!("{gigabits:.2} Gbit/s"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_of_1_gib_arrives_as_it_was_sent() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let sent = write_gibibyte(&nginx.files().join("large")).await;
    // As a body of HTTP, and as bytes.
    for (how, scheme) in [("http", "http://"), ("tcp", "tcp://")] {
        let (client, files) = (id(&format!("/client/{how}")), id(&format!("/files/{how}")));
        mesh.policy(&allow("files", &files, &[&client])).await;
        let pair = mesh.pair(&client, &files, scheme, nginx.address).await;

        let started = Instant::now();
        let received = checksum_of(pair.entry(), "/files/large").run().await.succeeded();

        assert_eq!(digest(&received), sent, "{how}");
        measured(
            &format!("1 GiB through a pair into b2sum, {how}"),
            format!("{:.2} Gbit/s", GIBIBYTE as f64 * 8e-9 / started.elapsed().as_secs_f64()),
        );
        drop(pair);
    }
}
