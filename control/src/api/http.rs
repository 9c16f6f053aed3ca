//! Plain HTTP for probes and scrapers: metrics, health, and the trust bundle. Nothing here changes or
//! reveals anything that needs a caller.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::tls::OwnIdentity;
use crate::audit::Exports;
use crate::ca::Authority;
use crate::publish::{MeshState, WentBack};
use crate::store::{Restricted, Store};
use crate::telemetry::metrics;
use crate::{duration, time};

const MAX_CONNECTIONS: usize = 256;
const HEADERS_DEADLINE: Duration = Duration::from_secs(10);
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
const STORE_DEADLINE: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// From here on `/readyz` warns that the root is about to end.
const ROOT_WARNING: Duration = Duration::from_secs(90 * 24 * 3600);

/// What health is read from.
#[derive(Clone)]
pub struct Health {
    /// Durable state.
    pub store: Store,
    /// Signing keys.
    pub authority: Arc<Authority>,
    /// Control's own SVID.
    pub own: Arc<OwnIdentity>,
    /// Renders metrics.
    pub metrics: PrometheusHandle,
    /// Copies of the audit.
    pub exports: Exports,
    /// What proxies are told.
    pub state: watch::Receiver<Arc<MeshState>>,
}

/// Serves until `stop`.
pub async fn serve(health: Health, listener: TcpListener, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/bundle", get(bundle))
        .with_state(health);
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

async fn render(State(health): State<Health>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], health.metrics.render())
}

/// The SPIFFE bundle (JWKS), as federation endpoints serve it.
async fn bundle(State(health): State<Health>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], health.authority.bundle().to_jwks())
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let now = time::now();
    let mut missing = Vec::new();
    match tokio::time::timeout(STORE_DEADLINE, health.store.counts(now)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => missing.push(format!("store: {error}")),
        Err(_) => missing.push("store: no answer in time".to_owned()),
    }
    let intermediate = health.authority.intermediate();
    for (what, ends) in [
        ("root", health.authority.root().not_after()),
        ("intermediate", intermediate.not_after()),
        ("own SVID", health.own.not_after()),
    ] {
        if ends <= now {
            missing.push(format!("{what}: ended {}", time::rfc3339(ends)));
        }
    }
    if missing.is_empty() {
        let restrictions = tokio::time::timeout(STORE_DEADLINE, health.store.restrictions()).await;
        let restrictions = restrictions.ok().and_then(Result::ok).unwrap_or_default();
        let frozen = restrictions.iter().filter_map(Restricted::frozen);
        let frozen: String = frozen.map(|frozen| format!("warning: {frozen}\n")).collect();
        (StatusCode::OK, format!("ready\n{}{frozen}", warnings(&health, now)))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", missing.join("\n")))
    }
}

/// Said before anything breaks.
fn warnings(health: &Health, now: SystemTime) -> String {
    let mut warnings = String::new();
    let left = health.authority.root().not_after().duration_since(now).unwrap_or_default();
    if left < ROOT_WARNING {
        warnings.push_str(&format!("warning: the root ends in {}\n", duration::rough(left)));
    }
    for (what, due, ends) in [
        ("intermediate", health.authority.rotation_due(), health.authority.intermediate().not_after()),
        ("own SVID", health.own.rotation_due(), health.own.not_after()),
    ] {
        let late = ends.duration_since(due).unwrap_or_default() / 2;
        if now > due + late {
            let left = ends.duration_since(now).unwrap_or_default();
            warnings.push_str(&format!(
                "warning: the {what} should have been replaced and ends in {}\n",
                duration::rough(left)
            ));
        }
    }
    if let Some(WentBack { from, to, at }) = health.state.borrow().went_back {
        warnings.push_str(&format!(
            "warning: the database went back from revision {from} to {to} at {}: what was changed or revoked \
             in between is lost; compare with a copy of the audit, then restart control\n",
            time::rfc3339(at)
        ));
    }
    for warning in health.exports.warnings(now) {
        warnings.push_str(&format!("warning: {warning}\n"));
    }
    warnings
}
