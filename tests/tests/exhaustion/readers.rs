//! Readers that do not read, at either end: what they leave unread stays with its sender, and neither proxy
//! piles it up.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::eventually;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::Proxy;
use signet_tests::report::measured;
use signet_tests::torrent::{AT_ONCE, DOWNLOAD, SIZE, Source, Taken, Torrent, UPLOAD, halted, length};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const STREAMS: usize = 20;
/// 100 MiB take less than a second when nobody is in the way.
const UNHINDERED: Duration = Duration::from_secs(10);
/// What 20 streams of 100 MiB may cost each of the two proxies.
const CEILING: u64 = 48 << 20;

/// The streams of different callers share a connection between the proxies. What it may have in flight must not
/// be used up by those who do not read.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_over_http2_holds_up_nobody_else() {
    let pair = Pair::start().await;
    let [_, http] = pair.entries();
    let sent = pair.app.sent();
    let mut first = connections::<Empty<Bytes>>(http, 2).await.swap_remove(0);
    let request =
        Request::get("http://store/").header("host", "store").body(Empty::new()).expect("a request");
    let alone = timeout(UNHINDERED, async { length(first.send(request).await).await }).await;
    assert_eq!(alone.expect("in time").expect("a clean end"), SIZE, "as long as nobody is in the way");
    drop(first);
    pair.is_quiet().await;
    sent.store(0, Ordering::Relaxed);

    let mut stalled = connections::<Empty<Bytes>>(http, 2).await;
    let mut unread = Vec::new();
    for connection in &mut stalled {
        let request =
            Request::get("http://store/").header("host", "store").body(Empty::new()).expect("a request");
        unread.push(connection.send(request).await);
    }
    halted(&sent).await;

    let mut other = connections::<Empty<Bytes>>(http, 2).await.swap_remove(0);
    let request =
        Request::get("http://store/").header("host", "store").body(Empty::new()).expect("a request");
    let read = timeout(UNHINDERED, async { length(other.send(request).await).await }).await;
    let download = read.map(|read| read.expect("a clean end"));
    drop((unread, stalled, other));
    pair.is_quiet().await;

    let taken = Taken::default();
    let mut uploads = JoinSet::new();
    for mut connection in connections_of(http, 2).await {
        let request = Request::post("http://store/")
            .header("host", "store")
            .body(Source::new(&taken))
            .expect("a request");
        uploads.spawn(async move {
            // It is not let.
            drop(connection.send(request).await);
            0
        });
    }
    halted(&taken).await;
    let mut other = connections_of(http, 2).await.swap_remove(0);
    let request = Request::post(format!("http://store{AT_ONCE}"))
        .header("host", "store")
        .body(Source::new(&Taken::default()));
    let request = request.expect("a request");
    let upload =
        timeout(UNHINDERED, async { length(other.send(request).await).await.expect("an answer") }).await;
    drop(other);
    pair.ends(uploads).await;

    let beside =
        format!("beside {STREAMS} that nobody reads: the download {download:?}, the upload {upload:?}");
    assert!(download == Ok(SIZE) && upload.is_ok(), "{beside}");
}

/// Both proxies, and the memory they had before.
struct Pair {
    app: Torrent,
    _mesh: Mesh,
    caller: Proxy,
    server: Proxy,
    baselines: [u64; 2],
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_when_either_side_does_not_read() {
    let pair = Pair::start().await;
    let [tcp, http] = pair.entries();
    let (app, sent) = (&pair.app, pair.app.sent());

    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        unread.push(bytes_asked_for(tcp).await);
    }
    pair.stays_bounded("download of bytes", &sent).await;
    let read = copy(&mut unread.swap_remove(0), &mut sink()).await.expect("a clean end");
    assert_eq!(read, SIZE, "and one of them, read after all, is whole");
    drop(unread);
    pair.is_quiet().await;

    let taken = Taken::default();
    let mut uploads = JoinSet::new();
    for _ in 0..STREAMS {
        uploads.spawn(upload_bytes(tcp, taken.clone()));
    }
    pair.stays_bounded("upload of bytes", &taken).await;
    app.read_one();
    assert_eq!(uploads.join_next().await.expect("one is read").expect("whole"), SIZE);
    pair.ends(uploads).await;

    for version in [1, 2] {
        sent.store(0, Ordering::Relaxed);
        let mut connections = connections::<Empty<Bytes>>(http, version).await;
        let mut unread = Vec::new();
        for connection in &mut connections {
            let request =
                Request::get("http://store/").header("host", "store").body(Empty::new()).expect("a request");
            unread.push(connection.send(request).await);
        }
        pair.stays_bounded(&format!("download over HTTP/{version}"), &sent).await;
        if version == 1 {
            let read = length(unread.swap_remove(0)).await.expect("a clean end");
            assert_eq!(read, SIZE, "and one of them, read after all, is whole");
        }
        drop((unread, connections));
        pair.is_quiet().await;

        let taken = Taken::default();
        let mut uploads = JoinSet::new();
        for mut connection in connections_of(http, version).await {
            let request = Request::post("http://store/")
                .header("host", "store")
                .body(Source::new(&taken))
                .expect("a request");
            uploads.spawn(async move {
                let answer = connection.send(request).await.collect().await.expect("an answer").to_bytes();
                String::from_utf8_lossy(&answer).parse::<u64>().expect("a length")
            });
        }
        pair.stays_bounded(&format!("upload over HTTP/{version}"), &taken).await;
        if version == 1 {
            app.read_one();
            assert_eq!(uploads.join_next().await.expect("one is read").expect("whole"), SIZE);
        }
        pair.ends(uploads).await;
    }
}

impl Pair {
    async fn start() -> Self {
        let (mesh, app) = (Mesh::start().await, Torrent::start().await);
        let (downloader, store) = (id("/downloader"), id("/store"));
        mesh.workload(&downloader).await;
        mesh.workload(&store).await;
        mesh.policy(&allow("store", &store, &[&downloader])).await;
        let server =
            mesh.proxy(&store).await.inbound("tcp://", app.tcp).inbound("http://", app.http).start().await;
        let caller = mesh
            .proxy(&downloader)
            .await
            .outbound("tcp://", &format!("{store}:{}", app.tcp.port()))
            .outbound("http://", &format!("{store}:{}", app.http.port()))
            .start()
            .await;
        let baselines = [caller.process.resident_bytes(), server.process.resident_bytes()];
        Self { app, _mesh: mesh, caller, server, baselines }
    }

    /// Where bytes and where HTTP go in.
    fn entries(&self) -> [SocketAddr; 2] {
        [self.caller.outbounds()[0], self.caller.outbounds()[1]]
    }

    /// Both proxies below the ceiling, once whoever sends has filled all there is to fill.
    async fn stays_bounded(&self, what: &str, taken: &Taken) {
        let taken = halted(taken).await;
        let more = |proxy: &Proxy, before: u64| proxy.process.resident_bytes().saturating_sub(before);
        let caller = more(&self.caller, self.baselines[0]);
        let server = more(&self.server, self.baselines[1]);
        measured(
            &format!("{what}, {STREAMS} streams unread"),
            format!(
                "caller's proxy +{} KiB, app's proxy +{} KiB; {} KiB left the sender",
                caller / 1024,
                server / 1024,
                taken / 1024
            ),
        );
        assert!(taken < SIZE * STREAMS as u64 / 2, "{what}: nobody reads, and yet {taken} bytes are gone");
        assert!(caller < CEILING && server < CEILING, "{what}: +{caller} and +{server} bytes");
    }

    /// The callers go, and the app reads what they left behind: as long as it does not, nobody can tell.
    async fn ends(&self, uploads: JoinSet<u64>) {
        drop(uploads);
        self.app.read_all();
        self.is_quiet().await;
        self.app.stop_reading();
    }

    /// The streams are over at both.
    async fn is_quiet(&self) {
        for proxy in [&self.caller, &self.server] {
            // Connections between the two may be kept; what they carry is over.
            eventually("the streams are over", signet_tests::PATIENCE, async || {
                let metrics = proxy.metrics().await;
                match metrics.count("signet_connections_open", &[("direction", "outbound")]) {
                    0 => Ok(()),
                    open => Err(format!("{open} connections are open")),
                }
            })
            .await;
        }
    }
}

async fn bytes_asked_for(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.write_u8(DOWNLOAD).await.expect("it reads");
    stream
}

async fn upload_bytes(address: SocketAddr, taken: Taken) -> u64 {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.write_u8(UPLOAD).await.expect("it reads");
    Source::new(&taken).write_to(&mut stream).await.expect("it reads in the end");
    stream.shutdown().await.expect("FIN is sent");
    stream.read_u64().await.expect("the app tells how much came")
}

/// A connection of one caller.
enum Stream<B> {
    Http1(hyper::client::conn::http1::SendRequest<B>),
    Http2(hyper::client::conn::http2::SendRequest<B>),
}

impl<B> Stream<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    async fn send(&mut self, request: Request<B>) -> Incoming {
        let response = match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let response = response.expect("an answer");
        assert_eq!(response.status(), 200);
        response.into_body()
    }
}

async fn connections_of(address: SocketAddr, version: u8) -> Vec<Stream<Source>> {
    connections(address, version).await
}

async fn connections<B>(address: SocketAddr, version: u8) -> Vec<Stream<B>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let io = TokioIo::new(TcpStream::connect(address).await.expect("the proxy accepts the app"));
        if version == 2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            streams.push(Stream::Http2(sender));
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            streams.push(Stream::Http1(sender));
        }
    }
    streams
}
