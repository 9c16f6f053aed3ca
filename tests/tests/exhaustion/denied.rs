//! Whom policy denies gives its place up soon, whatever it does not say: else its denial costs it nothing, and
//! the places are gone.

use std::net::SocketAddr;
use std::time::Duration;

use signet_tests::apps::RequestApp;
use signet_tests::client::file;
use signet_tests::door::{Frame, INBOUND};
use signet_tests::mesh::allow;
use signet_tests::pki::Svid;
use signet_tests::proxy::ProxyBuilder;
use signet_tests::report::measured;
use signet_tests::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tokio_rustls::client::TlsStream;

/// 5 s for the first request, 10 s in all, and a busy machine.
const SOON: Duration = Duration::from_secs(14);

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const STREAM_END: &[u8] = &[5, 0, 0, 0];
const STREAM_REFUSED: u8 = 3;

/// What somebody does who is denied.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Nothing, having offered that in the handshake.
    Silence(&'static str),
    /// This, and then nothing.
    Words(&'static str, &'static str),
    /// The second, and then the third again and again.
    Dribble(&'static str, &'static str, &'static str),
    /// Three streams of `signet/1`, each of which is refused.
    Streams,
}

const WAYS: &[Way] = &[
    Way::Silence(""),
    Way::Silence("h2"),
    Way::Silence("http/1.1"),
    Way::Silence("signet/1"),
    Way::Words("", "G"),
    Way::Words("http/1.1", "GET / HTTP/1.1\r\n"),
    Way::Words("h2", PREFACE),
    Way::Words("signet/1", "\x01"),
    Way::Dribble("http/1.1", "GET / HTTP/1.1\r\nHost: a\r\n", "x: y\r\n"),
    Way::Dribble("http/1.1", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", "x"),
    Way::Dribble("http/1.1", "", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    Way::Dribble("", "G", "E"),
    Way::Dribble("signet/1", "\x01\x00\x04\x00", "\x00"),
    Way::Dribble("h2", PREFACE, "\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh"),
    Way::Streams,
];

#[tokio::test(flavor = "multi_thread")]
async fn whom_policy_denies_keeps_no_place() {
    let frame = Frame::new();
    let server = frame.authority.id("/server");
    let nobody = allow("door", &server, &[&frame.authority.id("/nobody")]);
    let policy = file(frame.directory(), "policy.yaml", nobody);
    assert_eq!(policy, frame.policy);
    let app = RequestApp::start().await;
    let proxies = [
        frame.proxy().inbound("http://", app.address).start().await,
        frame.proxy().inbound("", app.address).start().await,
    ];

    let mut all = JoinSet::new();
    for proxy in &proxies {
        for way in WAYS {
            let (address, svid) = (proxy.inbound(), frame.svid().clone());
            all.spawn(async move {
                let lasted = timeout(SOON, denied(*way, address, &svid, app.address.port())).await;
                let lasted = lasted.unwrap_or_else(|_| panic!("{way:?} still has its place after {SOON:?}"));
                (*way, lasted)
            });
        }
    }
    while let Some(ended) = all.join_next().await {
        let (way, lasted) = ended.unwrap();
        measured(&format!("denied, {way:?}"), format!("{lasted:.1?}"));
    }
    for proxy in &proxies {
        proxy.counts("signet_connections_open", &[INBOUND], 0).await;
    }
    assert_eq!(app.requests(), 0);
}

/// How long it was let.
async fn denied(way: Way, address: SocketAddr, svid: &Svid, app: u16) -> Duration {
    let alpn = match way {
        Way::Silence(alpn) | Way::Words(alpn, _) | Way::Dribble(alpn, ..) => alpn,
        Way::Streams => "signet/1",
    };
    let mut config = tls::config(svid);
    config.alpn_protocols =
        [alpn].iter().filter(|alpn| !alpn.is_empty()).map(|alpn| alpn.as_bytes().to_vec()).collect();
    let mut stream = tls::handshake(address, config).await.expect("the identity is proven");
    let started = Instant::now();
    match way {
        Way::Silence(_) => {}
        Way::Words(_, words) => stream.write_all(words.as_bytes()).await.expect("it reads"),
        Way::Dribble(_, head, piece) => dribble(&mut stream, head, piece).await,
        Way::Streams => three_streams(&mut stream, app).await,
    }
    let _ = stream.read_to_end(&mut Vec::new()).await;
    started.elapsed()
}

async fn dribble(stream: &mut TlsStream<TcpStream>, head: &str, piece: &str) {
    let _ = stream.write_all(head.as_bytes()).await;
    let mut pace = interval(Duration::from_millis(500));
    let mut answer = [0; 1024];
    loop {
        tokio::select! {
            heard = stream.read(&mut answer) => if !matches!(heard, Ok(1..)) { return },
            _ = pace.tick() => if stream.write_all(piece.as_bytes()).await.is_err() { return },
        }
    }
}

async fn three_streams(stream: &mut TlsStream<TcpStream>, app: u16) {
    let [high, low] = app.to_be_bytes();
    for _ in 0..3 {
        stream.write_all(&[1, 0, 0, 5, 1, 0, 2, high, low]).await.expect("it reads");
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.expect("an answer");
        assert_eq!(head[0], STREAM_REFUSED, "{head:?}");
        let mut why = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
        stream.read_exact(&mut why).await.expect("all of it");
        stream.write_all(STREAM_END).await.expect("it reads");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_that_nobody_can_mean_are_wrong() {
    for flag in ["--max-connections", "--max-connections-per-identity"] {
        for count in ["99999999999999", "1000001", "0", "99999999999999999999999", "many"] {
            let (code, said) = ProxyBuilder::bare().with(flag, count).refuses_to_run().await;
            assert!(code == 2 && said.contains(&format!("{flag} ")), "{flag} {count}: {code}, {said}");
            assert!(said.contains(count), "it says what is wrong: {said}");
        }
    }
    let file = "max-connections = 99999999999999\n";
    let (code, said) = ProxyBuilder::bare().config(file, 0, 0).refuses_to_run().await;
    assert!(code == 2 && said.contains("max-connections"), "{code}, {said}");
}
