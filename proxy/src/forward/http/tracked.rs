//! Bodies that are counted while they pass, and that end when their request loses its right.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::failure::BodyError;
use super::headers::remove_identity;
use super::load::Load;
use super::replay::Replay;
use super::send::Progress;
use crate::admission::Permit;
use crate::balance::Turn;
use crate::connections::{Carried, Closing, Registration};
use crate::telemetry::{AccessRecord, CloseReason, Direction, Meters};

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

    /// The counter of that way.
    pub(super) fn of(self, meters: &Meters) -> &AtomicU64 {
        match self {
            Self::ToApp => &meters.to_app,
            Self::ToPeer => &meters.to_peer,
        }
    }
}

/// Those of the request, and of its connection if they are others.
pub(super) type Counters = [Option<Arc<Meters>>; 2];

/// What a request holds until the body of its response has ended.
pub(super) type Held = (Option<Load>, Option<Turn>, Option<Permit>, Option<Carried>);

/// A body on its way. The one of a response also carries its request's record, which ends with it.
pub(super) struct Tracked {
    source: Source,
    flow: Flow,
    meters: Counters,
    right: Option<Right>,
    idle: Option<Idle>,
    answer: Option<Box<Answer>>,
    /// Told of every frame.
    progress: Option<Arc<Progress>>,
    /// Remembers what was sent.
    replay: Option<Replay>,
}

/// What the body of a response carries with it to its end. On its own, as bodies are handed on often.
struct Answer {
    record: AccessRecord,
    /// The place on a shared connection that this body takes, the endpoint's turn, and the place at our app.
    _held: Held,
}

enum Source {
    Forwarded(Incoming),
    Local(Full<Bytes>),
}

/// The right of a request, shared by both of its bodies: it stays in the table until the later one ends.
struct Right {
    registration: Arc<Registration>,
    /// Waited for only once the body is.
    closing: Option<Closing>,
}

impl Right {
    fn new(registration: Arc<Registration>) -> Self {
        Self { registration, closing: None }
    }

    fn is_lost(&self) -> bool {
        self.registration.close_reason().is_some()
    }

    fn poll_lost(&mut self, cx: &mut Context<'_>) -> bool {
        let closing = self.closing.get_or_insert_with(|| self.registration.closing());
        Pin::new(closing).poll(cx).is_ready()
    }
}

/// How long a body may stand still, and since when it does.
struct Idle {
    allowed: Duration,
    since: Instant,
    /// Set only once the body is waited for: most are there as a whole.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(allowed: Duration) -> Self {
        Self { allowed, since: Instant::now(), timer: None }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.allowed
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        // A time that no clock knows is never over.
        let Some(end) = self.since.checked_add(self.allowed) else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl Tracked {
    fn new(source: Source, flow: Flow, meters: Counters) -> Self {
        Self { source, flow, meters, right: None, idle: None, answer: None, progress: None, replay: None }
    }

    fn forwarded(
        body: Incoming,
        flow: Flow,
        meters: Counters,
        right: Arc<Registration>,
        idle: Duration,
    ) -> Self {
        let mut tracked = Self::new(Source::Forwarded(body), flow, meters);
        (tracked.right, tracked.idle) = (Some(Right::new(right)), Some(Idle::new(idle)));
        tracked
    }

    /// The body of a request.
    pub(super) fn request(
        body: Incoming,
        flow: Flow,
        meters: Counters,
        right: Arc<Registration>,
        idle: Duration,
    ) -> Self {
        Self::forwarded(body, flow, meters, right, idle)
    }

    /// Tells `progress` of every frame, and how it gets away.
    pub(super) fn report_to(&mut self, progress: &Arc<Progress>) {
        self.progress = Some(Arc::clone(progress));
    }

    /// Remembers in `replay` what is sent of it.
    pub(super) fn remember_in(&mut self, replay: Option<Replay>) {
        self.replay = replay;
    }

    /// No body at all.
    pub(super) fn empty() -> Self {
        Self::new(Source::Local(Full::default()), Flow::ToApp, Counters::default())
    }

    /// A body that was sent before.
    pub(super) fn repeated(body: Bytes) -> Self {
        Self::new(Source::Local(Full::from(body)), Flow::ToApp, Counters::default())
    }

    /// The body of a forwarded response. What the request holds is kept until it has ended.
    pub(super) fn response(
        body: Incoming,
        flow: Flow,
        meters: Counters,
        right: Arc<Registration>,
        idle: Duration,
        record: AccessRecord,
        held: Held,
    ) -> Self {
        let mut tracked = Self::forwarded(body, flow, meters, right, idle);
        tracked.answer = Some(Box::new(Answer { record, _held: held }));
        tracked
    }

    /// An answer of our own.
    pub(super) fn local(text: String, flow: Flow, record: AccessRecord) -> Self {
        let meters = [Some(record.meters()), None];
        let mut tracked = Self::new(Source::Local(Full::from(text)), flow, meters);
        tracked.answer = Some(Box::new(Answer { record, _held: Held::default() }));
        tracked
    }

    /// Why this body must not go on, if it must not, while there is nothing of it to pass on.
    fn ends_waiting(&mut self, cx: &mut Context<'_>) -> Option<(CloseReason, BodyError)> {
        let cut = self.right.as_mut().is_some_and(|right| right.poll_lost(cx));
        let still = !cut && self.idle.as_mut().is_some_and(|idle| idle.poll_over(cx));
        self.ends_early(cut, still)
    }

    /// The same when there is.
    fn ends_moving(&mut self) -> Option<(CloseReason, BodyError)> {
        let cut = self.right.as_ref().is_some_and(Right::is_lost);
        let still = !cut && self.idle.as_ref().is_some_and(Idle::is_over);
        self.ends_early(cut, still)
    }

    fn ends_early(&mut self, cut: bool, still: bool) -> Option<(CloseReason, BodyError)> {
        if cut {
            let reason = self.right.as_ref().and_then(|right| right.registration.close_reason());
            let reason = reason.unwrap_or(CloseReason::Error);
            return Some((reason, BodyError::Cut(reason)));
        }
        let idle = self.idle.as_ref().filter(|_| still)?;
        Some((CloseReason::Idle, BodyError::Still(idle.allowed)))
    }

    fn moved(&mut self, frame: &mut Frame<Bytes>) {
        if let Some(idle) = &mut self.idle {
            idle.since = Instant::now();
        }
        if let Some(progress) = &self.progress {
            progress.frame.notify_one();
        }
        let count = frame.data_ref().map_or(0, |data| data.remaining()) as u64;
        for meters in self.meters.iter().flatten() {
            self.flow.of(meters).fetch_add(count, Ordering::Relaxed);
        }
        if let Some(replay) = &self.replay {
            match frame.data_ref() {
                Some(data) => replay.sent(data),
                None => replay.lose(),
            }
        }
        // Servers that merge trailers into the header fields would take one for our word.
        if let Some(trailers) = frame.trailers_mut() {
            remove_identity(trailers);
        }
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(progress) = &self.progress {
            progress.sending.asked();
        }
        let mut polled = match &mut self.source {
            Source::Forwarded(body) => {
                Pin::new(body).poll_frame(cx).map_err(|error| BodyError::Sender(error.to_string()))
            }
            Source::Local(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        };
        // Asked after the body was polled, so that a body that is at its end is not cut short, and before its
        // frame is passed on.
        let early = match &polled {
            Poll::Ready(None) => None,
            Poll::Ready(Some(_)) => self.ends_moving(),
            Poll::Pending => self.ends_waiting(cx),
        };
        if let Some((reason, error)) = early {
            if let Some(Answer { record, .. }) = self.answer.as_deref_mut() {
                record.ended(reason, Some(error.to_string()));
            }
            return Poll::Ready(Some(Err(error)));
        }
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.moved(frame);
                let more = !self.is_end_stream();
                if let Some(replay) = self.replay.as_ref().filter(|_| !more) {
                    replay.ended();
                }
                if let Some(progress) = &self.progress {
                    progress.sending.handed_over(more);
                }
            }
            Poll::Ready(None) => {
                if let Some(replay) = &self.replay {
                    replay.ended();
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let detail = error.to_string();
                if let Some(Answer { record, .. }) = self.answer.as_deref_mut() {
                    record.ended(CloseReason::Error, Some(detail));
                }
            }
            Poll::Pending => {}
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
