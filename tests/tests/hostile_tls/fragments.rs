//! A ClientHello in every number of pieces, in every place, and of every size that is allowed.

use std::sync::Arc;
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
use signet_tests::apps::RequestApp;
use signet_tests::door::{Door, FAILURES, INBOUND};
use signet_tests::kernel::unread_bytes;
use signet_tests::raw_tls::{RawClient, fragmented, handshake_record, records};
use signet_tests::report::measured;
use signet_tests::{PATIENCE, eventually, tls};
use tokio::task::JoinSet;

const OK: &str = "HTTP/1.1 200 OK";

/// Connections at once: fewer than one address may have in the handshake.
const BATCH: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_may_be_split_at_every_byte() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let inbound = door.proxy.inbound();
    let config = Arc::new(tls::config(door.frame.svid()));
    let mut whole = RawClient::connect(inbound, &config).await;
    let hello = whole.flight();
    let length = hello.len();
    assert!(length > 1200, "with its post-quantum key share: {length} bytes");
    whole.send(&hello).await.expect("it reads");
    assert_eq!(whole.ask().await.expect("not split at all"), OK);

    let positions: Vec<usize> = (1..length).collect();
    for batch in positions.chunks(BATCH) {
        let mut begun = Vec::new();
        for position in batch {
            let mut client = RawClient::connect(inbound, &config).await;
            let hello = client.flight();
            assert_eq!(hello.len(), length, "all hellos are alike");
            let (first, second) = hello.split_at(*position);
            client.send(first).await.expect("it reads");
            begun.push((*position, client, second.to_vec()));
        }
        // Then the second part comes in a read of its own.
        eventually("the first parts are read", PATIENCE, async || match unread_bytes(inbound) {
            0 => Ok(()),
            unread => Err(format!("{unread} bytes are not")),
        })
        .await;
        let mut requests = JoinSet::new();
        for (position, mut client, second) in begun {
            requests.spawn(async move {
                client.send(&second).await.expect("it reads");
                (position, client.ask().await)
            });
        }
        for (position, answer) in requests.join_all().await {
            let answer = answer.unwrap_or_else(|error| panic!("split at {position}: {error}"));
            assert_eq!(answer, OK, "split at {position}");
        }
    }
    measured("places where a hello was split and the request answered", length - 1);
    assert_eq!(app.requests(), length);
    assert_eq!(door.failures(None).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_may_come_in_records_of_every_size() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let config = Arc::new(tls::config(door.frame.svid()));

    for size in [1, 2, 3, 4, 5, 37, 38, 256, 1024] {
        let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
        let hello = client.flight();
        client.send(&fragmented(&hello, size)).await.expect("it reads");
        let answer = client.ask().await.unwrap_or_else(|error| panic!("records of {size} bytes: {error}"));
        assert_eq!(answer, OK, "records of {size} bytes");
    }

    // One record a byte, and each record in a segment of its own, as far as the network lets it.
    let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
    let hello = client.flight();
    for record in records(&fragmented(&hello, 1)) {
        client.send(&record).await.expect("it reads");
    }
    assert_eq!(client.ask().await.expect("it is a whole hello"), OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_of_16_kib_is_answered_and_one_without_end_is_not_waited_for() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let mut config = tls::config(door.frame.svid());
    config.alpn_protocols = (0..56).map(|number| format!("{number:0255}").into_bytes()).collect();
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let mut client = RawClient::connect(door.proxy.inbound(), &Arc::new(config)).await;
    let hello = client.flight();
    let length: usize = records(&hello).iter().map(|record| record.len() - 5).sum();
    assert!((15_000..=16_384).contains(&length), "{length}");

    client.send(&hello).await.expect("it reads");
    assert_eq!(client.ask().await.expect("a hello may be long"), OK);

    // 64 KiB, then 16 MiB, are announced and then sent for as long as somebody reads.
    for announced in [[0x01, 0x01, 0x00, 0x00], [0x01, 0xff, 0xff, 0xff]] {
        let config = Arc::new(tls::config(door.frame.svid()));
        let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
        let _ = client.send(&handshake_record(&announced)).await;
        let more = handshake_record(&[0; 16_000]);
        for _ in 0..1024 {
            if client.send(&more).await.is_err() {
                break;
            }
        }
        client.closed(Duration::from_secs(4)).await;
    }
    door.proxy.counts(FAILURES, &[INBOUND], 2).await;
    assert_eq!(door.failures(Some("hello_deadline")).await, 0, "nobody waited for the rest");
    door.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_usable_key_share_is_asked_for_another_once() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let offering = |groups: &[_]| Arc::new(tls::config_offering(door.frame.svid(), groups));

    for (groups, kind) in [
        (offering(&[SECP384R1, X25519]), HandshakeKind::FullWithHelloRetryRequest),
        (offering(&[SECP384R1, SECP256R1]), HandshakeKind::FullWithHelloRetryRequest),
        (offering(&[SECP256R1]), HandshakeKind::Full),
        (offering(&[X25519]), HandshakeKind::Full),
    ] {
        let mut client = RawClient::connect(door.proxy.inbound(), &groups).await;
        assert_eq!(client.ask().await.expect("a group in common"), OK);
        assert_eq!(client.tls.handshake_kind(), Some(kind));
    }
    assert_eq!(door.failures(None).await, 0);

    // The same hello again is no answer, and nobody asks a third time (RFC 8446 s4.1.4).
    let mut client = RawClient::connect(door.proxy.inbound(), &offering(&[SECP384R1, X25519])).await;
    let hello = client.flight();
    client.send(&hello).await.expect("it reads");
    client.hear_until(|tls| tls.wants_write()).await.expect("a hello retry request");
    client.send(&hello).await.expect("it reads");
    client.closed(Duration::from_secs(4)).await;

    let mut client = RawClient::connect(door.proxy.inbound(), &offering(&[SECP384R1])).await;
    client.up_to_the_server_flight().await.expect_err("no group in common");
    client.closed(Duration::from_secs(4)).await;
    door.proxy.counts(FAILURES, &[INBOUND], 2).await;
    door.is_unharmed().await;
}
