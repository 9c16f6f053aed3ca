//! HTTP/1.x, one exchange after the other: each request is decided on its own, told who calls, and forwarded
//! on a connection that is kept for the next one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::headers;
use super::opaque::relay;
use super::tracked::{Flow, Tracked};
use super::upstream::{Called, Upstream, UpstreamError};
use crate::causes::causes;
use crate::connections::{Content, Registration, Subject};
use crate::run::Shared;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Facts, Meters};

/// From the first byte of a request head to its last; also how long a kept-alive connection waits.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of a request head; beyond that the answer is 431.
const LARGEST_HEAD: usize = 64 * 1024;
/// Fields in a request head; beyond that the answer is 431.
const MOST_FIELDS: usize = 128;

/// How a connection ended, if not by both sides finishing.
pub type Ended = Result<(), (CloseReason, Option<String>)>;

/// Forwards the requests of one caller's connection.
pub struct Http1<U: Upstream> {
    /// What all connections of this proxy share.
    pub shared: Arc<Shared>,
    /// The called side.
    pub upstream: U,
    /// Present where requests are decided: inbound.
    pub subject: Option<Subject>,
    /// `Host` for requests without one.
    pub authority: String,
    /// Of the connection; requests inherit them.
    pub facts: Facts,
    /// The connection's counters.
    pub meters: Arc<Meters>,
    /// Close after the first response.
    pub only_one: bool,
    sender: Mutex<Option<SendRequest<Tracked>>>,
}

/// A request that got no response.
enum Failure {
    Unreachable(UpstreamError),
    Broken(hyper::Error),
    Cut(CloseReason),
    Slow(Duration),
}

impl<U: Upstream> Http1<U> {
    /// Prepares to forward to `upstream`.
    pub fn new(
        shared: Arc<Shared>,
        upstream: U,
        subject: Option<Subject>,
        authority: String,
        record: &AccessRecord,
    ) -> Self {
        let (facts, meters) = (record.facts.clone(), record.meters());
        let sender = Mutex::new(None);
        Self { shared, upstream, subject, authority, facts, meters, only_one: false, sender }
    }

    /// Serves the caller until it is done, `registration` loses its right, or the proxy drains. `called` is a
    /// connection to the called side that exists already.
    pub async fn serve<S>(
        self,
        caller: S,
        called: Option<Called<U::Io>>,
        registration: Option<&Registration>,
    ) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some(called) = called {
            *self.sender.lock().await = self.open(called).await.ok();
        }
        let drain = self.shared.drain.clone();
        let this = Arc::new(self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { Ok::<_, Infallible>(Box::pin(this.exchange(request)).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_FIELDS)
            .half_close(true)
            .preserve_header_case(true)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(caller), service)
            .with_upgrades();
        tokio::pin!(connection);
        let cut = cut(registration);
        tokio::pin!(cut);
        let mut draining = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => return result.or_else(|error| caller_error(&error)),
                reason = &mut cut => return Err((reason, None)),
                () = drain.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// decide -> state who calls -> forward -> answer.
    async fn exchange(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Tracked> {
        let request_id = headers::request_id(request.headers_mut());
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let mut record = AccessRecord::request(self.facts.clone(), method.as_str(), &path, request_id);
        if method == Method::CONNECT {
            return self.answer(record, StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not forwarded");
        }
        headers::to_origin_form(&mut request, &self.authority);

        let registration = match self.authorize(&method, &path, &mut record) {
            Ok(registration) => registration,
            Err(explanation) => return self.answer(record, StatusCode::FORBIDDEN, &explanation),
        };
        if let Some(subject) = &self.subject {
            headers::state_identity(request.headers_mut(), &subject.local, &subject.peer);
        }
        let upgrade = headers::asks_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        headers::end_hop(request.headers_mut());

        let mut response = match self.forward(request, &record, registration.as_ref()).await {
            Ok(response) => response,
            Err(failure) => return self.failed(record, failure),
        };
        record.answered(response.status().as_u16());
        if let Some(caller) = upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
            let called = hyper::upgrade::on(&mut response);
            self.switch_protocols(caller, called, record, registration);
            return response.map(|_| Tracked::empty());
        }
        headers::end_hop(response.headers_mut());
        let flow = Flow::of_responses(self.facts.direction);
        let meters = vec![Arc::clone(&self.meters), record.meters()];
        response.map(|body| Tracked::response(body, flow, meters, record, registration))
    }

    /// Registers the request, then decides it (invariant 4). The error is the explanation.
    fn authorize(
        &self,
        method: &Method,
        path: &str,
        record: &mut AccessRecord,
    ) -> Result<Option<Registration>, String> {
        let Some(subject) = &self.subject else { return Ok(None) };
        let content = Content::Http { method: method.as_str().to_owned(), path: path.to_owned() };
        let registration = self.shared.connections.register(Subject { content, ..subject.clone() });
        let Some(snapshot) = self.shared.mesh.current() else {
            return Err(UpstreamError::NotReady.to_string());
        };
        if let Some(because) = registration.revoked(&snapshot) {
            record.ended(CloseReason::Revoked(because), None);
            return Err(format!("{} is {}", subject.peer.id, because.as_str()));
        }
        match registration.decide(&snapshot) {
            Some(verdict) if !verdict.allowed => {
                record.decided(verdict, snapshot.generation);
                Err(registration.explain(&snapshot))
            }
            Some(verdict) => {
                record.decided(verdict, snapshot.generation);
                Ok(Some(registration))
            }
            None => Ok(Some(registration)),
        }
    }

    /// Sends the request and awaits the head of its response. A request that was not sent at all is sent again
    /// on a new connection; one that may be repeated (RFC 9110 s9.2.2) also if a kept connection broke.
    async fn forward(
        &self,
        request: Request<Incoming>,
        record: &AccessRecord,
        registration: Option<&Registration>,
    ) -> Result<Response<Incoming>, Failure> {
        let repeat =
            (request.method().is_idempotent() && request.body().is_end_stream()).then(|| head_of(&request));
        let flow = Flow::of_requests(self.facts.direction);
        let meters = vec![Arc::clone(&self.meters), record.meters()];
        let mut request = request.map(|body| Tracked::request(body, flow, meters));
        let sent = async {
            let mut kept = self.sender.lock().await;
            if let Some(mut sender) = kept.take_if(|sender| !sender.is_closed())
                && sender.ready().await.is_ok()
            {
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        *kept = Some(sender);
                        return Ok(response);
                    }
                    Err(mut error) => match error.take_message().or(repeat) {
                        Some(unsent) => request = unsent,
                        None => return Err(Failure::Broken(error.into_error())),
                    },
                }
            }
            let called = self.upstream.connect().await.map_err(Failure::Unreachable)?;
            let mut sender = self.open(called).await.map_err(Failure::Broken)?;
            let response = sender.send_request(request).await.map_err(Failure::Broken)?;
            *kept = Some(sender);
            Ok(response)
        };
        let idle = self.shared.idle.open;
        tokio::select! {
            response = sent => response,
            reason = cut(registration) => Err(Failure::Cut(reason)),
            () = tokio::time::sleep(idle) => Err(Failure::Slow(idle)),
        }
    }

    /// Starts HTTP on a new connection to the called side. Its task ends with the connection, or when the peer
    /// at its end loses its right.
    async fn open(&self, called: Called<U::Io>) -> Result<SendRequest<Tracked>, hyper::Error> {
        let Called { stream, registration } = called;
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .max_buf_size(LARGEST_HEAD)
            .max_headers(MOST_FIELDS)
            .handshake(TokioIo::new(stream))
            .await?;
        self.shared.tasks.spawn(async move {
            tokio::select! {
                result = connection.with_upgrades() => if let Err(error) = result {
                    tracing::debug!(%error, "connection to the called side ended");
                },
                _ = cut(registration.as_ref()) => {}
            }
        });
        Ok(sender)
    }

    fn failed(&self, mut record: AccessRecord, failure: Failure) -> Response<Tracked> {
        let (status, reason, text) = match failure {
            Failure::Unreachable(error) => (error.status(), CloseReason::Error, error.to_string()),
            Failure::Broken(error) => {
                let text = format!("the called side broke off before it answered: {}", causes(&error));
                (StatusCode::BAD_GATEWAY, self.called_reset(), text)
            }
            Failure::Cut(reason) => (StatusCode::FORBIDDEN, reason, format!("cut: {}", reason.as_str())),
            Failure::Slow(idle) => {
                let text = format!("no answer within {} s", idle.as_secs());
                (StatusCode::GATEWAY_TIMEOUT, CloseReason::Idle, text)
            }
        };
        record.ended(reason, Some(text.clone()));
        self.answer(record, status, &text)
    }

    /// An answer of our own, which says what happened and how to find it in the log.
    fn answer(&self, mut record: AccessRecord, status: StatusCode, text: &str) -> Response<Tracked> {
        record.answered(status.as_u16());
        let request_id = record.request_id().unwrap_or_default().to_owned();
        let flow = Flow::of_responses(self.facts.direction);
        let text = format!("signet-proxy: {text}\nrequest id: {request_id}\n");
        let mut response = Response::new(Tracked::local(text, flow, record));
        *response.status_mut() = status;
        let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
        if let Ok(request_id) = http::HeaderValue::try_from(request_id) {
            response.headers_mut().insert(headers::REQUEST_ID, request_id);
        }
        if self.only_one {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        }
        response
    }

    fn switch_protocols(
        &self,
        caller: hyper::upgrade::OnUpgrade,
        called: hyper::upgrade::OnUpgrade,
        mut record: AccessRecord,
        registration: Option<Registration>,
    ) {
        let (direction, idle) = (self.facts.direction, self.shared.idle);
        let meters = record.meters();
        self.shared.tasks.spawn(async move {
            let (caller, called) = match tokio::try_join!(caller, called) {
                Ok((caller, called)) => (TokioIo::new(caller), TokioIo::new(called)),
                Err(error) => return record.ended(CloseReason::Error, Some(error.to_string())),
            };
            let (app, peer) = match direction {
                Direction::Inbound => (called, caller),
                Direction::Outbound => (caller, called),
            };
            tokio::select! {
                result = relay(app, peer, &meters, idle) => if let Err(error) = result {
                    record.ended(error.reason(), Some(error.to_string()));
                },
                reason = cut(registration.as_ref()) => record.ended(reason, None),
            }
        });
    }

    fn called_reset(&self) -> CloseReason {
        match self.facts.direction {
            Direction::Inbound => CloseReason::AppReset,
            Direction::Outbound => CloseReason::PeerReset,
        }
    }
}

/// Ends when the entry was told to close; never without an entry.
pub(crate) async fn cut(registration: Option<&Registration>) -> CloseReason {
    match registration {
        Some(registration) => {
            registration.closing().await;
            registration.close_reason().unwrap_or(CloseReason::Error)
        }
        None => std::future::pending().await,
    }
}

fn head_of(request: &Request<Incoming>) -> Request<Tracked> {
    let mut head = Request::new(Tracked::empty());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    head
}

fn caller_error(error: &hyper::Error) -> Ended {
    // A caller that leaves between or inside requests is its own business; what it sent wrong is worth a line.
    if error.is_incomplete_message() || error.is_closed() {
        return Ok(());
    }
    let reason = if error.is_timeout() { CloseReason::Idle } else { CloseReason::Error };
    Err((reason, Some(format!("HTTP: {}", causes(error)))))
}
