//! Thousands of handshakes that nobody means to finish, and an honest client among them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use signet_tests::apps::RequestApp;
use signet_tests::door::{Door, FAILURES, INBOUND};
use signet_tests::kernel::{allow_descriptors, processor_time};
use signet_tests::logs::is_access;
use signet_tests::raw_tls::RawClient;
use signet_tests::report::{measured, percentiles};
use signet_tests::{PATIENCE, eventually, tls};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many of one address may be in the handshake at a time.
const SHARE: usize = 512;
/// 127.0.1.1 and on; the honest client is elsewhere.
const ADDRESSES: u8 = 10;
const OF_EACH: usize = 300;
/// The promise is 5 s; the rest is for a busy machine.
const HELLO_DEADLINE: Duration = Duration::from_secs(15);
/// For each connection that says nothing, or not enough.
const CEILING_PER_CONNECTION: u64 = 32 * 1024;

/// What the flood does to a connection.
#[derive(Debug, Clone, Copy)]
enum Habit {
    SaysNothing,
    HalfHello,
    LeavesInTheMiddle,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_is_bounded_and_does_not_keep_others_out() {
    allow_descriptors(8192);
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let config = Arc::new(tls::config(door.frame.svid()));
    door.is_unharmed().await;
    let (memory, processor) = (door.proxy.process.resident_bytes(), processor_time(&door.proxy.process));

    let mut flood = JoinSet::new();
    for address in 1..=ADDRESSES {
        for number in 0..OF_EACH {
            let habit = [Habit::SaysNothing, Habit::HalfHello, Habit::LeavesInTheMiddle][number % 3];
            let source = Ipv4Addr::new(127, 0, 1, address);
            flood.spawn(attack(source, door.proxy.inbound(), Arc::clone(&config), habit));
        }
    }
    let total = flood.len();
    let (mut held, mut answers, mut peak) = (Vec::new(), Vec::new(), 0);
    while let Some(attacked) = flood.join_next().await {
        held.extend(attacked.expect("no attacker fails"));
        if flood.len() % 200 == 0 {
            let asked = Instant::now();
            door.is_unharmed().await;
            answers.push(asked.elapsed());
            peak = peak.max(door.proxy.process.resident_bytes().saturating_sub(memory));
        }
    }
    assert!(held.len() >= total / 2, "most of the flood is held open: {}", held.len());

    let mut ends = JoinSet::new();
    for mut client in held {
        ends.spawn(async move { client.closed(HELLO_DEADLINE).await });
    }
    let ended = ends.join_all().await.len() as u64;
    door.is_unharmed().await;
    drop(app);

    let counted = [INBOUND, ("reason", "hello_deadline")];
    door.proxy.counts(FAILURES, &counted, ended).await;
    door.proxy.counts(FAILURES, &[INBOUND], total as u64).await;
    door.proxy.counts("signet_connections_open", &[INBOUND], 0).await;
    measured(&format!("memory under {total} handshakes at once"), format!("{} KiB more", peak / 1024));
    measured("an honest client during the flood", percentiles(answers));
    let processor = processor_time(&door.proxy.process).saturating_sub(processor);
    measured("processor time of the proxy for all of it", format!("{processor:?}"));
    assert!(peak < total as u64 * CEILING_PER_CONNECTION, "memory is bounded: {peak} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_no_more_than_its_share_of_handshakes() {
    const BEYOND: usize = 88;
    allow_descriptors(4096);
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let config = Arc::new(tls::config(door.frame.svid()));
    let inbound = door.proxy.inbound();
    let source = Ipv4Addr::new(127, 0, 2, 1);

    let mut silent = Vec::new();
    for _ in 0..SHARE + BEYOND {
        silent.push(connect(source, inbound, &config).await);
    }

    let limited = [("close_reason", "limited")];
    let refused = door.proxy.accesses(BEYOND, &limited).await;
    assert_eq!(refused.len(), BEYOND);
    door.proxy.counts("signet_limited_total", &[("reason", "address")], BEYOND as u64).await;
    // The others of that address are still heard, and those of another address come in.
    door.is_unharmed().await;
    eventually("as many as its share are open", PATIENCE, async || {
        let open = door.proxy.metrics().await.count("signet_connections_open", &[]);
        if open == SHARE as u64 { Ok(()) } else { Err(format!("{open} are")) }
    })
    .await;
    let answer = silent[0].ask().await.expect("the first of them has its place");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // One is over: there is room for one.
    let mut another = connect(source, inbound, &config).await;
    assert!(another.ask().await.expect("there is room again").starts_with("HTTP/1.1 200"));
    let refused = door.proxy.process.logs().events(|event| is_access(event, &limited));
    assert_eq!(refused.len(), BEYOND, "nobody else was refused");
}

/// What stays open of the attack.
async fn attack(
    source: Ipv4Addr,
    to: SocketAddr,
    config: Arc<ClientConfig>,
    habit: Habit,
) -> Option<RawClient> {
    let mut client = connect(source, to, &config).await;
    match habit {
        Habit::SaysNothing => Some(client),
        Habit::HalfHello => {
            let hello = client.flight();
            client.send(&hello[..hello.len() / 2]).await.expect("it reads");
            Some(client)
        }
        Habit::LeavesInTheMiddle => {
            client.up_to_the_server_flight().await.expect("the server says its part");
            None
        }
    }
}

async fn connect(source: Ipv4Addr, to: SocketAddr, config: &Arc<ClientConfig>) -> RawClient {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((source, 0).into()).expect("all of 127.0.0.0/8 is ours");
    RawClient::over(socket.connect(to).await.expect("it accepts"), config)
}
