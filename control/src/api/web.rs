//! The accept loop of the HTTP doors, plain and over TLS: a bounded number of connections, of all and of each address, each
//! with deadlines and an end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::https::Shows;
use super::shares::Shares;
use crate::telemetry::metrics;

const MAX_CONNECTIONS: usize = 256;
const MAX_HEADER_BYTES: usize = 16 * 1024;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const HEADERS_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What HTTP is spoken over.
#[derive(Clone)]
pub(super) enum Over {
    Tcp,
    Tls(Shows),
}

/// Answers with `router` until `stop`.
pub(super) async fn serve(
    door: &'static str,
    over: Over,
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) {
    let (open, shares) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Shares::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok((stream, from)) => (stream, from.ip()),
            Err(error) => {
                tracing::warn!(door, %error, "cannot accept an HTTP connection");
                metrics::connection(door, "accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Who fetches lists slowly leaves room for whoever asks from elsewhere.
        let Some(share) = shares.take(address) else {
            metrics::connection(door, "too_many_of_address");
            continue;
        };
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            metrics::connection(door, "too_many");
            continue;
        };
        metrics::connection(door, "accepted");
        let (over, router) = (over.clone(), router.clone());
        tokio::spawn(async move {
            // Whatever ends it, a timeout included, only this connection ends.
            let _ = tokio::time::timeout(CONNECTION_LIFE, converse(over, stream, router)).await;
            drop((permit, share));
        });
    }
}

async fn converse(over: Over, stream: TcpStream, router: Router) {
    match over {
        Over::Tcp => answer(stream, router).await,
        Over::Tls(shows) => {
            let handshake = TlsAcceptor::from(shows.server_config()).accept(stream);
            match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
                Ok(Ok(stream)) => answer(stream, router).await,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "TLS handshake of an HTTP connection failed");
                    metrics::handshake_failed("tls");
                }
                Err(_) => metrics::handshake_failed("timeout"),
            }
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
}
