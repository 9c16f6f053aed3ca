//! Traces, if there is an endpoint for them: a span for each request, and for each connection of bytes, with its
//! phases below it, sent by OTLP. The trace is that of the caller (W3C Trace Context), and goes on to the called
//! side; whether it is recorded is the caller's choice, and ours by ratio where there is none.
//!
//! Nothing waits for the collector: what finds the queue full is dropped and counted.

mod collector;
mod context;
mod export;
mod span;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

pub use self::collector::{Collector, CollectorError};
pub use self::context::Context;
pub use self::export::export;
pub(super) use self::span::{Facts, Span, number, text};
pub(crate) use self::steps::{Scope, carried, measured, parent, within};
use crate::telemetry::metrics;

/// Spans that wait to be sent.
const QUEUE: usize = 4096;

/// Begins traces and goes on with those of others.
#[derive(Debug)]
pub struct Tracer {
    ratio: f64,
    finished: mpsc::Sender<Finished>,
}

/// What the exporter sends.
pub type Finished = opentelemetry_proto::tonic::trace::v1::Span;

impl Tracer {
    /// Records traces that nobody decided about in this ratio. The receiver is for [`export`].
    #[must_use]
    pub fn new(ratio: f64) -> (Arc<Self>, mpsc::Receiver<Finished>) {
        let (finished, receiver) = mpsc::channel(QUEUE);
        (Arc::new(Self { ratio, finished }), receiver)
    }

    /// What is recorded, and what the called side is told, for something whose caller said `parent`.
    pub(super) fn begin(&self, parent: Option<Context>) -> Begun {
        match parent {
            Some(parent) if !parent.sampled => Begun { span: None, tell: None },
            Some(parent) => match Context::below(&parent) {
                Some(own) => {
                    let tell = Some(own);
                    Begun { span: Some(Box::new(Span::new(own, Some(parent.span)))), tell }
                }
                None => Begun { span: None, tell: None },
            },
            None => {
                let root = Context::root(self.ratio);
                let span = root.filter(|root| root.sampled).map(|root| Box::new(Span::new(root, None)));
                Begun { span, tell: root }
            }
        }
    }

    /// Hands a span and its phases to the exporter.
    pub(super) fn finish(&self, span: &Span, facts: &Facts<'_>, took: Duration) {
        for finished in span.finished(facts, took) {
            if self.finished.try_send(finished).is_err() {
                metrics::spans("dropped", 1);
            }
        }
    }
}

/// The beginning of something.
pub(super) struct Begun {
    /// What will be recorded, if it will.
    pub(super) span: Option<Box<Span>>,
    /// What the called side is told, unless the caller's own words go on as they are.
    pub(super) tell: Option<Context>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_decide_and_ratio_where_they_do_not() {
        let (all, _finished) = Tracer::new(1.0);
        let (none, _) = Tracer::new(0.0);
        let sampled: Context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let not: Context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".parse().unwrap();
        let Begun { span, tell } = none.begin(Some(sampled));
        let tell = tell.unwrap();
        assert!(span.is_some() && tell.trace == sampled.trace && tell.span != sampled.span && tell.sampled);
        let Begun { span, tell } = all.begin(Some(not));
        assert!(span.is_none() && tell.is_none(), "the caller's words go on as they are");
        assert!(all.begin(None).span.is_some());
        let Begun { span, tell } = none.begin(None);
        assert!(span.is_none() && tell.is_some_and(|tell| !tell.sampled), "nobody below decides anew");
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped() {
        let (tracer, mut finished) = Tracer::new(1.0);
        let span = tracer.begin(None).span.unwrap();
        for _ in 0..QUEUE + 10 {
            tracer.finish(&span, &Facts::for_a_test(), Duration::ZERO);
        }
        drop(tracer);
        let mut count = 0;
        while finished.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, QUEUE);
    }
}
