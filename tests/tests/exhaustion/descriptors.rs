//! No file descriptor is left (RUSTSEC-2024-0376: the failed accept ended the server; ztunnel 1585).

use std::sync::Arc;
use std::time::Duration;

use signet_tests::apps::{RequestApp, TcpEcho};
use signet_tests::door::{Door, Frame};
use signet_tests::kernel::{open_descriptors, processor_time};
use signet_tests::logs::{field, is_message};
use signet_tests::raw_tls::RawClient;
use signet_tests::report::measured;
use signet_tests::sockets::EchoConnection;
use signet_tests::{PATIENCE, tls};
use tokio::time::{Instant, timeout};

const DESCRIPTORS: usize = 96;
const LIMIT: &str = "--nofile=96:96";
/// Open before the shortage, and used during it.
const KEPT: usize = 5;
/// After so many refused accepts, of which each waits twice as long, the next ones span more than a second.
const ATTEMPTS: usize = 8;
const MORE_ATTEMPTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_without_descriptors_backs_off_serves_what_is_open_and_recovers() {
    let (app, echo) = (RequestApp::start().await, TcpEcho::start().await);
    let frame = Frame::new();
    let proxy = frame
        .proxy()
        .wrapped(&["prlimit", LIMIT])
        .inbound("http://", app.address)
        .inbound("tcp://", echo.address)
        .start()
        .await;
    let caller = frame
        .caller_proxy()
        .outbound("tcp://", &format!("{}@{}", frame.authority.id("/server"), proxy.inbounds()[1]))
        .start()
        .await;
    let door = Door { frame, proxy };
    let mut kept = Vec::new();
    for _ in 0..KEPT {
        kept.push(EchoConnection::open(caller.outbound()).await);
    }

    // One descriptor each: idle connections for HTTP, to which no request has come yet.
    let config = Arc::new(tls::config(door.frame.svid()));
    let mut idle = Vec::new();
    let mut waiting = loop {
        assert!(idle.len() < DESCRIPTORS, "descriptors run out");
        let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
        client.send_flight().await.expect("the kernel takes it");
        let answered = timeout(Duration::from_secs(2), client.hear_until(|tls| !tls.is_handshaking())).await;
        match answered {
            Ok(answered) => answered.expect("as long as there is room"),
            // It is in the backlog.
            Err(_) => break client,
        }
        client.send_flight().await.expect("it reads");
        idle.push(client);
    };
    let refusal = |event: &_| is_message(event, "cannot accept, will try again");
    let first = door.proxy.process.wait_for_log("that it cannot accept", refusal).await;
    println!("with {} idle connections: {first}", idle.len());
    assert!(field(&first, "error").contains("Too many open files"), "{first}");
    assert!(open_descriptors(&door.proxy.process) >= DESCRIPTORS, "there is none left");

    for connection in &mut kept {
        connection.ping().await.expect("what is open is served");
    }
    door.proxy.process.wait_for_logs(0, ATTEMPTS, "more attempts", refusal).await;
    let (used, since) = (processor_time(&door.proxy.process), Instant::now());
    let mark = door.proxy.process.logs().mark();
    door.proxy.process.wait_for_logs(mark, MORE_ATTEMPTS, "more attempts", refusal).await;
    let (used, span) = (processor_time(&door.proxy.process).saturating_sub(used), since.elapsed());
    measured("processor time without descriptors", format!("{used:?} of {span:?}"));
    assert!(used < span / 4 + Duration::from_millis(100), "it spins: {used:?} of {span:?}");
    let attempts = door.proxy.process.logs().events(refusal).len();
    assert!(attempts < 40, "it backs off: {attempts} attempts");

    idle.truncate(KEPT);
    timeout(PATIENCE, waiting.finish()).await.expect("in time").expect("who waited is served");
    let answer = waiting.ask().await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let metrics = door.proxy.metrics().await;
    assert!(metrics.count("signet_accept_errors_total", &[("reason", "listener")]) >= ATTEMPTS as u64);
    for connection in &mut kept {
        connection.ping().await.expect("as before");
    }
    EchoConnection::open(caller.outbound()).await.ping().await.expect("and new ones");
    for client in &mut idle {
        assert!(client.ask().await.expect("an answer").starts_with("HTTP/1.1 200"));
    }
}
