//! One request of HTTP/2: decide -> forward -> answer.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use super::decide::{Admitted, Refused};
use super::failure::Failure;
use super::pool::Place;
use super::replay::Replay;
use super::respond::{Form, answer, tracked};
use super::route::{Route, Trip};
use super::send::{Progress, Repeatable, Sent};
use super::tracked::{Flow, Tracked};
use super::{Http, Version, cut, headers};
use crate::connections::Registration;
use crate::telemetry::traces;
use crate::telemetry::{AccessRecord, Direction, Protocol};

impl<R: Route> Http<R> {
    pub(super) async fn exchange(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Tracked> {
        let (mut record, form) = self.begun(&mut request);
        let Admitted { registration, permit, .. } = match self.decided(&mut request, &mut record).await {
            Ok(admitted) => admitted,
            Err(Refused { status, why, after, .. }) => {
                let answer = answer(form, status, &why, record.request_id().unwrap_or_default(), after);
                return tracked(record, answer);
            }
        };
        let mut trip = match self.set_out(request.headers_mut(), &mut record).await {
            Ok(trip) => trip,
            Err(failure) => return self.failed(form, record, &failure),
        };
        let idle = trip.timeouts().idle.unwrap_or(self.shared.idle.open);
        let forwarded = self.forward(&mut trip, request, &record, &registration, idle);
        let (mut response, Place { load, turn, carried, .. }) =
            match traces::within(record.scope(), forwarded).await {
                Ok(forwarded) => forwarded,
                Err(failure) => return self.failed(form, record, &failure),
            };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.failed(form, record, &Failure::Unasked);
        }
        record.answered(response.status().as_u16());
        headers::end_hop(response.headers_mut(), self.version);
        let flow = Flow::of_responses(self.facts.direction);
        let meters = [Some(Arc::clone(&self.meters)), Some(record.meters())];
        let held = (Some(load), turn, permit, carried);
        response.map(|body| Tracked::response(body, flow, meters, registration, idle, record, held))
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
        let (request, sent) = if bodiless {
            (request.map(|_| Tracked::empty()), Sent { body: None, idle })
        } else {
            let body = Arc::<Progress>::default();
            let request = request.map(|incoming| {
                let flow = Flow::of_requests(self.facts.direction);
                let meters = [Some(Arc::clone(&self.meters)), Some(record.meters())];
                let right = Arc::clone(registration);
                let mut tracked = Tracked::request(incoming, flow, meters, right, idle);
                tracked.report_to(&body);
                tracked.remember_in(replay);
                tracked
            });
            (request, Sent { body: Some(body), idle })
        };
        let began = record.traced_now();
        let forwarded = tokio::select! {
            biased;
            reason = cut(Some(registration)) => Err(Failure::Cut(reason)),
            answered = self.send(trip, request, repeat, &sent) => answered,
        };
        record.step("forward", began, forwarded.is_err().then_some("no answer"));
        forwarded
    }

    fn failed(&self, form: Form, mut record: AccessRecord, failure: &Failure) -> Response<Tracked> {
        let (status, reason, text) = self.told(failure);
        let answer = answer(form, status, &text, record.request_id().unwrap_or_default(), None);
        record.ended(reason, Some(text));
        tracked(record, answer)
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
