//! One line of access log per connection or HTTP request, written when it ends, with both identities and the
//! verdict. The same record feeds the metrics, so that log and metrics never disagree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Uri};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use signet_proto::policy::Verdict;
use signet_proto::spiffe::SpiffeId;

use super::observers::{Event, Kind, Live, Observers, Shown, milliseconds};
use super::traces::{self, Context, Scope, Span};
use super::traces::{number, text};
use super::{CloseReason, Direction, metrics};
use crate::capture::Remote;
use crate::connections::Registration;
use crate::sightings::{Edge, Ongoing, Seen};

/// Bytes moved so far; shared between those that move them and the record.
#[derive(Debug, Default)]
pub struct Meters {
    /// Towards the app.
    pub to_app: AtomicU64,
    /// Towards the peer.
    pub to_peer: AtomicU64,
}

/// What was spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Not known when it ended.
    Unknown,
    /// Bytes.
    Opaque,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes to somebody who is no peer, without TLS.
    Plaintext,
}

impl Protocol {
    /// Of HTTP.
    fn version(self) -> &'static str {
        match self {
            Self::Http2 => "2",
            _ => "1.1",
        }
    }

    /// As in log and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Opaque => "tcp",
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Plaintext => "plaintext",
        }
    }
}

/// Of a path and a method, in characters: what a client chose is told up to there.
const LONGEST_PATH: usize = 1024;
const LONGEST_METHOD: usize = 32;

/// The head of an HTTP request, as policy saw it. Holds its texts without copying them.
#[derive(Debug)]
struct Head {
    method: Method,
    target: Uri,
    request_id: HeaderValue,
}

impl Head {
    fn method(&self) -> &str {
        bounded(self.method.as_str(), LONGEST_METHOD)
    }

    fn path(&self) -> &str {
        bounded(self.target.path(), LONGEST_PATH)
    }

    fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

fn bounded(text: &str, most: usize) -> &str {
    let end = if text.len() > most { text.char_indices().nth(most) } else { None };
    end.and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// Who and where: the part of a record that the requests of a connection share with it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which way it goes.
    pub direction: Direction,
    /// Who is at the other end of the accepted socket, or for whom a load balancer speaks there.
    pub remote: Remote,
    /// Where a captured connection was going, or what CONNECT asked for.
    pub requested: Option<Arc<str>>,
    /// The app's port of an inbound connection; of an outbound one the port that was asked for, or the
    /// listener's.
    pub port: u16,
    /// Who called, once known.
    pub source: Option<SpiffeId>,
    /// Who was called, once known.
    pub destination: Option<SpiffeId>,
    /// Where it is counted for control's inventory, once the other end is known.
    pub edge: Option<Arc<Edge>>,
    /// Its place in the table of open connections.
    pub live: Option<Arc<Live>>,
}

/// What is known of a connection or request. Logs and counts itself once, when it is dropped.
#[derive(Debug)]
pub struct AccessRecord {
    /// Who and where.
    pub facts: Facts,
    /// What was spoken.
    pub protocol: Protocol,
    started: Instant,
    meters: Arc<Meters>,
    /// Of a request. Boxed: connections have none, and last.
    head: Option<Box<Head>>,
    verdict: Option<Verdict>,
    status: Option<u16>,
    reason: CloseReason,
    detail: Option<String>,
    generation: u64,
    ongoing: Option<Ongoing>,
    span: Option<Box<Span>>,
    finished: bool,
}

impl AccessRecord {
    /// A connection that was just accepted.
    #[must_use]
    pub fn connection(observers: &Arc<Observers>, mut facts: Facts) -> Self {
        metrics::connection_opened(facts.direction);
        facts.live = None;
        let protocol = Protocol::Unknown;
        let live = observers.opened(Shown { facts: facts.clone(), protocol, verdict: None, generation: 0 });
        let meters = Arc::clone(&live.meters);
        facts.live = Some(live);
        let mut record = Self::new(facts, protocol, None);
        record.meters = meters;
        record
    }

    /// A request. Log lines escape what the client chose; here it is only bounded.
    #[must_use]
    pub fn request<B>(
        facts: Facts,
        protocol: Protocol,
        request: &Request<B>,
        request_id: HeaderValue,
    ) -> Self {
        let head = Head { method: request.method().clone(), target: request.uri().clone(), request_id };
        if let Some(live) = &facts.live {
            live.request_began();
        }
        Self::new(facts, protocol, Some(Box::new(head)))
    }

    /// Records the target that policy decides on and that is forwarded, where it is not the one that came.
    pub fn forwarded_as(&mut self, target: &Uri) {
        if let Some(head) = &mut self.head {
            head.target = target.clone();
        }
    }

    fn new(facts: Facts, protocol: Protocol, head: Option<Box<Head>>) -> Self {
        Self {
            facts,
            protocol,
            started: Instant::now(),
            meters: Arc::default(),
            head,
            verdict: None,
            status: None,
            reason: CloseReason::Finished,
            detail: None,
            generation: 0,
            ongoing: None,
            span: None,
            finished: false,
        }
    }

    /// The byte counters.
    #[must_use]
    pub fn meters(&self) -> Arc<Meters> {
        Arc::clone(&self.meters)
    }

    /// Records the decision and the snapshot it was made with.
    pub fn decided(&mut self, verdict: Verdict, generation: u64) {
        if !verdict.allowed {
            self.reason = CloseReason::Denied;
        }
        self.verdict = Some(verdict);
        self.generation = generation;
        self.shows();
    }

    /// Brings the table of open connections up to date.
    pub fn shows(&self) {
        let Some(live) = self.facts.live.as_ref().filter(|_| self.head.is_none()) else { return };
        let Self { protocol, generation, .. } = *self;
        let facts = Facts { live: None, ..self.facts.clone() };
        let news = live.show(Shown { facts, protocol, verdict: self.verdict.clone(), generation });
        if news && live.observers.taps.any() {
            live.observers.taps.tell(&self.event(Kind::Opened, None));
        }
    }

    /// Begins its span, if spans are wanted, below the caller's (`parent`, and its `tracestate`). Returns what the
    /// called side is told, unless the caller's own words go on as they are.
    pub(crate) fn begin_span(&mut self, parent: Option<Context>, state: &str) -> Option<Context> {
        let live = self.facts.live.as_ref()?;
        let tracer = live.observers.tracer.as_ref()?;
        if let Some(span) = &self.span {
            return Some(span.scope.context());
        }
        let mut begun = tracer.begin(parent);
        if let Some(span) = &mut begun.span {
            span.with_state(state);
            if let Some((begun, took)) = live.take_handshake() {
                span.scope.went_well("handshake", begun, took);
            }
        }
        self.span = begun.span;
        begun.tell
    }

    /// What the phases of its span are added to.
    pub(crate) fn scope(&self) -> Option<Scope> {
        self.span.as_ref().map(|span| span.scope.clone())
    }

    /// When a phase begins, if that is traced.
    pub(crate) fn traced_now(&self) -> Option<Instant> {
        self.span.is_some().then(Instant::now)
    }

    /// Adds a phase that began then and is over now to its span.
    pub(crate) fn step(&self, name: &'static str, begun: impl Into<Option<Instant>>, failed: Option<&str>) {
        if let (Some(span), Some(begun)) = (&self.span, begun.into()) {
            span.scope.step(name, begun, failed.map(str::to_owned));
        }
    }

    /// The trace that it is recorded in.
    fn trace(&self) -> Option<u128> {
        self.span.as_ref().map(|span| span.scope.context().trace)
    }

    /// Its place in the table of open connections.
    #[must_use]
    pub fn live(&self) -> Option<Arc<Live>> {
        self.facts.live.clone()
    }

    /// Has it end with its right when an operator closes it.
    pub fn closes_with(&self, registration: &Registration) {
        if let Some(live) = &self.facts.live {
            live.closes_with(registration.closer());
        }
    }

    /// Records that the connection was let in. `certificate` is in use while it lasts.
    pub fn let_in(&mut self, certificate: Option<Arc<Seen>>) {
        if let Some(edge) = &self.facts.edge {
            edge.connected(self.protocol);
            self.ongoing = Some(edge.carries(Arc::clone(&self.meters), certificate));
        }
    }

    /// Records the HTTP status that the client gets.
    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// Records why it ended.
    pub fn ended(&mut self, reason: CloseReason, detail: Option<String>) {
        self.reason = reason;
        if detail.is_some() {
            self.detail = detail;
        }
    }

    /// The request id, for requests.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.head.as_deref().map(Head::request_id)
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        self.finish();
    }
}

impl AccessRecord {
    /// Logs and counts now rather than on drop: what is recorded is over, though its owner goes on.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let took = self.started.elapsed();
        let closed = self.facts.live.as_ref().is_some_and(|live| live.is_closing());
        if closed && self.reason == CloseReason::Finished {
            self.reason = CloseReason::ClosedByOperator;
        }
        let to_app = self.meters.to_app.load(Ordering::Relaxed);
        let to_peer = self.meters.to_peer.load(Ordering::Relaxed);
        // A refused HTTP connection is answered request by request, and each of these counts itself.
        let counts_itself =
            self.head.is_some() || !matches!(self.protocol, Protocol::Http1 | Protocol::Http2);
        let denied = match (&self.verdict, self.reason) {
            (Some(verdict), _) if !verdict.allowed => Some(verdict.reason.as_str()),
            (None, CloseReason::Revoked(because)) => Some(because.as_str()),
            _ => None,
        };
        if let (Some(reason), Some(destination)) = (denied.filter(|_| counts_itself), &self.facts.destination)
        {
            let verdict = self.verdict.as_ref();
            let by = verdict.and_then(|verdict| verdict.policy.as_deref());
            let by = (by, verdict.and_then(|verdict| verdict.rule.as_deref()));
            metrics::denied(self.facts.direction, reason, by, self.facts.source.as_ref(), destination);
            if let Some(edge) = &self.facts.edge {
                edge.denied(self.verdict.as_ref(), reason);
            }
        }
        self.ongoing = None;
        match (&self.head, &self.facts.destination) {
            (Some(_), Some(destination)) => {
                let status = self.status.unwrap_or_default();
                let source = self.facts.source.as_ref();
                match &self.facts.live {
                    Some(live) => live.counted.count(self.facts.direction, status, source, destination),
                    None => metrics::requests(self.facts.direction, status, source, destination).increment(1),
                }
                metrics::request_took(self.facts.direction, took, self.trace());
                if let (Some(edge), Some(Verdict { allowed: true, .. })) = (&self.facts.edge, &self.verdict) {
                    edge.requested();
                }
                if !matches!(self.reason, CloseReason::Finished | CloseReason::Denied) {
                    metrics::request_broken(self.facts.direction, self.reason);
                }
            }
            _ => {
                metrics::connection_closed(self.facts.direction, self.reason, took);
                metrics::bytes(self.facts.direction, to_app, to_peer);
            }
        }
        if let Some(live) = &self.facts.live {
            let kind = if self.head.is_some() { Kind::Request } else { Kind::Closed };
            match kind {
                Kind::Request => live.request_ended(),
                Kind::Opened | Kind::Closed => live.observers.closed(live.id),
            }
            if live.observers.taps.any() {
                live.observers.taps.tell(&self.event(kind, Some(took)));
            }
        }
        self.send_span(took);
        let (bytes_in, bytes_out) = self.bytes();
        let verdict = self.said();
        tracing::info!(
            target: "access",
            kind = if self.head.is_some() { "request" } else { "connection" },
            direction = self.facts.direction.as_str(),
            protocol = self.protocol.as_str(),
            source = self.facts.source.as_ref().map(SpiffeId::as_str),
            destination = self.facts.destination.as_ref().map(SpiffeId::as_str),
            port = self.facts.port,
            remote = %self.facts.remote,
            requested = self.facts.requested.as_deref(),
            verdict,
            policy = self.verdict.as_ref().and_then(|verdict| verdict.policy.as_deref()),
            rule = self.verdict.as_ref().and_then(|verdict| verdict.rule.as_deref()),
            reason = self.verdict.as_ref().map(|verdict| verdict.reason.as_str()),
            method = self.head.as_deref().map(Head::method),
            path = self.head.as_deref().map(Head::path),
            trace_id = self.trace().map(|trace| format!("{trace:032x}")),
            request_id = self.head.as_deref().map(Head::request_id),
            status = self.status,
            bytes_in,
            bytes_out,
            duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            close_reason = self.reason.as_str(),
            detail = self.detail.as_deref(),
            generation = self.generation,
        );
    }

    fn send_span(&self, took: Duration) {
        let tracer = self.facts.live.as_ref().and_then(|live| live.observers.tracer.as_ref());
        let (Some(span), Some(tracer)) = (&self.span, tracer) else { return };
        let facts = traces::Facts {
            direction: self.facts.direction,
            reason: self.reason,
            method: self.head.as_deref().map(Head::method),
            status: self.status,
            detail: self.detail.as_deref(),
            attributes: self.attributes(),
        };
        tracer.finish(span, &facts, took);
    }

    /// By OpenTelemetry's conventions for HTTP and networks, and what is only ours.
    fn attributes(&self) -> Vec<KeyValue> {
        let Self { facts, head, verdict, .. } = self;
        let (bytes_in, bytes_out) = self.bytes();
        let mut all = vec![
            text("network.transport", "tcp"),
            text("signet.direction", facts.direction.as_str()),
            text("signet.verdict", self.said()),
            text("signet.close_reason", self.reason.as_str()),
            number("server.port", facts.port),
            number("signet.bytes_in", bytes_in),
            number("signet.bytes_out", bytes_out),
            number("signet.generation", self.generation),
        ];
        let peer = facts.remote.address();
        all.extend(peer.map(|peer| text("network.peer.address", peer.ip().to_string())));
        all.extend(peer.map(|peer| number("network.peer.port", peer.port())));
        all.extend(facts.requested.as_deref().map(|requested| text("server.address", requested)));
        all.extend(facts.source.as_ref().map(|id| text("signet.source", id.as_str())));
        all.extend(facts.destination.as_ref().map(|id| text("signet.destination", id.as_str())));
        if let Some(verdict) = verdict {
            all.extend(verdict.policy.as_deref().map(|policy| text("signet.policy", policy)));
            all.extend(verdict.rule.as_deref().map(|rule| text("signet.rule", rule)));
        }
        if let Some(head) = head {
            all.push(text("http.request.method", head.method()));
            all.push(text("url.path", head.path()));
            all.push(text("url.scheme", "http"));
            all.push(text("network.protocol.name", "http"));
            all.push(text("network.protocol.version", self.protocol.version()));
            all.push(text("signet.request_id", head.request_id()));
            all.extend(self.status.map(|status| number("http.response.status_code", status)));
            all.extend(
                self.status
                    .filter(|status| *status >= 400)
                    .map(|status| text("error.type", status.to_string())),
            );
        }
        all
    }

    /// In and out, seen from the called side.
    fn bytes(&self) -> (u64, u64) {
        let to_app = self.meters.to_app.load(Ordering::Relaxed);
        let to_peer = self.meters.to_peer.load(Ordering::Relaxed);
        match self.facts.direction {
            Direction::Inbound => (to_app, to_peer),
            Direction::Outbound => (to_peer, to_app),
        }
    }

    fn said(&self) -> &'static str {
        match &self.verdict {
            Some(verdict) if verdict.allowed => "allow",
            Some(_) => "deny",
            None => "none",
        }
    }

    /// What those who tap are told; `took` once it is over.
    fn event(&self, kind: Kind, took: Option<Duration>) -> Event<'_> {
        let Self { facts, head, verdict, .. } = self;
        let over = took.map(|_| self.bytes());
        Event {
            event: kind,
            time: jiff::Timestamp::try_from(signet_proto::clock::now()).unwrap_or_default().to_string(),
            connection: facts.live.as_ref().map_or(0, |live| live.id),
            direction: facts.direction.as_str(),
            protocol: self.protocol.as_str(),
            source: facts.source.as_ref().map(SpiffeId::as_str),
            destination: facts.destination.as_ref().map(SpiffeId::as_str),
            port: facts.port,
            remote: facts.remote.to_string(),
            verdict: self.said(),
            policy: verdict.as_ref().and_then(|verdict| verdict.policy.as_deref()),
            rule: verdict.as_ref().and_then(|verdict| verdict.rule.as_deref()),
            method: head.as_deref().map(Head::method),
            path: head.as_deref().map(Head::path),
            status: self.status,
            request_id: self.request_id(),
            trace_id: self.trace().map(|trace| format!("{trace:032x}")),
            bytes_in: over.map(|(bytes_in, _)| bytes_in),
            bytes_out: over.map(|(_, bytes_out)| bytes_out),
            duration_ms: took.map(milliseconds),
            close_reason: took.map(|_| self.reason.as_str()),
            detail: self.detail.as_deref(),
        }
    }
}
