//! What an HTTP/2 connection carries, as those see it who look for one with room: how many requests, and whether
//! one of them does not get away.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a frame may wait to be sent before its connection gets no more requests.
const STUCK: Duration = Duration::from_millis(100);

/// A place on a connection. How many there are is how many requests the connection carries.
#[derive(Clone, Default)]
pub(super) struct Load(Arc<Mutex<Vec<Weak<Sending>>>>);

impl Load {
    /// Counts a body among those that the connection has to send.
    pub(super) fn watch(&self, sending: &Arc<Sending>) {
        let mut all = self.0.lock();
        all.retain(|sending| sending.strong_count() > 0);
        all.push(Arc::downgrade(sending));
    }

    /// Whether a body does not get away: the called side does not read, and may hold up all others with it.
    pub(super) fn is_stuck(&self) -> bool {
        self.0.lock().iter().filter_map(Weak::upgrade).any(|sending| sending.is_stuck())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Whether both are of one connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A request body that is being sent.
#[derive(Default)]
pub(super) struct Sending(Mutex<Option<Instant>>);

impl Sending {
    /// A frame was handed over, or all were.
    pub(super) fn handed_over(&self, more: bool) {
        *self.0.lock() = more.then(Instant::now);
    }

    /// The connection asks for the next one.
    pub(super) fn asked(&self) {
        *self.0.lock() = None;
    }

    fn is_stuck(&self) -> bool {
        self.0.lock().is_some_and(|since| since.elapsed() > STUCK)
    }
}
