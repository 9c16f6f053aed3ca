//! Alerts and noise at every state of the handshake. RUSTSEC-2024-0336: a `close_notify` in the middle made
//! rustls loop; RUSTSEC-2024-0399: a hello in pieces and an alert made it panic.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::kx_group::{SECP384R1, X25519};
use signet_tests::apps::RequestApp;
use signet_tests::client::Client;
use signet_tests::door::{Door, FAILURES, INBOUND};
use signet_tests::kernel::{processor_time, unread_bytes};
use signet_tests::raw_tls::{RawClient, alert, change_cipher_spec, handshake_record, record, records};
use signet_tests::report::measured;
use signet_tests::{PATIENCE, eventually, tls};
use tokio::task::JoinSet;

/// Sooner than any deadline of the proxy, so that it is the noise that ends the connection.
const PROMPT: Duration = Duration::from_secs(4);

const CLOSE_NOTIFY: u8 = 0;
const HANDSHAKE_FAILURE: u8 = 40;
const APPLICATION_DATA: u8 = 23;

/// How far the handshake goes before the noise comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BeforeHello,
    InsideHello,
    AfterRetry,
    InsteadOfCertificate,
    InsteadOfFinished,
    AfterHandshake,
}

const STATES: [State; 6] = [
    State::BeforeHello,
    State::InsideHello,
    State::AfterRetry,
    State::InsteadOfCertificate,
    State::InsteadOfFinished,
    State::AfterHandshake,
];

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_noise_end_the_connection_at_every_state() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let config = Arc::new(tls::config(door.frame.svid()));
    let fragmenting = Arc::new(small_records(tls::config(door.frame.svid())));
    // Its key share is of a group that we do not have, so it is asked for another.
    let retried = Arc::new(tls::config_offering(door.frame.svid(), &[SECP384R1, X25519]));
    let mut expected = 0;
    for state in STATES {
        let mark = door.proxy.process.logs().mark();
        let mut begun = Vec::new();
        for noise in noises() {
            let config = match state {
                State::AfterRetry => &retried,
                State::InsteadOfFinished => &fragmenting,
                _ => &config,
            };
            let mut client = RawClient::connect(door.proxy.inbound(), config).await;
            advance(&mut client, state).await.unwrap_or_else(|error| panic!("{state:?}: {error}"));
            begun.push((client, noise));
        }
        // Or else a client's last word and its noise could be one read.
        eventually("what was begun is read", PATIENCE, async || match unread_bytes(door.proxy.inbound()) {
            0 => Ok(()),
            unread => Err(format!("{unread} bytes are not")),
        })
        .await;
        let mut attacks = JoinSet::new();
        for (mut client, (name, bytes)) in begun {
            attacks.spawn(async move {
                // It may close before it has read all of it.
                let _ = client.send(&bytes).await;
                client.closed(PROMPT).await;
                (name, client.source())
            });
        }
        let attacks = attacks.join_all().await;
        if state != State::AfterHandshake {
            expected += attacks.len() as u64;
        }
        let mut endings: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
        for (name, source) in attacks {
            endings.entry(door.ending(mark, source).await).or_default().push(name);
        }
        for ((reason, detail), names) in endings {
            println!("{state:?}: {reason}: {detail}: {names:?}");
            let expected = if state == State::AfterHandshake { "error" } else { "handshake_failed" };
            assert_eq!(reason, expected, "{state:?}: {names:?}: {detail}");
        }
        door.proxy.counts(FAILURES, &[INBOUND], expected).await;
        door.is_unharmed().await;
    }
    assert_eq!(app.requests(), STATES.len(), "nothing but the honest client reached the app");

    // The deadline of a silent connection is the span: whoever spins uses up five seconds in it.
    let used = processor_time(&door.proxy.process);
    let mut silent = RawClient::connect(door.proxy.inbound(), &config).await;
    let span = silent.closed(Duration::from_secs(15)).await;
    let used = processor_time(&door.proxy.process).saturating_sub(used);
    measured("processor time while nothing happens after the attacks", format!("{used:?} of {span:?}"));
    assert!(used < span / 10, "something spins: {used:?} of {span:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_believe_us_is_counted_as_such() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;

    // Without our root it sends an encrypted alert where its certificate would be.
    let refused = Client::new("openssl")
        .args(["s_client", "-verify_return_error", "-connect", &door.proxy.inbound().to_string()])
        .run()
        .await;

    assert!(!refused.status.success(), "{}", refused.all());
    let counted = [INBOUND, ("reason", "refused_by_peer")];
    door.proxy.counts(FAILURES, &counted, 1).await;
    door.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_no_protocol_in_common_is_refused_at_once() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let mut config = tls::config(door.frame.svid());
    config.alpn_protocols = vec![b"gopher/9".to_vec(), b"signet/0".to_vec()];
    let mut client = RawClient::connect(door.proxy.inbound(), &Arc::new(config)).await;

    let refused = client.up_to_the_server_flight().await.expect_err("nothing in common");
    client.closed(PROMPT).await;

    // RFC 7301 s3.2.
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let counted = [INBOUND, ("reason", "incompatible")];
    door.proxy.counts(FAILURES, &counted, 1).await;
    door.is_unharmed().await;
}

/// What no client sends, and what a client sends at another time.
fn noises() -> Vec<(&'static str, Vec<u8>)> {
    let mut promise = vec![0x01];
    promise.extend([0xff, 0xff, 0xff]);
    promise.extend([0; 1000]);
    vec![
        ("close_notify", alert(CLOSE_NOTIFY)),
        ("a fatal alert", alert(HANDSHAKE_FAILURE)),
        ("an alert of one byte", record(21, &[2])),
        ("1,000 alerts that only warn", record(21, &[1, 90]).repeat(1000)),
        ("a record of an unknown kind", record(0x7f, &[0; 64])),
        ("a record longer than any may be", [&[22, 3, 3, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("5,000 empty handshake records", handshake_record(&[]).repeat(5000)),
        ("5,000 empty records of data", record(APPLICATION_DATA, &[]).repeat(5000)),
        ("5,000 times change_cipher_spec", change_cipher_spec().repeat(5000)),
        ("a hello of 16 MiB, begun", handshake_record(&promise)),
        ("data that nobody encrypted", record(APPLICATION_DATA, &[0x55; 300])),
        ("plain HTTP", signet_tests::raw_tls::REQUEST.to_vec()),
    ]
}

async fn advance(client: &mut RawClient, state: State) -> io::Result<()> {
    match state {
        State::BeforeHello => Ok(()),
        State::InsideHello => {
            let hello = client.flight();
            client.send(&handshake_record(&hello[5..hello.len() / 2])).await
        }
        State::AfterRetry => {
            client.send_flight().await?;
            client.hear_until(|tls| tls.wants_write()).await
        }
        State::InsteadOfCertificate => client.up_to_the_server_flight().await,
        State::InsteadOfFinished => {
            client.up_to_the_server_flight().await?;
            let records = records(&client.flight());
            client.send(&records[..records.len() - 1].concat()).await
        }
        State::AfterHandshake => client.finish().await,
    }
}

/// Certificate, `CertificateVerify` and Finished come in many records, the last of which can be kept back.
fn small_records(mut config: ClientConfig) -> ClientConfig {
    config.max_fragment_size = Some(64);
    config
}
