//! An HTTP/2 app inside the test that keeps every request it received.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::received::Received;

/// Messages in the answer to `/drip`.
pub const DROPS: usize = 20_000;

/// Answers 200 to every request once its body has ended; `/hold` is never answered, and the answer to `/drip` are
/// [`DROPS`] messages of ten bytes.
#[derive(Debug)]
pub struct H2App {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    kept: Mutex<Vec<Received>>,
    arrived: AtomicUsize,
    held: AtomicUsize,
    most_held: AtomicUsize,
}

/// Counts a request for as long as it is held.
struct Held(Arc<State>);

impl H2App {
    /// Starts it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                connections.spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .max_concurrent_streams(10_000)
                        .max_header_list_size(1 << 20)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// The complete requests so far, but for those to `/hold` and `/honest`.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.state.kept.lock().clone()
    }

    /// How many requests arrived, complete or not.
    #[must_use]
    pub fn arrived(&self) -> usize {
        self.state.arrived.load(Ordering::Relaxed)
    }

    /// The most requests to `/hold` that it had at once.
    #[must_use]
    pub fn most_held(&self) -> usize {
        self.state.most_held.load(Ordering::Relaxed)
    }
}

impl Drop for H2App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Held {
    fn new(state: &Arc<State>) -> Self {
        let held = state.held.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_held.fetch_max(held, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    state.arrived.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    if head.uri.path() == "/hold" {
        let _held = Held::new(&state);
        std::future::pending::<()>().await;
    }
    if head.uri.path() == "/drip" {
        let drops = (0..DROPS).map(|_| Ok(Frame::data(Bytes::from_static(b"ten bytes."))));
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(stream::iter(drops)))));
    }
    let Ok(body) = body.collect().await else { return Ok(Response::new(Full::default().boxed())) };
    if head.uri.path() != "/honest" {
        let trailers = body.trailers().map(texts).unwrap_or_default();
        let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let (method, headers) = (head.method.to_string(), texts(&head.headers));
        let body = body.to_bytes().to_vec();
        state.kept.lock().push(Received { method, target, headers, body, trailers });
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"ok")).boxed()))
}

fn texts(fields: &HeaderMap) -> Vec<(String, String)> {
    fields
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
