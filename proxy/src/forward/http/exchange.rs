//! One request: decide -> state who calls -> forward -> answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::pool::Place;
use super::replay::Replay;
use super::respond::{Form, answer, answer_later};
use super::route::{Route, Trip};
use super::send::{Progress, Repeatable, Sent};
use super::tracked::{BodyError, Flow, Tracked, linger};
use super::{Ended, Http, Version, cut, framing, headers};
use crate::admission::{Permit, Shed};
use crate::balance::Turn;
use crate::causes::causes;
use crate::connections::{Carried, Content, Head, Registration, Subject};
use crate::forward::opaque::{Idle, relay};
use crate::forward::upstream::UpstreamError;
use crate::mesh::Snapshot;
use crate::outbound::NoToken;
use crate::telemetry::traces;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Meters, Protocol};

/// A request that got no response.
pub(super) enum Failure {
    Unreachable(Arc<UpstreamError>),
    Broken(hyper::Error),
    Cut(CloseReason),
    Slow(Duration),
    Unasked,
    Token(NoToken),
}

impl<R: Route> Http<R> {
    pub(super) async fn exchange(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Tracked> {
        let request_id = headers::request_id(request.headers_mut());
        let form = Form::of(request.headers());
        let mut record = AccessRecord::request(self.facts.clone(), self.version.into(), &request, request_id);
        let (parent, state) = headers::trace(request.headers());
        if let Some(own) = record.begin_span(parent, state) {
            headers::tell_trace(request.headers_mut(), &own, parent.is_none());
        }
        let refused = framing::check(&request, self.version)
            .map_err(|doubtful| (doubtful.status(), doubtful.to_string()))
            .and_then(|()| self.settle_path(&mut request, &mut record));
        if let Err((status, why)) = refused {
            // What follows it on this connection is no more to be trusted than itself.
            return answer(form, status, &why, record, true);
        }
        // Policy sees what is forwarded, without what ends here.
        headers::to_forwarded_form(&mut request, self.version, &self.authority);
        let asks_upgrade = self.version == Version::Http1 && headers::asks_upgrade(request.headers());
        headers::end_hop(request.headers_mut(), self.version);
        let began = Instant::now();
        let authorized = match *request.method() {
            Method::CONNECT => Err((StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not forwarded".into())),
            _ => self.authorize(&request, &mut record).map_err(|why| (StatusCode::FORBIDDEN, why)),
        };
        record.step("authorize", began, authorized.as_ref().err().map(|(_, why)| why.as_str()));
        let registration = match authorized {
            Ok(registration) => registration,
            Err((status, why)) => {
                self.ignore(request);
                return answer(form, status, &why, record, self.only_one);
            }
        };
        let permit = match self.admit().await {
            Ok(permit) => permit,
            Err((status, why, after)) => {
                self.ignore(request);
                record.ended(CloseReason::Limited, Some(why.clone()));
                return answer_later(form, status, &why, record, after);
            }
        };
        if self.subject.direction == Direction::Inbound {
            headers::state_identity(request.headers_mut(), &self.stated);
        }
        let upgrade = asks_upgrade.then(|| hyper::upgrade::on(&mut request));

        let mut trip = match self.route.set_out().await {
            Ok(trip) => trip,
            Err(error) => return self.failed(form, record, Failure::Unreachable(Arc::new(error))),
        };
        let attached = self.shared.attachments.attach(trip.named(), trip.callee(), request.headers_mut());
        if let Err(error) = attached.await {
            return self.failed(form, record, Failure::Token(error));
        }
        if let Some(callee) = trip.callee()
            && record.facts.destination.as_ref() != Some(callee)
        {
            record.facts.destination = Some(callee.clone());
        }
        let idle = trip.timeouts().idle.unwrap_or(self.shared.idle.open);
        let (mut response, Place { peer, load, turn, carried, lent }) = match traces::within(
            record.scope(),
            self.forward(&mut trip, request, &record, &registration, idle),
        )
        .await
        {
            Ok(forwarded) => forwarded,
            Err(failure) => return self.failed(form, record, failure),
        };
        record.answered(response.status().as_u16());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(caller) = upgrade else { return self.failed(form, record, Failure::Unasked) };
            let called = hyper::upgrade::on(&mut response);
            *self.upgraded.lock() =
                Some(Upgraded { caller, called, record, registration, peer, _held: (turn, permit, carried) });
            headers::end_hop(response.headers_mut(), self.version);
            return response.map(|_| Tracked::empty());
        }
        headers::end_hop(response.headers_mut(), self.version);
        framing::settle(response.headers_mut());
        let flow = Flow::of_responses(self.facts.direction);
        let meters = [Some(Arc::clone(&self.meters)), Some(record.meters())];
        let held = (load, turn, permit, carried, lent);
        response.map(|body| Tracked::response(body, flow, meters, registration, idle, record, held))
    }

    /// Brings the path into the one form that policy decides on and that is forwarded, where rules look at paths.
    fn settle_path(
        &self,
        request: &mut Request<Incoming>,
        record: &mut AccessRecord,
    ) -> Result<(), (StatusCode, String)> {
        let not_ready = || (UpstreamError::NotReady.status(), UpstreamError::NotReady.to_string());
        let snapshot = self.shared.mesh.current().ok_or_else(not_ready)?;
        let (policy, local) = (&snapshot.policy, &self.subject.local);
        let settled = headers::settle_path(request, policy, self.subject.direction.into(), local);
        if settled.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))? {
            record.forwarded_as(request.uri());
        }
        Ok(())
    }

    /// Registers the request, then decides it (invariant 4). The error is the explanation.
    fn authorize(
        &self,
        request: &Request<Incoming>,
        record: &mut AccessRecord,
    ) -> Result<Arc<Registration>, String> {
        let current = || self.shared.mesh.current().ok_or_else(|| UpstreamError::NotReady.to_string());
        let content = |snapshot: &Snapshot| Content::Http(Arc::new(Head::of(request, &snapshot.policy)));
        let before = current()?;
        let subject = Subject { content: content(&before), ..self.subject.clone() };
        let registration = Arc::new(self.shared.connections.register_within(&self.carrier, subject));
        let snapshot = current()?;
        if snapshot.generation != before.generation {
            // It may look at other headers than those that were kept.
            registration.carries(content(&snapshot));
        }
        if let Some(reason) = registration.distrusted(&snapshot, self.handshake) {
            record.ended(reason, None);
            return Err(format!("the caller is refused: {}", reason.as_str()));
        }
        if let Some(verdict) = registration.decide(&snapshot) {
            let (allowed, reason) = (verdict.allowed, verdict.reason.as_str());
            record.decided(verdict, snapshot.generation);
            if !allowed {
                return Err(format!("{} ({reason})", registration.explain(&snapshot)));
            }
        }
        Ok(registration)
    }

    /// What the document of our own service says of requests to our app. The error: status, explanation, and when to
    /// come again.
    async fn admit(&self) -> Result<Option<Permit>, (StatusCode, String, Duration)> {
        let Subject { direction, local, port, .. } = &self.subject;
        if *direction == Direction::Outbound {
            return Ok(None);
        }
        let snapshot = self.shared.mesh.current();
        let Some(service) = snapshot.as_ref().and_then(|snapshot| snapshot.traffic.of(local)) else {
            return Ok(None);
        };
        let (rate, limits) = (service.rate, service.limits);
        drop(snapshot);
        if let Some(rate) = rate {
            self.shared.admission.charge(self.subject.charged(), rate).map_err(|exceeded| {
                (StatusCode::TOO_MANY_REQUESTS, exceeded.to_string(), exceeded.retry_after)
            })?;
        }
        let Some(limits) = limits else { return Ok(None) };
        let permit = self.shared.admission.enter(port.unwrap_or_default(), limits).await;
        let shed = |shed: Shed| (StatusCode::SERVICE_UNAVAILABLE, shed.to_string(), limits.wait);
        permit.map(Some).map_err(shed)
    }

    /// Sends the request and awaits the head of its response, for as long as something moves.
    async fn forward(
        &self,
        trip: &mut R::Trip,
        request: Request<Incoming>,
        record: &AccessRecord,
        registration: &Arc<Registration>,
        idle: Duration,
    ) -> Result<(Response<Incoming>, Place), Failure> {
        let bodiless = request.body().is_end_stream();
        // Requests of an app may be sent again by the proxy at the other end, too: here those that are safe.
        let outbound = self.facts.direction == Direction::Outbound;
        let repeatable = outbound || (bodiless && request.method().is_idempotent());
        let replay = (repeatable && !bodiless).then(Replay::default);
        let repeat = repeatable.then(|| Repeatable::new(&request, replay.clone()));
        let expects = self.version == Version::Http1 && framing::expects_continue(request.headers());
        let (mut request, sent) = if bodiless {
            (request.map(|_| Tracked::empty()), Sent { body: None, idle })
        } else {
            let body = Arc::<Progress>::default();
            let request = request.map(|incoming| {
                let flow = Flow::of_requests(self.facts.direction);
                let meters = [Some(Arc::clone(&self.meters)), Some(record.meters())];
                let linger = (self.version == Version::Http1).then(|| self.shared.tasks.clone());
                let right = Arc::clone(registration);
                let mut tracked = Tracked::request(incoming, flow, meters, right, idle, linger);
                tracked.report_to(&body);
                tracked.remember_in(replay);
                tracked
            });
            (request, Sent { body: Some(body), idle })
        };
        if expects {
            let asked = CancellationToken::new();
            request.body_mut().wait_for(&asked);
            hyper::ext::on_informational(&mut request, move |interim| {
                if interim.status() == StatusCode::CONTINUE {
                    asked.cancel();
                }
            });
        }
        let began = Instant::now();
        let forwarded = tokio::select! {
            biased;
            reason = cut(Some(registration)) => Err(Failure::Cut(reason)),
            answered = self.send(trip, request, repeat, &sent) => answered,
        };
        record.step("forward", began, forwarded.is_err().then_some("no answer"));
        forwarded
    }

    fn failed(&self, form: Form, mut record: AccessRecord, failure: Failure) -> Response<Tracked> {
        let (status, reason, text) = match failure {
            Failure::Unreachable(error) => (error.status(), CloseReason::Error, error.to_string()),
            Failure::Broken(error) => match BodyError::behind(&error) {
                Some(ours) => {
                    let (status, reason) = match ours {
                        BodyError::Cut(reason) => (StatusCode::FORBIDDEN, *reason),
                        BodyError::Still(_) => (StatusCode::REQUEST_TIMEOUT, CloseReason::Idle),
                        BodyError::Sender(_) => (StatusCode::BAD_REQUEST, self.caller_reset()),
                    };
                    (status, reason, format!("the body of the request: {ours}"))
                }
                None => {
                    let text = format!("the called side broke off before it answered: {}", causes(&error));
                    (StatusCode::BAD_GATEWAY, self.called_reset(), text)
                }
            },
            Failure::Cut(reason) => (StatusCode::FORBIDDEN, reason, format!("cut: {}", reason.as_str())),
            Failure::Unasked => {
                let text = "the called side changed the protocol without being asked".to_owned();
                (StatusCode::BAD_GATEWAY, self.called_reset(), text)
            }
            Failure::Token(error) => (StatusCode::SERVICE_UNAVAILABLE, CloseReason::Error, error.to_string()),
            Failure::Slow(idle) => {
                let text = format!("no answer within {idle:?}");
                (StatusCode::GATEWAY_TIMEOUT, CloseReason::Idle, text)
            }
        };
        record.ended(reason, Some(text.clone()));
        answer(form, status, &text, record, self.only_one)
    }

    /// Lets a client that is answered early finish its body, within bounds: cut off in the middle, it would not
    /// read the answer. A client that waits to be asked for its body is not asked.
    fn ignore(&self, request: Request<Incoming>) {
        if self.version == Version::Http1 && !framing::expects_continue(request.headers()) {
            linger(request.into_body(), &self.shared.tasks);
        }
    }

    fn caller_reset(&self) -> CloseReason {
        match self.facts.direction {
            Direction::Inbound => CloseReason::PeerReset,
            Direction::Outbound => CloseReason::AppReset,
        }
    }

    fn called_reset(&self) -> CloseReason {
        match self.facts.direction {
            Direction::Inbound => CloseReason::AppReset,
            Direction::Outbound => CloseReason::PeerReset,
        }
    }
}

/// A connection that changed its protocol. It stays one connection: it holds the request's right and the
/// peer's, and ends with either.
pub(super) struct Upgraded {
    caller: OnUpgrade,
    called: OnUpgrade,
    record: AccessRecord,
    registration: Arc<Registration>,
    peer: Option<Arc<Registration>>,
    _held: (Option<Turn>, Option<Permit>, Option<Carried>),
}

impl Upgraded {
    /// Carries bytes until both sides are done or the right to it is lost.
    pub(super) async fn relay(self, meters: &Meters, idle: Idle) -> Ended {
        let Self { caller, called, mut record, registration, peer, _held } = self;
        let (caller, called) = match tokio::try_join!(caller, called) {
            Ok((caller, called)) => (TokioIo::new(caller), TokioIo::new(called)),
            Err(error) => return Err((CloseReason::Error, Some(causes(&error)))),
        };
        let (app, remote) = match record.facts.direction {
            Direction::Inbound => (called, caller),
            Direction::Outbound => (caller, called),
        };
        let ended = tokio::select! {
            biased;
            reason = cut(Some(&registration)) => Err((reason, None)),
            reason = cut(peer.as_deref()) => Err((reason, None)),
            ended = relay(app, remote, meters, idle) =>
                ended.map_err(Into::into),
        };
        if let Err((reason, detail)) = &ended {
            record.ended(*reason, detail.clone());
        }
        ended
    }
}

impl From<Version> for Protocol {
    fn from(version: Version) -> Self {
        match version {
            Version::Http1 => Self::Http1,
            Version::Http2 => Self::Http2,
        }
    }
}
