//! Plain HTTP for probes and scrapers: metrics, health, and the trust bundle. Nothing here changes or
//! reveals anything that needs a caller.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use crate::telemetry::metrics;
use crate::time;

const MAX_CONNECTIONS: usize = 256;
const HEADERS_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What this door tells of.
#[derive(Clone)]
pub struct Told {
    /// Whether control can serve.
    pub health: Health,
    /// Renders metrics.
    pub metrics: PrometheusHandle,
}

/// Serves until `stop`.
pub async fn serve(told: Told, listener: TcpListener, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/bundle", get(bundle))
        .with_state(told);
    let open = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                metrics::connection("http", "accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
            metrics::connection("http", "too_many");
            continue;
        };
        metrics::connection("http", "accepted");
        let service = TowerToHyperService::new(router.clone());
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_DEADLINE)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // Whatever ends it, a timeout included, only this connection ends.
            let _ = tokio::time::timeout(CONNECTION_LIFE, served).await;
            drop(permit);
        });
    }
}

async fn render(State(told): State<Told>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], told.metrics.render())
}

/// The SPIFFE bundle (JWKS), as federation endpoints serve it.
async fn bundle(State(told): State<Told>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], told.health.authority.bundle().to_jwks())
}

/// Ready, with a line for each warning; or not, with a line for each cause.
async fn ready(State(Told { health, .. }): State<Told>) -> impl IntoResponse {
    let now = time::now();
    let missing = health.missing(now).await;
    if missing.is_empty() {
        let mut warnings = health.warnings(now);
        warnings.extend(health.frozen().await);
        let lines = warnings.into_iter().map(|warning| format!("warning: {warning}\n"));
        (StatusCode::OK, format!("ready\n{}", lines.collect::<String>()))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", missing.join("\n")))
    }
}
