//! Every metric of control, by name, in one place. Label sets are closed: each value below is one of a few
//! words of ours, never text from a caller.

#![expect(clippy::disallowed_macros, reason = "the one place that names metrics")]

use std::time::{Duration, SystemTime};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const ISSUANCES: &str = "signet_control_issuances_total";
const SIGNING: &str = "signet_control_signing_seconds";
const COMMIT_JOBS: &str = "signet_control_store_commit_jobs";
const COMMIT: &str = "signet_control_store_commit_seconds";
const COMMIT_FAILURES: &str = "signet_control_store_failures_total";
const STREAMS: &str = "signet_control_streams";
const MESSAGES: &str = "signet_control_messages_total";
const PUSH_LAG: &str = "signet_control_push_lag_seconds";
const MISMATCHES: &str = "signet_control_state_mismatches_total";
const UNCHANGED: &str = "signet_control_sections_unchanged_total";
const CUT_OFF: &str = "signet_control_cut_off";
const HISTORIES: &str = "signet_control_history_went_back_total";
const REVISION: &str = "signet_control_revision";
const CONNECTIONS: &str = "signet_control_connections_total";
const HANDSHAKE_FAILURES: &str = "signet_control_handshake_failures_total";
const CALLS: &str = "signet_control_calls_total";
const CA_EXPIRY: &str = "signet_control_ca_expiry_timestamp_seconds";
const AUTHORITIES: &str = "signet_control_authorities";
const AUTHORITY_STEPS: &str = "signet_control_authority_steps_total";
const AUTHORITY_AWAITED: &str = "signet_control_authority_awaited";
const UPSTREAM: &str = "signet_control_upstream_requests_total";
const TOKENS_AWAY: &str = "signet_control_tokens_away";
const AUTHORITY_UNACKNOWLEDGED: &str = "signet_control_authority_unacknowledged";
const CRL_AGE: &str = "signet_control_crl_age_seconds";
const CRL_ENDS: &str = "signet_control_crl_next_update_timestamp_seconds";
const CRL_SIZE: &str = "signet_control_crl_bytes";
const LIVE_SVIDS: &str = "signet_control_svids_live";
const WORKLOADS: &str = "signet_control_workloads";
const LAPSED: &str = "signet_control_instances_lapsed_total";
const POLICY_READABLE: &str = "signet_control_policy_readable";
const PRUNED: &str = "signet_control_pruned_rows_total";
const DUTY: &str = "signet_control_duty_last_success_timestamp_seconds";
const DUTY_FAILURES: &str = "signet_control_duty_failures_total";
const TOKENS: &str = "signet_control_tokens_checked_total";
const KEY_FETCHES: &str = "signet_control_issuer_key_fetches_total";
const FEDERATIONS: &str = "signet_control_federations";
const FEDERATION_FETCHES: &str = "signet_control_federation_fetches_total";
const FEDERATION_ENDS: &str = "signet_control_federation_expiry_timestamp_seconds";
const AUDIT_INTACT: &str = "signet_control_audit_chain_intact";
const AUDIT_CHECKPOINT: &str = "signet_control_audit_checkpoint_sequence";
const AUDIT_CHECKPOINT_AT: &str = "signet_control_audit_checkpoint_timestamp_seconds";
const AUDIT_SINK_LAG: &str = "signet_control_audit_sink_lag_events";
const AUDIT_SINK_FAILURES: &str = "signet_control_audit_sink_failures_total";
const SIGHTING_REPORTS: &str = "signet_control_sighting_reports_total";
const EDGES: &str = "signet_control_edges";
const EDGES_DROPPED: &str = "signet_control_edges_dropped_total";
const REACHABLE: &str = "signet_control_store_reachable";
const CLOCK_AHEAD: &str = "signet_control_clock_ahead_seconds";
const LEADS: &str = "signet_control_leads";
const REVISION_LAG: &str = "signet_control_revision_lag";
const FREE: &str = "signet_control_data_directory_free_bytes";
const AUDIT_REFUSALS: &str = "signet_control_audit_refusals_total";

/// Seconds, from a fast signature to a call that is too slow.
const SECONDS: &[f64] =
    &[0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const JOBS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// What an SVID is issued for.
#[derive(Debug, Clone, Copy)]
pub enum Issue {
    /// A new instance.
    Attest,
    /// A further one of an instance.
    Renew,
    /// Control itself.
    Own,
    /// A token of an instance.
    Jwt,
}

/// How it stands with a federated trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Federated {
    /// Its bundle is here, and was told in time.
    Current,
    /// Its bundle is here, and should have been told again.
    Late,
    /// Its bundle was never here.
    Awaited,
    /// Its bundle is empty, or has ended.
    Distrusted,
}

impl Federated {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Current, Self::Late, Self::Awaited, Self::Distrusted];

    /// The label value, and what people see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Late => "late",
            Self::Awaited => "awaited",
            Self::Distrusted => "distrusted",
        }
    }
}

/// Installs the recorder; its handle renders the text for `/metrics`.
///
/// # Errors
/// When another recorder is installed.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Full(COMMIT_JOBS.into()), JOBS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!(ISSUANCES, "SVIDs asked for, by operation and result (issued, or why not)");
    describe_histogram!(SIGNING, Unit::Seconds, "Time to sign one leaf");
    describe_histogram!(COMMIT_JOBS, "Changes per commit of the store");
    describe_histogram!(COMMIT, Unit::Seconds, "Time of one commit of the store, fsync included");
    describe_counter!(COMMIT_FAILURES, "Commits that the store could not make");
    describe_gauge!(FEDERATIONS, "Federated trust domains, by how it stands with their bundle");
    describe_counter!(FEDERATION_FETCHES, "Bundles of other trust domains asked for, by result");
    describe_gauge!(
        FEDERATION_ENDS,
        Unit::Seconds,
        "When the first federated bundle ends unless its trust domain tells another; 0: there is none"
    );
    describe_gauge!(STREAMS, "Open Watch streams");
    describe_counter!(MESSAGES, "Messages pushed to proxies");
    describe_histogram!(PUSH_LAG, Unit::Seconds, "From a commit until its message was handed to the stream");
    describe_counter!(
        MISMATCHES,
        "Sections that a proxy had otherwise than it was sent, by section; sent again"
    );
    describe_counter!(UNCHANGED, "Sections that a proxy had when it opened its stream and was not sent");
    describe_gauge!(
        CUT_OFF,
        "1 while streams are refused: this replica has lost its database, others have not"
    );
    describe_counter!(
        HISTORIES,
        "How often the store had another history than before, and all was told anew"
    );
    describe_gauge!(REVISION, "Newest revision that proxies are told of");
    describe_counter!(CONNECTIONS, "Connections accepted, by listener and result");
    describe_counter!(HANDSHAKE_FAILURES, "TLS handshakes that failed, by reason");
    describe_counter!(CALLS, "Calls answered with an error, by status code");
    describe_gauge!(CA_EXPIRY, Unit::Seconds, "When an authority's certificate ends, Unix time");
    describe_gauge!(
        AUTHORITIES,
        "Roots, intermediates and keys of tokens, by kind and phase (prepared, active, retiring, removed)"
    );
    describe_counter!(
        UPSTREAM,
        "Intermediates asked for at the CA above, by result: signed, unreachable, refused, unusable, failed"
    );
    describe_counter!(AUTHORITY_STEPS, "Steps of rotations, by kind and step");
    describe_gauge!(
        AUTHORITY_AWAITED,
        "1: a root that is kept elsewhere should sign something, as status says"
    );
    describe_gauge!(TOKENS_AWAY, "PKCS#11 tokens with keys of authorities that do not answer");
    describe_gauge!(AUTHORITY_UNACKNOWLEDGED, "Proxies that do not know a prepared root yet");
    describe_gauge!(CRL_AGE, Unit::Seconds, "How old the oldest of the newest revocation lists is");
    describe_gauge!(CRL_ENDS, Unit::Seconds, "When the first of the newest revocation lists ends, Unix time");
    describe_gauge!(CRL_SIZE, Unit::Bytes, "How large the complete revocation lists are together");
    describe_gauge!(LIVE_SVIDS, "Instances with an SVID that has not ended");
    describe_gauge!(WORKLOADS, "Registered workloads that are not retired");
    describe_counter!(LAPSED, "Instances whose last SVID ended without a renewal");
    describe_gauge!(POLICY_READABLE, "1 if all stored policy can be read, 0 if whom it concerns denies");
    describe_counter!(PRUNED, "Rows dropped because they were over, by kind");
    describe_gauge!(DUTY, Unit::Seconds, "When a background duty last succeeded, Unix time");
    describe_counter!(DUTY_FAILURES, "Background duties that failed, by duty");
    describe_counter!(TOKENS, "JSON Web Tokens checked, by result (believed, or why not)");
    describe_counter!(KEY_FETCHES, "Fetches of issuers' keys, by result (fetched, or why not)");
    describe_gauge!(AUDIT_INTACT, "1 if the audit chain verified as far as it was read, 0 if it is broken");
    describe_gauge!(AUDIT_CHECKPOINT, "The event of the newest signed checkpoint");
    describe_gauge!(AUDIT_CHECKPOINT_AT, Unit::Seconds, "When that was made, Unix time");
    describe_gauge!(AUDIT_SINK_LAG, "Audit events that a sink does not have yet, by sink");
    describe_counter!(AUDIT_SINK_FAILURES, "Batches that a sink did not take, by sink");
    describe_counter!(
        SIGHTING_REPORTS,
        "Reports of what proxies saw, by result (counted, repeated, refused)"
    );
    describe_gauge!(EDGES, "Pairs of identities and ports that connections are known of");
    describe_counter!(EDGES_DROPPED, "What is not counted for want of room, by where (control, proxy)");
    describe_gauge!(REACHABLE, "1 if the store answered when it was last asked, 0 if not");
    describe_gauge!(
        CLOCK_AHEAD,
        Unit::Seconds,
        "By how much this machine's clock is ahead of the database's"
    );
    describe_gauge!(LEADS, "1 if this replica rotates, lapses, prunes and signs, 0 if another one does");
    describe_gauge!(REVISION_LAG, "Revisions in the store that proxies are not told of yet");
    describe_gauge!(FREE, Unit::Bytes, "Room left where the data directory is");
    describe_counter!(AUDIT_REFUSALS, "Refusals, by whether the audit recorded them or only counted them");
}

/// An SVID was issued (`refused` is `None`) or not.
pub fn issued(issue: Issue, refused: Option<&'static str>) {
    let operation = match issue {
        Issue::Attest => "attest",
        Issue::Renew => "renew",
        Issue::Own => "own",
        Issue::Jwt => "jwt",
    };
    counter!(ISSUANCES, "operation" => operation, "result" => refused.unwrap_or("issued")).increment(1);
}

/// A leaf was signed.
pub fn signed(took: Duration) {
    histogram!(SIGNING).record(took);
}

/// A batch was handled by the store's writer.
pub fn store_committed(jobs: usize, took: Duration) {
    histogram!(COMMIT_JOBS).record(jobs as f64);
    histogram!(COMMIT).record(took);
}

/// The store could not commit.
pub fn store_failed() {
    counter!(COMMIT_FAILURES).increment(1);
}

/// The number of open Watch streams changed.
pub fn streams(open: usize) {
    gauge!(STREAMS).set(open as f64);
}

/// A message was handed to a stream, this long after its commit if it is about a fresh one.
pub fn pushed(lag: Option<Duration>) {
    counter!(MESSAGES).increment(1);
    if let Some(lag) = lag {
        histogram!(PUSH_LAG).record(lag);
    }
}

/// A proxy does not have what it was sent.
pub fn state_mismatch(section: &'static str) {
    counter!(MISMATCHES, "section" => section).increment(1);
}

/// A proxy has so many sections from before.
pub fn sections_unchanged(count: u64) {
    counter!(UNCHANGED).increment(count);
}

/// Streams are refused, or not any more.
pub fn cut_off(cut: bool) {
    gauge!(CUT_OFF).set(if cut { 1.0 } else { 0.0 });
}

/// The store is not the one that it was.
pub fn history_went_back() {
    counter!(HISTORIES).increment(1);
}

/// A new state for proxies.
pub fn published(revision: u64) {
    gauge!(REVISION).set(revision as f64);
}

/// A connection was accepted or turned away.
pub fn connection(listener: &'static str, result: &'static str) {
    counter!(CONNECTIONS, "listener" => listener, "result" => result).increment(1);
}

/// A handshake failed.
pub fn handshake_failed(reason: &'static str) {
    counter!(HANDSHAKE_FAILURES, "reason" => reason).increment(1);
}

/// A call was answered with an error.
pub fn call_failed(code: &'static str) {
    counter!(CALLS, "code" => code).increment(1);
}

/// An authority's end.
pub fn authority_ends(authority: &'static str, at: SystemTime) {
    gauge!(CA_EXPIRY, "authority" => authority).set(unix(at));
}

/// Numbers from the store.
pub fn counts(live_svids: u64, workloads: u64) {
    gauge!(LIVE_SVIDS).set(live_svids as f64);
    gauge!(WORKLOADS).set(workloads as f64);
}

/// Instances lapsed.
pub fn lapsed(count: usize) {
    counter!(LAPSED).increment(count as u64);
}

/// Stored policy was read, or could not be.
pub fn policy_readable(readable: bool) {
    gauge!(POLICY_READABLE).set(if readable { 1.0 } else { 0.0 });
}

/// Rows were dropped.
pub fn pruned(kind: &'static str, rows: u64) {
    counter!(PRUNED, "kind" => kind).increment(rows);
}

/// A duty succeeded.
pub fn duty_done(duty: &'static str, at: SystemTime) {
    gauge!(DUTY, "duty" => duty).set(unix(at));
}

/// A duty failed.
pub fn duty_failed(duty: &'static str) {
    counter!(DUTY_FAILURES, "duty" => duty).increment(1);
}

/// A JSON Web Token was checked.
pub fn token_checked(result: &'static str) {
    counter!(TOKENS, "result" => result).increment(1);
}

/// The keys of an issuer were fetched, or could not be.
pub fn keys_fetched(result: &'static str) {
    counter!(KEY_FETCHES, "result" => result).increment(1);
}

/// The bundle of another trust domain was fetched, or could not be.
pub fn federation_fetched(result: &'static str) {
    counter!(FEDERATION_FETCHES, "result" => result).increment(1);
}

/// So many federated trust domains stand like that.
pub fn federations(state: Federated, count: usize) {
    gauge!(FEDERATIONS, "state" => state.as_str()).set(count as f64);
}

/// When the first of them cannot be believed any more unless it tells other roots; 0: there is none.
pub fn federation_ends(at: Option<SystemTime>) {
    gauge!(FEDERATION_ENDS).set(at.map_or(0.0, unix));
}

/// The audit chain was read.
pub fn audit_intact(intact: bool) {
    gauge!(AUDIT_INTACT).set(if intact { 1.0 } else { 0.0 });
}

/// A checkpoint was signed.
pub fn audit_checkpoint(sequence: u64, at: SystemTime) {
    gauge!(AUDIT_CHECKPOINT).set(sequence as f64);
    gauge!(AUDIT_CHECKPOINT_AT).set(unix(at));
}

/// A sink lacks so many events. Sinks are those of the settings: few.
pub fn audit_sink_lag(sink: &str, events: u64) {
    gauge!(AUDIT_SINK_LAG, "sink" => sink.to_owned()).set(events as f64);
}

/// A sink did not take a batch.
pub fn audit_sink_failed(sink: &str) {
    counter!(AUDIT_SINK_FAILURES, "sink" => sink.to_owned()).increment(1);
}

/// A proxy told what it saw.
pub fn sightings_reported(result: &'static str) {
    counter!(SIGHTING_REPORTS, "result" => result).increment(1);
}

/// Edges are kept.
pub fn edges(kept: u64) {
    gauge!(EDGES).set(kept as f64);
}

/// There was no room for edges here, and for connections at a proxy.
pub fn edges_dropped(here: u64, at_proxy: u64) {
    counter!(EDGES_DROPPED, "where" => "control").increment(here);
    counter!(EDGES_DROPPED, "where" => "proxy").increment(at_proxy);
}

/// Somebody was refused something.
pub fn audit_refusal(recorded: bool) {
    counter!(AUDIT_REFUSALS, "recorded" => if recorded { "yes" } else { "no" }).increment(1);
}

/// So many authorities of a kind are in this phase.
pub fn authorities(kind: &'static str, phase: &'static str, count: usize) {
    gauge!(AUTHORITIES, "kind" => kind, "phase" => phase).set(count as f64);
}

/// One more step of a rotation.
pub fn authority_step(kind: &'static str, step: &'static str) {
    counter!(AUTHORITY_STEPS, "kind" => kind, "step" => step).increment(1);
}

/// Whether somebody is to go to a root that is kept elsewhere.
pub fn authority_awaited(awaited: bool) {
    gauge!(AUTHORITY_AWAITED).set(f64::from(u8::from(awaited)));
}

/// The CA above ours was asked for an intermediate.
pub fn upstream_asked(result: &'static str) {
    counter!(UPSTREAM, "result" => result).increment(1);
}

/// So many tokens do not answer.
pub fn tokens_away(tokens: usize) {
    gauge!(TOKENS_AWAY).set(tokens as f64);
}

/// So many proxies do not know the prepared root.
pub fn authority_unacknowledged(proxies: u64) {
    gauge!(AUTHORITY_UNACKNOWLEDGED).set(proxies as f64);
}

/// Revocation lists are given out: how old the oldest is, when the first of them ends, and how large they are.
pub fn lists(age: Duration, first_end: SystemTime, bytes: usize) {
    gauge!(CRL_AGE).set(age.as_secs_f64());
    gauge!(CRL_ENDS).set(unix(first_end));
    gauge!(CRL_SIZE).set(bytes as f64);
}

/// The store answered, or did not.
pub fn store_reachable(reachable: bool) {
    gauge!(REACHABLE).set(if reachable { 1.0 } else { 0.0 });
}

/// Clocks were compared.
pub fn clock_ahead(milliseconds: i64) {
    gauge!(CLOCK_AHEAD).set(milliseconds as f64 / 1000.0);
}

/// This replica leads, or does not.
pub fn leads(leads: bool) {
    gauge!(LEADS).set(if leads { 1.0 } else { 0.0 });
}

/// So many revisions are committed and not published.
pub fn revision_lag(revisions: u64) {
    gauge!(REVISION_LAG).set(revisions as f64);
}

/// So much room is left.
pub fn data_directory_free(bytes: u64) {
    gauge!(FREE).set(bytes as f64);
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
