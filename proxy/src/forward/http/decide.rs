//! What becomes of a request before it is sent: read without doubt, brought into the form in which it is forwarded,
//! decided, admitted, and told who calls.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};

use super::failure::Failure;
use super::respond::Form;
use super::route::{Route, Trip};
use super::{Http, Version, framing, headers};
use crate::admission::{Permit, Shed};
use crate::connections::{Content, Head, Registration, Subject};
use crate::forward::upstream::UpstreamError;
use crate::mesh::Snapshot;
use crate::telemetry::{AccessRecord, CloseReason, Direction};

/// A request that may go on.
pub(super) struct Admitted {
    pub(super) registration: Arc<Registration>,
    /// Its place at our app.
    pub(super) permit: Option<Permit>,
    /// Whether it asks to change the protocol, to one that may be.
    pub(super) upgrade: bool,
}

/// A request that may not.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) why: String,
    /// When it may come again.
    pub(super) after: Option<Duration>,
    /// What follows it on its connection is no more to be trusted than itself.
    pub(super) doubtful: bool,
}

impl Refused {
    fn now(status: StatusCode, why: String) -> Self {
        Self { status, why, after: None, doubtful: false }
    }
}

impl<R: Route> Http<R> {
    /// The record of a request that came, and in what form its client expects an answer.
    pub(super) fn begun<B>(&self, request: &mut Request<B>) -> (AccessRecord, Form) {
        let request_id = headers::request_id(request.headers_mut());
        let form = Form::of(request.headers());
        let mut record = AccessRecord::request(self.facts.clone(), self.version.into(), request, request_id);
        let (parent, state) = headers::trace(request.headers());
        if let Some(own) = record.begin_span(parent, state) {
            headers::tell_trace(request.headers_mut(), &own, parent.is_none());
        }
        (record, form)
    }

    /// Whether it may go on; what it is then is what is forwarded.
    pub(super) async fn decided<B>(
        &self,
        request: &mut Request<B>,
        record: &mut AccessRecord,
    ) -> Result<Admitted, Refused> {
        framing::check(request, self.version)
            .map_err(|doubtful| (doubtful.status(), doubtful.to_string()))
            .and_then(|()| self.settle_path(request, record))
            .map_err(|(status, why)| Refused { doubtful: true, ..Refused::now(status, why) })?;
        // Policy sees what is forwarded, without what ends here.
        headers::to_forwarded_form(request, self.version, &self.authority);
        let upgrade = self.version == Version::Http1 && headers::asks_upgrade(request.headers());
        headers::end_hop(request.headers_mut(), self.version);
        let began = record.traced_now();
        let authorized = match *request.method() {
            Method::CONNECT => {
                Err(Refused::now(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not forwarded".into()))
            }
            _ => self.authorize(request, record).map_err(|why| Refused::now(StatusCode::FORBIDDEN, why)),
        };
        record.step("authorize", began, authorized.as_ref().err().map(|refused| refused.why.as_str()));
        let registration = authorized?;
        let permit = self.admit().await.inspect_err(|refused| {
            record.ended(CloseReason::Limited, Some(refused.why.clone()));
        })?;
        if self.subject.direction == Direction::Inbound {
            headers::state_identity(request.headers_mut(), &self.stated);
        }
        Ok(Admitted { registration, permit, upgrade })
    }

    /// Sets out for whom it is for, with a token if one is to be attached.
    pub(super) async fn set_out(
        &self,
        headers: &mut HeaderMap,
        record: &mut AccessRecord,
    ) -> Result<R::Trip, Failure> {
        let trip = self.route.set_out().await.map_err(|error| Failure::Unreachable(Arc::new(error)))?;
        let attached = self.shared.attachments.attach(trip.named(), trip.callee(), headers);
        attached.await.map_err(Failure::Token)?;
        if let Some(callee) = trip.callee()
            && record.facts.destination.as_ref() != Some(callee)
        {
            record.facts.destination = Some(callee.clone());
        }
        Ok(trip)
    }

    /// Brings the path into the one form that policy decides on and that is forwarded, where rules look at paths.
    fn settle_path<B>(
        &self,
        request: &mut Request<B>,
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
    fn authorize<B>(
        &self,
        request: &Request<B>,
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

    /// What the document of our own service says of requests to our app.
    async fn admit(&self) -> Result<Option<Permit>, Refused> {
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
            self.shared.admission.charge(self.subject.charged(), rate).map_err(|exceeded| Refused {
                after: Some(exceeded.retry_after),
                ..Refused::now(StatusCode::TOO_MANY_REQUESTS, exceeded.to_string())
            })?;
        }
        let Some(limits) = limits else { return Ok(None) };
        let permit = self.shared.admission.enter(port.unwrap_or_default(), limits).await;
        let shed = |shed: Shed| Refused {
            after: Some(limits.wait),
            ..Refused::now(StatusCode::SERVICE_UNAVAILABLE, shed.to_string())
        };
        permit.map(Some).map_err(shed)
    }
}
