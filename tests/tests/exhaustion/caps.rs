//! Places are counted: of each identity, and in all.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use signet_tests::apps::{RequestApp, TcpEcho};
use signet_tests::door::{Door, INBOUND};
use signet_tests::logs::{field, is_access};
use signet_tests::pki::Svid;
use signet_tests::sockets::EchoConnection;
use signet_tests::{PATIENCE, eventually, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const LIMITED: &str = "signet_limited_total";

#[tokio::test(flavor = "multi_thread")]
async fn one_identity_has_no_more_than_its_share_of_places() {
    const SHARE: usize = 5;
    let echo = TcpEcho::start().await;
    let door = Door::open_with(|proxy| {
        proxy.inbound("tcp://", echo.address).with("--max-connections-per-identity", SHARE)
    })
    .await;
    let address = door.proxy.inbound();
    let (greedy, modest) = (door.frame.svid().clone(), svid(&door, "/modest"));
    let mut held = Vec::new();
    for _ in 0..SHARE {
        held.push(echoed(address, &greedy).await.expect("there is room"));
    }

    // Each time: the handshake, which tells who it is, and then the end.
    for refused in 1..=3 {
        let mark = door.proxy.process.logs().mark();
        assert!(echoed(address, &greedy).await.is_err(), "one more than its share");
        let line = door.proxy.access_since(mark, &[("close_reason", "limited")]).await;
        assert_eq!(field(&line, "source"), door.frame.authority.id("/client"), "{line}");
        door.proxy.counts(LIMITED, &[("reason", "identity")], refused).await;
    }
    // The same identity with another certificate is the same.
    let another = svid(&door, "/client");
    assert!(echoed(address, &another).await.is_err(), "an identity is not its certificate");

    let mut guest = echoed(address, &modest).await.expect("others have their own share");
    for connection in &mut held {
        ping(connection).await.expect("what is open stays open");
    }
    ping(&mut guest).await.expect("and so does the guest");
    held.pop();
    eventually("its place is free again", PATIENCE, async || {
        echoed(address, &greedy).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(door.failures(None).await, 0, "none of it is a failed handshake");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_identity_are_refused_by_its_share_too() {
    const SHARE: usize = 2;
    let app = RequestApp::start().await;
    let door = Door::open_with(|proxy| {
        proxy.inbound("http://", app.address).with("--max-connections-per-identity", SHARE)
    })
    .await;
    let config = Arc::new(tls::config(door.frame.svid()));
    let mut held = Vec::new();
    for _ in 0..SHARE {
        held.push(handshaken(door.proxy.inbound(), &config).await.expect("there is room"));
    }
    door.proxy.counts("signet_connections_open", &[INBOUND], SHARE as u64).await;

    let refused = door.honest_client("127.0.0.2", "/").run().await;
    assert!(!refused.stdout.contains("HTTP/1.1 200"), "{}", refused.all());
    door.proxy.counts(LIMITED, &[("reason", "identity")], 1).await;
    assert_eq!(app.requests(), 0);

    drop(held);
    door.proxy.counts("signet_connections_open", &[INBOUND], 0).await;
    door.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_so_many_places_and_who_comes_later_waits_for_one() {
    const PLACES: usize = 20;
    let echo = TcpEcho::start().await;
    let door =
        Door::open_with(|proxy| proxy.inbound("tcp://", echo.address).with("--max-connections", PLACES))
            .await;
    let address = door.proxy.inbound();
    let svid = door.frame.svid().clone();
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(echoed(address, &svid).await.expect("there is room"));
    }

    let late = tokio::spawn(async move { echoed(address, &svid).await.map(drop) });
    for connection in &mut held {
        ping(connection).await.expect("what is open is served");
    }
    door.proxy.counts("signet_connections_open", &[INBOUND], PLACES as u64).await;
    assert!(!late.is_finished(), "there is no place");

    held.pop();
    timeout(PATIENCE, late).await.expect("in time").expect("it runs").expect("and now there is");
    let limited = [("close_reason", "limited")];
    assert!(door.proxy.process.logs().events(|event| is_access(event, &limited)).is_empty(), "nobody lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_the_door_do_not_keep_the_app_from_calling_out() {
    const PLACES: usize = 4;
    let echo = TcpEcho::start().await;
    let there = Door::open("tcp://", echo.address).await;
    let peer = format!("{}@{}", there.frame.authority.id("/server"), there.proxy.inbound());
    let proxy = there
        .frame
        .caller_proxy()
        .inbound("tcp://", echo.address)
        .outbound("tcp://", &peer)
        .with("--max-connections", PLACES)
        .start()
        .await;
    // They say nothing, and have their places until the hello deadline.
    let mut silent = Vec::new();
    for _ in 0..PLACES * 3 {
        silent.push(TcpStream::connect(proxy.inbound()).await.expect("the kernel accepts"));
    }
    // Half of the places are for those who have proved who they are.
    proxy.counts("signet_connections_open", &[INBOUND], PLACES as u64 / 2).await;

    EchoConnection::open(proxy.outbound())
        .await
        .ping()
        .await
        .expect("the other direction has its own places");
}

fn svid(door: &Door, path: &str) -> Svid {
    door.frame.authority.svid(&door.frame.authority.id(path))
}

async fn echoed(address: SocketAddr, svid: &Svid) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = handshaken(address, &Arc::new(tls::config(svid))).await?;
    ping(&mut stream).await?;
    Ok(stream)
}

async fn handshaken(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    tls::handshake(address, config.as_ref().clone()).await
}

async fn ping(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    if &answer == b"ping" { Ok(()) } else { Err(std::io::Error::other("another answer")) }
}
