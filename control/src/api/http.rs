//! Plain HTTP for probes and scrapers: metrics, health, the trust bundle, revocation lists and the keys of tokens. Nothing
//! here changes or reveals anything that needs a caller.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::crl;
use super::health::Health;
use super::oidc;
use super::web::{self, Over};
use crate::time;

/// What this door tells of.
#[derive(Clone)]
pub struct Told {
    /// Whether control can serve.
    pub health: Health,
    /// Renders metrics.
    pub metrics: PrometheusHandle,
    /// Whom tokens name as their issuer.
    pub issuer: Option<String>,
}

/// Serves until `stop`.
pub async fn serve(told: Told, listener: TcpListener, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/bundle", get(bundle))
        .route("/crl/{file}", get(crl::list))
        .with_state(told.clone())
        .merge(documents(&told));
    web::serve("http", Over::Tcp, listener, router, stop).await;
}

/// What the HTTPS doors tell anybody.
pub fn public(told: Told) -> Router {
    let documents = documents(&told);
    Router::new().route("/bundle", get(bundle)).with_state(told).merge(documents)
}

/// For those who check tokens.
fn documents(told: &Told) -> Router {
    oidc::routes(Arc::clone(&told.health.authority), told.issuer.as_deref())
}

async fn render(State(told): State<Told>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], told.metrics.render())
}

/// The SPIFFE bundle (JWKS), as those fetch it who are federated with this trust domain.
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
