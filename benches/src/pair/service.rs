//! The apps behind the pairs, in a process of their own: HTTP/1.1 with 1 KiB, gRPC, and bytes that come back. They
//! check what they receive, too, and count what they served.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of an HTTP body, and of a gRPC message.
pub(super) const BODY: usize = 1024;
pub(super) const MESSAGE: usize = 128;
pub(super) const HTTP_PATH: &str = "/bytes/1k";
pub(super) const GRPC_SERVICE: &str = "bench.v1.Echo";
pub(super) const GRPC_METHOD: &str = "Unary";
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How many requests the HTTP app has answered with a body, as text. Not through any proxy.
pub(super) const SERVED_PATH: &str = "/served";

/// Where they are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) echo: SocketAddr,
}

/// `length` bytes that do not repeat within a buffer.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8 ^ (index / 251 % 256) as u8).collect()
}

/// A message as gRPC puts it on the wire: not compressed, its length, itself.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Tells where the apps are, on standard output, and serves until standard input ends: with whoever started it.
///
/// # Errors
/// When they cannot listen.
pub async fn serve() -> Result<()> {
    let addresses = start().await?;
    println!("{}", serde_json::to_string(&addresses)?);
    std::io::stdout().flush()?;
    let mut nothing = [0; 1];
    while tokio::io::stdin().read(&mut nothing).await? > 0 {}
    Ok(())
}

pub(super) async fn start() -> Result<Addresses> {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let (http, grpc, echo) = (bind().await?, bind().await?, bind().await?);
    let addresses =
        Addresses { http: http.local_addr()?, grpc: grpc.local_addr()?, echo: echo.local_addr()? };
    let state = Arc::new(State {
        body: pattern(BODY).into(),
        message: framed(&pattern(MESSAGE)).into(),
        served: AtomicU64::new(0),
    });
    tokio::spawn(accept(http, Arc::clone(&state), serve_http));
    tokio::spawn(accept(grpc, Arc::clone(&state), serve_grpc));
    tokio::spawn(accept(echo, state, serve_echo));
    Ok(addresses)
}

struct State {
    body: Bytes,
    message: Bytes,
    served: AtomicU64,
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    state: Arc<State>,
    serve: fn(TcpStream, Arc<State>) -> F,
) {
    loop {
        // Without a descriptor the load fails, and says so.
        let Ok((stream, _)) = listener.accept().await else { return };
        let _ = stream.set_nodelay(true);
        tokio::spawn(serve(stream, Arc::clone(&state)));
    }
}

async fn serve_http(stream: TcpStream, state: Arc<State>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = match request.uri().path() {
            HTTP_PATH => {
                state.served.fetch_add(1, Ordering::Relaxed);
                Response::new(Full::new(state.body.clone()))
            }
            SERVED_PATH => Response::new(Full::new(state.served.load(Ordering::Relaxed).to_string().into())),
            _ => {
                let mut answer = Response::new(Full::new(Bytes::new()));
                *answer.status_mut() = StatusCode::NOT_FOUND;
                answer
            }
        };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn serve_grpc(stream: TcpStream, state: Arc<State>) {
    let answer = service_fn(move |request: Request<Incoming>| answer_grpc(request, Arc::clone(&state)));
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer_grpc(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    let right_call = request.uri().path() == format!("/{GRPC_SERVICE}/{GRPC_METHOD}");
    let received = request.into_body().collect().await?.to_bytes();
    let good = right_call && received == state.message;
    // OK, or INVALID_ARGUMENT without a message.
    let (data, status) = if good { (state.message.clone(), "0") } else { (Bytes::new(), "3") };
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))]);
    let body = Full::new(data).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(answer)
}

async fn serve_echo(mut stream: TcpStream, _: Arc<State>) {
    let mut buffer = Vec::new();
    let mut small = [0; 512];
    loop {
        // A buffer only for who sends much: thousands of connections wait here.
        let read =
            if buffer.is_empty() { stream.read(&mut small).await } else { stream.read(&mut buffer).await };
        let Ok(count @ 1..) = read else { break };
        let source = if buffer.is_empty() { &small[..] } else { &buffer[..] };
        let Some(data) = source.get(..count) else { break };
        if stream.write_all(data).await.is_err() {
            return;
        }
        if count == small.len() && buffer.is_empty() {
            buffer = vec![0; 64 * 1024];
        }
    }
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_grpc_does() {
        assert_eq!(framed(b"abc"), [0, 0, 0, 0, 3, b'a', b'b', b'c']);
    }

    #[test]
    fn pattern_tells_a_shift_and_a_swap() {
        let bytes = pattern(64 * 1024);
        assert_ne!(bytes[..1024], bytes[1024..2048]);
        assert_ne!(bytes[..1024], bytes[251..1275]);
    }
}
