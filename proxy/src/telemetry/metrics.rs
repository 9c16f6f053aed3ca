//! Every metric of the proxy, by name. Label sets are closed: directions, reasons and results are ours, and
//! identities are bounded by [`BoundedLabels`].

#![expect(clippy::disallowed_macros, reason = "the one place that names metrics")]

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime};

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use signet_proto::spiffe::SpiffeId;

use super::labels::BoundedLabels;
use super::openmetrics::Exemplars;
use super::{CloseReason, Direction};

const IDENTITY_LABELS: usize = 500;
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const LONG_SECONDS: &[f64] = &[0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0];

/// A traced request of each range of latencies.
pub static EXEMPLARS: Exemplars = Exemplars::new();

/// Installs the recorder of this process.
///
/// # Errors
/// When one is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("signet_connection_duration_seconds".into()), LONG_SECONDS)?
        .set_buckets(SECONDS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!("signet_connections_opened_total", "Connections accepted");
    describe_gauge!("signet_connections_open", "Connections open now");
    describe_counter!("signet_connections_closed_total", "Connections closed, by reason");
    describe_counter!("signet_denied_total", "Connections and requests denied, by reason and identities");
    describe_counter!("signet_bytes_total", "Bytes forwarded; flow is to_app, to_peer");
    describe_histogram!("signet_connection_duration_seconds", "Life of connections");
    describe_histogram!("signet_handshake_seconds", "TLS handshakes that succeeded");
    describe_counter!("signet_handshake_failures_total", "TLS handshakes that failed, by reason");
    describe_counter!("signet_requests_total", "HTTP requests, by status and identities");
    describe_histogram!("signet_request_duration_seconds", "HTTP requests, from head to end of body");
    describe_counter!("signet_requests_broken_total", "HTTP exchanges that were cut or broke, by reason");
    describe_counter!("signet_detection_total", "Protocol detection, by result");
    describe_histogram!("signet_detection_seconds", "Time until the protocol was known, by result");
    describe_counter!("signet_limited_total", "Connections refused as their caller has too many, by reason");
    describe_counter!("signet_plaintext_total", "Callers without TLS where the mesh takes them, by result");
    describe_counter!("signet_passthrough_total", "Connections to unknown destinations that were let pass");
    describe_counter!("signet_spans_total", "Spans for the collector, by what became of them");
    describe_counter!("signet_accept_errors_total", "Failed accepts, by reason");
    describe_counter!("signet_upstream_failures_total", "Endpoints that could not be reached, by reason");
    describe_counter!(
        "signet_rate_limited_total",
        "Requests and connections beyond the rate of their caller"
    );
    describe_counter!("signet_shed_total", "Requests that the app had no room for, by reason");
    describe_counter!("signet_ejections_total", "Endpoints that get nothing for a while, by reason");
    describe_counter!("signet_retries_total", "Requests that were sent again, by reason");
    describe_counter!(
        "signet_retry_budget_exhausted_total",
        "Retries that were not made for too many others"
    );
    describe_counter!("signet_dns_failures_total", "Lookups of peers' names that failed");
    describe_counter!(
        "signet_traffic_unreadable_total",
        "Service documents that could not be read, and have no effect"
    );
    describe_gauge!("signet_svid_expiry_timestamp_seconds", "End of the current SVID, Unix time");
    describe_counter!("signet_svid_rotations_total", "Attempts to get a new SVID, by result");
    describe_counter!(
        "signet_workload_svid_rotations_total",
        "Attempts to get an SVID for the app, by result"
    );
    describe_gauge!(
        "signet_workload_svid_expiry_timestamp_seconds",
        "End of the newest SVID for the app, Unix time"
    );
    describe_counter!("signet_workload_api_calls_total", "Calls of apps on the socket, by method and result");
    describe_gauge!("signet_workload_api_streams", "Streams of apps open now, by method");
    describe_counter!("signet_workload_api_updates_total", "Messages pushed to apps, by method");
    describe_counter!(
        "signet_workload_api_connections_total",
        "Connections of apps to the socket, by result"
    );
    describe_counter!("signet_workload_api_answers_total", "What SDS clients said of secrets: ack or nack");
    describe_counter!(
        "signet_crl_intake_total",
        "Revocation lists of other authorities that came, by result"
    );
    describe_gauge!("signet_crl_lists", "Revocation lists in force, by state");
    describe_gauge!("signet_crl_entries", "Certificates that they name");
    describe_gauge!("signet_crl_expiry_timestamp_seconds", "End of the list that ends first, Unix time");
    describe_counter!("signet_reattestations_total", "Attempts to become a new instance, by result");
    describe_counter!("signet_upgrades_total", "New processes that wanted to take over, by result");
    describe_gauge!("signet_state_restored", "1 while the sealed copy is in force, for want of control");
    describe_gauge!(
        "signet_state_saved_timestamp_seconds",
        "When the copy was sealed that was started with, Unix time"
    );
    describe_counter!("signet_state_refused_total", "Sealed copies that could not be used at the start");
    describe_counter!("signet_state_writes_total", "Writes of the sealed copy, by result");
    describe_gauge!("signet_control_connected", "1 while the stream from control is open");
    describe_gauge!("signet_snapshot_generation", "Snapshots that came into force");
    describe_counter!(
        "signet_state_mismatches_total",
        "Times that what is in force was not what control sent; it is sent again"
    );
    describe_gauge!("signet_snapshot_revision", "Control's revision in force");
    describe_histogram!("signet_snapshot_apply_seconds", "From a change's arrival until it is in force");
    describe_counter!(
        "signet_policy_unreadable_total",
        "Policies from control that could not be read; all is denied"
    );
    describe_counter!(
        "signet_mesh_unreadable_total",
        "Settings of the mesh from control that could not be read; it is strict then"
    );
    describe_counter!(
        "signet_sighting_reports_total",
        "Reports of what was seen, by what control made of them"
    );
    describe_counter!(
        "signet_sighting_overflow_total",
        "Connections that no report counts, for want of room"
    );
    describe_gauge!("signet_build_info", "1, with the version as label");
    gauge!("signet_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gauge!("signet_control_connected").set(0.0);
}

/// What is counted for each direction, found once: to find it by its labels costs more than to count.
struct Both<M> {
    inbound: OnceLock<M>,
    outbound: OnceLock<M>,
    find: fn(&'static str) -> M,
}

impl<M> Both<M> {
    const fn new(find: fn(&'static str) -> M) -> Self {
        Self { inbound: OnceLock::new(), outbound: OnceLock::new(), find }
    }

    fn of(&self, direction: Direction) -> &M {
        let known = match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        };
        known.get_or_init(|| (self.find)(direction.as_str()))
    }
}

fn identity(id: &SpiffeId) -> Arc<str> {
    static LABELS: LazyLock<BoundedLabels> = LazyLock::new(|| BoundedLabels::new(IDENTITY_LABELS));
    LABELS.admit(id.as_str())
}

static OPEN: Both<Gauge> = Both::new(|direction| gauge!("signet_connections_open", "direction" => direction));

/// A connection was accepted.
pub fn connection_opened(direction: Direction) {
    static OPENED: Both<Counter> =
        Both::new(|direction| counter!("signet_connections_opened_total", "direction" => direction));
    OPENED.of(direction).increment(1);
    OPEN.of(direction).increment(1.0);
}

/// A connection ended.
pub fn connection_closed(direction: Direction, reason: CloseReason, life: Duration) {
    static FINISHED: Both<Counter> = Both::new(|direction| closed(direction, CloseReason::Finished));
    static LIVES: Both<Histogram> =
        Both::new(|direction| histogram!("signet_connection_duration_seconds", "direction" => direction));
    match reason {
        CloseReason::Finished => FINISHED.of(direction).increment(1),
        _ => closed(direction.as_str(), reason).increment(1),
    }
    OPEN.of(direction).decrement(1.0);
    LIVES.of(direction).record(life.as_secs_f64());
}

fn closed(direction: &'static str, reason: CloseReason) -> Counter {
    counter!("signet_connections_closed_total", "direction" => direction, "reason" => reason.as_str())
}

/// A connection or request was denied, by this document and rule if one of each decided.
pub fn denied(
    direction: Direction,
    reason: &'static str,
    by: (Option<&str>, Option<&str>),
    source: Option<&SpiffeId>,
    destination: &SpiffeId,
) {
    static RULES: LazyLock<BoundedLabels> = LazyLock::new(|| BoundedLabels::new(IDENTITY_LABELS));
    let source = source.map_or_else(|| Arc::from("none"), identity);
    let name = |name: Option<&str>| RULES.admit(name.unwrap_or("none"));
    counter!("signet_denied_total", "direction" => direction.as_str(), "reason" => reason,
        "policy" => name(by.0), "rule" => name(by.1), "source" => source, "destination" => identity(destination))
    .increment(1);
}

/// Bytes that went to the app and to the peer.
pub fn bytes(direction: Direction, to_app: u64, to_peer: u64) {
    static TO_APP: Both<Counter> =
        Both::new(|direction| counter!("signet_bytes_total", "direction" => direction, "flow" => "to_app"));
    static TO_PEER: Both<Counter> =
        Both::new(|direction| counter!("signet_bytes_total", "direction" => direction, "flow" => "to_peer"));
    TO_APP.of(direction).increment(to_app);
    TO_PEER.of(direction).increment(to_peer);
}

/// A handshake succeeded.
pub fn handshake(direction: Direction, took: Duration) {
    static SECONDS_OF: Both<Histogram> =
        Both::new(|direction| histogram!("signet_handshake_seconds", "direction" => direction));
    SECONDS_OF.of(direction).record(took.as_secs_f64());
}

/// A handshake failed.
pub fn handshake_failed(direction: Direction, reason: &'static str) {
    counter!("signet_handshake_failures_total", "direction" => direction.as_str(), "reason" => reason)
        .increment(1);
}

/// What counts the HTTP exchanges between these two that had this status.
pub(super) fn requests(
    direction: Direction,
    status: u16,
    source: Option<&SpiffeId>,
    destination: &SpiffeId,
) -> Counter {
    let source = source.map_or_else(|| Arc::from("none"), identity);
    counter!("signet_requests_total", "direction" => direction.as_str(), "status" => status.to_string(),
        "source" => source, "destination" => identity(destination))
}

/// An HTTP exchange took so long; `trace` is the one that it was recorded in.
pub(super) fn request_took(direction: Direction, took: Duration, trace: Option<u128>) {
    static SECONDS_OF: Both<Histogram> =
        Both::new(|direction| histogram!("signet_request_duration_seconds", "direction" => direction));
    if let Some(trace) = trace {
        EXEMPLARS.keep(direction, SECONDS, took.as_secs_f64(), trace);
    }
    SECONDS_OF.of(direction).record(took.as_secs_f64());
}

/// An HTTP exchange did not end as it should have.
pub fn request_broken(direction: Direction, reason: CloseReason) {
    counter!("signet_requests_broken_total", "direction" => direction.as_str(), "reason" => reason.as_str())
        .increment(1);
}

/// The protocol of a connection is known, or will not be.
pub fn detection(result: &'static str, took: Duration) {
    counter!("signet_detection_total", "result" => result).increment(1);
    histogram!("signet_detection_seconds", "result" => result).record(took.as_secs_f64());
}

/// A caller has too many connections: of its `address` before the handshake, of its `identity` after it.
pub fn limited(reason: &'static str) {
    counter!("signet_limited_total", "reason" => reason).increment(1);
}

/// A caller came without TLS where the mesh takes that: it was `accepted`, `refused` by a rule or by a change of the
/// settings, or cut off as TLS began after all (`late_tls`).
pub fn plaintext(result: &'static str) {
    counter!("signet_plaintext_total", "result" => result).increment(1);
}

/// A connection goes to somebody who is no peer.
pub fn passed_through() {
    counter!("signet_passthrough_total").increment(1);
}

/// Spans that were `exported`, that the collector did not take (`failed`), or that found no room (`dropped`).
pub fn spans(result: &'static str, count: u64) {
    counter!("signet_spans_total", "result" => result).increment(count);
}

/// A listener could not accept.
pub fn accept_error(reason: &'static str) {
    counter!("signet_accept_errors_total", "reason" => reason).increment(1);
}

/// An endpoint of a peer could not be reached.
pub fn upstream_failed(reason: &'static str, destination: &SpiffeId) {
    counter!("signet_upstream_failures_total", "reason" => reason, "destination" => identity(destination))
        .increment(1);
}

/// A caller made more requests than its rate.
pub fn rate_limited(source: &SpiffeId) {
    counter!("signet_rate_limited_total", "source" => identity(source)).increment(1);
}

/// A request was answered that there is no room for it.
pub fn shed(reason: &'static str) {
    counter!("signet_shed_total", "reason" => reason).increment(1);
}

/// An endpoint of a peer gets nothing for a while.
pub fn ejected(reason: &'static str, destination: &SpiffeId) {
    counter!("signet_ejections_total", "reason" => reason, "destination" => identity(destination))
        .increment(1);
}

/// A request was sent again.
pub fn retried(reason: &'static str) {
    counter!("signet_retries_total", "reason" => reason).increment(1);
}

/// A request could have been sent again, but too many were.
pub fn retry_budget_exhausted(destination: &SpiffeId) {
    counter!("signet_retry_budget_exhausted_total", "destination" => identity(destination)).increment(1);
}

/// A service document could not be read.
pub fn traffic_unreadable() {
    counter!("signet_traffic_unreadable_total").increment(1);
}

/// DNS did not answer for the name of a peer.
pub fn lookup_failed() {
    counter!("signet_dns_failures_total").increment(1);
}

/// A new SVID came into force, or did not.
pub fn rotation(result: &'static str) {
    counter!("signet_svid_rotations_total", "result" => result).increment(1);
}

/// A new SVID for the app came into force, with its end, or did not.
pub fn lent(result: &'static str, not_after: Option<SystemTime>) {
    counter!("signet_workload_svid_rotations_total", "result" => result).increment(1);
    if let Some(not_after) = not_after {
        gauge!("signet_workload_svid_expiry_timestamp_seconds").set(unix(not_after));
    }
}

/// A JWT-SVID was fetched (`success`), or not (`failed`, `refused`).
pub fn token_fetched(result: &'static str) {
    counter!("signet_tokens_fetched_total", "result" => result).increment(1);
}

/// A request was sent on with a token of ours (`attached`), with the app's own (`kept`), or not at all (`missing`).
pub fn token_attached(result: &'static str) {
    counter!("signet_requests_with_token_total", "result" => result).increment(1);
}

/// An app connected to the socket: it is `admitted`, of no rule (`denied`), or one too many (`limited`).
pub fn app_connected(result: &'static str) {
    counter!("signet_workload_api_connections_total", "result" => result).increment(1);
}

/// An app called: it was `served`, `denied`, asked for something wrong (`invalid`), or there was nothing now
/// (`unavailable`).
pub fn app_called(method: &'static str, result: &'static str) {
    counter!("signet_workload_api_calls_total", "method" => method, "result" => result).increment(1);
}

/// A stream to an app began, or ended.
pub fn app_streams(method: &'static str, change: f64) {
    gauge!("signet_workload_api_streams", "method" => method).increment(change);
}

/// A message went to an app.
pub fn app_updated(method: &'static str) {
    counter!("signet_workload_api_updates_total", "method" => method).increment(1);
}

/// An SDS client took what it was sent (`ack`), or did not (`nack`).
pub fn secret_answered(answer: &'static str) {
    counter!("signet_workload_api_answers_total", "answer" => answer).increment(1);
}

/// A revocation list was taken, or why it was not.
pub fn crl_came(result: &'static str) {
    counter!("signet_crl_intake_total", "result" => result).increment(1);
}

/// How many lists there are in each state, how many certificates they name, and when the first of them ends.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn crls(states: &[(&'static str, usize)], entries: usize, ends: Option<SystemTime>) {
    for (state, count) in states {
        gauge!("signet_crl_lists", "state" => *state).set(*count as f64);
    }
    gauge!("signet_crl_entries").set(entries as f64);
    if let Some(ends) = ends {
        gauge!("signet_crl_expiry_timestamp_seconds").set(unix(ends));
    }
}

/// The instance was lost, and the proxy proved itself anew, or tried to.
pub fn reattestation(result: &'static str) {
    counter!("signet_reattestations_total", "result" => result).increment(1);
}

/// A new process took over, or did not.
pub fn upgrade(result: &'static str) {
    counter!("signet_upgrades_total", "result" => result).increment(1);
}

/// A sealed copy of that time is in force, or none any more.
pub fn state_restored(saved_at: Option<SystemTime>) {
    gauge!("signet_state_restored").set(if saved_at.is_some() { 1.0 } else { 0.0 });
    if let Some(saved_at) = saved_at {
        gauge!("signet_state_saved_timestamp_seconds").set(unix(saved_at));
    }
}

/// A sealed copy is there, and cannot be used.
pub fn state_refused() {
    counter!("signet_state_refused_total").increment(1);
}

/// The sealed copy was written, or could not be.
pub fn state_written(result: &'static str) {
    counter!("signet_state_writes_total", "result" => result).increment(1);
}

/// When the SVID in force ends.
pub fn svid_expiry(not_after: SystemTime) {
    gauge!("signet_svid_expiry_timestamp_seconds").set(unix(not_after));
}

/// Whether control's stream is open.
pub fn control_connected(connected: bool) {
    gauge!("signet_control_connected").set(if connected { 1.0 } else { 0.0 });
}

/// A snapshot came into force.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn snapshot(generation: u64, revision: u64, took: Duration) {
    gauge!("signet_snapshot_generation").set(generation as f64);
    histogram!("signet_snapshot_apply_seconds").record(took.as_secs_f64());
    self::revision(revision);
}

/// What is in force is not what control sent.
pub fn state_mismatch() {
    counter!("signet_state_mismatches_total").increment(1);
}

/// Control's revision is in force.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn revision(revision: u64) {
    gauge!("signet_snapshot_revision").set(revision as f64);
}

/// Control was told what was seen: `taken`, `refused` for good, or `failed` and to be repeated.
pub fn sightings_reported(result: &'static str) {
    counter!("signet_sighting_reports_total", "result" => result).increment(1);
}

/// There was no room to count a connection for control.
pub fn sighting_overflowed() {
    counter!("signet_sighting_overflow_total").increment(1);
}

/// A policy could not be read.
pub fn policy_unreadable() {
    counter!("signet_policy_unreadable_total").increment(1);
}

/// The settings of the mesh could not be read.
pub fn mesh_unreadable() {
    counter!("signet_mesh_unreadable_total").increment(1);
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
