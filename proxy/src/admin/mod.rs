//! Port 15020: metrics and health, for scrapers and orchestrators. Read only, and nothing secret in it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::mesh::Mesh;

/// What the answers are made of.
#[derive(Clone)]
pub struct Health {
    /// Ready means: there is a snapshot.
    pub mesh: Arc<Mesh>,
    /// The numbers.
    pub metrics: PrometheusHandle,
    /// Cancelled once the proxy is on its way out: not ready any more.
    pub drain: CancellationToken,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, health: Health, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(health);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "metrics and health listener ended");
    }
}

async fn metrics(State(health): State<Health>) -> String {
    health.metrics.run_upkeep();
    health.metrics.render()
}

/// 200 with identity and policy in hand; otherwise 503 and what is missing, a line each.
async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let mut missing = health.mesh.missing();
    if health.drain.is_cancelled() {
        missing.push("draining: this proxy is shutting down");
    }
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}
