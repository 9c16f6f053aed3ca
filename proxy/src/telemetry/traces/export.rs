//! Sends spans to a collector in batches: OTLP over gRPC. A batch that the collector does not take in time is lost
//! and counted; the proxy does not wait for it.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::Finished;
use super::collector::Collector;
use super::span::text;
use crate::mesh::Mesh;
use crate::telemetry::metrics;

const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);

/// Sends what is finished to `collector` until `stop`, and then what is left.
pub async fn export(
    collector: Collector,
    mut finished: mpsc::Receiver<Finished>,
    mesh: Arc<Mesh>,
    stop: CancellationToken,
) {
    let shown = collector.shown().to_owned();
    let mut client = TraceServiceClient::new(collector.channel());
    let (mut batch, mut failing) = (Vec::with_capacity(BATCH), false);
    loop {
        let last = tokio::select! {
            biased;
            count = finished.recv_many(&mut batch, BATCH) => count == 0,
            () = stop.cancelled() => true,
        };
        if !last {
            fill(&mut batch, &mut finished, &stop).await;
        }
        if !batch.is_empty() {
            failing = send(&mut client, std::mem::take(&mut batch), &mesh, &shown, failing).await;
        }
        if last {
            return;
        }
    }
}

/// Waits for more, for a moment.
async fn fill(batch: &mut Vec<Finished>, finished: &mut mpsc::Receiver<Finished>, stop: &CancellationToken) {
    let more = async {
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            if finished.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(LINGER, more) => {}
        () = stop.cancelled() => {}
    }
}

/// True if the collector did not take them.
async fn send(
    client: &mut TraceServiceClient<Channel>,
    spans: Vec<Finished>,
    mesh: &Mesh,
    endpoint: &str,
    failing: bool,
) -> bool {
    let count = spans.len() as u64;
    let scope = InstrumentationScope {
        name: "signet-proxy".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(resource(mesh)), scope_spans, ..ResourceSpans::default() }];
    let refused = match client.export(ExportTraceServiceRequest { resource_spans }).await {
        Ok(answer) => {
            let refused = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
            u64::try_from(refused).unwrap_or_default().min(count)
        }
        Err(status) => {
            if !failing {
                let error = crate::causes::causes(&status);
                tracing::warn!(
                    error,
                    endpoint,
                    "the collector takes no spans; they are dropped until it does"
                );
            }
            metrics::spans("failed", count);
            return true;
        }
    };
    metrics::spans("failed", refused);
    metrics::spans("exported", count - refused);
    if failing {
        tracing::info!(endpoint, "the collector takes spans again");
    }
    false
}

/// Whose spans they are.
fn resource(mesh: &Mesh) -> Resource {
    let mut attributes = vec![text("telemetry.sdk.language", "rust")];
    if let Some((svid, _)) = mesh.credentials() {
        attributes.push(text("service.name", svid.id().path().trim_start_matches('/')));
        attributes.push(text("service.namespace", svid.id().trust_domain().as_str()));
        attributes.push(text("signet.id", svid.id().as_str()));
        attributes.extend(
            svid.profile().instance.map(|instance| text("service.instance.id", instance.to_string())),
        );
    }
    Resource { attributes, ..Resource::default() }
}
