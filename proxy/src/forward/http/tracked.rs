//! Bodies that are counted while they pass, and that end when their request loses its right.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;

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

/// A body on its way. The one of a response also carries its request's record and registration, which end
/// with it.
pub(super) struct Tracked {
    source: Source,
    flow: Flow,
    meters: Vec<Arc<Meters>>,
    exchange: Option<Exchange>,
}

enum Source {
    Forwarded(Incoming),
    Local(Full<Bytes>),
}

struct Exchange {
    record: AccessRecord,
    registration: Option<Registration>,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// The request lost its right while its body was on its way.
#[derive(Debug, thiserror::Error)]
#[error("cut: {}", .0.as_str())]
struct Cut(CloseReason);

impl Tracked {
    /// The body of a request.
    pub(super) fn request(body: Incoming, flow: Flow, meters: Vec<Arc<Meters>>) -> Self {
        Self { source: Source::Forwarded(body), flow, meters, exchange: None }
    }

    /// No body at all, for a request that is sent again.
    pub(super) fn empty() -> Self {
        Self { source: Source::Local(Full::default()), flow: Flow::ToApp, meters: Vec::new(), exchange: None }
    }

    /// The body of a forwarded response.
    pub(super) fn response(
        body: Incoming,
        flow: Flow,
        meters: Vec<Arc<Meters>>,
        record: AccessRecord,
        registration: Option<Registration>,
    ) -> Self {
        let closing = registration.as_ref().map(|registration| Box::pin(registration.closing()));
        let exchange = Some(Exchange { record, registration, closing });
        Self { source: Source::Forwarded(body), flow, meters, exchange }
    }

    /// An answer of our own.
    pub(super) fn local(text: String, flow: Flow, record: AccessRecord) -> Self {
        let meters = vec![record.meters()];
        let exchange = Some(Exchange { record, registration: None, closing: None });
        Self { source: Source::Local(Full::from(text)), flow, meters, exchange }
    }

    fn cut(&mut self, cx: &mut Context<'_>) -> Option<CloseReason> {
        let exchange = self.exchange.as_mut()?;
        let closing = exchange.closing.as_mut()?;
        if closing.as_mut().poll(cx).is_pending() {
            return None;
        }
        let reason = exchange.registration.as_ref()?.close_reason().unwrap_or(CloseReason::Error);
        exchange.record.ended(reason, None);
        Some(reason)
    }
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(reason) = self.cut(cx) {
            return Poll::Ready(Some(Err(Cut(reason).into())));
        }
        let polled = match &mut self.source {
            Source::Forwarded(body) => Pin::new(body).poll_frame(cx).map_err(BoxError::from),
            Source::Local(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let count = frame.data_ref().map_or(0, |data| data.remaining()) as u64;
                for meters in &self.meters {
                    let counter = if self.flow == Flow::ToApp { &meters.to_app } else { &meters.to_peer };
                    counter.fetch_add(count, Ordering::Relaxed);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                let detail = error.to_string();
                if let Some(exchange) = &mut self.exchange {
                    exchange.record.ended(CloseReason::Error, Some(detail));
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
