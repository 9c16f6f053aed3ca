//! An app that answers with its name, as fast as it is told to, and counts.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

/// The app.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    requests: AtomicUsize,
    delay_millis: AtomicU64,
}

impl Worker {
    /// Starts one.
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at(name, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts some on one port, as the instances of a service have it: each on a loopback address of its own.
    pub(crate) async fn start_beside<const N: usize>(names: [&'static str; N]) -> [Self; N] {
        let port = signet_tests::sockets::free_address().port();
        let starts = names
            .iter()
            .zip(1_u8..)
            .map(|(name, host)| Self::start_at(name, ([127, 0, 1, host], port).into()));
        futures_util::future::join_all(starts).await.try_into().unwrap()
    }

    async fn start_at(name: &'static str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |_| {
                    let state = Arc::clone(&state);
                    async move {
                        state.requests.fetch_add(1, Ordering::Relaxed);
                        let delay = state.delay_millis.load(Ordering::Relaxed);
                        if delay > 0 {
                            tokio::time::sleep(Duration::from_millis(delay)).await;
                        }
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(name.as_bytes()))))
                    }
                });
                let io = TokioIo::new(stream);
                connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// How many requests it got.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// From now on each answer takes so long.
    pub(crate) fn slow_down(&self, millis: u64) {
        self.state.delay_millis.store(millis, Ordering::Relaxed);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
