//! Servers that speak first, with their own clients.

use signet_tests::apps::{MariaDb, Nats, mariadb, nats};
use signet_tests::mesh::Mesh;

use crate::declared_and_detected;

#[tokio::test(flavor = "multi_thread")]
async fn mysql_client_talks_to_mariadb() {
    let (mesh, app) = (Mesh::start().await, MariaDb::start().await);
    for (how, pair) in declared_and_detected(&mesh, "tcp://", app.address).await {
        let statements = "create database if not exists test; use test;
            create or replace table numbers as select seq from seq_1_to_100000;
            select count(*), sum(seq) from numbers; select repeat('x', 1000000)";
        let answer = mariadb(pair.entry(), statements).run().await.succeeded();

        let mut lines = answer.stdout.lines();
        assert_eq!(lines.next(), Some("100000\t5000050000"), "{how}");
        assert_eq!(lines.next().map(str::len), Some(1_000_000), "{how}");
        // The statements went in one connection, whose protocol is the app's own business.
        let line = pair.server.access(&[("kind", "connection"), ("protocol", "tcp")]).await;
        assert_eq!(line["fields"]["close_reason"], "finished", "{how}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_client_gets_its_messages_whole_and_in_order() {
    let (mesh, app) = (Mesh::start().await, Nats::start().await);
    for (how, pair) in declared_and_detected(&mesh, "tcp://", app.address).await {
        let answer = nats(pair.entry(), 10_000).run().await.succeeded();
        assert_eq!(answer.stdout.trim(), "10000", "{how}");
        pair.server.access(&[("kind", "connection"), ("protocol", "tcp"), ("verdict", "allow")]).await;
    }
}
