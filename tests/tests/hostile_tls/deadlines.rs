//! Callers that send a byte at a time, for as long as somebody listens. Each phase ends on its own deadline
//! and says so in the access log. All of them dribble at the same time: together they take as long as the
//! longest, the 60 s of an HTTP head.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use signet_tests::apps::{RequestApp, TcpEcho};
use signet_tests::door::Door;
use signet_tests::kernel::processor_time;
use signet_tests::logs::field;
use signet_tests::raw_tls::RawClient;
use signet_tests::report::measured;
use signet_tests::tls;
use tokio::time::{Instant, interval, timeout};

const PACE: Duration = Duration::from_millis(200);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn each_phase_ends_on_its_own_deadline_and_says_so() {
    let (app, echo) = (RequestApp::start().await, TcpEcho::start().await);
    let http = Door::open("http://", app.address).await;
    let detect = Door::open("", echo.address).await;
    let config = Arc::new(tls::config(http.frame.svid()));
    let other = Arc::new(tls::config(detect.frame.svid()));
    let used = processor_time(&http.proxy.process) + processor_time(&detect.proxy.process);

    let hello = async {
        let mut client = RawClient::connect(http.proxy.inbound(), &config).await;
        let hello = client.flight();
        let took = dribble(&mut client, &hello).await;
        expect(&http, "hello", &client, took, 5, ("handshake_failed", "hello_deadline")).await;
    };
    let handshake = async {
        let mut client = RawClient::connect(http.proxy.inbound(), &config).await;
        let begun = Instant::now();
        client.up_to_the_server_flight().await.expect("the server says its part");
        let flight = client.flight();
        let took = begun.elapsed() + dribble(&mut client, &flight).await;
        expect(&http, "handshake", &client, took, 10, ("handshake_failed", "deadline")).await;
    };
    let first_line = async |door: &Door, config: &Arc<ClientConfig>, what: &str| {
        let (mut client, line) =
            encrypted(door, config, |number| if number == 0 { b"GET /".to_vec() } else { b"a".to_vec() })
                .await;
        let took = dribble_records(&mut client, line).await;
        expect(door, what, &client, took, 5, ("error", "first line not finished within 5 s")).await;
    };
    let head = async {
        let (mut client, head) = encrypted(&http, &config, |number| {
            if number == 0 { b"GET / HTTP/1.1\r\nx: ".to_vec() } else { b"a".to_vec() }
        })
        .await;
        let took = dribble_records(&mut client, head).await;
        expect(&http, "head", &client, took, 60, ("idle", "")).await;
    };
    tokio::join!(
        hello,
        handshake,
        first_line(&http, &config, "first line, declared HTTP"),
        first_line(&detect, &other, "first line, to be detected"),
        head,
    );

    assert_eq!(app.requests(), 0, "none of it reached the app");
    for door in [&http, &detect] {
        door.proxy.counts("signet_connections_open", &[signet_tests::door::INBOUND], 0).await;
    }
    http.is_unharmed().await;
    let used = processor_time(&http.proxy.process) + processor_time(&detect.proxy.process) - used;
    measured("processor time of both proxies for five dribbling callers", format!("{used:?}"));
    assert!(used < Duration::from_secs(3), "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_still_is_idle() {
    let (app, echo) = (RequestApp::start().await, TcpEcho::start().await);
    let door = impatient(&app, &echo).await;
    let config = Arc::new(tls::config(door.frame.svid()));

    let body = async {
        let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
        client.finish().await.expect("a handshake");
        client.tls.writer().write_all(UPLOAD).expect("memory");
        let begun = Instant::now();
        client.send_flight().await.expect("it reads");
        client.closed(IDLE + SLACK).await;
        within("a body that stands still", begun.elapsed(), IDLE.as_secs());
        let line = door.proxy.access(&[("kind", "request")]).await;
        assert_eq!(field(&line, "close_reason"), "idle", "the caller stood still, not the app: {line}");
    };
    let bytes = async {
        let mut client = RawClient::connect(door.proxy.inbounds()[1], &config).await;
        client.finish().await.expect("a handshake");
        let begun = Instant::now();
        client.closed(IDLE + SLACK).await;
        within("bytes that stand still", begun.elapsed(), IDLE.as_secs());
        let (reason, detail) = door.ending(0, client.source()).await;
        assert_eq!((reason.as_str(), detail.as_str()), ("idle", "nothing moved for 2 s"));
    };
    tokio::join!(body, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_is_not_idle_however_slowly() {
    let (app, echo) = (RequestApp::start().await, TcpEcho::start().await);
    let door = impatient(&app, &echo).await;
    let config = Arc::new(tls::config(door.frame.svid()));
    // Twice the idle time in all, and a tenth of it between any two bytes.
    let dribbled = async |client: &mut RawClient, count: usize| -> io::Result<()> {
        let mut pace = interval(PACE);
        for _ in 0..count {
            pace.tick().await;
            client.tls.writer().write_all(b"x")?;
            client.send_flight().await?;
        }
        client.hear_until(|tls| !tls.wants_read()).await
    };

    let body = async {
        let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
        client.finish().await.expect("a handshake");
        client.tls.writer().write_all(UPLOAD).expect("memory");
        client.send_flight().await.expect("it reads");
        let answered = dribbled(&mut client, UPLOADED).await;
        let ending = door.proxy.access(&[("kind", "request")]).await;
        assert!(answered.is_ok(), "the body moved all the time: {answered:?}: {ending}");
        let mut answer = [0; 15];
        client.tls.reader().read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK", "{}: {ending}", answer.escape_ascii());
    };
    let bytes = async {
        let mut client = RawClient::connect(door.proxy.inbounds()[1], &config).await;
        client.finish().await.expect("a handshake");
        dribbled(&mut client, UPLOADED).await.expect("they moved all the time");
    };
    tokio::join!(bytes, body);
}

const IDLE: Duration = Duration::from_secs(2);
const UPLOADED: usize = 24;
const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nHost: door.test\r\nContent-Length: 24\r\n\r\n";

/// HTTP at the first inbound port, bytes at the second, and two seconds in which nothing may move.
async fn impatient(app: &RequestApp, echo: &TcpEcho) -> Door {
    Door::open_with(|proxy| {
        let proxy = proxy.inbound("http://", app.address).inbound("tcp://", echo.address);
        proxy.with("--idle-timeout", "2s")
    })
    .await
}

/// Ends on time, with that close reason, and with a detail that begins like that.
async fn expect(
    door: &Door,
    what: &str,
    client: &RawClient,
    took: Duration,
    deadline: u64,
    (reason, detail): (&str, &str),
) {
    within(what, took, deadline);
    let ending = door.ending(0, client.source()).await;
    println!("{what}: after {took:?}: {ending:?}");
    assert_eq!(ending.0, reason, "{what}: {ending:?}");
    assert!(ending.1.starts_with(detail), "{what}: {ending:?}");
}

fn within(what: &str, took: Duration, seconds: u64) {
    let deadline = Duration::from_secs(seconds);
    let early = deadline.saturating_sub(Duration::from_millis(300));
    assert!(took >= early && took < deadline + SLACK, "{what} ends after {deadline:?}: {took:?}");
}

/// A byte at a time until the server closes; how long that took.
async fn dribble(client: &mut RawClient, bytes: &[u8]) -> Duration {
    dribble_records(client, bytes.iter().map(|byte| vec![*byte]).collect()).await
}

async fn dribble_records(client: &mut RawClient, pieces: Vec<Vec<u8>>) -> Duration {
    let begun = Instant::now();
    let mut pace = interval(PACE);
    for piece in pieces {
        pace.tick().await;
        let mut seen = [0; 1];
        let closed = matches!(
            timeout(Duration::from_millis(1), client.stream.peek(&mut seen)).await,
            Ok(Ok(0) | Err(_))
        );
        if closed || client.send(&piece).await.is_err() {
            return begun.elapsed();
        }
    }
    panic!("nobody closed");
}

/// A finished handshake, and what to send then: `text` of each number in a record of its own, for 80 s.
async fn encrypted(
    door: &Door,
    config: &Arc<ClientConfig>,
    text: impl Fn(u32) -> Vec<u8>,
) -> (RawClient, Vec<Vec<u8>>) {
    let address: SocketAddr = door.proxy.inbound();
    let mut client = RawClient::connect(address, config).await;
    client.finish().await.expect("a handshake");
    let pieces = (0..400).map(|number| {
        client.tls.writer().write_all(&text(number)).expect("memory");
        client.flight()
    });
    let pieces = pieces.collect();
    (client, pieces)
}
