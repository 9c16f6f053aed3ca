//! What an HTTP/2 connection carries, as those see it who look for one with room: how many requests, and whether
//! one of them does not get away.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a frame may wait to be sent before its connection gets no more requests.
const STUCK: Duration = Duration::from_millis(100);

/// A place on a connection. How many there are is how many requests the connection carries.
#[derive(Clone, Default)]
pub(super) struct Load(Arc<Lingering>);

/// The bodies of which a connection was given a part that is not the last.
type Lingering = Mutex<Vec<Weak<Sending>>>;

impl Load {
    /// Counts a body among those that the connection has to send.
    pub(super) fn watch(&self, sending: &Sending) {
        let mut state = sending.0.lock();
        (state.connection, state.listed) = (Arc::downgrade(&self.0), false);
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
pub(super) struct Sending(Mutex<State>);

#[derive(Default)]
struct State {
    connection: Weak<Lingering>,
    /// Whether the connection knows of it: not before it has to.
    listed: bool,
    /// Since when its newest frame waits.
    since: Option<Instant>,
}

impl Sending {
    /// A frame was handed over, or all were.
    pub(super) fn handed_over(self: &Arc<Self>, more: bool) {
        let connection = {
            let mut state = self.0.lock();
            state.since = more.then(Instant::now);
            if !more || std::mem::replace(&mut state.listed, true) {
                return;
            }
            Weak::clone(&state.connection)
        };
        if let Some(lingering) = connection.upgrade() {
            let mut lingering = lingering.lock();
            lingering.retain(|sending| sending.strong_count() > 0);
            lingering.push(Arc::downgrade(self));
        }
    }

    /// The connection asks for the next one.
    pub(super) fn asked(&self) {
        self.0.lock().since = None;
    }

    fn is_stuck(&self) -> bool {
        self.0.lock().since.is_some_and(|since| since.elapsed() > STUCK)
    }
}
