//! Bodies that are counted while they pass, and that end when their request loses its right.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::headers::remove_identity;
use crate::connections::Registration;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Meters};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    ToApp,
    ToPeer,
}

impl Flow {
    /// Requests of inbound connections go to the app, those of outbound ones to the peer.
    pub(super) fn of_requests(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::ToApp,
            Direction::Outbound => Self::ToPeer,
        }
    }

    pub(super) fn of_responses(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::ToPeer,
            Direction::Outbound => Self::ToApp,
        }
    }
}

/// A body on its way. The one of a response also carries its request's record, which ends with it.
pub(super) struct Tracked {
    source: Source,
    flow: Flow,
    meters: Vec<Arc<Meters>>,
    right: Option<Right>,
    idle: Option<Idle>,
    record: Option<AccessRecord>,
}

enum Source {
    Forwarded(Incoming),
    Local(Full<Bytes>),
}

/// The right of a request, shared by both of its bodies: it stays in the table until the later one ends.
struct Right {
    registration: Arc<Registration>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Right {
    fn new(registration: Option<Arc<Registration>>) -> Option<Self> {
        registration.map(|registration| Self { closing: Box::pin(registration.closing()), registration })
    }
}

/// How long a body may stand still.
struct Idle {
    allowed: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(allowed: Duration) -> Self {
        Self { allowed, timer: Box::pin(tokio::time::sleep(allowed)) }
    }
}

/// The request lost its right while its body was on its way.
#[derive(Debug, thiserror::Error)]
#[error("cut: {}", .0.as_str())]
struct Cut(CloseReason);

/// The body stood still for too long.
#[derive(Debug, thiserror::Error)]
#[error("nothing moved for {} s", .0.as_secs())]
struct Still(Duration);

impl Tracked {
    /// The body of a request.
    pub(super) fn request(
        body: Incoming,
        flow: Flow,
        meters: Vec<Arc<Meters>>,
        right: Option<Arc<Registration>>,
        idle: Duration,
    ) -> Self {
        let (right, idle) = (Right::new(right), Some(Idle::new(idle)));
        Self { source: Source::Forwarded(body), flow, meters, right, idle, record: None }
    }

    /// No body at all.
    pub(super) fn empty() -> Self {
        let source = Source::Local(Full::default());
        Self { source, flow: Flow::ToApp, meters: Vec::new(), right: None, idle: None, record: None }
    }

    /// The body of a forwarded response.
    pub(super) fn response(
        body: Incoming,
        flow: Flow,
        meters: Vec<Arc<Meters>>,
        record: AccessRecord,
        right: Option<Arc<Registration>>,
        idle: Duration,
    ) -> Self {
        let (right, idle) = (Right::new(right), Some(Idle::new(idle)));
        Self { source: Source::Forwarded(body), flow, meters, right, idle, record: Some(record) }
    }

    /// An answer of our own.
    pub(super) fn local(text: String, flow: Flow, record: AccessRecord) -> Self {
        let (source, meters) = (Source::Local(Full::from(text)), vec![record.meters()]);
        Self { source, flow, meters, right: None, idle: None, record: Some(record) }
    }

    /// Why this body must not go on, if it must not.
    fn ends_early(&mut self, cx: &mut Context<'_>) -> Option<(CloseReason, BoxError)> {
        if let Some(right) = &mut self.right
            && right.closing.as_mut().poll(cx).is_ready()
        {
            let reason = right.registration.close_reason().unwrap_or(CloseReason::Error);
            return Some((reason, Cut(reason).into()));
        }
        let idle = self.idle.as_mut()?;
        idle.timer.as_mut().poll(cx).is_ready().then(|| (CloseReason::Idle, Still(idle.allowed).into()))
    }

    fn moved(&mut self, frame: &mut Frame<Bytes>) {
        if let Some(idle) = &mut self.idle {
            idle.timer.as_mut().reset(Instant::now() + idle.allowed);
        }
        let count = frame.data_ref().map_or(0, |data| data.remaining()) as u64;
        for meters in &self.meters {
            let counter = if self.flow == Flow::ToApp { &meters.to_app } else { &meters.to_peer };
            counter.fetch_add(count, Ordering::Relaxed);
        }
        // Servers that merge trailers into the header fields would take one for our word.
        if let Some(trailers) = frame.trailers_mut() {
            remove_identity(trailers);
        }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut polled = match &mut self.source {
            Source::Forwarded(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Source::Local(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        };
        // Asked after the body was polled, so that a body that is at its end is not cut short, and before its
        // frame is passed on.
        if !matches!(polled, Poll::Ready(None))
            && let Some((reason, error)) = self.ends_early(cx)
        {
            if let Some(record) = &mut self.record {
                record.ended(reason, Some(error.to_string()));
            }
            return Poll::Ready(Some(Err(error)));
        }
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => self.moved(frame),
            Poll::Ready(Some(Err(error))) => {
                let detail = error.to_string();
                if let Some(record) = &mut self.record {
                    record.ended(CloseReason::Error, Some(detail));
                }
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Forwarded(body) => body.is_end_stream(),
            Source::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Forwarded(body) => body.size_hint(),
            Source::Local(body) => body.size_hint(),
        }
    }
}
