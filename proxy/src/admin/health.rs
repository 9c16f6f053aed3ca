//! Port 15020: metrics and health, for scrapers and orchestrators. Read only, and nothing secret in it. It may
//! be reachable from outside, so it has bounds of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;

use tokio_util::sync::CancellationToken;

use crate::capture::{Intake, Listener, Socket};
use crate::crl;
use crate::mesh::Mesh;
use crate::telemetry::{metrics, openmetrics};

const MOST_CONNECTIONS: usize = 64;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A scraper that keeps its connection gets a new one now and then.
const LONGEST_LIFE: Duration = Duration::from_secs(600);

/// What the answers are made of.
pub struct Health {
    /// Ready means: there is a snapshot.
    pub mesh: Arc<Mesh>,
    /// The numbers.
    pub metrics: PrometheusHandle,
    /// Cancelled once the proxy is on its way out: not ready any more.
    pub leaving: CancellationToken,
}

/// Serves until `stop`.
pub async fn serve(listener: Listener, health: Health, stop: CancellationToken) {
    let health = Arc::new(health);
    let intake = Intake::new(MOST_CONNECTIONS, stop.clone());
    intake
        .accept(listener, "health", |stream, _| connection(Arc::clone(&health), stream, stop.clone()))
        .await;
}

/// A kept connection ends with `stop`: whoever asks next, asks the process that serves then.
async fn connection(health: Arc<Health>, stream: Socket, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let answer = answer(&health, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let life = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LONGEST_LIFE, life).await {
        tracing::debug!(%error, "connection to metrics and health ended");
    }
}

fn answer(health: &Health, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/metrics" => {
            health.metrics.run_upkeep();
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let (body, format) = match accept.is_some_and(openmetrics::is_wanted) {
                true => {
                    let text = health.metrics.render();
                    (openmetrics::from_prometheus(&text, &metrics::EXEMPLARS), openmetrics::CONTENT_TYPE)
                }
                false => (health.metrics.render(), "text/plain; version=0.0.4; charset=utf-8"),
            };
            let (mut response, format) = (text(StatusCode::OK, body), HeaderValue::from_static(format));
            response.headers_mut().insert(CONTENT_TYPE, format);
            response
        }
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => ready(health),
        _ => text(StatusCode::NOT_FOUND, "expected /metrics, /livez or /readyz\n"),
    }
}

/// 200 with identity and policy in hand, and what is going to keep it from that; otherwise 503 and what is missing, a
/// line each.
fn ready(health: &Health) -> Response<Full<Bytes>> {
    let mut missing = health.mesh.missing();
    if health.leaving.is_cancelled() {
        missing.push("draining: this proxy is shutting down");
    }
    if missing.is_empty() {
        let mut body = "ready\n".to_owned();
        if let Some(at) = health.mesh.sealed_at().and_then(|at| jiff::Timestamp::try_from(at).ok()) {
            body += &format!("with what was sealed at {at}: control has not answered since this start\n");
        }
        let lists = crl::told(&health.mesh.lists(), signet_proto::clock::now());
        for warning in health.mesh.warning().into_iter().chain(lists) {
            body += &format!("warning: {warning}\n");
        }
        text(StatusCode::OK, body)
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
