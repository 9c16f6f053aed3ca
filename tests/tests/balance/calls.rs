//! gRPC calls that are answered UNAVAILABLE: sent again where the service's document says so, and where nobody was
//! answered anything else before.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use signet_tests::client::curl;
use signet_tests::mesh::{Mesh, allow, id};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How often the app was called.
type Calls = Arc<AtomicUsize>;

/// Every other call is UNAVAILABLE, and every other request to `/http` 503, all to `/down`; calls at once, to `/late` after a message, to `/pushed` with the wish to be left alone.
async fn every_other() -> (SocketAddr, Calls) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, calls) = (listener.local_addr().unwrap(), Calls::default());
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let calls = Arc::clone(&counted);
            let service = service_fn(move |request: Request<Incoming>| {
                let calls = Arc::clone(&calls);
                async move {
                    let (head, body) = request.into_parts();
                    // Of what was not sent whole, nothing is sent again.
                    let _ = body.collect().await;
                    let number = calls.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Infallible>(answer(head.uri.path(), number % 2 == 0))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            connections.spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, calls)
}

fn answer(path: &str, unavailable: bool) -> Response<BoxBody<Bytes, Infallible>> {
    let response = Response::builder().header("content-type", "application/grpc");
    if path == "/down" || (unavailable && path == "/http") {
        return Response::builder()
            .status(503)
            .header("told-by", "the app")
            .body(Full::default().boxed())
            .unwrap();
    }
    if unavailable && path == "/late" {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "14".parse().unwrap())]);
        let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\x01x")), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok)));
        return response.body(BodyExt::boxed(body)).unwrap();
    }
    let pushed = unavailable && path == "/pushed";
    let response = if pushed { response.header("grpc-retry-pushback-ms", "-1") } else { response };
    let status = if unavailable { "14" } else { "0" };
    response.header("grpc-status", status).body(Full::default().boxed()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_call_is_sent_again_if_the_document_says_so_and_nothing_was_answered() {
    let (mesh, (app, calls)) = (Mesh::start().await, every_other().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app).await;
    // What the caller is told, after how many calls of the app; the next one begins anew.
    let call = async |path: &str, content: &str| {
        calls.store(0, Ordering::SeqCst);
        let content = format!("content-type: {content}");
        let grpc = ["--http2-prior-knowledge", "--include", "--header", &content, "--data-binary", "x"];
        let url = format!("http://{}{path}", pair.entry());
        let told = curl().args(grpc).arg(&url).run().await.succeeded().stdout;
        let status = told.lines().find_map(|line| line.strip_prefix("grpc-status: "));
        (status.unwrap_or("none").to_owned(), calls.load(Ordering::SeqCst))
    };
    assert_eq!(call("/", "application/grpc").await, ("14".to_owned(), 1), "nobody asked for more");
    // Requests are without being asked for, at the one endpoint that there is; if that does not help, the app's own
    // answer is that of the proxy.
    for (path, status, sent) in [("/http", "HTTP/2 200", 2), ("/down", "HTTP/2 503", 3)] {
        calls.store(0, Ordering::SeqCst);
        let url = format!("http://{}{path}", pair.entry());
        let told = curl().args(["--http2-prior-knowledge", "--include", &url]).run().await.succeeded().stdout;
        assert!(told.starts_with(status) && (sent == 2 || told.contains("told-by: the app")), "{told}");
        assert_eq!(calls.load(Ordering::SeqCst), sent, "{path}");
    }

    mesh.apply(&format!("kind: Service\nid: {web}\nretries: {{ on: [unavailable], methods: [POST] }}\n"))
        .await;
    for _ in 0..3 {
        assert_eq!(call("/", "application/grpc").await, ("0".to_owned(), 2));
    }
    assert_eq!(call("/pushed", "application/grpc").await, ("14".to_owned(), 1), "it wants to be left alone");
    assert_eq!(call("/late", "application/grpc").await.1, 1, "a message was passed on");
    assert_eq!(call("/", "text/plain").await, ("14".to_owned(), 1), "no call");
    pair.caller.counts("signet_retries_total", &[("reason", "status")], 6).await;
}
