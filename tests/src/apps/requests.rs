//! An HTTP app inside the test. It answers with every header line it received, and can hold a request until
//! the test lets go of it, so that "in flight" is a fact and not a guess about time.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::PATIENCE;

/// Answers JSON: `{"method","path","headers":[[name,value],..],"body_bytes"}`. `/hold` answers only after
/// [`RequestApp::release`].
#[derive(Debug)]
pub struct RequestApp {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug)]
struct State {
    held: watch::Sender<usize>,
    released: watch::Sender<bool>,
    seen: watch::Sender<usize>,
}

impl RequestApp {
    /// Starts it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            held: watch::Sender::new(0),
            released: watch::Sender::new(false),
            seen: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// Waits until a request to `/hold` has arrived and is held.
    ///
    /// # Panics
    /// When none arrives.
    pub async fn holds_one(&self) {
        let mut held = self.state.held.subscribe();
        timeout(PATIENCE, held.wait_for(|held| *held > 0))
            .await
            .expect("a request to hold")
            .expect("the app runs");
    }

    /// Answers every held request.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// How many requests arrived in all.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.state.seen.borrow()
    }
}

impl Drop for RequestApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The values of the header `name` in an answer of the app, one per line received, names compared as `same`.
#[must_use]
pub fn header_values(answer: &Value, same: impl Fn(&str) -> bool) -> Vec<String> {
    let headers = answer["headers"].as_array().cloned().unwrap_or_default();
    headers
        .iter()
        .filter(|header| same(header[0].as_str().unwrap_or_default()))
        .map(|header| header[1].as_str().unwrap_or_default().to_owned())
        .collect()
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    state.seen.send_modify(|seen| *seen += 1);
    let body_bytes = body.collect().await.map_or(0, |body| body.to_bytes().len());
    if head.uri.path() == "/hold" {
        state.held.send_modify(|held| *held += 1);
        let mut released = state.released.subscribe();
        // The sender lives as long as the state.
        let _ = released.wait_for(|released| *released).await;
    }
    let headers: Vec<Value> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let text = json!({
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(ToString::to_string),
        "headers": headers,
        "body_bytes": body_bytes,
    });
    Ok(Response::new(Full::new(Bytes::from(text.to_string()))))
}
