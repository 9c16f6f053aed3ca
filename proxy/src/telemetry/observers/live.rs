//! A connection that is open now, as people see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use signet_proto::policy::Verdict;

use super::Observers;
use crate::connections::{Closer, Signal};
use crate::telemetry::requests::Requests;
use crate::telemetry::{CloseReason, Facts, Meters, Protocol};

/// What is known of a connection so far.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Who and where.
    pub facts: Facts,
    /// What is spoken.
    pub protocol: Protocol,
    /// What policy said of it, if it was asked.
    pub verdict: Option<Verdict>,
    /// The snapshot that decided.
    pub generation: u64,
}

/// Ends when an operator closes a connection that has no place in the table of rights; never without a connection.
pub async fn closed_by_operator(live: Option<&Live>) {
    match live {
        Some(live) => live.cut.given().await,
        None => std::future::pending().await,
    }
}

/// An entry of the table. Its record keeps it up to date.
#[derive(Debug)]
pub struct Live {
    /// Counts connections of this process, from 1.
    pub id: u64,
    /// When it was accepted, by the wall clock.
    pub opened_at: SystemTime,
    /// Bytes so far.
    pub meters: Arc<Meters>,
    pub(crate) observers: Arc<Observers>,
    opened: Instant,
    requests: AtomicU64,
    in_flight: AtomicU64,
    shown: Mutex<Shown>,
    announced: AtomicBool,
    /// Where spans are wanted.
    handshake: Mutex<Option<Box<(Instant, Duration)>>>,
    /// Counts its requests.
    pub(in crate::telemetry) counted: Requests,
    closing: Mutex<Closing>,
    cut: Signal,
}

/// How it is closed when an operator wants that.
#[derive(Debug, Default)]
struct Closing {
    wanted: bool,
    /// Too late.
    over: bool,
    /// Its place in the table of rights: cut there, it ends as if it had lost its right.
    right: Option<Closer>,
}

impl Live {
    pub(super) fn new(id: u64, observers: Arc<Observers>, shown: Shown) -> Self {
        Self {
            id,
            opened_at: signet_proto::clock::now(),
            meters: Arc::default(),
            observers,
            opened: Instant::now(),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            shown: Mutex::new(shown),
            announced: AtomicBool::new(false),
            handshake: Mutex::default(),
            counted: Requests::default(),
            closing: Mutex::default(),
            cut: Signal::default(),
        }
    }

    /// What is known of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.shown.lock().clone()
    }

    /// How long it is open.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Requests on it so far, and those of them that are not over.
    #[must_use]
    pub fn requests(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.in_flight.load(Ordering::Relaxed))
    }

    /// Closes it, as an operator wants. False if that was wanted before.
    pub fn close(&self) -> bool {
        let mut closing = self.closing.lock();
        if closing.over || std::mem::replace(&mut closing.wanted, true) {
            return false;
        }
        match &closing.right {
            Some(right) => right.close(CloseReason::ClosedByOperator),
            None => self.cut.give(),
        }
        true
    }

    /// Whether an operator closed it.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.lock().wanted
    }

    pub(crate) fn closes_with(&self, right: Closer) {
        let mut closing = self.closing.lock();
        if closing.over {
            return;
        }
        if closing.wanted {
            right.close(CloseReason::ClosedByOperator);
        }
        closing.right = Some(right);
    }

    /// It is over, though the connection that carried it may go on: whoever wants to close it now is too late.
    pub(super) fn over(&self) {
        let mut closing = self.closing.lock();
        (closing.over, closing.right) = (true, None);
    }

    /// Takes what is known now. True the first time that there is something to tell.
    pub(crate) fn show(&self, shown: Shown) -> bool {
        let known = shown.protocol != Protocol::Unknown;
        *self.shown.lock() = shown;
        known && !self.announced.swap(true, Ordering::Relaxed)
    }

    /// Notes the handshake that began then and is over now, for the first span of this connection.
    pub(crate) fn shook_hands(&self, begun: Instant) {
        if self.observers.tracer.is_some() {
            *self.handshake.lock() = Some(Box::new((begun, begun.elapsed())));
        }
    }

    pub(crate) fn take_handshake(&self) -> Option<(Instant, Duration)> {
        self.handshake.lock().take().map(|handshake| *handshake)
    }

    pub(crate) fn request_began(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
