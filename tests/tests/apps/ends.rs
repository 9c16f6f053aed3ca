//! How a connection ends: each direction by itself, at once by a reset, or because nothing moves.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use signet_tests::PATIENCE;
use signet_tests::apps::{TcpCounter, TcpEcho};
use signet_tests::client::curl;
use signet_tests::client::noise;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::report::measured;
use signet_tests::sockets::{EchoConnection, send_half_close_and_read};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, interval, timeout};

use crate::declared_and_detected;

const MEBIBYTE: usize = 1 << 20;

/// An app that serves one connection by `session` and tells what came of it.
async fn app_once<T, F>(
    session: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, oneshot::Receiver<T>)
where
    T: Send + 'static,
    F: Future<Output = T> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = tell.send(session(stream).await);
    });
    (address, told)
}

/// Ends a connection with a reset.
fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Sends a line and waits for its echo: the whole way is open, and nothing is under way.
async fn greet(stream: &mut TcpStream) {
    stream.write_all(b"hello\n").await.unwrap();
    expect_greeting(stream).await;
}

async fn expect_greeting(stream: &mut TcpStream) {
    let mut greeting = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(&greeting, b"hello\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_close_of_the_caller_leaves_the_way_back_open() {
    let (mesh, counter) = (Mesh::start().await, TcpCounter::start().await);
    for (how, pair) in declared_and_detected(&mesh, "tcp://", counter.address).await {
        let answer = send_half_close_and_read(pair.entry(), &noise(5 * MEBIBYTE)).await;
        assert_eq!(String::from_utf8_lossy(&answer), format!("received {} bytes", 5 * MEBIBYTE), "{how}");
        pair.server.access(&[("kind", "connection"), ("close_reason", "finished")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_close_of_the_app_leaves_the_way_there_open() {
    for declared in [true, false] {
        let mesh = Mesh::start().await;
        let (app, received) = app_once(|mut stream| async move {
            expect_greeting(&mut stream).await;
            stream.write_all(b"hello\nall that I say").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.map(|_| rest)
        })
        .await;
        let (client, store) = (id("/client"), id("/store"));
        mesh.policy(&allow("store", &store, &[&client])).await;
        let pair = mesh.pair(&client, &store, if declared { "tcp://" } else { "" }, app).await;

        let mut stream = TcpStream::connect(pair.entry()).await.unwrap();
        greet(&mut stream).await;
        let mut said = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the app's end arrives").unwrap();
        assert_eq!(said, b"all that I say");
        let rest = noise(5 * MEBIBYTE);
        stream.write_all(&rest).await.expect("the way there is open");
        stream.shutdown().await.unwrap();
        let received = timeout(PATIENCE, received).await.unwrap().unwrap().expect("a clean end");
        assert!(received == rest, "{} of {} bytes arrived", received.len(), rest.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_of_the_app_is_a_reset_for_its_caller() {
    for scheme in ["tcp://", ""] {
        let mesh = Mesh::start().await;
        let (app, _) = app_once(|mut stream| async move {
            expect_greeting(&mut stream).await;
            stream.write_all(b"hello\nand more").await.unwrap();
            // Once the caller has all of it.
            let _ = stream.read_u8().await;
            reset(stream);
        })
        .await;
        let (client, store) = (id("/client"), id("/store"));
        mesh.policy(&allow("store", &store, &[&client])).await;
        let pair = mesh.pair(&client, &store, scheme, app).await;

        let mut stream = TcpStream::connect(pair.entry()).await.unwrap();
        greet(&mut stream).await;
        let mut more = [0; 8];
        timeout(PATIENCE, stream.read_exact(&mut more)).await.unwrap().unwrap();
        stream.write_all(b"!").await.unwrap();
        let end = timeout(PATIENCE, stream.read_u8()).await.expect("an end in time");
        let error = end.expect_err("no byte follows");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not a clean end: {error}");
        pair.server.access(&[("kind", "connection"), ("close_reason", "app_reset")]).await;
        pair.caller.access(&[("kind", "connection"), ("close_reason", "peer_reset")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_of_the_caller_is_a_reset_for_the_app() {
    for scheme in ["tcp://", ""] {
        let mesh = Mesh::start().await;
        let (app, ended) = app_once(|mut stream| async move {
            expect_greeting(&mut stream).await;
            stream.write_all(b"hello\n").await.unwrap();
            stream.read_u8().await
        })
        .await;
        let (client, store) = (id("/client"), id("/store"));
        mesh.policy(&allow("store", &store, &[&client])).await;
        let pair = mesh.pair(&client, &store, scheme, app).await;

        let mut stream = TcpStream::connect(pair.entry()).await.unwrap();
        greet(&mut stream).await;
        reset(stream);
        let end = timeout(PATIENCE, ended).await.expect("an end in time").unwrap();
        let error = end.expect_err("no byte follows");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not a clean end: {error}");
        pair.caller.access(&[("kind", "connection"), ("close_reason", "app_reset")]).await;
        pair.server.access(&[("kind", "connection"), ("close_reason", "peer_reset")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_cut_at_its_deadline_and_traffic_puts_it_off() {
    const IDLE: Duration = Duration::from_secs(2);
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (client, store) = (id("/client"), id("/store"));
    mesh.policy(&allow("store", &store, &[&client])).await;
    mesh.workload(&client).await;
    mesh.workload(&store).await;
    // Each end in turn is the one that is impatient.
    for impatient in ["caller", "server"] {
        let server = mesh.proxy(&store).await.inbound("tcp://", echo.address);
        let caller = mesh.proxy(&client).await.outbound("tcp://", &store);
        let (server, caller) = match impatient {
            "server" => (server.with("--idle-timeout", "2s"), caller),
            _ => (server, caller.with("--idle-timeout", "2s")),
        };
        let server = server.start().await;
        let caller = caller.start().await;
        let mut busy = EchoConnection::open(caller.outbound()).await;
        let mut idle = EchoConnection::open(caller.outbound()).await;
        let silent_since = Instant::now();

        let cut = tokio::spawn(async move { idle.closed().await });
        let mut ticks = interval(IDLE / 4);
        for _ in 0..12 {
            ticks.tick().await;
            busy.ping().await.expect("traffic keeps it open");
        }
        let silent_for = timeout(PATIENCE, cut).await.unwrap().unwrap() - silent_since;
        assert!(silent_for >= IDLE - Duration::from_millis(100), "{impatient}: cut after {silent_for:?}");
        assert!(silent_for < 3 * IDLE, "{impatient}: cut only after {silent_for:?}");
        measured(&format!("idle connection cut by the {impatient}, deadline 2 s"), format!("{silent_for:?}"));
        let proxy = if impatient == "caller" { &caller } else { &server };
        proxy.access(&[("kind", "connection"), ("close_reason", "idle")]).await;
        busy.ping().await.expect("and only that one is cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_stops_reading_is_the_one_that_is_late() {
    let mesh = Mesh::start().await;
    let (app, _) = app_once(|mut stream| async move {
        stream.read_u8().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let (client, store) = (id("/client"), id("/store"));
    mesh.policy(&allow("store", &store, &[&client])).await;
    mesh.workload(&client).await;
    mesh.workload(&store).await;
    let server = mesh.proxy(&store).await.inbound("http://", app).with("--idle-timeout", "2s").start().await;
    let caller = mesh.proxy(&client).await.outbound("http://", &store).start().await;
    // More than all sockets on the way hold.
    let body = mesh.directory().join("body");
    std::fs::File::create(&body).unwrap().set_len(1 << 30).unwrap();
    let url = format!("http://{}/", caller.outbound());
    let upload = curl()
        .args(["-H", "Expect:", "-X", "POST", "-w", "%{http_code}", "-o", "/dev/null", "-T"])
        .args([&body.display().to_string(), &url])
        .run()
        .await;
    assert_eq!(upload.stdout, "504", "{}", upload.all());
    server.access(&[("kind", "request"), ("status", "504")]).await;
}
